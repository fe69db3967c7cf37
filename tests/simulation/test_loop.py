"""The event loop of the simulation: time that jumps, processes that freeze and crash."""

import asyncio
import contextlib

import pytest

from .loop import Deadlock, Endless, Killed, Process, SimulatedLoop


def test_time_jumps_and_timers_of_one_moment_keep_their_order() -> None:
    loop = SimulatedLoop()
    seen: list[object] = []

    async def main() -> None:
        for name in "abc":
            loop.call_later(3600, seen.append, name)
        loop.call_later(10, seen.append, "early")
        async with asyncio.timeout(7200):
            await asyncio.sleep(3601)
        seen.append(loop.time())

    loop.run(main())
    assert seen == ["early", "a", "b", "c", 3601]
    loop.close()


def test_a_cancelled_timer_and_a_timeout() -> None:
    loop = SimulatedLoop()

    async def main() -> float:
        loop.call_later(5, pytest.fail, "cancelled").cancel()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await asyncio.Event().wait()
        return loop.time()

    assert loop.run(main()) == 2
    loop.close()


def test_a_deadlock_is_reported() -> None:
    loop = SimulatedLoop()
    with pytest.raises(Deadlock, match="nothing to do"):
        loop.run(asyncio.Event().wait())
    loop.close()


def test_a_spinning_world_is_reported() -> None:
    async def main() -> None:
        while True:  # noqa: ASYNC110 (to spin is the point)
            await asyncio.sleep(0)

    loop = SimulatedLoop(step_limit=1000)
    with pytest.raises(Endless):
        loop.run(main())
    loop.close()


def test_a_frozen_process_does_everything_when_it_is_thawed() -> None:
    loop = SimulatedLoop()
    seen: list[tuple[float, int]] = []

    async def tick() -> None:
        for n in range(4):
            await asyncio.sleep(1)
            seen.append((loop.time(), n))

    async def main() -> None:
        process = Process(loop, "p")
        task = process.spawn(tick())
        loop.call_later(1.5, process.freeze)
        loop.call_later(10, process.thaw)
        await task

    loop.run(main())
    assert seen == [(1, 0), (10, 1), (11, 2), (12, 3)]
    loop.close()


def test_a_crash_runs_no_finally_and_cancels_nothing() -> None:
    loop = SimulatedLoop()
    seen: list[str] = []

    async def victim() -> None:
        try:
            await asyncio.sleep(1)
            seen.append("woke")
            await asyncio.sleep(1)
        finally:
            seen.append("finally")

    async def main() -> None:
        process = Process(loop, "p")
        task = process.spawn(victim())
        loop.call_later(1.5, process.crash)
        await asyncio.sleep(60)
        assert not task.done()

    loop.run(main())
    assert seen == ["woke"]
    assert loop.uncaught == []
    loop.close()


def test_a_crash_before_a_chosen_step() -> None:
    def victims_steps(fuse: int) -> int:
        loop = SimulatedLoop()
        done: list[int] = []

        async def victim() -> None:
            for n in range(100):
                done.append(n)
                await asyncio.sleep(0)

        async def main() -> None:
            process = Process(loop, "p")
            process.spawn(victim())
            process.at_step(fuse, process.crash)
            await asyncio.sleep(1)

        loop.run(main())
        loop.close()
        return len(done)

    assert [victims_steps(n) for n in (1, 2, 50)] == [0, 1, 49]


def test_a_process_that_kills_itself_is_not_an_error_of_the_world() -> None:
    loop = SimulatedLoop()
    seen: list[str] = []

    async def poisoned(process: Process) -> None:
        with contextlib.suppress(Exception):
            process.crash()
            raise Killed
        seen.append("survived")

    async def main() -> None:
        process = Process(loop, "p")
        process.loop.call_soon(seen.append, "alive", context=process.context)
        process.spawn(poisoned(process))
        await asyncio.sleep(1)

    loop.run(main())
    assert seen == ["alive"]
    assert loop.uncaught == []
    loop.close()


def test_what_nobody_caught_is_kept() -> None:
    loop = SimulatedLoop()

    async def main() -> None:
        loop.call_soon(int, "x")
        await asyncio.sleep(1)

    loop.run(main())
    assert len(loop.uncaught) == 1
    assert "ValueError" in loop.uncaught[0]
    loop.close()
