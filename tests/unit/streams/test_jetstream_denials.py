"""What a connection was denied, and what it may say of its asks for certain: pure."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.streams.jetstream.denials import (
    KNOWN,
    LATE_S,
    REMEMBERED,
    Denials,
    violation,
    violation_in,
)

SUBJECT = "perdure.ask.counter.1.1.order-A"
OTHER = SUBJECT.lower()
TOLD = violation("publish", SUBJECT)


def denials(*events: tuple[float, str, str]) -> Denials:
    """`asked` and `denied` events: when, what, where."""
    made = Denials()
    for at, what, subject in events:
        if what == "asked":
            made.asked.append((at, subject))
        else:
            made.tell("publish", subject, at)
    return made


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("'Permissions Violation for Publish to \"a.B\"'", ("publish", "a.B")),
        ("'Permissions Violation for Subscription to \"a.*\"'", ("subscription", "a.*")),
        (
            '\'Permissions Violation for Subscription to "a.>" using queue "q"\'',
            ("subscription", "a.>"),
        ),
        ('\'Permissions Violation for Publish to "a\\"b"\'', ("publish", 'a\\"b')),
        ("'Permissions Violation for Publish with Reply of \"a\"'", None),
        ("'Authorization Violation'", None),
    ],
)
def test_what_the_server_says_is_read(text: str, found: tuple[str, str] | None) -> None:
    assert violation_in(text) == found


def test_what_was_told_since_when() -> None:
    made = denials((5.0, "denied", SUBJECT))
    assert made.told("publish", SUBJECT, 5.0) == TOLD
    assert made.told("publish", SUBJECT, 5.1) is None
    assert made.told("publish", OTHER, 0.0) is None, "a subject in another case is another one"
    assert made.told("subscription", SUBJECT, 0.0) is None
    made.tell("subscription", OTHER, 9.0)
    assert made.told("publish", SUBJECT, 6.0) is None
    assert made.told("subscription", OTHER, 6.0) == violation("subscription", OTHER)


@pytest.mark.parametrize(
    ("events", "certain"),
    [
        ("", False),
        ("asked 20", False),
        ("asked 20, denied 20.1", True),
        ("asked 20, other 20.1", False),
        ("denied 20.1", False),
        # Two calls, or a call and its repeat: both denied, or perhaps one of them not yet.
        ("asked 20, asked 20.1, denied 20.2", False),
        ("asked 20, asked 20.1, denied 20.2, denied 20.3", True),
        # One of a while before: taken, or denied, or so long ago that nothing more comes of it.
        ("asked 15, asked 20, denied 20.1", False),
        ("asked 7, asked 15, asked 20, denied 20.1, denied 20.1", False),
        ("asked 9.98, denied 10.03, asked 20, asked 20.5, denied 20.6", False),
        ("asked 15, denied 15.1, asked 20, denied 20.1", True),
        ("asked 9, asked 20, denied 20.1", True),
        # Nothing was said since.
        ("asked 15, denied 15.1, asked 20", False),
    ],
)
def test_what_is_certain(events: str, certain: bool) -> None:
    where = {"asked": SUBJECT, "denied": SUBJECT, "other": OTHER}
    words = [event.split() for event in events.split(", ") if event]
    made = denials(*((float(at), what, where[what]) for what, at in words))
    assert LATE_S < 11
    assert made.certain(SUBJECT, 20.0) == (TOLD if certain else None)


@given(
    st.lists(
        st.tuples(
            st.booleans(),  # whether it is denied
            st.sampled_from([0.1, 1.0, 4.0, LATE_S - 0.5, LATE_S + 0.5]),  # after the one before
            st.sampled_from([0.0, 0.3, 3.0, LATE_S - 0.1]),  # how late that is told
        ),
        max_size=8,
    )
)
def test_nothing_is_certain_of_what_was_taken(asks: list[tuple[bool, float, float]]) -> None:
    """Asks in a row, each denied or taken: whichever of them a call began with, at any time."""
    now = 100.0
    events: list[tuple[float, int, bool]] = []
    for denied, wait_s, late_s in asks:
        now += wait_s
        events.append((now, 0, denied))
        if denied:
            events.append((now + late_s, 1, True))
    made, sent = Denials(), list[tuple[float, bool]]()
    for at, kind, denied in sorted(events):
        if kind:
            made.tell("publish", SUBJECT, at)
        else:
            made.asked.append((at, SUBJECT))
            sent.append((at, denied))
        for since, _ in sent:
            if made.certain(SUBJECT, since):
                assert all(denied for at, denied in sent if at >= since)


def test_it_is_not_certain_beyond_what_is_remembered() -> None:
    made = denials((20.0, "asked", SUBJECT), (20.1, "denied", SUBJECT))
    for number in range(REMEMBERED - 1):
        made.asked.append((20.2, f"other.{number}"))
    assert made.certain(SUBJECT, 20.0) is None, "what came before may be forgotten"
    made = Denials()
    for number in range(REMEMBERED):
        made.asked.append((1.0, f"other.{number}"))
    made.asked.append((20.0, SUBJECT))
    made.tell("publish", SUBJECT, 20.1)
    assert made.certain(SUBJECT, 20.0) == TOLD


def test_the_newest_violations_are_remembered_and_the_first_are_listed() -> None:
    made, now = Denials(), itertools.count(1.0)
    new = [made.tell("publish", f"s.{n}", next(now)) for n in range(REMEMBERED + KNOWN)]
    assert new == [n < KNOWN for n in range(REMEMBERED + KNOWN)]
    assert list(made.known) == [violation("publish", f"s.{n}") for n in range(KNOWN)]
    assert made.told("publish", f"s.{KNOWN - 1}", 0.0) is None
    assert made.told("publish", f"s.{KNOWN}", 0.0)
    for _ in range(REMEMBERED):
        made.tell("publish", SUBJECT, next(now))
    assert made.told("publish", f"s.{KNOWN}", 0.0) is None
    assert made.told("publish", SUBJECT, 0.0) == TOLD
    assert repr(made) == f"<Denials {REMEMBERED} of {KNOWN} kinds>"
