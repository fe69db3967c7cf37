"""Chooser: which way is found the faster one, what keeps it from that, and what a crowd is."""

from __future__ import annotations

import pytest

from perdure.durable.chooser import (
    CLEAR,
    CLEAR_LEGS,
    CROWD,
    LEG_S,
    LEGS,
    PENALTY,
    RETRY_S,
    SETTLE_S,
    VERDICT_S,
    WINDOW_S,
    Chooser,
    Crowd,
    Phase,
)

STEP_S = 0.01
TRIAL_S = 2 * LEGS * (SETTLE_S + LEG_S + 2 * STEP_S)
"""All legs, each a little longer: it ends with the first commit that comes too late for it."""
SOON_S = TRIAL_S * CLEAR_LEGS / LEGS


class Load:
    """Commits of a crowd, with another rate for each way."""

    def __init__(self, single: float, batched: float, waiting: int = 4 * CROWD) -> None:
        self.rates: dict[bool, float] = {False: single, True: batched}
        self.chooser, self.waiting = Chooser(), waiting
        self.now = self.stored = 0.0

    def run(self, seconds: float, step: float = STEP_S) -> Chooser:
        until = self.now + seconds
        while self.now < until:
            self.now += step
            self.stored += step * self.rates[self.chooser.batching]
            self.chooser.look(self.now, under_way=self.waiting, stored=int(self.stored))
        return self.chooser


@pytest.mark.parametrize(("single", "batched"), [(1000, 9000), (9000, 1000)])
def test_the_faster_way_is_kept(single: float, batched: float) -> None:
    load = Load(single, batched)
    chooser = load.run(TRIAL_S)
    assert chooser.phase is Phase.SETTLED
    assert chooser.batching is (batched > single)
    assert chooser.rates == pytest.approx((single, batched), rel=0.1)


def test_it_looks_again_and_changes_its_mind() -> None:
    load = Load(9000, 1000)
    assert not load.run(TRIAL_S).batching
    load.rates = {False: 1000, True: 9000}
    assert not load.run(VERDICT_S / 2).batching
    assert load.run(VERDICT_S / 2 + TRIAL_S).batching


@pytest.mark.parametrize(("batched", "kept"), [(1.05 * PENALTY, True), (0.95 * PENALTY, False)])
def test_of_two_that_are_about_equal_batches_are_kept(batched: float, kept: bool) -> None:
    assert Load(5000, 5000 * batched).run(TRIAL_S).batching is kept


def test_a_machine_that_gets_slower_meanwhile_decides_nothing() -> None:
    load = Load(5000, 9000)
    for part in range(4 * LEGS):
        load.rates = {False: 5000 / (1 + part / 4), True: 9000 / (1 + part / 4)}
        load.run(TRIAL_S / 4 / LEGS)
    assert load.chooser.batching


def test_without_a_crowd_nothing_is_tried() -> None:
    chooser = Load(1000, 9000, waiting=CROWD - 1).run(5.0)
    assert (chooser.phase, chooser.batching) == (Phase.SETTLED, False)


def test_a_trial_that_the_crowd_left_goes_on_later() -> None:
    load = Load(7000, 9000)
    load.run(TRIAL_S / 2)
    load.waiting = 1
    assert load.run(TRIAL_S).phase is Phase.SETTLED
    assert not load.chooser.batching
    load.waiting = CROWD
    assert load.run(RETRY_S + TRIAL_S / 2 + LEG_S).batching  # it goes on where it was


def test_a_pause_of_the_load_counts_for_no_way() -> None:
    load = Load(1000, 9000)
    for _ in range(20):  # each piece is long enough for a leg or two, not for all
        load.run(4 * (SETTLE_S + LEG_S))
        load.now += 10.0
    assert load.chooser.batching
    assert load.chooser.rates == pytest.approx((1000, 9000), rel=0.1)


def test_a_clear_verdict_is_found_sooner() -> None:
    load = Load(1000, 1000 * CLEAR * 1.1)
    assert load.run(SOON_S).phase is Phase.SETTLED
    assert load.chooser.batching
    load = Load(1000, 1000 * CLEAR * 0.9)
    assert load.run(SOON_S).phase is not Phase.SETTLED


@pytest.mark.parametrize("leg", range(2 * CLEAR_LEGS))
def test_one_stall_decides_nothing(leg: int) -> None:
    """The machine does something else for most of a leg: what was tried then isn't slow."""
    load = Load(5000, 6000)
    load.run(leg * (SETTLE_S + LEG_S + 2 * STEP_S) + SETTLE_S + STEP_S)
    rates, load.rates = load.rates, {False: 0.0, True: 0.0}
    load.run(LEG_S)
    load.rates = rates
    assert load.run(TRIAL_S).batching
    assert load.chooser.rates == pytest.approx((5000, 6000), rel=0.1)


def test_where_nothing_is_stored_the_last_verdict_holds() -> None:
    load = Load(9000, 1000)
    assert not load.run(TRIAL_S).batching
    load.rates = {False: 0.0, True: 0.0}
    assert not load.run(VERDICT_S + 2 * TRIAL_S).batching
    assert load.chooser.rates == (0.0, 0.0)


def test_a_way_that_stores_nothing_is_the_slower_one() -> None:
    assert not Load(5000, 0).run(TRIAL_S).batching
    assert Load(0, 5000).run(TRIAL_S).batching


# -- the crowd --------------------------------------------------------------------------------
def test_a_crowd_is_one_for_a_window_after_it_landed() -> None:
    crowd, now = Crowd(), 10.0
    crowd.roll(now, 0)
    crowd.grow(40)
    crowd.roll(now + WINDOW_S / 2, 0)
    assert crowd.size == 40
    crowd.roll(now + WINDOW_S, 0)
    assert crowd.size == 40
    crowd.roll(now + 2.1 * WINDOW_S, 3)
    assert crowd.size == 3


def test_a_crowd_that_stays_grows_and_shrinks_by_windows() -> None:
    crowd, now, seen = Crowd(), 0.0, list[int]()
    for most in (10, 20, 30, 20, 10, 10):
        crowd.roll(now, 0)
        crowd.grow(most)
        seen.append(crowd.size)
        now += WINDOW_S
    assert seen == [10, 20, 30, 30, 20, 10]


def test_a_crowd_from_before_a_pause_is_none() -> None:
    crowd = Crowd()
    crowd.roll(1.0, 0)
    crowd.grow(40)
    crowd.roll(1.0 + 2 * WINDOW_S, 2)
    assert crowd.size == 2
