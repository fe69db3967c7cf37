"""`perdure permissions`: what a login must be allowed, as the server takes it."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal, TypeAlias

import msgspec
from cyclopts import Parameter

from ...entities.settings import JETSTREAM_API, MEMORY, Settings
from ..grants import (
    CALLER,
    LINE_BYTES,
    TAKEN,
    LogIn,
    claims,
    connect_bytes,
    layout,
    of_role,
    user_block,
)
from ..permissions import Need, Role
from .app import types_of
from .options import NO_OPTIONS, Common
from .output import Output
from .trouble import SUCCESS, UsageError

Format: TypeAlias = Literal["nats", "jwt", "json"]
DEFAULT_CALLER = "caller"


def permissions(
    app: str | None = None,
    /,
    *,
    role: Role | None = None,
    type: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)] = (),
    format: Format | None = None,
    production: Annotated[bool, Parameter(negative="")] = False,
    caller: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)] = (),
    login: LogIn = "nkey",
    create: Annotated[bool, Parameter(negative="")] = False,
    inbox: str | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """Print the least that a role must be allowed, with the reasons; no server is asked.

    `perdure check --role` tries whether a login has it. There is no secret in it: the server takes
    each user's public NKEY, or password, from a variable, and doesn't start without. With
    `--production` it is the whole layout: streams and runners in one account, everybody else in
    others.

    For instance:

    * `perdure permissions --role caller --type account`
    * `perdure permissions bank --role runner --create`
    * `perdure permissions bank --role reader --format jwt`
    * `perdure permissions bank --production --caller shop --caller desk > accounts.conf`

    Parameters
    ----------
    app
        A module (`bank`), one entity of it (`bank:account`) or a file (`bank.py`).
    role
        caller: asks, tells. reader: reads logs, ids. runner: hosts. operator: looks after it all.
    type
        An entity type, by its name; may be repeated.
    format
        nats: a user in a server's configuration. jwt: the `nats` object of a user's JWT. json.
    production
        The accounts of a production server.
    caller
        With `--production`: a caller, who gets an account of its own; may be repeated.
    login
        How users prove who they are: an NKEY, or a password.
    create
        With `--role runner`: also what it takes to create streams, update them, and resize.
    inbox
        The `inbox_prefix` that the login will have: `_INBOX.shop`.
    """
    output = common.output()
    settings = _settings(common, inbox)
    types = types_of(app, type)
    if production:
        if role is not None or create or inbox is not None or format not in (None, "nats"):
            what = "--production has all roles, and is only printed as configuration"
            raise UsageError(what, "leave out --role, --create, --inbox and --format")
        _configuration(output, layout(settings, types, _callers(caller), login))
        return SUCCESS
    if caller:
        raise UsageError("--caller without --production", "leave it out, or add --production")
    role = _role(role, settings, create=create)
    chosen: Format = format or ("json" if output.json else "nats")
    if chosen == "nats":
        _configuration(output, user_block(role, settings, types, login, create=create))
    else:
        _show(output, chosen, of_role(role, settings, types, create=create))
    return SUCCESS


def _role(role: Role | None, settings: Settings, *, create: bool) -> Role:
    """The one that was given, if it goes with the rest."""
    if role is None:
        raise UsageError("no --role", "give caller, reader, runner or operator, or --production")
    if create and role != "runner":
        raise UsageError(f"--create for the role {role}", "only a runner creates streams")
    if role == "runner" and settings.api_prefix != JETSTREAM_API:
        what = f"a runner with api_prefix {settings.api_prefix!r}"
        raise UsageError(what, "it is in the account of the streams: leave out api_prefix")
    return role


def _configuration(output: Output, text: str) -> None:
    if output.json:
        output.result({"configuration": text})
    else:
        _write(text)


def _show(output: Output, chosen: Format, wanted: list[Need]) -> None:
    lines = output if output.json else Output(json=True)
    if chosen == "jwt" and (size := connect_bytes(claims(wanted))) > LINE_BYTES:
        output.note(
            f"who logs in with such a JWT sends about {size} bytes in one line: nats-server takes "
            f"{LINE_BYTES} unless its configuration says max_control_line: 16KB"
        )
    if chosen == "jwt" and not output.json:
        _write(json.dumps(claims(wanted), indent=2) + "\n")
    elif chosen == "jwt":
        lines.result(claims(wanted))
    else:
        for need in wanted:
            lines.result({"verb": need.verb, "subject": need.subject, "why": need.why})


def _settings(common: Common, inbox: str | None) -> Settings:
    settings = common.settings()
    if settings.url.startswith(MEMORY):
        raise UsageError(f"{settings.url} has no server", "give the --url of one")
    if inbox is None:
        return settings
    try:
        return msgspec.structs.replace(settings, inbox_prefix=inbox)
    except ValueError as error:
        raise UsageError(f"--inbox: {error}", "give for instance _INBOX.shop") from None


def _callers(given: tuple[str, ...]) -> list[str]:
    for name in given:
        if not CALLER.fullmatch(name):
            what = f"--caller: {name!r} isn't 1-32 of a-z, 0-9 and _, a letter first"
            raise UsageError(what, "give for instance --caller shop")
        if name in TAKEN:
            raise UsageError(
                f"--caller: {name!r} is a name with a meaning of its own", "choose another"
            )
    return list(dict.fromkeys(given)) or [DEFAULT_CALLER]


def _write(text: str) -> None:
    """Straight to the stream: a configuration is no text for a terminal to wrap."""
    sys.stdout.write(text)
    sys.stdout.flush()
