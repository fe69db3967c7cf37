"""A runner's clock against the server's."""

from __future__ import annotations

import logging

import pytest

from perdure import Incompatible, Settings
from perdure.durable.clocks import check_clock, told, verdict
from perdure.durable.runner import Runner
from perdure.entities.clock import SystemClock
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.session import MemorySession

from .test_runner import counter

SETTINGS = Settings(url="memory:", made_window=600.0)


class Off:
    """A clock that is so many seconds ahead."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_ns = int(ahead_s * 1e9)

    def now_ns(self) -> int:
        return SystemClock().now_ns() + self._ahead_ns


def session(ahead_s: float) -> MemorySession:
    return MemoryBroker(SystemClock(), SETTINGS).session(clock=Off(ahead_s))


@pytest.mark.parametrize(
    ("ahead_s", "found"),
    [
        (0.0, "good"),
        (-0.9, "good"),
        (1.1, "odd"),
        (-299.0, "odd"),
        (301.0, "bad"),
        (-301.0, "bad"),
    ],
)
def test_a_difference_is_told_and_a_large_one_refused(ahead_s: float, found: str) -> None:
    assert verdict(ahead_s, SETTINGS) == found


def test_in_words() -> None:
    assert told(0.2) == "less than a second from the server's"
    assert told(12.34) == "12.3 s ahead of the server's"
    assert told(-2.0) == "2.0 s behind the server's"


async def test_a_runner_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "perdure.clocks"):
        await check_clock(session(0.1), SETTINGS)
        assert caplog.records == []
        await check_clock(session(-5.0), SETTINGS)
    assert "5.0 s behind the server's" in caplog.text
    with pytest.raises(Incompatible, match=r"302\.0 s ahead of the server's: keep time"):
        await check_clock(session(302.0), SETTINGS)


async def test_no_runner_starts_on_a_wrong_clock() -> None:
    here = session(302.0)
    runner = Runner(here, [counter], SETTINGS)
    with pytest.raises(Incompatible, match="this machine's clock"):
        await runner.start()
    assert runner.statistics().shards == 0
    await runner.drain()
    await here.close()
