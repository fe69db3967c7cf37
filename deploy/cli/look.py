"""`perdure state` and `status`: what an entity is, or was, and who has it."""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import UNSET, Raw

from ...durable.folded import EPOCH
from ...entities.address import Address
from ...streams.asks import NULL, raw
from ...streams.caller import Caller
from .calling import address_of, connected
from .chronicle import tagged
from .moment import moment_of
from .options import NO_OPTIONS, Common
from .output import stamp
from .trouble import SUCCESS, UsageError


def state(
    type: str,
    id: str,
    /,
    *,
    version: int | None = None,
    time: str | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """Print an entity's state, now, at a version or at a time, as its owner computes it.

    For instance:

    * `perdure state account a-1`
    * `perdure state account a-1 --version 3`
    * `perdure state account a-1 --time 2026-01-31T12:00:00Z`

    Parameters
    ----------
    type
        The entity type: `account`.
    id
        The entity's id: `a-1`.
    version
        The number of events after which; the newest if left out.
    time
        The moment after whose commits, in ISO 8601 with a time zone.
    """
    address = address_of(type, id)
    settings = common.settings()
    payload = NULL if version is None and time is None else _past(version, time)

    async def work(caller: Caller) -> int:
        answer = await caller.control(caller.target(address), "state", payload)
        at = answer.version
        reply = Raw(b"null") if answer.reply is UNSET else answer.reply
        value = {"state": reply, "version": at}
        common.output().result(value, f"{address} at version {at}: {tagged(reply)}")
        return SUCCESS

    return connected(settings, work)


def _past(version: int | None, time: str | None) -> Raw:
    """Which state is wanted. Raises UsageError."""
    if time is None:
        return raw({"version": version})
    if version is not None:
        raise UsageError("--version and --time together", "give one of them")
    return raw({"time": moment_of(time, "--time")})


def status(type: str, id: str, /, *, common: Common = NO_OPTIONS) -> int:
    """Print whether an entity is busy, its version, its last change, and the runner that has it.

    For instance:

    * `perdure status account a-1`

    Parameters
    ----------
    type
        The entity type: `account`.
    id
        The entity's id: `a-1`.
    """
    address = address_of(type, id)
    settings = common.settings()

    async def work(caller: Caller) -> int:
        answer = await caller.control(caller.target(address), "status")
        found = Raw(b"null") if answer.reply is UNSET else answer.reply
        common.output().result(found, _told(address, found))
        return SUCCESS

    return connected(settings, work)


class _Status(msgspec.Struct):
    status: str = "?"
    updated_at: datetime | None = None
    version: int = 0
    runner: str = "?"


def _told(address: Address, found: Raw) -> str:
    """A status for people; whatever isn't one as it came."""
    try:
        status = msgspec.json.decode(found, type=_Status)
    except msgspec.DecodeError:
        return bytes(found).decode()
    at = status.updated_at
    changed = "never changed" if at is None or at == EPOCH else f"changed {stamp(at)}"
    return (
        f"{address} is {status.status}, at version {status.version}, {changed}, "
        f"in runner {status.runner}"
    )
