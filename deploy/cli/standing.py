"""Standing: how a flow is now, and how whatever moved it tells what came of it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ...durable.flow import ENDED
from ...entities.address import Address
from ...entities.errors import ClusterError, MalformedMessage, RpcClientError, RunnerNotRegistered
from ...entities.key import is_key
from ...entities.suspension import Suspension
from ...entities.tagged import to_wire
from ...streams.asks import raw
from ...streams.caller import Caller
from ...streams.suspended import flows_of
from .advice import quoted
from .calling import interruptible
from .chronicle import tagged
from .flowlog import named
from .trouble import Advised, UsageError

_CAUSE = re.compile(r"@[0-9]{1,20}\.[0-9]{1,20}\.[0-9]{1,20}\.[0-9a-f]{16}")


class Standing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A flow, as `--json` prints it."""

    address: str
    key: str
    status: Literal["runs", "waits", "parked", "ended"]
    waits_for: tuple[str, ...] = ()
    due: datetime | None = None
    parked: str | None = None
    reply: Raw | UnsetType = UNSET
    failure: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    """The cluster error that its callers get."""
    cancelled: str | None = None
    """Why, where it was cancelled."""

    def __str__(self) -> str:
        match self.status:
            case "runs":
                return "runs"
            case "waits":
                return f"waits for {' and '.join(map(named, self.waits_for))}"
            case "parked":
                return f"is parked: {self.parked}"
            case "ended":
                return f"has ended{self._with}"

    @property
    def _with(self) -> str:
        if self.cancelled is not None:
            return f": {self.cancelled}"
        if self.failure is not UNSET:
            return f", refused: {tagged(self.failure)}"
        if self.error is not UNSET:
            error = msgspec.json.decode(self.error, type=dict[str, object])
            return f" with {error.get('type')}: {error.get('cause')}"
        return "" if self.reply is UNSET else f", with {bytes(self.reply).decode()}"


def flow_key_of(key: str) -> str:
    """What names a flow: its command's key, or the cause of one without. Raises UsageError."""
    if is_key(key) or _CAUSE.fullmatch(key):
        return key
    raise UsageError(
        f"not a flow's key: {key[:60]!r}", "copy it from perdure suspended, or perdure history"
    )


async def find(caller: Caller, address: Address, key: str) -> Suspension | None:
    """The flow of that key, if it is open. Raises a ClusterError."""
    found = await flows_of(caller, address)
    return next((flow for flow in found if flow.key == key), None)


def standing_of(flow: Suspension) -> Standing:
    """That of one that is open."""
    status: Literal["runs", "waits", "parked"] = "waits" if flow.waits_for else "runs"
    return Standing(
        address=flow.address,
        key=flow.key,
        status=status if flow.parked is None else "parked",
        waits_for=flow.waits_for,
        due=flow.due,
        parked=flow.parked,
    )


async def standing(
    caller: Caller, address: Address, key: str, timeout_s: float | None = None
) -> Standing:
    """How a flow is that was open a moment ago. Raises a ClusterError."""
    timeout_s = caller.timeout_s(timeout_s)
    flow = await find(caller, address, key)
    if flow is not None:
        return standing_of(flow)
    ended = Standing(address=str(address), key=key, status="ended")
    if not is_key(key):  # owners tell results by keys only
        return ended
    try:
        answer = await caller.result(caller.target(address, key), timeout_s=timeout_s)
    except RpcClientError as error:  # what it has ended with
        cause, head = error.cause or "", f"{ENDED}: "
        if cause.startswith(head):
            return msgspec.structs.replace(ended, cancelled=cause.removeprefix(head))
        return msgspec.structs.replace(ended, error=raw(to_wire(error)))
    return msgspec.structs.replace(ended, reply=answer.reply, failure=answer.failure)


async def wake(caller: Caller, address: Address, key: str, payload: Raw) -> None:
    """Bring a flow what moves it; on return that is recorded.

    Raises MalformedMessage for what its owner refuses, RunnerNotRegistered, and Advised.
    """
    look = f"perdure flows show {address.entity} {quoted(address.id)} {quoted(key)}"
    try:
        with interruptible(address, key if is_key(key) else None):
            await caller.wake(caller.target(address), payload)
    except (MalformedMessage, RunnerNotRegistered):
        raise
    except ClusterError as error:
        step = f"look what came of it: {look}" if error.may_have_taken_effect else "try again"
        raise Advised(error, step) from None
