"""Turns: between two looks at the network only so much is decided."""

from __future__ import annotations

import asyncio

import pytest

from perdure.durable.pace import Pace
from perdure.durable.turns import AT_ONCE, SLICE_S, Turns


async def rounds(turns: Turns, workers: int) -> list[int]:
    """How many workers got a turn in each round of the loop that had any."""
    went = 0

    async def worker() -> None:
        nonlocal went
        await turns.take()
        went += 1

    tasks = [asyncio.create_task(worker()) for _ in range(workers)]
    found: list[int] = []
    while not all(task.done() for task in tasks):
        before = went
        await asyncio.sleep(0)
        if went > before:
            found.append(went - before)
    return found


async def test_alone_nobody_waits() -> None:
    turns = Turns(Pace(10_000))
    for _ in range(3):
        with pytest.raises(StopIteration):  # it ends without waiting for anything
            turns.take().send(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_slow_decisions_go_one_by_one() -> None:
    turns = Turns(Pace(10_000))
    for _ in range(200):
        turns.took(SLICE_S * 3, 1, 1)
    assert turns.at_once == 1
    assert await rounds(turns, 10) == [1] * 10
    assert "0 wait, 1 at once" in repr(turns)


async def test_quick_ones_go_together() -> None:
    turns = Turns(Pace(10_000))
    for _ in range(200):
        turns.took(SLICE_S / 1000, 1, 1)
    assert turns.at_once == AT_ONCE
    assert max(await rounds(turns, 200)) == AT_ONCE


async def test_who_gave_up_takes_nobodys_turn() -> None:
    turns = Turns(Pace(10_000))
    turns.took(SLICE_S * 100, 1, 1)
    await turns.take()
    waiting = [asyncio.create_task(turns.take()) for _ in range(5)]
    await asyncio.sleep(0)
    for task in waiting[:4]:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert waiting[4].done()
    assert not waiting[4].cancelled()
    assert await rounds(turns, 3) == [1, 1, 1]


async def test_callbacks_and_workers_stand_in_one_line() -> None:
    turns, went = Turns(Pace(10_000)), list[str]()
    turns.took(SLICE_S * 100, 1, 1)
    assert turns.at_once == 1

    def go(name: str, uses: bool) -> bool:
        went.append(name)
        return uses

    turns.line_up(lambda: go("a", True))
    worker = asyncio.create_task(turns.take())
    await asyncio.sleep(0)  # the worker is in line, and "a" went
    turns.line_up(lambda: go("b", False))
    turns.line_up(lambda: go("c", True))
    turns.line_up(lambda: go("d", True))
    assert went == ["a"]
    await asyncio.sleep(0)
    assert went == ["a"], "the turn was the worker's"
    await asyncio.sleep(0)
    assert worker.done()
    assert went == ["a", "b", "c"], "who doesn't use a turn takes none"
    await asyncio.sleep(0)
    assert went == ["a", "b", "c", "d"]


async def test_an_error_of_one_keeps_nobody_from_its_turn() -> None:
    turns, went = Turns(Pace(10_000)), list[int]()
    loop, told = asyncio.get_running_loop(), list[dict[str, object]]()
    loop.set_exception_handler(lambda _, context: told.append(context))

    def fail() -> bool:
        raise ZeroDivisionError

    def go() -> bool:
        went.append(1)
        return True

    turns.line_up(fail)
    turns.line_up(go)
    for _ in range(4):
        await asyncio.sleep(0)
    assert went == [1]
    assert len(told) == 1


def test_a_decision_is_about_as_many_as_end_in_time() -> None:
    turns = Turns(Pace(10_000))
    assert turns.outcomes(64) == 64, "nothing is known yet"
    for _ in range(200):
        turns.took(0.001 * 4, 4, 4)
    assert turns.outcomes(64) == int(SLICE_S / 0.001)
    for _ in range(200):
        turns.took(1.0, 1, 1)
    assert turns.outcomes(64) == 1
    for _ in range(400):
        turns.took(0.0, 1, 1)
        turns.took(0.0, 0, 0)
    assert turns.outcomes(64) == 64


def test_commands_that_only_get_an_answer_are_work_done() -> None:
    """Else a crowd of repeats would make a quick runner look like one that does nothing."""
    pace = Pace(10_000)
    turns, now = Turns(pace), 100.0
    for _ in range(200):
        pace.round(now, waiting=True)
        turns.took(0.0001, 0, 30)
        now += 0.005
    assert pace.capacity > 5_000
