"""What the run of a singleton does: it fails, returns, ends late, or doesn't end at all."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

import pytest

from perdure import RunnerUnavailable, Singleton
from perdure.durable.post import AGAIN_MAX_S, AGAIN_S
from perdure.durable.singleton import Singletons
from perdure.streams.members import Gone, encode_word

from .jobs import JOB, SOON_S, for_ever, job
from .peers import holds, now, until, virtually


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "action", "") for record in caplog.records]


@virtually
async def test_one_that_fails_is_begun_again_later_and_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with job("a") as (r, it):

        async def fails(_: Singleton) -> None:
            raise ValueError("as planned")

        await it.declare("a", fails)
        await until(lambda: len(it.turns) == 14, 1_000)
        began = [turn.began for turn in it.turns]
        for n, (one, two) in enumerate(itertools.pairwise(began)):
            longest = min(AGAIN_MAX_S, AGAIN_S * 2**n)
            assert longest / 2 <= two - one <= longest + 0.01
        assert set(it.terms) == {1}
        failed = [
            rec for rec in caplog.records if getattr(rec, "action", "") == "singleton.failed"
        ]
        assert len(failed) == 14
        assert r["a"].runner.singletons.states == {JOB: "fails"}
        assert all(rec.exc_info and "as planned" in str(rec.exc_info[1]) for rec in failed)


@virtually
async def test_one_that_did_well_before_it_failed_is_begun_again_soon() -> None:
    async with job("a") as (_, it):

        async def works_then_fails(_: Singleton) -> None:
            if len(it.turns) > 5:
                await asyncio.sleep(100)
            raise ValueError("as planned")

        await it.declare("a", works_then_fails)
        await until(lambda: len(it.turns) == 8, 1_000)
        *_, one, two, _ = it.turns
        assert one.ended is not None
        assert two.began - one.ended <= AGAIN_S + 0.01


@virtually
async def test_a_cancellation_that_comes_from_what_it_waits_for_is_a_failure() -> None:
    async with job("a") as (_, it):

        async def waits(_: Singleton) -> None:
            waited = asyncio.get_running_loop().create_future()
            waited.cancel()
            await waited

        await it.declare("a", waits)
        await until(lambda: len(it.turns) == 3, 2)
        assert set(it.terms) == {1}


@virtually
async def test_one_whose_task_was_cancelled_from_inside_is_begun_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As by a timeout of old: a cancellation that it swallowed, and then a second one."""
    async with job("a") as (_, it):

        async def cancels_itself(handle: Singleton) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await for_ever(handle)
            waited = asyncio.get_running_loop().create_future()
            waited.cancel()
            await waited

        await it.declare("a", cancels_itself)
        await until(lambda: len(it.turns) == 4, 5)
        assert set(it.terms) == {1}
        assert actions(caplog).count("singleton.failed") >= 3


@virtually
async def test_one_that_is_declared_while_its_runner_leaves_is_refused() -> None:
    async with job("a") as (r, it):

        async def slow(handle: Singleton) -> None:
            try:
                await for_ever(handle)
            finally:
                await asyncio.sleep(2)

        await it.declare("a", slow)
        await it.runs_on("a")
        draining = asyncio.create_task(r["a"].runner.drain())
        await asyncio.sleep(1)
        with pytest.raises(RunnerUnavailable) as leaving:
            await r["a"].runner.singletons.declare("second", for_ever)
        assert not leaving.value.may_have_taken_effect
        await draining
        assert it.alive == []


@virtually
async def test_a_defect_of_one_part_keeps_no_runner_from_leaving(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(_: Singletons) -> None:
        raise ZeroDivisionError("as planned")

    async with job("ab") as (r, it):
        await it.declare("ab", for_ever)
        owner = it.owner("ab")
        await it.runs_on(owner)
        (other,) = {"a", "b"} - {owner}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Singletons, "away", broken)
            await r[owner].runner.drain()
        assert "runner.drain_failed" in actions(caplog)
        await until(lambda: r[other].view == other, 0.5)
        await it.runs_on(other)
        assert it.never_two


@virtually
async def test_a_record_that_is_not_readable_holds_up_nobody_who_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with job("a") as (r, it):
        await it.declare("a", for_ever)
        await it.runs_on("a")
        await r.stranger.members.put(f"singleton.{JOB}", b"garbage")
        began = now()
        await r["a"].runner.drain()
        assert now() - began < 1
        assert it.alive == []
        assert "singleton.unreadable" in actions(caplog)


