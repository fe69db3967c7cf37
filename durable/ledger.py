"""The ledger: which commands have an outcome, and where in the log it is.

It maps a 128-bit hash of an outcome's name to its place, so that a repeated command finds the
recorded reply (read back from the log, where the name itself is compared). It is a pure function
of the entity's log: only the log's own times move it, so every runner has the same one.

Two kinds of names age differently. Keys that a client made for its own repeats are needed for
minutes only; they carry their time of birth, and are forgotten once nothing can repeat them any
more. All others stay for the dedup window, in the order of the log: the newest thousand or two as
rows here, the rest in sealed pages (durable/pages.py). Folding a commit needs no page; a look-up
may, and says so by raising `Absent`. Causes need no entry beyond that: the watermark covers them.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

import msgspec

from ..streams.codec import HASH_BYTES, name_hash
from . import pages
from .pages import ROW, ListedFilter, ListedPage, Pages
from .pages import Seen as Seen  # others know it from here

_MADE = Struct(f">{HASH_BYTES}sqqq")
"""A made key's payload hash, sequence, birth, time."""

ROW_BYTES = 200
MADE_BYTES = 200
"""What a row, and a made key, take in memory with their place in a dict that just grew."""


@dataclass(frozen=True, slots=True)
class LedgerLimits:
    """How long and how much is remembered."""

    window_ms: int  # given keys
    keys: int
    made_window_ms: int
    made_keys: int


@dataclass(frozen=True, slots=True)
class LedgerStatistics:
    """A ledger at one moment."""

    given: int  # names kept for the dedup window; of a page that ages, all
    made: int  # keys that clients made for their repeats
    forgotten_birth: int  # the newest birth of a made key dropped for lack of room, Unix ms
    evicted_early: int  # given names dropped before their time, for lack of room, at least
    pages: int
    bytes: int  # in memory, about


class LedgerHead(msgspec.Struct, frozen=True, array_like=True):
    """A ledger in a snapshot: all but the pages, which are stored beside it."""

    page_names: int  # the sizes that the numbers below count in
    filter_pages: int
    total: int
    first: int
    log_time_ms: int
    boundary: str
    rows: bytes
    made: bytes
    forgotten_birth: int
    evicted_early: int
    first_page: int
    pages: tuple[ListedPage, ...]
    filters: tuple[ListedFilter, ...]


