"""Calling without a type: addresses and JSON from the command line, through the client's own ways.

No user's code is needed: a command is its tag and its fields, an answer is the JSON that came. The
rules of a call (keys, repeats, what an error may claim) are the client's (`streams/caller.py`).
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from ...entities.address import Address, is_type
from ...entities.errors import RunnerNotRegistered
from ...entities.key import is_key
from ...entities.settings import Settings
from ...streams.asks import Answer
from ...streams.caller import Caller
from ...streams.codec import Undecodable
from ...streams.connect import open_session
from ...streams.outgoing import lasting_key, made_key
from ...streams.port import Unreachable
from ...streams.routes import NobodyThere
from ...streams.subjects import escape
from ..logs import silence
from ..process import loop_factory
from .advice import HOST, quoted
from .chronicle import tagged
from .hint import INFO_S, halted, no_such_type
from .output import Output
from .trouble import FAILED, SUCCESS, Advised, Failed, UsageError


@asynccontextmanager
async def calling(settings: Settings) -> AsyncGenerator[Caller]:
    """A connection for calls. Raises what `open_session` raises.

    Where nobody hosts a type, and there is no such type at all or it is halted, that becomes the
    next step.
    """
    session = await open_session(settings, name="perdure-cli")
    caller = Caller(session, settings)
    try:
        yield caller
    except RunnerNotRegistered as error:
        entity = (error.address or "").partition("/")[0]
        missing = await no_such_type(caller, entity)
        if missing is not None:
            raise Advised(error, f"{missing}: correct it, or host it: {HOST}") from None
        why = await halted(caller, entity)
        if why is None:
            raise
        raise Advised(error, why) from None
    finally:
        caller.close()
        await session.close()


@contextmanager
def interruptible(address: Address, key: str | None) -> Generator[None]:
    """Ctrl-C within is told with how to look what came of it: it may have been sent."""
    try:
        yield
    except asyncio.CancelledError:
        at = f"{address.entity} {quoted(address.id)}"
        step = f"perdure history {at}" if key is None else f"perdure result {at} {key}"
        raise Failed("interrupted; a command may have taken effect", step) from None


@contextmanager
def until_interrupted() -> Generator[None]:
    """Ctrl-C within is how it was meant to end, so no trouble."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()


async def new_key(caller: Caller, entity: str, *, durable: bool) -> str | None:
    """The key that the client would make for an ask; known beforehand, to be told if need be.

    None where the runners' clock isn't known: the ask makes its own, or tells what is wrong.
    """
    entropy, clock = caller.session.entropy, caller.session.clock
    if durable:
        return lasting_key(entropy)
    try:
        route = await caller.routes.ask(entity, timeout_s=INFO_S)
    except (NobodyThere, Unreachable, Undecodable):
        return None
    return made_key(entropy, clock.now_ns() // 1_000_000 + route.offset_ms)


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a short command to its end; Ctrl-C or SIGTERM interrupts it."""
    silence()  # what it comes to is told once, by its output
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_terminable(main))


async def _terminable(main: Coroutine[Any, Any, int]) -> int:
    """The same, while SIGTERM cancels it, as asyncio lets Ctrl-C do: in the main thread only."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if task is None or threading.current_thread() is not threading.main_thread():
        return await main
    told = asyncio.Event()

    def terminate() -> None:
        told.set()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await main
    except asyncio.CancelledError:
        if not told.is_set():  # Ctrl-C, which asyncio makes an interrupt
            raise
        raise Failed("interrupted", "run it again") from None
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def connected(settings: Settings, work: Callable[[Caller], Coroutine[Any, Any, int]]) -> int:
    """Run a short command that needs a connection; its exit code."""

    async def main() -> int:
        async with calling(settings) as caller:
            return await work(caller)

    return run(main())


def type_of(entity: str) -> str:
    """An entity type's name from the command line. Raises UsageError."""
    if not is_type(entity):
        raise UsageError(
            f"not an entity type's name: {entity[:60]!r}",
            "write it as in its state's tag: account (perdure check lists them)",
        )
    return entity


def address_of(entity: str, id: str) -> Address:
    """An address from the command line. Raises UsageError."""
    type_of(entity)
    try:
        escape(id)
    except ValueError as error:
        raise UsageError(str(error), "give the entity's id: a-1") from None
    return Address(entity, id)


def key_of(key: str | None) -> str | None:
    """An idempotency key from the command line. Raises UsageError."""
    if key is not None and not is_key(key):
        raise UsageError(
            f"not an idempotency key: {key[:60]!r}", "use 1-255 characters of A-Z a-z 0-9 : _ -"
        )
    return key


def payload_of(command: str, fields: str | None) -> Raw:
    """`{"type": command, …fields}`, each value's text untouched. Raises UsageError."""
    values: dict[str, Raw] = {}
    if fields is not None:
        try:
            values = msgspec.json.decode(fields, type=dict[str, Raw])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise UsageError(
                f"not a JSON object: {fields[:60]}: {error}", "write for instance '{\"cents\": 5}'"
            ) from None
    if "type" in values:
        raise UsageError(
            "the JSON has a field 'type', which is the command's own",
            f"leave it out: the type is {command}",
        )
    try:
        return Raw(msgspec.json.encode({"type": command, **values}))
    except UnicodeEncodeError:
        raise UsageError("the command isn't UTF-8", "check the terminal's encoding") from None


def show_answer(output: Output, answer: Answer) -> int:
    """Print an answer's reply or failure; the exit code."""
    commit = {"version": answer.version, "seq": answer.seq}
    known = {name: number for name, number in commit.items() if number is not None}
    if answer.failure is not UNSET:
        output.refusal({"failure": answer.failure, **known}, tagged(answer.failure))
        return FAILED
    reply = Raw(b"null") if answer.reply is UNSET else answer.reply
    output.result({"reply": reply, **known}, bytes(reply).decode())
    return SUCCESS
