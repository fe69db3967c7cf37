"""The watchdog, on loops that are really stuck."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from perdure.deploy.watchdog import STUCK_EXIT, Watchdog

PROGRAM = """
import asyncio
import re
from perdure.deploy.watchdog import Watchdog

async def main():
    with Watchdog(ends=True, tick_s=0.02, stuck_ticks=5, held_s=1.0):
        await asyncio.sleep(0.2)
        print("alive", flush=True)
        {stuck}

asyncio.run(main())
"""


def run(stuck: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.replace("{stuck}", stuck)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "alive\n"
    return done


def test_a_stuck_process_is_ended_and_shows_where_it_was() -> None:
    done = run("while True: pass")
    assert done.returncode == STUCK_EXIT
    assert "the event loop has been stuck for 0.1 s" in done.stderr
    assert "line 10 in main" in done.stderr


def test_one_that_holds_the_interpreter_is_ended_too() -> None:
    done = run("re.match('(a+)+$', 'a' * 60 + 'b')")
    assert done.returncode == 1
    assert "line 10 in main" in done.stderr


def test_one_that_is_stuck_because_nobody_reads_its_errors_is_ended_too() -> None:
    program = PROGRAM.replace("{stuck}", "import sys; sys.stderr.write('x' * 10**6)")
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as process:
        assert process.wait(60) == STUCK_EXIT


class Heard(logging.Handler):
    """What the watchdog says, from its own thread."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.news = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.news.set()


@pytest.fixture
def heard() -> Iterator[Heard]:
    log = logging.getLogger("perdure.watchdog")
    handler = Heard()
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


async def test_a_stuck_loop_is_reported_once_and_watched_on(heard: Heard) -> None:
    with Watchdog(ends=False, tick_s=0.01, stuck_ticks=10):
        for times in (1, 2):
            assert heard.news.wait(10)  # this holds the loop until it is noticed
            heard.news.clear()
            assert not heard.news.wait(0.3)  # still held, and not told again
            assert len(heard.texts) == times
            assert heard.texts[-1].startswith("the event loop has been stuck for 0.1 s")
            await asyncio.to_thread(lambda: None)  # the loop answers again


async def test_a_living_loop_is_left_alone(heard: Heard) -> None:
    with Watchdog(ends=False, tick_s=0.005, stuck_ticks=100):
        for _ in range(100):
            await asyncio.to_thread(threading.Event().wait, 0.01)
    assert heard.texts == []
