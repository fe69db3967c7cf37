"""How a process ends: drained on the first signal, at once on the second."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import weakref

import pytest

from perdure.deploy.process import (
    HARD_EXIT,
    YOUNG_OBJECTS,
    collecting_seldom,
    loop_factory,
    run_until_signalled,
)

from ...support.lines import read_line

PROGRAM = """
import asyncio
import sys
from perdure.deploy.process import run_until_signalled

async def main():
    try:
        print("ready", flush=True)
        await asyncio.Event().wait()
    finally:
        print("draining", flush=True)
        if "slow" in sys.argv:
            await asyncio.Event().wait()
        await asyncio.sleep(0.05)
        print("drained", flush=True)
    return 7

again = {"again": lambda name: print(name, flush=True)} if "patient" in sys.argv else {}
sys.exit(run_until_signalled(main(), **again))
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_and_ends_with_0(number: signal.Signals) -> None:
    with start() as process:
        assert read_line(process, process.stdout) == "ready\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    assert out == "draining\ndrained\n"
    assert process.returncode == 0


def test_a_second_signal_ends_it_at_once() -> None:
    with start("slow") as process:
        assert read_line(process, process.stdout) == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert read_line(process, process.stdout) == "draining\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    assert out == ""
    assert process.returncode == HARD_EXIT


def test_what_a_second_signal_does_can_be_given() -> None:
    with start("slow", "patient") as process:
        assert read_line(process, process.stdout) == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert read_line(process, process.stdout) == "draining\n"
        for number in (signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            assert read_line(process, process.stdout) == f"{number.name}\n"
        process.kill()


def test_a_closed_terminal_may_say_so_twice() -> None:
    with start() as process:
        assert read_line(process, process.stdout) == "ready\n"
        process.send_signal(signal.SIGHUP)
        assert read_line(process, process.stdout) == "draining\n"
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == ("drained\n", 0)


def test_nohup_is_respected() -> None:
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with subprocess.Popen(
        [sys.executable, "-c", ignoring + PROGRAM], stdout=subprocess.PIPE, text=True
    ) as process:
        assert read_line(process, process.stdout) == "ready\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)  # SIGHUP first would be a first signal, this a second
        out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == ("draining\ndrained\n", 0)


def test_without_a_signal_its_result_is_the_exit_code() -> None:
    async def main() -> int:
        return 5

    assert run_until_signalled(main()) == 5


def test_what_it_raises_is_raised() -> None:
    async def main() -> int:
        raise LookupError("x")

    with pytest.raises(LookupError, match="x"):
        run_until_signalled(main())


def test_a_runner_collects_garbage_seldom() -> None:
    class Circle:
        pass

    before = gc.get_threshold()
    with collecting_seldom():
        assert gc.get_threshold() == (YOUNG_OBJECTS, *before[1:])
        assert gc.get_freeze_count() > 0
        one = Circle()
        one.__dict__["self"] = one
        gone = weakref.ref(one)
        del one
        kept: list[list[int]] = []
        while gone() is not None:
            kept.append([])
            assert len(kept) <= 2 * YOUNG_OBJECTS
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_uvloop_is_used_where_it_is_installed() -> None:
    pytest.importorskip("uvloop")
    factory = loop_factory()
    assert factory is not None
    loop = factory()
    loop.close()
    assert type(loop).__module__.startswith("uvloop")


def test_asyncio_is_used_where_uvloop_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory() is None
