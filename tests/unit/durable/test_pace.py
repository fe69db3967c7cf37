"""Pace: what may wait is about a second's worth of what is done."""

from __future__ import annotations

import pytest

from perdure.durable.pace import FORGET_S, LEAST, WINDOW_S, WORTH_S, Pace

MOST = 10_000


def contended(pace: Pace, per_second: float, *, begin: float = 0.0, windows: int = 20) -> float:
    """That many windows of nothing but work at a rate; when they end."""
    step = WINDOW_S / 10
    now = begin
    for _ in range(windows * 10 + 2):
        pace.round(now, waiting=True)
        pace.did(round(per_second * step))
        now += step
    return now


def test_at_first_the_setting_counts() -> None:
    pace = Pace(MOST)
    assert pace.capacity == MOST
    assert repr(pace) == "Pace(unknown, 10000 may wait)"


@pytest.mark.parametrize(
    ("per_second", "capacity"), [(2_800, int(2_800 * WORTH_S)), (40, LEAST), (50_000, MOST)]
)
def test_then_what_is_done(per_second: float, capacity: int) -> None:
    pace = Pace(MOST)
    contended(pace, per_second)
    assert pace.capacity == pytest.approx(capacity, rel=0.01)


def test_a_small_setting_is_never_exceeded() -> None:
    pace = Pace(12)
    assert pace.capacity == 12
    contended(pace, 5_000)
    assert pace.capacity == 12


def test_it_follows_the_load() -> None:
    pace = Pace(MOST)
    end = contended(pace, 3_000)
    end = contended(pace, 1_000, begin=end)
    assert pace.capacity == pytest.approx(1_000 * WORTH_S, rel=0.02)
    contended(pace, 4_000, begin=end)
    assert pace.capacity == pytest.approx(4_000 * WORTH_S, rel=0.02)


def test_without_contention_nothing_is_measured() -> None:
    """Few commands a second, for whatever reason, are no slow runner."""
    pace = Pace(MOST)
    for n in range(1_000):
        pace.round(n * 0.1, waiting=False)
        pace.did(1)
    assert pace.per_second is None


def test_only_contended_time_counts() -> None:
    """Each hundredth of a second in which some waited is followed by a long one without."""
    pace = Pace(MOST)
    for n in range(200):
        pace.round(n * 0.1, waiting=True)
        pace.did(20)
        pace.round(n * 0.1 + 0.01, waiting=False)
        pace.did(1)
    assert pace.per_second == pytest.approx(2_000)


def test_an_old_measurement_is_forgotten() -> None:
    pace = Pace(MOST)
    end = contended(pace, 400)
    pace.look(end + FORGET_S + 1)
    assert pace.capacity == pytest.approx(400, abs=2), "it still goes on"
    pace.round(end, waiting=False)
    pace.round(end + FORGET_S / 2, waiting=False)
    assert pace.capacity == pytest.approx(400, abs=2)
    pace.look(end + FORGET_S + 1)
    assert pace.capacity == MOST
