"""A consumer of a work queue, as the broker keeps it: what it gave, to whom, and until when.

What the server does, and so this does:
- new messages in stream order, redeliveries before them; each delivery has the next number and
  uses one credit;
- `delivered` runs ahead to the stream's end when a pull finds nothing more of the shard;
- what isn't acknowledged within `ack_wait` is delivered again, to the same consumer;
- an acknowledgement names consumer and stream sequence only: one for an earlier delivery of the
  same message counts, one for a message that isn't held does nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ..port import Delivery
from .connection import Connection

Place: TypeAlias = tuple[int, int]
"""A generation of a type's sharding, and the shard in it: what a consumer's filter names."""


class Attached(Protocol):
    """The session's end of a consumer."""

    @property
    def connection(self) -> Connection:
        """Where deliveries are sent."""
        ...

    def deliver(self, delivery: Delivery) -> None:
        """A message arrives."""
        ...

    def lost(self, reason: str) -> None:
        """The consumer is gone, or not this session's any more."""
        ...


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a consumer holds."""

    credit: int
    """Deliveries that it may still make."""
    held: int
    """Messages delivered and neither acknowledged nor due for redelivery."""
    due: int
    """Messages whose `ack_wait` passed; they come before new ones."""
    new: int
    """Messages not delivered yet."""


class QueueConsumer:
    """One durable consumer of one shard."""

    def __init__(
        self,
        name: str,
        place: Place,
        owner: str,
        *,
        ack_wait_s: float,
        waiting: Iterable[int],
        attached: Attached,
        emit: Callable[[QueueConsumer, int], None],
        last: Callable[[], int],
    ) -> None:
        self.name = name
        self.place = place
        self.owner = owner
        self.attached: Attached | None = attached
        self.consumer_sequence: int = 0
        self.delivered: int = 0
        self._ack_wait_s = ack_wait_s
        self._loop = attached.connection.loop
        self._emit = emit
        self._last = last
        self._credit = 0
        self._new = deque(waiting)
        self._held: dict[int, float] = {}  # sequence: when it is due again, in loop time, sorted
        self._due: dict[int, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<QueueConsumer {self.name} {self.statistics()}>"

    def statistics(self) -> Statistics:
        """What it holds right now."""
        return Statistics(self._credit, len(self._held), len(self._due), len(self._new))

    @property
    def pending(self) -> int:
        """Messages not delivered yet."""
        return len(self._new)

    def stored(self, sequence: int) -> None:
        """A message of its shard was stored."""
        self._new.append(sequence)
        self.pump()

    def grant(self, credit: int) -> None:
        """Allow more deliveries."""
        self._credit += credit
        self.pump()

    def pump(self) -> None:
        """Deliver what may be delivered: due messages first."""
        while self._credit > 0 and self.attached is not None and (self._due or self._new):
            if self._due:
                sequence = next(iter(self._due))
                del self._due[sequence]
            else:
                sequence = self._new.popleft()
                self.delivered = max(self.delivered, sequence)
            self._credit -= 1
            self.consumer_sequence += 1
            self._hold(sequence)
            self._emit(self, sequence)
        if self._credit > 0 and self.attached is not None:
            self.delivered = max(self.delivered, self._last())

    def settle(self, sequence: int) -> bool:
        """An acknowledgement came: whether the message was held, so that it may go."""
        if sequence in self._due:
            del self._due[sequence]
            return True
        return self._held.pop(sequence, None) is not None

    def forget(self, sequence: int) -> None:
        """A message was deleted: it is delivered no more."""
        if not self.settle(sequence) and sequence in self._new:
            self._new.remove(sequence)

    def extend(self, sequence: int) -> None:
        """Progress was reported: another `ack_wait` for a held message."""
        if sequence in self._held:
            self._hold(sequence)

    def detach(self) -> None:
        """Nobody pulls any more; the credit is gone, what is held stays held."""
        self.attached = None
        self._credit = 0

    def end(self) -> None:
        """It was deleted."""
        self.detach()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def rewind(self, keep: int, lost: int, waiting: Iterable[int]) -> None:
        """Its stream lost everything beyond `keep`, `lost` messages; so did its own state."""
        self._held = {s: until for s, until in self._held.items() if s <= keep}
        self._due = {s: None for s in self._due if s <= keep}
        self.delivered = min(self.delivered, keep)
        self._new = deque(s for s in waiting if s > self.delivered)
        self.consumer_sequence = max(0, self.consumer_sequence - lost)

    def _hold(self, sequence: int) -> None:
        self._held.pop(sequence, None)  # so that the earliest stays first
        self._held[sequence] = self._loop.time() + self._ack_wait_s
        if self._timer is None and not self._loop.is_closed():
            self._set_timer(self._held[sequence])

    def _look(self) -> None:
        """Make due what was held too long, in stream order."""
        self._timer = None
        now = self._loop.time()
        late = sorted(s for s, until in self._held.items() if until <= now)
        for sequence in late:
            del self._held[sequence]
            self._due[sequence] = None
        if self._held:
            self._set_timer(next(iter(self._held.values())))
        self.pump()

    def _set_timer(self, when: float) -> None:
        """In nobody's context: a server's timers outlive whoever caused them."""
        self._timer = self._loop.call_at(when, self._look, context=contextvars.Context())
