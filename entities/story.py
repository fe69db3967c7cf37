"""Story: a flow's records, and how far a run has come in them. Pure.

A run begins with the first segment and goes through all that are recorded. Only in the last one,
while that is open, may anything new happen; before, whatever isn't found in the records shows that
the code was changed where the flow had passed already.
"""

from __future__ import annotations

from collections.abc import Iterable

from .record import (
    Armed,
    Asked,
    Began,
    Cancelled,
    Emitted,
    N,
    Named,
    Opened,
    Ran,
    Record,
    Waits,
)

PARKED = ("(parked)",)
"""What a flow waits for that was parked in the middle of a turn: no code can name a wait so."""

RECORDS = 10_000
"""Of one flow at most: each run goes through all of them. A flow that goes on for ever begins
another one now and then. What whoever drives it records is not counted: it must end, undone."""
CANCELLED = "it was cancelled"
"""Why a flow ends that somebody wants no more of; a deadline says otherwise."""
UNDO = "undo "
"""What the names of undo steps begin with, before the name of their step."""


class Mismatch(Exception):
    """The code isn't what it was when the flow passed here. The text says where it differs."""


class Misuse(Exception):
    """The flow's code does what no flow can do. The text says what."""


class FlowCancelled(BaseException):
    """The flow is to end where it waits. Not to be caught; what was done is undone afterwards."""


