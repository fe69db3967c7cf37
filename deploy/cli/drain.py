"""`perdure drain`: tell a runner to give its shards to the others, and to leave."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import msgspec

from ...durable.stats import RunnerStats
from ...streams.caller import Caller
from ...streams.codec import Undecodable
from ...streams.members import Drain, Draining, decode_word, encode_word
from ...streams.port import Unreachable
from ..fleet import Fleet
from .calling import connected
from .options import NO_OPTIONS, Common
from .output import Output, counted
from .survey import collect, fleet, rest
from .trouble import SUCCESS, Failed, UsageError

ANSWER_S = 2.0
"""How long the runner may take to answer, in seconds."""

LOOK_S = 0.25
"""How long answers are collected between two looks whether it is gone, in seconds."""

WAIT_S = 30.0
"""How long it may take in all: `drain_timeout` thrice."""

Shards: TypeAlias = tuple[tuple[str, int], ...]
"""How many of each type."""


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it, as `--json` prints it."""

    runner: str
    gone: bool
    """Whether it was waited for."""
    seconds: float


def drain(
    runner: str,
    /,
    *,
    wait: bool = True,
    timeout: float = WAIT_S,
    common: Common = NO_OPTIONS,
) -> int:
    """Tell a runner to give its shards to the others and to leave, and wait until it is gone.

    What it has in hand is finished first, and no command is lost. `perdure run` ends with 0 then;
    a program that hosts by `connect` has to watch `cluster.drained`. It exits with 1 if there is
    no such runner, and if the runner is still there after `--timeout`.

    For instance:

    * `perdure drain 0a1b2c3d4e5f`
    * `perdure drain 0a1b --no-wait`

    Parameters
    ----------
    runner
        Its id, or the beginning of it: `perdure runners` lists them.
    wait
        Wait until it is gone.
    timeout
        How long to wait, in seconds.
    """
    if not 0 < timeout <= 3600:
        raise UsageError(f"--timeout {timeout:g}", "give seconds, up to 3600")
    settings, output = common.settings(), common.output()

    async def work(caller: Caller) -> int:
        found = await fleet(caller)
        name = chosen(runner, found.names)
        began = _now()
        await _tell(caller, name)
        for alone in without_host(found, name):
            output.note(f"nobody else may own {alone}: its commands wait until somebody may")
        if not wait:
            told = Drained(runner=name, gone=False, seconds=0.0)
            output.result(told, f"runner {name} leaves")
            return SUCCESS
        try:
            async with asyncio.timeout(timeout):
                await _until_gone(caller, output, name)
        except TimeoutError:
            raise await _late(caller, name, timeout) from None
        took_s = round(_now() - began, 1)
        told = Drained(runner=name, gone=True, seconds=took_s)
        output.result(told, f"runner {name} is gone, after {took_s:g} s")
        return SUCCESS

    return connected(settings, work)


def chosen(given: str, names: list[str]) -> str:
    """The runner that is meant. Raises Failed."""
    if given in names:
        return given
    found = [name for name in names if given and name.startswith(given)]
    if len(found) == 1:
        return found[0]
    what = f"several runners begin with {given!r}" if found else f"there is no runner {given!r}"
    there = ", ".join(found or names)
    raise Failed(
        f"{what[:100]}; there are {there}", "name one of them, perdure runners tells more"
    )


def without_host(found: Fleet, leaving: str) -> list[str]:
    """The types whose shards no runner may own any more when one leaves."""
    return [entity for entity in found.types if not set(found.able(entity)) - {leaving}]


async def _tell(caller: Caller, name: str) -> None:
    """Say the word. Raises Failed if the runner doesn't take it."""
    session = caller.session
    subject = session.subjects.member(name)
    look = "perdure runners, in some seconds: then the others have its shards"
    try:
        answer = await session.asks.request(subject, encode_word(Drain()), timeout_s=ANSWER_S)
        if answer.no_responders:
            raise Failed(f"runner {name} is gone: nobody listens there", look)
        if not isinstance(decode_word(answer.data), Draining):
            raise Undecodable("another word")
    except Unreachable:
        raise Failed(
            f"runner {name} doesn't answer: it is frozen or cut off, or this login may not", look
        ) from None
    except Undecodable:
        raise Failed(f"runner {name} doesn't know how to drain", "end it by SIGTERM") from None


async def _until_gone(caller: Caller, output: Output, name: str) -> None:
    """Return when it is; says on the way what it still has."""
    before: Shards = ()
    while True:
        one = await _look(caller, name)
        if one is None and await _nobody_there(caller, name):
            return
        has = () if one is None else shards_of(one)
        if has and has != before:
            output.note(f"runner {name} still has {told(has)}")
        before = has


async def _look(caller: Caller, name: str) -> RunnerStats | None:
    try:
        found = await collect(caller, LOOK_S)
    except Failed:  # it was the last
        await rest(LOOK_S)
        return None
    return next((one for one in found if one.runner == name), None)


async def _nobody_there(caller: Caller, name: str) -> bool:
    session = caller.session
    try:
        answer = await session.asks.request(session.subjects.member(name), b"", timeout_s=ANSWER_S)
    except Unreachable:
        return False
    return answer.no_responders


async def _late(caller: Caller, name: str, after_s: float) -> Failed:
    """What is to be said when it is still there."""
    one = await _look(caller, name)
    if one is None:
        return Failed(f"runner {name} doesn't answer, after {after_s:g} s", "perdure runners")
    where = f"process {one.process} on {one.host}"
    has = shards_of(one)
    if not has:
        what = f"runner {name} has no shards any more, and is still there after {after_s:g} s"
        return Failed(what, f"end {where}: it doesn't end by itself")
    what = f"runner {name} still has {told(has)} after {after_s:g} s"
    return Failed(what, f"see its log: {where}; perdure shards")


def shards_of(one: RunnerStats) -> Shards:
    """How many shards it has of each type of which it has any."""
    return tuple((type.entity, type.owned) for type in one.types if type.owned)


def told(has: Shards) -> str:
    """The same for people."""
    return ", ".join(f"{counted(number, 'shard')} of {entity}" for entity, number in has)


def _now() -> float:
    return asyncio.get_running_loop().time()