@virtually
async def test_one_that_returns_is_over_until_another_runner_has_it() -> None:
    async with job("ab") as (r, it):

        async def once(_: Singleton) -> None:
            await asyncio.sleep(0.1)

        await it.declare("ab", once)
        owner = it.owner("ab")
        await holds(lambda: len(it.turns) <= 2, 100)
        (*_, last) = it.turns
        assert last.runner == owner
        assert r[owner].runner.singletons.held == (JOB,)
        before = len(it.turns)
        await r[owner].runner.drain()
        await until(lambda: len(it.turns) == before + 1, SOON_S)
        await holds(lambda: len(it.turns) == before + 1, 100)
        assert it.never_two
        assert it.terms == sorted(set(it.terms))


@virtually
async def test_one_that_fails_on_its_way_out_is_told_and_not_begun_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with job("a") as (r, it):

        async def breaks(handle: Singleton) -> None:
            try:
                await for_ever(handle)
            finally:
                raise ValueError("as planned")

        await it.declare("a", breaks)
        await it.runs_on("a")
        await r["a"].runner.drain()
        assert (len(it.turns), it.alive) == (1, [])
        assert actions(caplog).count("singleton.failed") == 1


class Stubborn:
    """Ends when it likes."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.may_end = asyncio.Event()

    async def __call__(self, _: Singleton) -> None:
        while not self.may_end.is_set():
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                self.cancelled += 1


@virtually
async def test_one_that_does_not_end_is_fenced_and_joined_by_none_in_its_own_runner(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with job("a", drain_timeout=2.0) as (r, it):
        stubborn = Stubborn()
        await it.declare("a", stubborn)
        await it.runs_on("a")
        other = it.name_before("a")
        await r.start(other)
        await it.declare(other)
        took = await until(lambda: len(it.turns) == 2)
        assert 2.0 <= took <= 2.5
        assert stubborn.cancelled == 2  # to begin with, and after `drain_timeout`
        assert actions(caplog).count("singleton.stuck") == 1
        assert it.terms == [1, 2]
        await r[other].runner.drain()  # now it were a's, but for the old run
        await holds(lambda: [t.runner for t in it.alive] == ["a"] and len(it.turns) == 2, 20)
        member = r["a"].runner.membership.own
        assert member.singletons == ()
        stubborn.may_end.set()
        await until(lambda: it.terms == [1, 2, 3], SOON_S)
        assert r["a"].runner.membership.own.singletons == (JOB,)


@virtually
async def test_who_drains_does_not_wait_for_ever_for_one_that_does_not_end() -> None:
    async with job("ab", drain_timeout=2.0) as (r, it):
        stubborn = Stubborn()
        await it.declare("ab", stubborn)
        owner = it.owner("ab")
        await it.runs_on(owner)
        began = now()
        await r[owner].runner.drain()
        assert 1.99 <= now() - began <= 2.5
        await until(lambda: it.turns[-1].runner != owner, SOON_S)
        assert it.terms[-1] > it.terms[0]
        stubborn.may_end.set()


@virtually
async def test_what_is_left_of_one_that_does_not_end_is_given_back_when_its_runner_leaves() -> (
    None
):
    async with job("a", drain_timeout=2.0) as (r, it):
        stubborn = Stubborn()
        await it.declare("a", stubborn)
        await it.runs_on("a")
        await r["a"].runner.singletons.release()  # all the time that there was is used up
        found = await r.stranger.members.get(f"singleton.{JOB}")
        assert found is not None
        assert found.value == b'[1,""]'
        assert len(it.alive) == 1
        stubborn.may_end.set()


@virtually
async def test_one_that_does_not_end_is_not_begun_again_where_its_runner_was_taken_for_dead() -> (
    None
):
    async with job("a", drain_timeout=2.0) as (r, it):
        stubborn = Stubborn()
        await it.declare("a", stubborn)
        await it.runs_on("a")
        subject = r.stranger.subjects.member("a")
        r.stranger.asks.send(subject, encode_word(Gone("a", r["a"].edition)))
        await holds(lambda: it.terms == [1], 20)
        assert not it.turns[0].handle.held()
        stubborn.may_end.set()
        await until(lambda: it.terms == [1, 2], SOON_S)


@virtually
async def test_one_whose_task_is_cancelled_by_the_end_of_its_loop_is_not_begun_again() -> None:
    async with job("a") as (r, it):
        tasks: list[asyncio.Task[Any]] = []

        async def told(handle: Singleton) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            await for_ever(handle)

        await it.declare("a", told)
        await it.runs_on("a")
        post: Any = vars(r["a"].runner.singletons)["_posts"][JOB]
        post._task.cancel()
        tasks[0].cancel()
        await asyncio.wait(tasks, timeout=1)
        assert tasks[0].cancelled()
        await holds(lambda: len(it.turns) == 1, 10)
