"""The ledger: what is remembered, for how long, and that it is a function of the log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.durable.ledger import Ledger, LedgerLimits, Seen

LIMITS = LedgerLimits(window_ms=1000, keys=5, made_window_ms=100, made_keys=3)
HASH = bytes(16)


def given_key(time: int) -> Seen:
    return Seen(1, HASH, -1, time)


def made(birth: int, time: int) -> Seen:
    return Seen(1, HASH, birth, time)


def test_the_first_outcome_of_a_name_stays() -> None:
    ledger = Ledger(LIMITS)
    ledger.add("k", Seen(1, HASH, -1, 10))
    ledger.add("k", Seen(2, HASH, -1, 11))
    found = ledger.find("k")
    assert found is not None
    assert found.sequence == 1
    assert ledger.find("other") is None


def test_given_keys_stay_for_the_window_of_the_logs_own_time() -> None:
    ledger = Ledger(LIMITS)
    ledger.add("k", given_key(10))
    ledger.prune(log_time_ms=1010, watermark_ms=0)
    assert ledger.find("k")
    ledger.prune(log_time_ms=1011, watermark_ms=0)
    assert ledger.find("k") is None
    assert ledger.evicted_early == 0


def test_too_many_given_keys_leave_before_their_time_and_it_is_counted() -> None:
    ledger = Ledger(LIMITS)
    for n in range(7):
        ledger.add(f"k{n}", given_key(10 + n))
    ledger.prune(log_time_ms=20, watermark_ms=0)
    assert [n for n in range(7) if ledger.find(f"k{n}")] == [2, 3, 4, 5, 6]
    assert ledger.evicted_early == 2


def test_made_keys_leave_only_when_both_clocks_are_past_them() -> None:
    ledger = Ledger(LIMITS)
    ledger.add("m", made(birth=50, time=60))
    ledger.prune(log_time_ms=10_000, watermark_ms=160)
    assert ledger.find("m")  # a tell as old as that may still come
    ledger.prune(log_time_ms=160, watermark_ms=10_000)
    assert ledger.find("m")
    ledger.prune(log_time_ms=161, watermark_ms=161)
    assert ledger.find("m") is None


def test_an_unknown_made_key_that_may_be_forgotten_is_too_old() -> None:
    ledger = Ledger(LIMITS)
    assert not ledger.too_old(100, log_time_ms=200)
    assert ledger.too_old(99, log_time_ms=200)
    for n in range(4):
        ledger.add(f"m{n}", made(birth=500 + n, time=600))
    ledger.prune(log_time_ms=600, watermark_ms=0)
    assert ledger.find("m0") is None
    assert ledger.too_old(500, log_time_ms=600)
    assert not ledger.too_old(501, log_time_ms=600)


names = st.lists(st.tuples(st.text(max_size=8), st.booleans(), st.integers(0, 300)), max_size=30)


@given(names)
def test_packing_keeps_everything(entries: list[tuple[str, bool, int]]) -> None:
    ledger = Ledger(LIMITS)
    time = 0
    for sequence, (name, is_made, step) in enumerate(entries, 1):
        time += step
        ledger.add(name, Seen(sequence, HASH, time - 5 if is_made else -1, time))
        ledger.prune(log_time_ms=time, watermark_ms=time)
    copy = Ledger(LIMITS)
    copy.unpack(*ledger.pack())
    assert copy.pack() == ledger.pack()
    assert copy.statistics() == ledger.statistics()
    for name, _, _ in entries:
        assert copy.find(name) == ledger.find(name)


@given(names)
def test_it_is_bounded(entries: list[tuple[str, bool, int]]) -> None:
    ledger = Ledger(LIMITS)
    time = 0
    for name, is_made, step in entries:
        time += step
        ledger.add(name, Seen(1, HASH, time if is_made else -1, time))
        ledger.prune(log_time_ms=time, watermark_ms=time)
        assert ledger.statistics().given <= LIMITS.keys
        assert ledger.statistics().made <= LIMITS.made_keys


def test_bytes_of_another_format_are_refused() -> None:
    with pytest.raises(ValueError, match="another format"):
        Ledger(LIMITS).unpack(b"short", -1)
