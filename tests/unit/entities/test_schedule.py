"""When schedules come, and what can't be one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import Command, Decision, Entity, Event, Query, Schedule, State, cron, every
from perdure.entities.schedule import parsed

DAY_MS = 86_400_000
STRANGE: Any = ["0 3 * * *"]


class Books(State):
    days: int = 0


class Closed(Event):
    pass


class Close(Command[Books, int]):
    note: str = ""


class Look(Query[Books, int]):
    pass


def decide(state: Books, command: Close | Look) -> Decision[Closed]:
    if isinstance(command, Look):
        return command.answer(state.days)
    return command.accept(state.days + 1, Closed())


def evolve(state: Books, event: Closed) -> Books:
    return state.replace(days=state.days + 1)


def nightly(expression: str = "0 3 * * *", **how: Any) -> Schedule:
    given: dict[str, Any] = {"id": "all", "command": Close(), **how}
    return cron("nightly", expression, **given)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def times(schedule: Schedule, after: str, count: int) -> list[str]:
    found, at = list[str](), ms(after)
    for _ in range(count):
        at = schedule.next_ms(at)
        found.append(datetime.fromtimestamp(at / 1000, UTC).isoformat()[:16])
    return found


def test_times_of_a_zone_where_clocks_are_put_forward_and_back() -> None:
    berlin = nightly("30 2 * * *", zone="Europe/Berlin")
    spring = times(berlin, "2027-03-26T12:00+00:00", 4)
    assert spring == [
        "2027-03-27T01:30",
        "2027-03-28T01:00",  # 02:30 isn't there on that day: at 03:00, once
        "2027-03-29T00:30",
        "2027-03-30T00:30",
    ]
    autumn = times(berlin, "2027-10-30T12:00+00:00", 2)
    assert autumn == ["2027-10-31T00:30", "2027-11-01T01:30"]  # it is there twice: once


def test_intervals_are_multiples_whenever_they_are_looked_at() -> None:
    schedule = every("tick", timedelta(minutes=5), id="a", command=Close())
    assert times(schedule, "2027-01-01T00:02:30+00:00", 2) == [
        "2027-01-01T00:05",
        "2027-01-01T00:10",
    ]
    assert schedule.next_ms(ms("2027-01-01T00:05+00:00")) == ms("2027-01-01T00:10+00:00")


@given(
    st.integers(0, 4_000_000_000_000),
    st.sampled_from(["*/7 * * * *", "0 0 29 2 *", "0 12 * * MON"]),
)
def test_the_next_time_is_always_later(after: int, expression: str) -> None:
    found = nightly(expression, zone="America/New_York").next_ms(after)
    assert found > after
    assert found % 60_000 == 0


def test_keys_say_which_and_when() -> None:
    entity = Entity(Books(), decide, evolve, schedules=[nightly()])
    key = nightly().key(DAY_MS)
    assert key == f"schedule:nightly:{nightly().digest}:{DAY_MS}"
    assert entity.occurrence(key) == (nightly(), DAY_MS)
    assert entity.occurrence(nightly(missed="all").key(DAY_MS)) == (None, DAY_MS)
    assert entity.occurrence("order-17") is None
    assert parsed("schedule:a:b:c") is None


@pytest.mark.parametrize(
    "other",
    [
        nightly("0 4 * * *"),
        nightly(zone="Europe/Berlin"),
        nightly(missed="skip"),
        nightly(id="b"),
        nightly(command=Close("x")),
    ],
)
def test_another_definition_is_another_schedule(other: Schedule) -> None:
    assert other.digest != nightly().digest == nightly().digest


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: nightly("0 0 30 2 *"), "Bad day-of-month"),
        (lambda: nightly("0 25 * * *"), "Bad hour"),
        (lambda: nightly("daily"), "cron 'daily'"),
        (lambda: nightly(zone="Mars/Olympus"), "no time zone 'Mars/Olympus'"),
        (lambda: nightly(missed="twice"), "isn't once, all or skip"),
        (lambda: nightly(id=""), "1-255 bytes"),
        (lambda: cron("A b", "0 3 * * *", id="a", command=Close()), "a name has"),
        (lambda: every("e", 0.5, id="a", command=Close()), "1 s to ten years"),
        (lambda: every("e", timedelta(days=40_000), id="a", command=Close()), "ten years"),
        (lambda: every("e", float("nan"), id="a", command=Close()), "schedule 'e'"),
        (lambda: Entity(Books(), decide, evolve, schedules=[nightly(), nightly()]), "two have"),
        (
            lambda: Entity(Books(), decide, evolve, schedules=[nightly(command=Look())]),
            "no command",
        ),
        (
            lambda: Entity(Books(), decide, evolve, schedules=[nightly(command=5)]),
            "no command of it",
        ),
        (lambda: Entity(Books(), decide, evolve, schedules=STRANGE), "is no schedule"),
    ],
)
def test_a_mistake_is_told_in_one_line(make: Callable[[], object], told: str) -> None:
    with pytest.raises(TypeError, match=told) as caught:
        make()
    assert "\n" not in str(caught.value)