class Ledger:
    """Names with an outcome. Changed only by folding a commit."""

    def __init__(self, limits: LedgerLimits) -> None:
        self._limits = limits
        self._made: dict[bytes, bytes] = {}
        self._forgotten_birth = -1
        # given names are numbered from the log's start
        self._total = 0
        self._first = 0  # the oldest one that may still be remembered
        self._rows = bytearray()  # the newest ones, in the log's order
        self._places: dict[bytes, int] = {}  # hash to number, of these
        self._pages: Pages | None = None  # those before
        self._page_names = pages.PAGE_NAMES
        self._boundary = ""  # hash of the commit with the last name of the newest whole page
        self._log_time_ms = 0
        self.evicted_early: int = 0  # given names dropped before their time, for lack of room
        self._untold = 0

    def __len__(self) -> int:
        return self._total - self._first + len(self._made)

    def __repr__(self) -> str:
        return f"Ledger({self.statistics()})"

    def statistics(self) -> LedgerStatistics:
        """Sizes, for metrics and operators."""
        return LedgerStatistics(
            self._total - self._first,
            len(self._made),
            self._forgotten_birth,
            self.evicted_early,
            0 if self._pages is None else len(self._pages),
            self.memory_bytes,
        )

    @property
    def memory_bytes(self) -> int:
        """What it takes in memory, about."""
        sealed = 0 if self._pages is None else self._pages.memory_bytes
        return len(self._places) * ROW_BYTES + len(self._made) * MADE_BYTES + sealed

    def find(self, name: str) -> Seen | None:
        """The place of a name's outcome, of the newest one. Raises Absent: parts to be read."""
        key = name_hash(name)
        made = self._made.get(key)
        if made is not None:
            payload, sequence, birth, time = _MADE.unpack(made)
            return Seen(sequence, payload, birth, time)
        place = self._places.get(key)
        if place is not None:
            at = (place - self._start) * ROW.size
            _, payload, sequence, time = ROW.unpack_from(self._rows, at)
            return Seen(sequence, payload, -1, time)
        if self._pages is None:
            return None
        return self._pages.find(key, self._first, self._horizon_ms)

    def add(self, name: str, seen: Seen, mark: str) -> None:
        """Record an outcome that is in the commit with the hash `mark`."""
        key = name_hash(name)
        if seen.birth >= 0:
            packed = _MADE.pack(seen.payload, seen.sequence, seen.birth, seen.time)
            self._made.setdefault(key, packed)
            return
        self._rows += ROW.pack(key, seen.payload, seen.sequence, seen.time)
        self._places[key] = self._total
        self._total += 1
        if self._total % self._page_names == 0:
            self._seal(self._total // self._page_names - 2)
            self._boundary = mark

    def too_old(self, birth: int) -> bool:
        """Whether an unknown made key may be a forgotten one, so that it must not be executed."""
        expired = birth + self._limits.made_window_ms < self._log_time_ms
        return expired or birth <= self._forgotten_birth

    def prune(self, *, log_time_ms: int, watermark_ms: int) -> None:
        """Forget what is past its time, by the log's own clock, and what is too much."""
        self._log_time_ms = log_time_ms
        self._prune_made(min(log_time_ms, watermark_ms) - self._limits.made_window_ms)
        if self._pages is not None:
            self._first = self._pages.forget(self._first, self._horizon_ms)
        if self._rows:
            self._prune_rows(self._expired_rows())
        excess = self._total - self._first - self._limits.keys
        if excess > 0:
            self._evict(excess)

    @property
    def sealed(self) -> Pages | None:
        """What is sealed, for those who read and store it."""
        return self._pages

    def take_evicted(self) -> int:
        """How many more were evicted early since this was asked last."""
        untold, self._untold = self._untold, 0
        return untold

    # -- given names -----------------------------------------------------------------------------
    @property
    def _start(self) -> int:
        """The number of the first row."""
        return self._total - len(self._rows) // ROW.size

    @property
    def _horizon_ms(self) -> int:
        """Who is older is forgotten."""
        return self._log_time_ms - self._limits.window_ms

    def _seal(self, number: int) -> None:
        """Make a page of the rows that belong to it, as far as they aren't forgotten."""
        count = (number + 1) * self._page_names - self._start
        if number < 0 or count <= 0:
            return
        if self._pages is None:
            self._pages = Pages()
        self._pages.seal(number, self._boundary, bytes(self._rows[: count * ROW.size]))
        self._drop_rows(count)

    def _expired_rows(self) -> int:
        horizon_ms, count = self._horizon_ms, 0
        while count < len(self._rows) // ROW.size and self._time(count) < horizon_ms:
            count += 1
        return count

    def _time(self, row: int) -> int:
        return int(ROW.unpack_from(self._rows, row * ROW.size)[3])

    def _prune_rows(self, count: int) -> None:
        """Forget the oldest rows."""
        if count:
            self._drop_rows(count)
            self._first = max(self._first, self._start)

    def _drop_rows(self, count: int) -> None:
        start = self._start
        for row in range(count):
            at = row * ROW.size
            key = bytes(self._rows[at : at + HASH_BYTES])
            if self._places[key] == start + row:  # else it came again since
                del self._places[key]
        del self._rows[: count * ROW.size]

    def _evict(self, excess: int) -> None:
        """Forget the oldest names before their time.

        Of a page only the times of its first and last name are known: those of one that began to
        expire aren't counted, so the count is no false alarm, and late by a page at most.
        """
        early, start = 0, self._start
        place, self._first = self._first, self._first + excess
        while self._pages is not None and place < min(self._first, start):
            end = (place // self._page_names + 1) * self._page_names
            end = min(end, self._first, start)
            first_ms = self._pages.first_ms(place)
            if first_ms is not None and first_ms >= self._horizon_ms:
                early += end - place
            place = end
        if self._first > start:
            early += self._first - start
            self._prune_rows(self._first - start)
        if self._pages is not None:
            self._pages.forget(self._first, self._horizon_ms)
        self.evicted_early += early
        self._untold += early

    # -- made keys -------------------------------------------------------------------------------
    def _prune_made(self, horizon_ms: int) -> None:
        """Collected first, then deleted: looking for a dict's front after each is quadratic."""
        excess = len(self._made) - self._limits.made_keys
        if excess <= 0 and horizon_ms < 0:  # nothing is that old: no tell has moved the watermark
            return
        doomed: list[bytes] = []
        for key, packed in self._made.items():
            _, _, birth, time = _MADE.unpack(packed)
            if max(birth, time) >= horizon_ms:
                if len(doomed) >= excess:
                    break
                self._forgotten_birth = max(self._forgotten_birth, birth)
            doomed.append(key)
        for key in doomed:
            del self._made[key]

    # -- snapshots -------------------------------------------------------------------------------
    def pack(self) -> LedgerHead:
        """All but the pages, in log order."""
        nothing: tuple[int, tuple[ListedPage, ...], tuple[ListedFilter, ...]] = (0, (), ())
        first_page, listed, filters = nothing if self._pages is None else self._pages.listed()
        return LedgerHead(
            page_names=self._page_names,
            filter_pages=pages.FILTER_PAGES,
            total=self._total,
            first=self._first,
            log_time_ms=self._log_time_ms,
            boundary=self._boundary,
            rows=bytes(self._rows),
            made=b"".join(key + packed for key, packed in self._made.items()),
            forgotten_birth=self._forgotten_birth,
            evicted_early=self.evicted_early,
            first_page=first_page,
            pages=listed,
            filters=filters,
        )

    def unpack(self, head: LedgerHead) -> None:
        """The reverse of `pack`. Raises ValueError for a head of another format."""
        step = HASH_BYTES + _MADE.size
        sizes = (head.page_names, head.filter_pages) == (self._page_names, pages.FILTER_PAGES)
        if not sizes or len(head.rows) % ROW.size or len(head.made) % step:
            raise ValueError("a ledger of another format")
        self._total, self._first = head.total, head.first
        self._log_time_ms, self._boundary = head.log_time_ms, head.boundary
        self._forgotten_birth, self.evicted_early = head.forgotten_birth, head.evicted_early
        self._rows += head.rows
        for place, at in enumerate(range(0, len(head.rows), ROW.size), self._start):
            self._places[head.rows[at : at + HASH_BYTES]] = place
        for at in range(0, len(head.made), step):
            self._made[head.made[at : at + HASH_BYTES]] = head.made[at + HASH_BYTES : at + step]
        if head.pages:
            self._pages = Pages()
            self._pages.adopt(head.first_page, head.pages, head.filters)
