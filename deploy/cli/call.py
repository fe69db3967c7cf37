"""`perdure ask`, `tell` and `result`: commands and queries without the APP's code."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from cyclopts import Parameter
from msgspec.structs import replace

from ...entities.errors import MalformedMessage, SendTimeout
from ...streams.caller import Caller, Way
from ...streams.outgoing import lasting_key, milliseconds_of
from .advice import next_step, quoted
from .calling import (
    address_of,
    connected,
    interruptible,
    key_of,
    new_key,
    payload_of,
    show_answer,
)
from .hint import takes
from .moment import coming
from .options import NO_OPTIONS, Common
from .output import stamp
from .trouble import FAILED, SUCCESS, UsageError


def ask(
    type: str,
    id: str,
    command: str,
    fields: str | None = None,
    /,
    *,
    key: str | None = None,
    timeout: float | None = None,
    durable: Annotated[bool, Parameter(negative="")] = False,
    common: Common = NO_OPTIONS,
) -> int:
    """Ask an entity: send a command or a query and print the reply.

    It is repeated until the timeout and takes effect once. A refusal or an error exits with 1.

    For instance:

    * `perdure ask account a-1 withdraw '{"cents": 5}' --key order-17`
    * `perdure ask account a-1 get_balance`

    Parameters
    ----------
    type
        The entity type: `account`.
    id
        The entity's id: `a-1`.
    command
        The command's or query's tag: `withdraw`.
    fields
        Its fields, as a JSON object: `'{"cents": 5}'`.
    key
        The idempotency key: with the same key and fields it gets the same reply, once.
    timeout
        Seconds to wait in all.
    durable
        Store the command before it runs, so that it happens whoever dies. Not for queries.
    """
    address, payload, given = address_of(type, id), payload_of(command, fields), key_of(key)
    settings = common.settings(timeout=timeout)
    # Not the setting's way: nothing here tells a query, which can't be stored, from a command.
    settings = replace(settings, ask_via="stream" if durable else "core")

    async def work(caller: Caller) -> int:
        timeout_s = caller.timeout_s(timeout)
        key = given or await new_key(caller, type, durable=durable)
        try:
            with interruptible(address, key):
                target = caller.target(address, key)
                answer = await caller.ask(target, payload, Way(key, timeout_s))
        except MalformedMessage as error:
            undecodable = (error.cause or "").startswith((f"{type}: ", "no command "))
            step = await takes(caller, type) if undecodable else None
            common.output().cluster_error(error, step or next_step(error))
            return FAILED
        return show_answer(common.output(), answer)

    return connected(settings, work)


def tell(
    type: str,
    id: str,
    command: str,
    fields: str | None = None,
    /,
    *,
    key: str | None = None,
    at: str | None = None,
    timeout: float | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """Tell an entity: store a command, so that it will happen, and print its key.

    It doesn't wait for the outcome, and needs no runner; `perdure result` shows what came of it.
    With `--at` it waits for its time, like a flow: `perdure flows list` shows it, and
    `perdure flows cancel` ends it before.

    For instance:

    * `perdure tell account a-1 deposit '{"cents": 5}'`
    * `perdure tell account a-1 deposit '{"cents": 5}' --key gift-1`
    * `perdure tell account a-1 deposit '{"cents": 5}' --at 2026-12-24T18:00:00+01:00`
    * `perdure tell account a-1 deposit '{"cents": 5}' --at 2h`

    Parameters
    ----------
    type
        The entity type: `account`.
    id
        The entity's id: `a-1`.
    command
        The command's tag: `deposit`.
    fields
        Its fields, as a JSON object: `'{"cents": 5}'`.
    key
        The idempotency key; without one it gets one, which is printed.
    at
        Not before that time by the server's clock: ISO 8601 with a time zone, or from now by this
        machine's clock: `90s`, `15m`, `2h`, `3d`. One that has passed is now.
    timeout
        Seconds to wait for the acknowledgement in all.
    """
    address, payload, given = address_of(type, id), payload_of(command, fields), key_of(key)
    settings = common.settings(timeout=timeout)
    due = None if at is None else coming(at, "--at")
    due_ms = None if due is None else due_given(due)

    async def work(caller: Caller) -> int:
        key = given or lasting_key(caller.session.entropy)
        with interruptible(address, key):
            await caller.tell(caller.target(address, key), payload, due_ms)
        told: dict[str, object] = {"key": key}
        when = ""
        if due is not None:
            told["at"], when = due, f" for {stamp(due)} UTC"
        where = f"{type} {quoted(id)} {key}"
        common.output().result(told, f"stored{when}; what came of it: perdure result {where}")
        return SUCCESS

    return connected(settings, work)


def due_given(due: datetime) -> int:
    """A time for which something is told, Unix milliseconds. Raises UsageError."""
    try:
        return milliseconds_of(due)
    except MalformedMessage as error:
        raise UsageError(f"--at: {error.cause}", "give an earlier time") from None


def result(
    type: str,
    id: str,
    key: str,
    /,
    *,
    timeout: float | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """Print the recorded or coming outcome of a key, as `perdure ask` would have.

    A key that never was, or that was forgotten, waits until the timeout.

    For instance:

    * `perdure result account a-1 order-17`

    Parameters
    ----------
    type
        The entity type: `account`.
    id
        The entity's id: `a-1`.
    key
        The idempotency key.
    timeout
        Seconds to wait in all.
    """
    address, name = address_of(type, id), key_of(key)
    settings = common.settings(timeout=timeout)

    async def work(caller: Caller) -> int:
        target = caller.target(address, name)
        try:
            answer = await caller.result(target, timeout_s=caller.timeout_s(timeout))
        except SendTimeout as error:
            step = f"see whether it is there: perdure history {type} {quoted(id)}"
            common.output().cluster_error(error, step)
            return FAILED
        return show_answer(common.output(), answer)

    return connected(settings, work)
