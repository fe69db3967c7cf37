"""Pages: the older part of a ledger, sealed. Without I/O; what isn't in memory is asked for.

Page n holds the n-th thousand of an entity's given names in log order, those that were forgotten
before it was sealed left out, after the hash of the last commit that it covers. So its content is
a function of the log: whoever folds the log seals the same page, it is written once, and a digest
in the snapshot's head tells whether what is read back is the right one.

In memory stay eight bytes a name: the *filter*, a sorted array for each sixteen pages, whose
numbers are the beginning of a name's hash with the page's place in the last four bits. One bisect
an array tells that a name is new, or which page to look into; only then its body is needed. The
filter of sixteen full pages is stored too, so that a cold entity doesn't read all bodies for it.

A look-up that needs what isn't in memory raises `Absent`, which names the parts to read and to
`put` (durable/paging.py), and is tried again.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

import msgspec

from ..streams.codec import HASH_BYTES, digest

PAGE_NAMES = 1000
"""Names in a page, and in memory beyond the last one at least: 48 KB a page, which one message
holds and a rare repeat may read."""

FILTER_PAGES = 16
"""Pages in one array of the filter, at most 16: 128 KB, one message."""

LOADED_PAGES = 8
"""Bodies that one ledger keeps in memory after they were read or stored: 384 KB. Repeats come in
runs, so few pages serve many; one command needs two at most, by its place and by its key."""

DOOMED_PARTS = 1000
"""Names of parts to be blanked that one ledger remembers: a million names that left while no
snapshot could be stored. Beyond, a few bytes of the cache are lost for good."""

ROW = Struct(f">{HASH_BYTES}s{HASH_BYTES}sqq")
"""One name: its hash, the payload's, the sequence of its commit, the commit's time in Unix ms."""

_PREFIXES = Struct(f">Q{ROW.size - 8}x")
_PLACE_BITS = 4
_PLACE = (1 << _PLACE_BITS) - 1


class Seen(NamedTuple):
    """A recorded outcome's place."""

    sequence: int  # of its commit in the log
    payload: bytes  # hash of the command
    birth: int  # Unix ms for a made key, else -1
    time: int  # of its commit, Unix ms


class Absent(Exception):
    """What must be read before a name can be looked up."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        super().__init__(f"not in memory: {', '.join(parts)}")
        self.parts: tuple[str, ...] = parts  # of the snapshot


class ListedPage(msgspec.Struct, frozen=True, array_like=True):
    """A page as a snapshot's head lists it."""

    digest: str
    first_ms: int  # the time of its first name's commit
    last_ms: int


class ListedFilter(msgspec.Struct, frozen=True, array_like=True):
    """An array of the filter as a snapshot's head lists it."""

    number: int
    digest: str


@dataclass(slots=True, eq=False)
class _Page:
    number: int
    digest: str
    first_ms: int
    last_ms: int
    body: bytes | None = None
    stored: bool = False
    in_filter: bool = False


@dataclass(slots=True, eq=False)
class _Filter:
    places: array[int]
    digest: str = ""  # of the stored form; none before all of its pages are there
    stored: bool = False


