"""Snowflakes: unique, growing, readable, and refused where they could repeat."""

from __future__ import annotations

import pickle
import threading
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import (
    ClockWentBack,
    IdempotencyKey,
    Snowflake,
    SnowflakeGenerator,
    SnowflakesExhausted,
    use_machine,
)
from perdure.entities import snowflake
from perdure.entities.snowflake import AHEAD_MS, EPOCH_MS, MACHINES, SEQUENCES

START_MS = EPOCH_MS + 1_000_000
PARTS = st.tuples(
    st.integers(0, 2**42 - 1), st.integers(0, MACHINES - 1), st.integers(0, SEQUENCES - 1)
)


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self, ms: int = START_MS) -> None:
        self.ms = ms

    def now_ns(self) -> int:
        return self.ms * 1_000_000 + 999_999


@given(PARTS)
def test_the_parts_round_trip(parts: tuple[int, int, int]) -> None:
    made = Snowflake.of(*parts)
    assert (made.ms, made.machine, made.sequence) == parts
    assert Snowflake(str(made)) == Snowflake(int(made)) == made
    assert IdempotencyKey(str(made)) == str(int(made)) == f"{made}"
    assert repr(made) == f"Snowflake({int(made)})"
    assert pickle.loads(pickle.dumps(made)) == made


@given(PARTS, PARTS)
def test_order_is_by_time_first(one: tuple[int, int, int], two: tuple[int, int, int]) -> None:
    assert (Snowflake.of(*one) < Snowflake.of(*two)) == (one < two)


def test_the_time_is_read_back() -> None:
    assert Snowflake.of(0, 0, 0).time == datetime(2025, 1, 1, tzinfo=UTC)
    assert Snowflake.of(86_400_001, 0, 0).time.isoformat() == "2025-01-02T00:00:00.001000+00:00"
    assert Snowflake(2**64 - 1).time.year == 2164


@pytest.mark.parametrize("bad", [-1, 2**64, str(2**64), "-1", "x", ""])
def test_what_is_not_a_snowflake(bad: int | str) -> None:
    with pytest.raises(ValueError, match=r"not a snowflake|invalid literal"):
        Snowflake(bad)


@pytest.mark.parametrize(
    "parts", [(-1, 0, 0), (2**42, 0, 0), (0, MACHINES, 0), (0, -1, 0), (0, 0, SEQUENCES)]
)
def test_parts_out_of_range(parts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="not the parts of a snowflake"):
        Snowflake.of(*parts)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6_000)), max_size=8),
    st.integers(0, MACHINES - 1),
)
def test_growing_and_unique_while_the_clock_stands_or_goes_on(
    moves: list[tuple[int, int]], machine: int
) -> None:
    clock = HandClock()
    generator = SnowflakeGenerator(clock, machine)
    last = -1
    for forward_ms, count in moves:
        clock.ms += forward_ms
        for _ in range(count):
            made = generator.new()
            assert made > last
            assert made.machine == machine
            assert 0 <= made.ms + EPOCH_MS - clock.ms <= AHEAD_MS
            last = made


@given(st.lists(st.integers(-3, 3), max_size=60))
def test_a_clock_that_goes_back_is_refused_until_it_has_caught_up(steps: list[int]) -> None:
    clock = HandClock()
    generator = SnowflakeGenerator(clock, 1)
    newest_ms, made = -1, list[Snowflake]()
    for step in steps:
        clock.ms += step
        if clock.ms < newest_ms:
            with pytest.raises(ClockWentBack, match=f"back by {newest_ms - clock.ms} ms"):
                generator.new()
        else:
            newest_ms = clock.ms
            made.append(generator.new())
    assert made == sorted(set(made))


def test_a_millisecond_that_is_used_up_borrows_from_the_next() -> None:
    clock = HandClock()
    generator = SnowflakeGenerator(clock, 3)
    made = [generator.new() for _ in range(SEQUENCES + 1)]
    first, last, borrowed = made[0], made[-2], made[-1]
    assert (first.sequence, last.sequence, last.ms) == (0, SEQUENCES - 1, first.ms)
    assert (borrowed.ms, borrowed.sequence) == (first.ms + 1, 0)
    clock.ms += 1  # the clock reaches what was borrowed: go on behind it
    assert generator.new() == borrowed + 1
    clock.ms += 1
    assert generator.new().ms == first.ms + 2


def test_borrowing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snowflake, "AHEAD_MS", 2)
    clock = HandClock()
    generator = SnowflakeGenerator(clock, 3)
    made = [generator.new() for _ in range(3 * SEQUENCES)]
    assert made[-1].ms - made[0].ms == 2
    for _ in range(2):
        with pytest.raises(SnowflakesExhausted, match="more than 2 ms ahead"):
            generator.new()
    clock.ms += 1
    assert generator.new().ms - made[0].ms == 3


@pytest.mark.parametrize("ms", [EPOCH_MS - 1, EPOCH_MS + 2**42])
def test_outside_the_epoch(ms: int) -> None:
    with pytest.raises(SnowflakesExhausted, match="2025 to 2164"):
        SnowflakeGenerator(HandClock(ms), 0).new()


@pytest.mark.parametrize("machine", [-1, MACHINES])
def test_a_bad_machine(machine: int) -> None:
    with pytest.raises(ValueError, match="isn't 0-1023"):
        SnowflakeGenerator(HandClock(), machine)
    with pytest.raises(ValueError, match="isn't 0-1023"):
        use_machine(machine)


def test_the_process_has_a_generator_and_its_machine_can_be_set() -> None:
    use_machine(0)
    one = Snowflake.new()
    assert one.machine == 0
    try:
        use_machine(7)
        two = Snowflake.new()
        use_machine(7)  # the same again goes on and doesn't start over
        three = Snowflake.new()
        assert (two.machine, three.machine) == (7, 7)
        assert one < two < three
    finally:
        use_machine(0)


def test_threads_get_different_ids() -> None:
    generator = SnowflakeGenerator(HandClock(), 5)
    made: list[list[Snowflake]] = [[] for _ in range(4)]

    def work(into: list[Snowflake]) -> None:
        into.extend(generator.new() for _ in range(2_000))

    threads = [threading.Thread(target=work, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({i for into in made for i in into}) == 8_000
    assert all(into == sorted(into) for into in made)
    assert repr(generator) == "SnowflakeGenerator(machine=5)"
