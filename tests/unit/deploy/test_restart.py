"""What is done about a worker that ended: decisions, without a process."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.deploy.cli.trouble import USAGE
from perdure.deploy.restart import STEADY_S, USAGE_EXIT, Ended, failures, is_final, wait_s

DIED = Ended(-9, None)


def test_the_wait_doubles_from_half_a_second_to_ten() -> None:
    assert [wait_s(n, 1.0) for n in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert [wait_s(n, 0.0) for n in (1, 2, 6)] == [0.25, 0.5, 5.0]


@given(st.integers(1, 100_000), st.floats(0.0, 1.0))
def test_the_wait_has_bounds_and_never_shrinks(failed: int, jitter: float) -> None:
    assert 0.25 <= wait_s(failed, jitter) <= wait_s(failed + 1, jitter) <= 10.0


def test_ends_are_counted_until_it_hosted_for_long_enough() -> None:
    assert failures(0, DIED) == 1
    assert failures(4, DIED) == 5
    assert failures(4, Ended(0, STEADY_S - 0.1)) == 5
    assert failures(4, Ended(3, STEADY_S)) == 1


@pytest.mark.parametrize("code", [None, -9, -2, 0, 1, 3])
def test_what_can_pass_is_tried_again(code: int | None) -> None:
    for hosted in (False, True):
        assert not is_final(Ended(code, None), hosted=hosted)


def test_what_is_not_understood_is_final_unless_it_once_was() -> None:
    assert USAGE_EXIT == USAGE
    assert is_final(Ended(USAGE, None), hosted=False)
    assert not is_final(Ended(USAGE, None), hosted=True)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "could not be started"),
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-signal.SIGKILL, "was ended by SIGKILL"),
        (-(signal.SIGRTMIN + 3), f"was ended by signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_an_end_is_told(code: int | None, text: str) -> None:
    assert str(Ended(code, None)) == text
