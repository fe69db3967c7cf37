"""One timer for many moments."""

from __future__ import annotations

import asyncio
from functools import partial

from perdure.streams.alarm import LEAST, Alarm

LATER_S = 3600.0


def now() -> float:
    return asyncio.get_running_loop().time()


async def rung(alarm: Alarm) -> None:
    while len(alarm):  # noqa: ASYNC110 (its moments are what is waited for)
        await asyncio.sleep(0.001)


async def test_moments_come_in_their_order_whatever_the_order_of_asking() -> None:
    alarm, heard = Alarm(), list[int]()
    for n in (3, 1, 2):
        alarm.at(now() + n / 100, partial(heard.append, n))
    await rung(alarm)
    assert heard == [1, 2, 3]


async def test_never_early_by_more_than_the_loops_own_timers() -> None:
    alarm, late = Alarm(), list[float]()

    def note(when: float) -> None:
        late.append(now() - when)

    for n in range(20):
        when = now() + n / 1000
        alarm.at(when, partial(note, when))
    await rung(alarm)
    assert len(late) == 20
    assert min(late) > -0.002


async def test_a_cancelled_moment_never_comes() -> None:
    alarm, heard = Alarm(), list[int]()
    first = alarm.at(now() + 0.005, lambda: heard.append(1))
    alarm.at(now() + 0.01, lambda: heard.append(2))
    alarm.cancel(first)
    alarm.cancel(first)
    assert len(alarm) == 1
    await rung(alarm)
    assert heard == [2]
    alarm.cancel(first)
    assert len(alarm) == 0


async def test_whoever_is_called_may_ask_for_more() -> None:
    alarm, heard = Alarm(), list[int]()

    def again() -> None:
        heard.append(1)
        alarm.at(now(), lambda: heard.append(2))
        alarm.at(now() + 1.0, lambda: heard.append(4))

    alarm.at(now() + 0.002, again)
    alarm.at(now() + 0.5, lambda: heard.append(3))  # a busy machine is late by far less
    await rung(alarm)
    assert heard == [1, 2, 3, 4]


async def test_what_was_cancelled_does_not_gather() -> None:
    alarm = Alarm()
    kept = alarm.at(now() + LATER_S, lambda: None)
    for _ in range(20 * LEAST):
        alarm.cancel(alarm.at(now() + LATER_S, lambda: None))
        assert len(alarm._heap) <= 2 * LEAST + 2  # pyright: ignore[reportPrivateUsage]
    assert len(alarm) == 1
    alarm.cancel(kept)


async def test_closed_it_calls_nothing() -> None:
    alarm, heard = Alarm(), list[int]()
    moment = alarm.at(now() + 0.002, lambda: heard.append(1))
    later = asyncio.Event()
    asyncio.get_running_loop().call_at(now() + 0.01, later.set)
    alarm.close()
    await later.wait()  # a timer that would have rung after it
    assert heard == []
    alarm.cancel(moment)
    assert len(alarm) == 0
