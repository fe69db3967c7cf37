"""Timers of flows: armed before they are recorded, and forgotten once nobody waits for them.

What is armed also tells which flows are open: one that waits without any timer arms one for that,
and anew each month. So whoever lists the timers of a type comes by all its flows, and what was
left by a process that ended before it could delete it goes away by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..entities.address import Address
from ..entities.record import Answered, Armed, Asked, Fired, Record, Waits
from ..streams.commit import Outcome
from ..streams.port import Session
from ..streams.token import ASK
from .waker import BURIAL, OPEN, TimerFired, timer_token

if TYPE_CHECKING:
    from .folded import Folded
    from .host import Host

LISTED_MS = 30 * 86_400_000
"""For how long, in milliseconds, a flow that waits for no time is listed before that is done anew:
a tell a month, and a timer of a flow that has ended lasts no longer."""

BURIAL_MS = 30_000
BURIAL_MAX_MS = 3_600_000
"""How long, in milliseconds, a flow's dead letter may have no copy: its owner died between the
two. Where the copies' stream takes none it is tried when that is as long ago again: many that wait
must not keep their entities, and the timers, busy."""

COMMAND_BYTES = 65_536
"""Of a command at most, for its dead letter's copy to have it in that case."""
WRAPPED_BYTES = 512
"""What is around it in the tell of a timer, which is bounded like any other. Generous."""

FORGOTTEN = 4096
"""Timers that wait to be forgotten, at most, in one runner; more of them just fire for nobody."""


def listed(now_ms: int) -> Armed:
    """What a flow that waits for no time arms, so that it can be found."""
    return Armed(OPEN, now_ms + LISTED_MS)


async def arm(host: Host, address: Address, flow: str, armed: Armed) -> bool:
    """Set a timer of a flow; whether that was confirmed."""
    timer = timer_token(flow, armed)
    data = msgspec.json.encode(TimerFired(flow, armed.name, armed.due_ms))
    return await host.session.schedules.arm(address, timer, armed.due_ms, data)


def has_burial(final: Outcome) -> bool:
    """Whether a flow's outcome is a dead letter that has a burial. One in the commit with which
    its flow began has none: its tell isn't acknowledged before, and comes again."""
    return final.dead is not None and final.flow is not None


def burial_due_ms(now_ms: int, since_ms: int) -> int:
    """When a dead letter that was recorded at `since_ms` is to be copied, if it isn't by then."""
    return now_ms + min(max(now_ms - since_ms, BURIAL_MS), BURIAL_MAX_MS)


async def arm_burial(
    host: Host,
    address: Address,
    flow: str,
    after: int,
    command: Raw | UnsetType,
    *,
    since_ms: int | None = None,
) -> bool:
    """Before a flow ends as a dead letter: see to it that this gets its copy, whoever dies;
    whether that was confirmed. `after`: the log's sequence before that; `since_ms`: when it was
    recorded, if it was."""
    most = min(COMMAND_BYTES, host.settings.max_payload_bytes - WRAPPED_BYTES)
    if isinstance(command, Raw) and len(command) > most:
        command = UNSET
    now_ms = host.server_ms()
    due_ms = burial_due_ms(now_ms, now_ms if since_ms is None else since_ms)
    data = msgspec.json.encode(TimerFired(flow, BURIAL, due_ms, command, after))
    timer = timer_token(flow, Armed(BURIAL, due_ms))
    return await host.session.schedules.arm(address, timer, due_ms, data)


def is_over(folded: Folded, fired: TimerFired) -> bool:
    """Whether what a timer was for is recorded, and has passed. Raises Absent."""
    flow = folded.flows.get(fired.flow)
    if flow is None:
        return folded.ledger.find(fired.flow) is not None
    return any(
        isinstance(record, Fired | Answered)
        and fired.timer in (record.name, f"{ASK}{record.name}")
        for record in flow.records
    )


class Timing:
    """What a flow's records say of its timers."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.pending: dict[str, Armed] = {}
        """Those that haven't fired, by their names."""
        self.asks: set[str] = set()
        """Questions without an answer: each has a timer that asks again."""
        self.unlisted: bool = False
        """Whether nothing that is armed tells of it where it waits now."""
        self._ever_unlisted = False
        for record in records:
            self._add(record)

    def _add(self, record: Record) -> None:
        match record:
            case Armed():
                self.pending[record.name] = record
            case Fired():
                self.pending.pop(record.name, None)
            case Asked():
                self.asks.add(record.name)
            case Answered():
                self.asks.discard(record.name)
            case Waits():
                self.unlisted = not self.pending and not self.asks
                self._ever_unlisted |= self.unlisted
            case _:
                pass

    def armed(self, *, was_parked: bool) -> list[Armed]:
        """All that may be armed for it; 0 is the time of what is armed anew."""
        names = [f"{ASK}{name}" for name in self.asks]
        names += [OPEN] if self._ever_unlisted or was_parked else []
        return [*self.pending.values(), *(Armed(name, 0) for name in names)]


class Forgetting:
    """Disarms, one after another, what nobody waits for any more."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: deque[tuple[Address, str]] = deque(maxlen=FORGOTTEN)
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Forgetting({len(self._waiting)} timers)"

    def add(self, address: Address, flow: str, armed: Iterable[Armed]) -> None:
        """Forget these of a flow soon."""
        self._waiting += [(address, timer_token(flow, one)) for one in armed]
        if self._waiting and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Leave the rest: it fires for nobody."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        while self._waiting:
            await self._session.schedules.disarm(*self._waiting.popleft())
        self._task = None
