"""The ledger: what is remembered, for how long, in pages or not, and that the log decides it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.durable import pages
from perdure.durable.ledger import Ledger, LedgerLimits, Seen
from perdure.durable.pages import Absent
from perdure.streams.codec import digest

LIMITS = LedgerLimits(window_ms=1000, keys=5, made_window_ms=100, made_keys=3)
PAGED = LedgerLimits(window_ms=1000, keys=23, made_window_ms=100, made_keys=3)
HASH = bytes(16)
MARK = digest(b"a commit")


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)


def shrink(setattr: Callable[[object, str, int], None]) -> None:
    setattr(pages, "PAGE_NAMES", 3)
    setattr(pages, "FILTER_PAGES", 2)
    setattr(pages, "LOADED_PAGES", 2)


def given_key(time: int) -> Seen:
    return Seen(1, HASH, -1, time)


def made(birth: int, time: int) -> Seen:
    return Seen(1, HASH, birth, time)


def test_of_a_name_that_came_again_the_newest_counts() -> None:
    ledger = Ledger(LIMITS)
    ledger.add("k", Seen(1, HASH, -1, 10), MARK)
    ledger.add("k", Seen(2, HASH, -1, 11), MARK)
    assert ledger.find("k") == Seen(2, HASH, -1, 11)
    assert ledger.find("other") is None


def test_given_keys_stay_for_the_window_of_the_logs_own_time() -> None:
    ledger = Ledger(LIMITS)
    ledger.add("k", given_key(10), MARK)
    ledger.prune(log_time_ms=1010, watermark_ms=0)
    assert ledger.find("k")
    ledger.prune(log_time_ms=1011, watermark_ms=0)
    assert ledger.find("k") is None
    assert ledger.evicted_early == 0


def test_too_many_given_keys_leave_before_their_time_and_it_is_counted() -> None:
    ledger = Ledger(LIMITS)
    for n in range(7):
        ledger.add(f"k{n}", given_key(10 + n), MARK)
    ledger.prune(log_time_ms=20, watermark_ms=0)
    assert [n for n in range(7) if ledger.find(f"k{n}")] == [2, 3, 4, 5, 6]
    assert ledger.evicted_early == ledger.take_evicted() == 2
    assert ledger.take_evicted() == 0


def test_made_keys_leave_only_when_both_clocks_are_past_them() -> None:
    ledger = Ledger(LIMITS)
    ledger.add("m", made(birth=50, time=60), MARK)
    ledger.prune(log_time_ms=10_000, watermark_ms=160)
    assert ledger.find("m")  # a tell as old as that may still come
    ledger.prune(log_time_ms=160, watermark_ms=10_000)
    assert ledger.find("m")
    ledger.prune(log_time_ms=161, watermark_ms=161)
    assert ledger.find("m") is None


def test_an_unknown_made_key_that_may_be_forgotten_is_too_old() -> None:
    ledger = Ledger(LIMITS)
    ledger.prune(log_time_ms=200, watermark_ms=0)
    assert not ledger.too_old(100)
    assert ledger.too_old(99)
    for n in range(4):
        ledger.add(f"m{n}", made(birth=500 + n, time=600), MARK)
    ledger.prune(log_time_ms=600, watermark_ms=0)
    assert ledger.find("m0") is None
    assert ledger.too_old(500)
    assert not ledger.too_old(501)


def test_a_head_of_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Ledger(LIMITS).pack()
    monkeypatch.setattr(pages, "PAGE_NAMES", 999)
    with pytest.raises(ValueError, match="another format"):
        Ledger(LIMITS).unpack(head)


# -- pages ----------------------------------------------------------------------------------------
@dataclass
class Shelf:
    """Where snapshots are kept, as a runner does it."""

    limits: LedgerLimits = PAGED
    parts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    reads: list[str] = field(default_factory=list[str])
    written: int = 0

    def save(self, ledger: Ledger) -> Ledger:
        """Through a snapshot: what comes back has no page in memory."""
        sealed = ledger.sealed
        if sealed is not None:
            for part, data in sealed.unstored():
                self.parts[part] = data
                self.written += len(data)
                sealed.stored(part)
            for part in list(sealed.doomed):
                self.parts[part] = b""
                sealed.doomed.remove(part)
        copy = Ledger(self.limits)
        copy.unpack(ledger.pack())
        assert copy.pack() == ledger.pack()
        return copy

    def find(self, ledger: Ledger, name: str) -> Seen | None:
        for _ in range(100):
            try:
                return ledger.find(name)
            except Absent as absent:
                assert ledger.sealed is not None
                for part in absent.parts:
                    self.reads.append(part)
                    assert ledger.sealed.put(part, self.parts.get(part))
        raise AssertionError(f"{name}: no end of reading")


def filled(names: int, limits: LedgerLimits = PAGED) -> Ledger:
    ledger = Ledger(limits)
    for n in range(names):
        ledger.add(f"k{n}", Seen(n + 1, HASH, -1, n), digest(str(n).encode()))
        ledger.prune(log_time_ms=n, watermark_ms=0)
    return ledger


@pytest.mark.usefixtures("small_pages")
def test_the_oldest_names_are_sealed_and_read_only_for_a_repeat() -> None:
    shelf = Shelf()
    ledger = shelf.save(filled(20))  # pages 0 to 4 sealed, the newest 5 names as rows
    assert ledger.statistics().pages == 5
    assert shelf.find(ledger, "k19") == Seen(20, HASH, -1, 19)
    assert shelf.reads == []  # a row
    assert shelf.find(ledger, "new") is None
    assert shelf.reads == ["f0", "f1", "p4"]  # the filter, and where it isn't whole, the page
    assert shelf.find(ledger, "other") is None
    assert shelf.find(ledger, "k4") == Seen(5, HASH, -1, 4)
    assert shelf.find(ledger, "k3") == Seen(4, HASH, -1, 3)
    assert shelf.reads == ["f0", "f1", "p4", "p1"]


@pytest.mark.usefixtures("small_pages")
def test_few_bodies_stay_in_memory() -> None:
    shelf = Shelf()
    ledger = filled(23)
    assert ledger.sealed is not None
    assert ledger.sealed.bodies == 6  # not stored yet
    before = ledger.memory_bytes
    shelf.save(ledger)
    assert ledger.sealed.bodies == pages.LOADED_PAGES
    assert ledger.memory_bytes < before
    for n in range(23):
        assert shelf.find(ledger, f"k{n}")
        assert ledger.sealed.bodies == pages.LOADED_PAGES


@pytest.mark.usefixtures("small_pages")
def test_a_page_is_a_function_of_the_log_and_written_once() -> None:
    one, other = Shelf(), Shelf()
    ledger = filled(20)
    one.save(ledger)
    written = one.written
    assert one.save(ledger).pack() == ledger.pack()
    assert one.written == written
    half = other.save(filled(13))
    for n in range(13, 20):
        half.add(f"k{n}", Seen(n + 1, HASH, -1, n), digest(str(n).encode()))
        half.prune(log_time_ms=n, watermark_ms=0)
    assert other.find(half, "new") is None  # as before every command: it fills the filter
    other.save(half)
    assert other.parts == one.parts
    assert half.pack() == ledger.pack()
    golden = b"".join(one.parts[part] for part in sorted(one.parts))
    assert digest(golden) == "14efcfb45d147676e29db95d2eec2843"  # changes only with a new format


@pytest.mark.usefixtures("small_pages")
def test_a_page_that_is_another_ones_is_not_taken() -> None:
    shelf = Shelf()
    ledger = shelf.save(filled(20))
    assert shelf.find(ledger, "new") is None
    sealed = ledger.sealed
    assert sealed is not None
    for wrong in (None, b"", shelf.parts["p0"], shelf.parts["p1"][:-1]):
        assert not sealed.put("p1", wrong)
    assert sealed.put("p1", shelf.parts["p1"])


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("wrong", [None, b"", b"nonsense"])
def test_without_the_filter_the_pages_tell(wrong: bytes | None) -> None:
    shelf = Shelf()
    ledger = shelf.save(filled(20))
    del shelf.parts["f0"]
    if wrong is not None:
        shelf.parts["f0"] = wrong
    assert shelf.find(ledger, "k1") == Seen(2, HASH, -1, 1)
    assert shelf.reads[:5] == ["f0", "f1", "p4", "p0", "p1"]
    shelf.save(ledger)
    assert len(shelf.parts["f0"]) == 6 * 8  # written again


@pytest.mark.usefixtures("small_pages")
def test_pages_leave_when_all_of_their_names_are_past_the_window() -> None:
    shelf = Shelf()
    ledger = filled(20)
    shelf.save(ledger)
    ledger.prune(log_time_ms=1007, watermark_ms=0)
    assert ledger.statistics().pages == 3
    assert [n for n in range(20) if shelf.find(ledger, f"k{n}")] == list(range(7, 20))
    assert ledger.sealed is not None
    assert list(ledger.sealed.doomed) == ["p0", "p1", "f0"]
    copy = shelf.save(ledger)
    assert shelf.parts["p0"] == shelf.parts["f0"] == b""
    assert shelf.find(copy, "k7")
    ledger.prune(log_time_ms=5000, watermark_ms=0)
    assert (len(ledger), ledger.evicted_early) == (0, 0)
    assert ledger.find("k19") is None


@pytest.mark.usefixtures("small_pages")
def test_a_page_that_left_while_it_was_stored_is_blanked_later() -> None:
    """Else 48 KB would stay beside the snapshot for ever, listed by no head."""
    ledger = filled(20)
    assert ledger.sealed is not None
    parts = [part for part, _ in ledger.sealed.unstored()]
    ledger.prune(log_time_ms=10**12, watermark_ms=10**12)
    assert len(ledger.sealed) == 0
    for part in parts:
        ledger.sealed.stored(part)
    assert list(ledger.sealed.doomed) == parts


@pytest.mark.usefixtures("small_pages")
def test_names_forgotten_before_their_page_is_sealed_arent_in_it() -> None:
    ledger = filled(4)
    for name in ("late", "later"):  # k0 and k1 are past the window before page 0 is sealed
        ledger.add(name, Seen(5, HASH, -1, 1002), MARK)
        ledger.prune(log_time_ms=1002, watermark_ms=0)
    shelf = Shelf()
    copy = shelf.save(ledger)
    assert shelf.parts["p0"] == bytes.fromhex(digest(b"2")) + pages.ROW.pack(
        _hash("k2"), HASH, 3, 2
    )
    assert shelf.find(copy, "k1") is None
    assert shelf.find(copy, "k2") == Seen(3, HASH, -1, 2)


def _hash(name: str) -> bytes:
    return bytes.fromhex(digest(name.encode()))


@pytest.mark.usefixtures("small_pages")
def test_early_evictions_from_pages_are_counted() -> None:
    ledger = filled(100)
    assert ledger.evicted_early == 77
    copy = Ledger(PAGED)
    copy.unpack(ledger.pack())
    assert copy.evicted_early == 77
    assert copy.take_evicted() == 0


# -- against a naive model ------------------------------------------------------------------------
class Naive:
    """What the ledger means, without any cleverness."""

    def __init__(self, limits: LedgerLimits) -> None:
        self.limits = limits
        self.given: list[tuple[str, Seen]] = []
        self.made: dict[str, Seen] = {}

    def add(self, name: str, seen: Seen) -> None:
        if seen.birth < 0:
            self.given.append((name, seen))
        else:
            self.made.setdefault(name, seen)

    def prune(self, log_time_ms: int, watermark_ms: int) -> None:
        horizon = min(log_time_ms, watermark_ms) - self.limits.made_window_ms
        fresh = {n: s for n, s in self.made.items() if max(s.birth, s.time) >= horizon}
        self.made = dict(list(fresh.items())[-self.limits.made_keys :])
        oldest = log_time_ms - self.limits.window_ms
        self.given = [(n, s) for n, s in self.given if s.time >= oldest]
        self.given = self.given[-self.limits.keys :]

    def find(self, name: str) -> Seen | None:
        newest = [seen for known, seen in self.given if known == name]
        return self.made.get(name) or (newest[-1] if newest else None)


steps = st.lists(
    st.tuples(
        st.sampled_from(["given", "given", "given", "made", "find", "save", "restart"]),
        st.integers(0, 40),
        st.sampled_from([0, 1, 1, 7, 30, 400]),
    ),
    max_size=120,
)


@given(steps)
@settings(max_examples=300, deadline=None)
def test_with_pages_it_remembers_what_a_naive_one_does(
    given_steps: list[tuple[str, int, int]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr)
        ledger, naive, shelf = Ledger(PAGED), Naive(PAGED), Shelf()
        time = 10
        for sequence, (step, number, later) in enumerate(given_steps, 1):
            name = f"m{number}" if step == "made" else f"k{number}"
            if step in ("given", "made"):
                time += later
                seen = Seen(sequence, HASH, time - 5 if step == "made" else -1, time)
                naive.add(name, seen)
                ledger.add(name, seen, digest(str(sequence).encode()))
                naive.prune(time, time - 3)
                ledger.prune(log_time_ms=time, watermark_ms=time - 3)
                assert ledger.statistics().given <= PAGED.keys
                assert ledger.statistics().made <= PAGED.made_keys
            elif step == "find":
                assert shelf.find(ledger, name) == naive.find(name)
            elif step == "save":
                shelf.save(ledger)
            else:
                ledger = shelf.save(ledger)
        for number in range(41):
            for name in (f"k{number}", f"m{number}"):
                assert shelf.find(ledger, name) == naive.find(name)


def test_a_hundred_thousand_keys_take_few_bytes() -> None:
    limits = LedgerLimits(10**9, 100_000, 10**6, 10_000)
    ledger, shelf = filled(100_000, limits), Shelf(limits)
    copy = shelf.save(ledger)
    assert sum(map(len, shelf.parts.values())) < 57 * 100_000
    assert ledger.memory_bytes < 20 * 100_000
    assert ledger.evicted_early == 0
    assert shelf.find(copy, "new") is None
    assert len(shelf.reads) < 14  # six filters, and the pages of the group that isn't full
    assert copy.memory_bytes < 20 * 100_000
    for n in range(0, 100_000, 9_973):
        assert shelf.find(copy, f"k{n}") == Seen(n + 1, HASH, -1, n)
    assert copy.memory_bytes < 20 * 100_000
