"""Durations and retry policies."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import Retry, Settings, seconds
from perdure.entities.retry import delay_s


@pytest.mark.parametrize(
    ("duration", "wanted"),
    [(0, 0.0), (1, 1.0), (0.25, 0.25), (timedelta(minutes=5), 300.0), (timedelta(0), 0.0)],
)
def test_seconds(duration: timedelta | float, wanted: float) -> None:
    assert seconds(duration) == wanted


@pytest.mark.parametrize("bad", [-1, -0.001, timedelta(days=-1), float("nan"), float("inf")])
def test_what_is_not_a_duration(bad: timedelta | float) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        seconds(bad)


def test_the_policies_of_the_settings() -> None:
    transient, defect = Settings().transient_retry, Settings().defect_retry
    assert [delay_s(transient, n, 1.0) for n in (1, 2)] == [0.05, 0.05]
    assert [delay_s(defect, n, 1.0) for n in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert (transient.attempts, defect.attempts) == (3, 5)


@given(
    st.integers(1, 10**9),
    st.floats(0, 1),
    st.floats(0, 1e9),
    st.floats(1, 1e9),
    st.floats(0, 1e9),
)
def test_a_delay_is_bounded_and_never_negative(
    attempt: int, jitter: float, base: float, factor: float, longest: float
) -> None:
    policy = Retry(base=base, factor=factor, longest=longest)
    assert 0 <= delay_s(policy, attempt, jitter) <= longest
    assert delay_s(policy, attempt, jitter) <= delay_s(policy, attempt + 1, jitter)


def test_jitter_spreads_from_half_to_whole() -> None:
    policy = Retry(base=timedelta(seconds=1))
    assert [delay_s(policy, 1, j) for j in (0.0, 0.5, 1.0)] == [0.5, 0.75, 1.0]


@pytest.mark.parametrize(("attempt", "jitter"), [(0, 0.5), (-1, 0.5), (1, -0.1), (1, 1.1)])
def test_out_of_range(attempt: int, jitter: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        delay_s(Retry(), attempt, jitter)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"attempts": 0}, r"Retry\.attempts is 0, not 1 or more"),
        ({"factor": 0.9}, r"Retry\.factor is 0\.9"),
        ({"factor": float("nan")}, r"Retry\.factor is nan"),
        ({"base": -1}, r"Retry\.base: not a duration"),
        ({"longest": float("inf")}, r"Retry\.longest: not a duration"),
    ],
)
def test_a_policy_that_makes_no_sense(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Retry(**fields)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, Retry)
