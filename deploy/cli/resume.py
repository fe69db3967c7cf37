"""`perdure resume`: give a flow's deferred its value."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from msgspec import Raw

from ...durable.openflow import KEPT
from ...entities.address import Address
from ...entities.errors import MalformedMessage, SendTimeout
from ...entities.flow import Token
from ...entities.suspension import Suspension
from ...streams.caller import Caller
from ...streams.resuming import resuming
from ...streams.token import TOKEN_CHARS, Body, read_token
from .advice import quoted
from .calling import connected
from .options import NO_OPTIONS, Common
from .standing import Standing, find, standing, wake
from .trouble import SUCCESS, Advised, UsageError

OUTCOME_S = 2.0
"""How long to look for the outcome of a flow that has ended, in seconds: it may be forgotten,
which no owner tells before the time is over."""

STDIN = "-"
"""In a token's place: it is read from standard input."""

HYPHEN: Parameter = Parameter(allow_leading_hyphen=True)
"""It may be `-`, or a number below 0."""


def resume(
    token: Annotated[str, HYPHEN],
    value: Annotated[str, HYPHEN],
    /,
    *,
    timeout: float | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """Give a flow the value that it waits for, by its token, and tell what came of it.

    The first value counts: to resume again, with any value, changes nothing, and is told. A token
    that isn't genuine or has expired, and a value of another type, are refused and exit with 1; so
    is another value for a flow that is parked and hasn't come to look at the first one.

    A token is a secret. Given as `-` it is read from standard input, so that it is neither in the
    shell's history nor in the list of processes.

    For instance:

    * `perdure resume - '{"approved": true, "by": "ann"}' < token.txt`
    * `perdure resume lwGnYWNjb3VudKNhLTGo… true`

    Parameters
    ----------
    token
        The token that the flow gave away; `-` reads it from standard input.
    value
        The value, as JSON: `true`, `'"yes"'`, `'{"approved": true}'`.
    timeout
        Seconds to wait for each answer.
    """
    given = _value(value)
    settings, output = common.settings(timeout=timeout), common.output()
    text = _from_stdin() if token == STDIN else token

    try:
        payload, address = resuming(Token(text), given, settings.max_payload_bytes)
    except MalformedMessage as error:
        raise Advised(error, _step(error)) from None
    body = read_token(text)

    async def work(caller: Caller) -> int:
        before = await find(caller, address, body.flow)
        try:
            await wake(caller, address, body.flow, payload)
        except MalformedMessage as error:
            kept = (error.cause or "").startswith(KEPT)
            raise Advised(error, _judged(address, body) if kept else _step(error)) from None
        now = await _now(caller, address, body.flow, before)
        told = _told(now, before, address, body)
        if now is None:
            now = Standing(address=str(address), key=body.flow, status="ended")
        output.result(now, told)
        return SUCCESS

    return connected(settings, work)


async def _now(
    caller: Caller, address: Address, key: str, before: Suspension | None
) -> Standing | None:
    """How a flow is thereafter; None if it wasn't open before, and nobody knows its outcome."""
    if before is not None:
        return await standing(caller, address, key)
    try:
        return await standing(caller, address, key, OUTCOME_S)
    except SendTimeout:
        return None


def _told(now: Standing | None, before: Suspension | None, address: Address, token: Body) -> str:
    """What came of it, in words."""
    where = f"flow {token.flow} of {address}"
    if now is None:
        return f"nothing changed: {where} isn't open, it has ended or never began"
    if before is None and now.status == "ended":
        return f"nothing changed: {where} {now}"
    if before is not None and token.deferred in before.waits_for and before.parked is None:
        return f"resumed: {where} {now}"
    parked = " or was parked" if before is not None and before.parked else ""
    show = f"perdure flows show {address.entity} {quoted(address.id)} {quoted(token.flow)}"
    return (
        f"recorded, unless it had a value: {where} didn't wait for {token.deferred}{parked}, "
        f"and {now}; {show} tells"
    )


def _value(text: str) -> Raw:
    """The value from the command line, its text untouched. Raises UsageError."""
    try:
        msgspec.json.decode(text, type=Any)
        return Raw(text.encode())
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(
            f"the value isn't JSON: {error}",
            "write for instance true, '\"yes\"' or '{\"approved\": true}'",
        ) from None


def _from_stdin() -> str:
    """The token from standard input. Raises UsageError where there is none."""
    if sys.stdin.isatty():
        text = getpass.getpass("token: ", stream=sys.stderr)
    else:
        text = sys.stdin.readline(TOKEN_CHARS + 2)
    if not text.strip():
        raise UsageError("no token on standard input", "write for instance … < token.txt")
    return text.strip()


def _judged(address: Address, token: Body) -> str:
    """How to find out which value counts that a parked flow was given."""
    where = f"{address.entity} {quoted(address.id)} {quoted(token.flow)}"
    return (
        f"see it: perdure flows show {where}; mend its code, and perdure flows retry {where} "
        "tells whether that value counts"
    )


def _step(error: MalformedMessage) -> str:
    """What to do about a refused token or value."""
    cause = error.cause or ""
    if "expired" in cause:
        return "nobody can use it any more: see what the flow does now: perdure suspended TYPE"
    if "resume token" in cause:
        return "copy the whole token, from the flow that waits now; --namespace must be the flow's"
    return "give a value of the type that the flow waits for"