class Pages:
    """The sealed pages of one ledger, without a gap."""

    def __init__(self) -> None:
        assert 1 <= FILTER_PAGES <= _PLACE + 1
        assert LOADED_PAGES >= 2
        self._names, self._group = PAGE_NAMES, FILTER_PAGES
        self._pages: deque[_Page] = deque()
        self._filters: dict[int, _Filter] = {}
        self._loaded: dict[int, _Page] = {}  # stored and in memory; the longest unused first
        self._bodies: int = 0  # bytes of all bodies in memory
        self._unknown: int = 0  # pages whose names aren't in the filter yet
        self.doomed: deque[str] = deque(maxlen=DOOMED_PARTS)  # stored parts that nobody needs

    def __len__(self) -> int:
        return len(self._pages)

    def __repr__(self) -> str:
        return f"Pages({len(self)}, {self.bodies} in memory, {self._unknown} unknown)"

    @property
    def bodies(self) -> int:
        """How many bodies are in memory."""
        return sum(page.body is not None for page in self._pages)

    @property
    def memory_bytes(self) -> int:
        """What they take in memory, about."""
        entries = sum(len(filter.places) for filter in self._filters.values())
        return self._bodies + entries * 8 + len(self._pages) * _PAGE_BYTES

    # -- by folding ------------------------------------------------------------------------------
    def seal(self, number: int, mark: str, rows: bytes) -> None:
        """Add the next page; `mark` is the hash of the last commit that it covers."""
        assert not self._pages or number == self._pages[-1].number + 1
        body = bytes.fromhex(mark) + rows
        first, last = _time(rows, 0), _time(rows, len(rows) - ROW.size)
        page = _Page(number, digest(body), first, last, body)
        self._pages.append(page)
        self._bodies += len(body)
        self._unknown += 1
        self._list(page)

    def forget(self, first: int, horizon_ms: int) -> int:
        """Drop the pages all of whose names are before number `first` or older than the horizon.

        The number of the first name that may still be remembered.
        """
        while self._pages:
            page = self._pages[0]
            end = (page.number + 1) * self._names
            if end > first and page.last_ms >= horizon_ms:
                break
            first = max(first, end)
            self._drop(self._pages.popleft())
        return first

    def _drop(self, page: _Page) -> None:
        self._loaded.pop(page.number, None)
        self._release(page)
        self._unknown -= not page.in_filter
        if page.stored:
            self.doomed.append(page_part(page.number))
        group = page.number // self._group
        if not self._pages or self._pages[0].number // self._group != group:
            filter = self._filters.pop(group, None)
            if filter is not None and filter.stored:
                self.doomed.append(filter_part(group))

    def first_ms(self, place: int) -> int | None:
        """The time of the first name in the page that holds number `place`; None if none does."""
        page = self._page(place // self._names)
        return None if page is None else page.first_ms

    # -- looking up ------------------------------------------------------------------------------
    def find(self, key: bytes, first: int, horizon_ms: int) -> Seen | None:
        """The newest entry of a name's hash, if its number is `first` or later and its time not
        before the horizon. Raises Absent."""
        if not self._pages:
            return None
        if self._unknown:
            raise Absent(tuple(self._parts_for_filter()))
        for number in self._candidates(key):
            page = self._page(number)
            if page is None:  # it was dropped since
                continue
            if page.body is None:
                raise Absent((page_part(number),))
            if number in self._loaded:
                self._loaded[number] = self._loaded.pop(number)
            at = _find_row(page.body, key)
            if at is None:
                continue
            _, payload, sequence, time = ROW.unpack_from(page.body, at)
            place = (number + 1) * self._names - (len(page.body) - at) // ROW.size
            remembered = place >= first and time >= horizon_ms  # else no older one is, either
            return Seen(sequence, payload, -1, time) if remembered else None
        return None

    def _candidates(self, key: bytes) -> list[int]:
        """The pages that may hold it, newest first."""
        prefix = int.from_bytes(key[:8], "big") & ~_PLACE
        found: list[int] = []
        for group, filter in self._filters.items():
            places = filter.places
            at = bisect_left(places, prefix)
            while at < len(places) and places[at] <= prefix | _PLACE:
                found.append(group * self._group + (places[at] & _PLACE))
                at += 1
        return sorted(found, reverse=True)

    def _page(self, number: int) -> _Page | None:
        at = number - self._pages[0].number if self._pages else -1
        return self._pages[at] if 0 <= at < len(self._pages) else None

    def _parts_for_filter(self) -> Iterator[str]:
        """What to read so that every page's names are in the filter."""
        done: set[int] = set()
        for page in self._pages:
            group = page.number // self._group
            if page.in_filter or group in done:
                continue
            filter = self._filters.get(group)
            if filter is not None and filter.stored:
                done.add(group)
                yield filter_part(group)
            else:
                yield page_part(page.number)

    def put(self, part: str, data: bytes | None) -> bool:
        """Take over what was read of a part; whether it is the one that is listed.

        A filter that isn't costs time only: its pages are read instead.
        """
        number = int(part[1:])
        if part.startswith(_FILTER):
            self._put_filter(number, data)
            return True
        page = self._page(number)
        if page is None or page.body is not None:
            return True
        if data is None or digest(data) != page.digest:
            return False
        page.body = data
        self._bodies += len(data)
        self._list(page)
        self._keep(page)
        return True

    def _put_filter(self, group: int, data: bytes | None) -> None:
        filter = self._filters.get(group)
        if filter is None:
            return
        if data is None or digest(data) != filter.digest:
            filter.digest, filter.stored = "", False
            return
        filter.places = _places(data)
        for page in self._pages:
            if page.number // self._group == group and not page.in_filter:
                page.in_filter = True
                self._unknown -= 1

    def _list(self, page: _Page) -> None:
        """Put its names into the filter."""
        if page.in_filter:
            return
        assert page.body is not None
        group, place = divmod(page.number, self._group)
        filter = self._filters.setdefault(group, _Filter(array("Q")))
        rows = memoryview(page.body)[HASH_BYTES:]
        own = sorted((prefix & ~_PLACE) | place for (prefix,) in _PREFIXES.iter_unpack(rows))
        filter.places = array("Q", sorted([*filter.places, *own]))  # two sorted runs: linear
        page.in_filter = True
        self._unknown -= 1

    def _keep(self, page: _Page) -> None:
        """It is stored, so that its body may leave memory after a while."""
        self._loaded[page.number] = page
        if len(self._loaded) > LOADED_PAGES:
            self._release(self._loaded.pop(next(iter(self._loaded))))

    def _release(self, page: _Page) -> None:
        if page.body is not None:
            self._bodies -= len(page.body)
            page.body = None

    # -- snapshots -------------------------------------------------------------------------------
    def unstored(self) -> list[tuple[str, bytes]]:
        """The parts that must be stored before a head that lists them, and their bytes."""
        parts = [(page_part(p.number), p.body) for p in self._pages if not p.stored and p.body]
        for group, filter in self._filters.items():
            if filter.stored or not self._is_full(group):
                continue
            data = _packed(filter.places)
            filter.digest = digest(data)
            parts.append((filter_part(group), data))
        return parts

    def _is_full(self, group: int) -> bool:
        """Whether all of its pages are sealed, and their names in the filter."""
        if self._pages[-1].number < (group + 1) * self._group - 1:
            return False
        own = (page for page in self._pages if page.number // self._group == group)
        return all(page.in_filter for page in own)

    def stored(self, part: str) -> None:
        """A part of `unstored` was confirmed."""
        number = int(part[1:])
        if part.startswith(_FILTER):
            filter = self._filters.get(number)
            if filter is None:
                self.doomed.append(part)
            else:
                filter.stored = True
            return
        page = self._page(number)
        if page is None:  # it was dropped while it was on its way
            self.doomed.append(part)
        elif not page.stored:
            page.stored = True
            self._keep(page)

    def listed(self) -> tuple[int, tuple[ListedPage, ...], tuple[ListedFilter, ...]]:
        """For a head: the first page's number, the pages, and what there is of the filter."""
        pages = tuple(ListedPage(p.digest, p.first_ms, p.last_ms) for p in self._pages)
        filters = tuple(ListedFilter(g, f.digest) for g, f in self._filters.items() if f.digest)
        return (self._pages[0].number if self._pages else 0), pages, filters

    def adopt(
        self, first: int, pages: tuple[ListedPage, ...], filters: tuple[ListedFilter, ...]
    ) -> None:
        """The reverse of `listed`: nothing is in memory yet."""
        for number, page in enumerate(pages, first):
            made = _Page(number, page.digest, page.first_ms, page.last_ms, stored=True)
            self._pages.append(made)
        self._unknown = len(pages)
        for filter in filters:
            self._filters[filter.number] = _Filter(array("Q"), filter.digest, stored=True)


_PAGE_BYTES = 250
"""What a page's record takes in memory besides its body."""

_FILTER = "f"


def page_part(number: int) -> str:
    """The name under which a page is stored beside its snapshot."""
    return f"p{number}"


def filter_part(number: int) -> str:
    """The same for an array of the filter."""
    return f"{_FILTER}{number}"


def _time(rows: bytes, at: int) -> int:
    return int(ROW.unpack_from(rows, at)[3])


def _find_row(body: bytes, key: bytes) -> int | None:
    """Where the newest row of a name begins in a page."""
    end = len(body)
    while (at := body.rfind(key, HASH_BYTES, end)) >= 0:
        if (at - HASH_BYTES) % ROW.size == 0:
            return at
        end = at + len(key) - 1
    return None


def _packed(places: array[int]) -> bytes:
    """An array as bytes, the same on every machine."""
    if sys.byteorder == "big":
        places = array("Q", places)
        places.byteswap()
    return places.tobytes()


def _places(data: bytes) -> array[int]:
    places = array("Q")
    places.frombytes(data)
    if sys.byteorder == "big":
        places.byteswap()
    return places