class Story:
    """The records of one flow, and where a run is. Begins within the first segment."""

    def __init__(self, records: Iterable[Record], stored: int | None = None) -> None:
        """`stored`: how many of them are in the log; all, if it isn't given."""
        self.records: list[Record] = []
        self.stored: int = 0
        self._named: dict[tuple[type[Named], str], int] = {}
        self._begins: list[int] = []  # where the segments begin
        self._ends: dict[int, int] = {}  # where the segment that begins there ends
        self._segment = 0
        self._cancelled: Cancelled | None = None
        self._cancelled_at = -1
        self._emits = 0  # where the next ones of this segment are looked for
        for record in records:
            self.add(record)
        self._emits = 0
        self.stored = len(self.records) if stored is None else stored

    def __repr__(self) -> str:
        return f"Story({len(self.records)} records, segment {self._segment})"

    # -- where it is ----------------------------------------------------------------------------
    @property
    def begin(self) -> Began:
        """Of the segment that the run is in."""
        began = self.records[self._begin]
        assert isinstance(began, Began)
        return began

    @property
    def begin_is_fresh(self) -> bool:
        """Whether it began with this run."""
        return self._begin >= self.stored

    @property
    def segment(self) -> list[Record]:
        """What is recorded of it."""
        return self.records[self._begin : self._end]

    @property
    def open(self) -> bool:
        """Whether something new may happen: the segment has no end yet."""
        return self._begin not in self._ends

    @property
    def cancelled(self) -> Cancelled | None:
        """That it is to end where it waits, if it is."""
        return self._cancelled

    @property
    def waits(self) -> Waits | None:
        """What the flow waits for; None while it runs, or if it never waited."""
        last = self._ends.get(self._begins[-1])
        found = None if last is None else self.records[last]
        return found if isinstance(found, Waits) else None

    @property
    def fresh(self) -> list[Record]:
        """The records that aren't in the log yet."""
        return self.records[self.stored :]

    @property
    def _begin(self) -> int:
        return self._begins[self._segment]

    @property
    def _end(self) -> int:
        return self._ends.get(self._begin, len(self.records))

    # -- what is there --------------------------------------------------------------------------
    def find(self, kind: type[N], name: str) -> N | None:
        """The record of that name."""
        index = self._named.get((kind, name))
        found = None if index is None else self.records[index]
        return found if isinstance(found, kind) else None

    def place(self, kind: type[Named], name: str) -> int | None:
        """Where it stands; None if it isn't there."""
        return self._named.get((kind, name))

    def was_there(self, place: int | None) -> bool:
        """Whether what stands there was there before this segment began."""
        return place is not None and place < self._begin

    def next_emitted(self) -> Emitted | None:
        """What was emitted next in this segment; None if that is still to happen.

        Raises Mismatch if the segment ended without.
        """
        while self._emits < self._end:
            record = self.records[self._emits]
            self._emits += 1
            if isinstance(record, Emitted):
                return record
        self.require_open("it emits events that it didn't emit")
        return None

    # -- what is new ----------------------------------------------------------------------------
    def add(self, record: Record) -> None:
        """Something happened. Raises Misuse for one too many."""
        index = len(self.records)
        if index >= RECORDS and _is_of_code(record):
            raise Misuse(f"a flow has {RECORDS} records at most: begin another flow in time")
        match record:
            case Began():
                self._begins.append(index)
            case Waits():
                self._ends[self._begins[-1]] = index
            case Cancelled() if self._cancelled is None:
                self._cancelled, self._cancelled_at = record, index
            case Cancelled():
                pass
            case Emitted():
                pass
            case _:
                self._named[type(record), record.name] = index
        self.records.append(record)
        if isinstance(record, Emitted) and self._begins[-1] == self._begin:
            self._emits = index + 1

    def require_open(self, what: str) -> None:
        """That something new may happen here. Raises Mismatch."""
        if not self.open:
            raise Mismatch(f"{what} where it had passed already: {self._told()}")

    def pass_on(self, on: tuple[str, ...], place: int | None) -> bool:
        """Go on to the next segment, at a line that waited the first time; whether there is one.

        `on` is what the line waits for, `place` where what ends that stands, if it is there. A new
        segment that began with something else is taken back: the flow goes on to wait. Raises
        Mismatch, and FlowCancelled where the flow was cancelled while it waited here.
        """
        waited = self.records[self._end]
        assert isinstance(waited, Waits)
        self.require_all_emitted()
        if waited.on != on:
            raise Mismatch(f"it waits for {told(on)}, where it waited for {told(waited.on)}")
        if self._segment + 1 == len(self._begins):
            return False
        begin = self._begins[self._segment + 1]
        if self._cancelled is not None and self._end < self._cancelled_at < begin:
            self._go_on()
            raise FlowCancelled(self._cancelled.why)
        if place is None or place > begin:
            if begin < self.stored:
                raise Mismatch(f"it waits for {told(on)}, where it had gone on")
            self._take_back(begin)
            return False
        self._go_on()
        return True

    def is_beyond(self, place: int | None) -> bool:
        """Whether the flow was parked in this segment, has gone on, and what stands there is
        beyond that, or new (None)."""
        end = self._ends.get(self._begin)
        last = None if end is None else self.records[end]
        parked = isinstance(last, Waits) and last.on == PARKED
        gone_on = parked and self._segment + 1 < len(self._begins)
        return gone_on and (place is None or end is None or place > end)

    def leave(self) -> None:
        """Go on beyond where the flow was parked in the middle of a turn: an operator let it go
        on. Raises FlowCancelled where it was cancelled while it was parked."""
        end = self._end
        self._go_on()
        if self._cancelled is not None and end < self._cancelled_at < self._begin:
            raise FlowCancelled(self._cancelled.why)

    def _go_on(self) -> None:
        self._segment += 1
        self._emits = self._begin

    @property
    def emits_again(self) -> bool:
        """Whether something that was emitted in this segment is still to come up."""
        return any(isinstance(record, Emitted) for record in self.records[self._emits : self._end])

    def require_all_emitted(self) -> None:
        """That the segment emitted what it emitted the first time. Raises Mismatch."""
        if self.emits_again:
            raise Mismatch("it doesn't emit events that it emitted the first time")

    def require_last(self) -> None:
        """That the flow may end here. Raises Mismatch."""
        self.require_open("it ends")
        self.require_all_emitted()

    def _take_back(self, begin: int) -> None:
        assert begin == len(self.records) - 1
        del self.records[begin]
        self._begins.pop()

    def _told(self) -> str:
        waited = self.records[self._end]
        assert isinstance(waited, Waits)
        return f"the first time it came to wait for {told(waited.on)}"


def _is_of_code(record: Record) -> bool:
    """Whether the flow's code made it, and can make any number of them."""
    match record:
        case Emitted() | Opened() | Asked() | Armed():
            return True
        case Ran(name):
            return not name.startswith(UNDO)
        case Waits(on):
            return on != PARKED
        case _:
            return False


def told(on: tuple[str, ...]) -> str:
    """What is waited for, in words."""
    return " and ".join(on)
