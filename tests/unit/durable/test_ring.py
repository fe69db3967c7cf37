"""The ring: who watches whom, and when somebody counts as dead or frozen."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.durable.ring import NOBODY_PINGS, SUCCESSORS, Health, health, successors

rings = st.sets(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=9)


@given(rings)
def test_everybody_is_watched_by_two_others_or_by_all(ring: set[str]) -> None:
    watched = Counter(itertools.chain.from_iterable(successors(own, sorted(ring)) for own in ring))
    assert set(watched.values()) <= {min(SUCCESSORS, len(ring) - 1)}
    assert len(watched) == (len(ring) if len(ring) > 1 else 0)


@given(rings)
def test_nobody_watches_itself_or_one_twice(ring: set[str]) -> None:
    for own in ring:
        found = successors(own, sorted(ring))
        assert own not in found
        assert len(set(found)) == len(found)


def test_the_next_by_name_are_watched_around_the_end() -> None:
    assert successors("b", ["d", "a", "c", "b"]) == ["c", "d"]
    assert successors("c", ["d", "a", "c", "b"]) == ["d", "a"]
    assert successors("d", ["d", "a", "c", "b"]) == ["a", "b"]


def test_who_is_alone_or_unknown_to_the_others_watches_who_is_there() -> None:
    assert successors("a", []) == []
    assert successors("a", ["a"]) == []
    assert successors("a", ["b"]) == ["b"]
    assert successors("b", ["a", "c", "d"]) == ["c", "d"]


@given(rings.filter(lambda ring: len(ring) > SUCCESSORS))
def test_where_one_dies_its_watchers_watch_the_next(ring: set[str]) -> None:
    """No gap opens in the ring: whom the dead one watched is watched by two of those who stay."""
    dead = min(ring)
    rest = sorted(ring - {dead})
    watched = Counter(itertools.chain.from_iterable(successors(own, rest) for own in rest))
    assert all(watched[name] == min(SUCCESSORS, len(rest) - 1) for name in rest)


@pytest.mark.parametrize(
    ("nobody", "silent_s", "verdict"),
    [
        (0, 0.0, Health.WELL),
        (0, 2.49, Health.WELL),
        (0, 2.5, Health.SILENT),
        (NOBODY_PINGS - 1, 0.1, Health.WELL),  # a connection that is made anew
        (NOBODY_PINGS - 1, 2.5, Health.SILENT),
        (NOBODY_PINGS, 0.0, Health.DEAD),
        (NOBODY_PINGS + 1, 9.9, Health.DEAD),
    ],
)
def test_the_verdict(nobody: int, silent_s: float, verdict: Health) -> None:
    assert health(nobody=nobody, silent_s=silent_s, frozen_after_s=2.5) is verdict
