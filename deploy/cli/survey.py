"""Survey: asking all runners at once what they have, one time or again and again.

What `stats`, `runners` and `shards` have in common. Runners answer on one subject, so the asker
collects for a while; the records in the members bucket tell who should have answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from cyclopts import Parameter

from ...durable.stats import RunnerStats, decode_stats
from ...streams.caller import Caller
from ...streams.codec import Undecodable
from ...streams.members import HEAD, Member, decode_word
from ...streams.port import Message, Unreachable
from ..fleet import Fleet
from .advice import HOST, START
from .calling import until_interrupted
from .output import Output
from .trouble import SUCCESS, Failed, UsageError

T = TypeVar("T")

COLLECT_S = 0.5
"""How long answers are collected, in seconds: by then every runner that isn't stuck answered."""

EVERY_S = 2.0
"""Between two looks of `--watch`, in seconds."""

RUNNERS = 10_000
"""Answers of one look that are kept at most."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Watching:
    """Whether to look again and again."""

    watch: Annotated[bool, Parameter(negative="")] = False
    """Again and again, until Ctrl-C."""

    every: float = EVERY_S
    """With `--watch`: seconds between two looks."""

    def check(self) -> None:
        """That it may be so often. Raises UsageError."""
        if not COLLECT_S <= self.every <= 3600:
            raise UsageError(f"--every {self.every:g}", f"give seconds, {COLLECT_S:g} to 3600")


ONCE = Watching()


async def watched(
    output: Output,
    watching: Watching,
    look: Callable[[], Awaitable[T]],
    show: Callable[[T], int],
) -> int:
    """Look and show it; the exit code. With `--watch` until Ctrl-C: while nobody answers it says
    so, and goes on."""
    if not watching.watch:
        return show(await look())
    with until_interrupted():
        while True:
            began = _now()
            try:
                found = await look()
            except Failed as nobody:
                output.again()
                output.trouble(nobody)
            else:
                output.again()
                show(found)
            await rest(began + watching.every - _now())
    return SUCCESS


async def collect(caller: Caller, window_s: float = COLLECT_S) -> list[RunnerStats]:
    """The answers of all runners, by their ids. Raises Failed if there is none."""
    session = caller.session
    if not session.connected:
        raise Failed("the connection to the server is lost", START)
    found: dict[str, RunnerStats] = {}
    strange: list[str] = []
    nobody = asyncio.Event()

    def take(message: Message) -> None:
        if message.no_responders:
            nobody.set()
            return
        try:
            answer = decode_stats(message.data)
        except msgspec.DecodeError as error:  # somebody else's, or of another release
            strange.append(str(error))
            return
        if len(found) < RUNNERS:
            found[answer.runner] = answer

    inbox = session.asks.inbox(take)
    try:
        session.asks.send(session.subjects.stats, b"", reply=inbox.subject("1"))
        waits = asyncio.ensure_future(nobody.wait())
        await asyncio.wait({waits}, timeout=window_s)
        waits.cancel()
    finally:
        inbox.close()
    if not found and strange:
        raise Failed(f"an answer can't be read: {strange[0]}", "use the runners' own release")
    if not found:
        why = "no runner" if nobody.is_set() else f"no runner answered within {window_s:g} s"
        raise Failed(f"{why} in namespace {session.subjects.namespace!r}", f"start one: {HOST}")
    return [found[runner] for runner in sorted(found)]


async def fleet(caller: Caller) -> Fleet:
    """All runners, those included that have a record and don't answer. Raises Failed if none
    answers."""
    known = await listed(caller)
    return Fleet(await collect(caller), known)


async def listed(caller: Caller) -> list[Member] | None:
    """The records in the members bucket; None where it can't be read."""
    try:
        async with asyncio.timeout(COLLECT_S):
            entries = await caller.session.members.entries(HEAD)
    except (Unreachable, TimeoutError):  # perhaps this login may not
        return None
    found: list[Member] = []
    for entry in entries.values():
        with contextlib.suppress(Undecodable):  # of another release
            word = decode_word(entry.value)
            if isinstance(word, Member):
                found.append(word)
    return sorted(found, key=lambda member: member.runner) or None


def nobody_hosts(entity: str, types: list[str]) -> Failed:
    """That no runner has a type."""
    return Failed(
        f"no runner hosts {entity!r}, they host {', '.join(types)}", f"start one: {HOST}"
    )


def _now() -> float:
    return asyncio.get_running_loop().time()


async def rest(seconds: float) -> None:
    """Let time pass between two looks."""
    await asyncio.sleep(seconds)
