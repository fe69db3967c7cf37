"""`perdure resume`: give a flow's deferred its value."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from msgspec import Raw

from ...entities.address import Address
from ...entities.errors import ClusterError, MalformedMessage
from ...entities.flow import Token
from ...streams.caller import Caller
from ...streams.resuming import resuming
from ...streams.token import TOKEN_CHARS, read_token
from .advice import quoted
from .calling import connected
from .options import NO_OPTIONS, Common
from .standing import Standing, find, standing, wake
from .trouble import SUCCESS, Advised, UsageError

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
    that isn't genuine or has expired, and a value of another type, are refused and exit with 1.

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
            raise Advised(error, _step(error)) from None
        where = f"flow {body.flow} of {address}"
        if before is None:
            now, how = await _closed(caller, address, body.flow)
            output.result(now, f"nothing changed: {where} {how}")
            return SUCCESS
        now = await standing(caller, address, body.flow)
        if body.deferred in before.waits_for and before.parked is None:
            told = f"resumed: {where} {now}"
        else:
            show = f"perdure flows show {address.entity} {quoted(address.id)} {quoted(body.flow)}"
            told = (
                f"recorded, unless it had a value: {where} didn't wait for {body.deferred}"
                f"{' or was parked' if before.parked else ''}, and {now}; {show} tells"
            )
        output.result(now, told)
        return SUCCESS

    return connected(settings, work)


async def _closed(caller: Caller, address: Address, key: str) -> tuple[Standing, str]:
    """How a flow is that wasn't open, and that in words: its outcome may be forgotten."""
    try:
        now = await standing(caller, address, key)
    except ClusterError:
        now = Standing(address=str(address), key=key, status="ended")
        return now, "isn't open, it has ended or never began"
    return now, str(now)


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


def _step(error: MalformedMessage) -> str:
    """What to do about a refused token or value."""
    cause = error.cause or ""
    if "expired" in cause:
        return "nobody can use it any more: see what the flow does now: perdure suspended TYPE"
    if "resume token" in cause:
        return "copy the whole token, from the flow that waits now; --namespace must be the flow's"
    return "give a value of the type that the flow waits for"
