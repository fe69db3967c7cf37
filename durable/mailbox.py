"""An entity's mailbox: what waits for its turn, in order, bounded by each way.

Tells are bounded by the server before they are accepted (`max_msgs_per_subject`), asks here. Both
wait in one queue. Asks that must see a tell first stand aside, so that they never block its head.
Admission is a pure decision; the activation does what it says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile

from ..streams.commit import At
from .item import Asker, Item


class Admission(Enum):
    """What becomes of an ask that arrives."""

    QUEUED = "queued"
    ATTACHED = "attached"  # the same command waits already: one more asker for its outcome
    FULL = "full"


@dataclass(frozen=True, slots=True)
class MailboxStatistics:
    """A mailbox at one moment."""

    asks: int  # asks queued or standing aside
    tells: int  # tells queued
    waiting: int  # asks that wait for a tell of the same client


class Mailbox:
    """Commands of one entity that wait, oldest first."""

    def __init__(self, capacity: int, askers: int) -> None:
        self.queue: deque[Item] = deque()
        self.aside: list[Item] = []
        self._capacity = capacity
        self._askers = askers
        self._asks = 0
        self._by_name: dict[str, Item] = {}

    def __len__(self) -> int:
        return len(self.queue) + len(self.aside)

    def __iter__(self) -> Iterator[Item]:
        yield from self.queue
        yield from self.aside

    def __repr__(self) -> str:
        return f"Mailbox({self.statistics()})"

    def statistics(self) -> MailboxStatistics:
        """How many wait, by way."""
        return MailboxStatistics(self._asks, len(self) - self._asks, len(self.aside))

    def find(self, name: str) -> Item | None:
        """The command of that name that waits, if any."""
        return self._by_name.get(name)

    def admit(self, item: Item) -> Admission:
        """What to do with an ask: pure, changes nothing."""
        waiting = self._by_name.get(item.name)
        if waiting is not None and waiting.payload_hash == item.payload_hash:
            return Admission.ATTACHED
        # The same key with another payload waits too: only a record may refuse it.
        return Admission.FULL if self._asks >= self._capacity else Admission.QUEUED

    def attach(self, asker: Asker, waiting: Item) -> None:
        """One more asker, bounded: of too many the oldest repeat is forgotten.

        Never the first one, which heard nothing yet, nor where a tell's answer goes: the others
        were told to wait, and repeat anyway.
        """
        askers = [a for a in waiting.askers if a.reply != asker.reply]
        if len(askers) >= self._askers:
            del askers[min(1, len(askers) - 1)]
        waiting.askers = [*askers, asker]

    def add(self, item: Item) -> None:
        """Queue an admitted ask or a tell."""
        self._by_name.setdefault(item.name, item)
        self._asks += item.way == "ask"
        if item.after is None:
            self.queue.append(item)
        else:
            self.aside.append(item)

    def queued(self, at: At, cause: str) -> Item | None:
        """The queued tell that a delivery repeats: only its handle may change; never an ack.

        It is recognised by its cause: a sequence alone is given out again by a stream that lost
        its tail. Acknowledging it here would lose it, since it has no outcome yet.
        """
        for item in self.queue:
            if item.at == at and item.cause == cause:
                return item
        return None

    def is_behind_tells(self, item: Item) -> bool:
        """Whether tells come before it in the queue."""
        before = takewhile(lambda other: other is not item, self.queue)
        return any(other.way == "tell" for other in before)

    def put_back(self, tells: Iterable[Item]) -> None:
        """Tells that were parked, before everything else; in the order of the stream, with those
        in the queue that come before any of them there."""
        parked = sorted(tells, key=_place)
        if not parked:
            return
        last = _place(parked[-1])
        earlier = [i for i in self.queue if i.way == "tell" and _place(i) < last]
        others = [i for i in self.queue if i.way != "tell" or _place(i) >= last]
        self.queue.clear()
        self.queue.extend([*sorted([*parked, *earlier], key=_place), *others])
        for item in parked:
            self._by_name.setdefault(item.name, item)

    def promote(self, ready: Callable[[Item], bool]) -> None:
        """Move the asks to the queue whose tell has taken effect."""
        for item in [i for i in self.aside if ready(i)]:
            self.aside.remove(item)
            item.after = None
            self.queue.append(item)

    def remove(self, item: Item) -> None:
        """It is answered, or dropped."""
        if self.queue and self.queue[0] is item:
            self.queue.popleft()
        elif item in self.queue:
            self.queue.remove(item)
        else:
            self.aside.remove(item)
        self._asks -= item.way == "ask"
        if self._by_name.get(item.name) is item:
            del self._by_name[item.name]
            self._restore_name(item.name)

    def _restore_name(self, name: str) -> None:
        for item in self.queue:
            if item.name == name:
                self._by_name[name] = item
                return


def _place(item: Item) -> int:
    return 0 if item.at is None else item.at.sequence
