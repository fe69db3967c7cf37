"""Singletons: on exactly one runner, wherever runners come, go, die, freeze and are cut off."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncIterator
from string import ascii_letters
from typing import Any

import pytest

from perdure import MalformedMessage, RunnerUnavailable, Singleton
from perdure.durable.runner import Runner
from perdure.durable.shard import BACKOFF_S, CLAIM_TRIES
from perdure.durable.singleton import SINGLETONS
from perdure.streams.client import Cluster
from perdure.streams.members import Drain, Gone, HandOver, Kept, Member, Released, encode_word
from perdure.streams.port import Message

from .jobs import JOB, SOON_S, for_ever, job
from .peers import holds, until, virtually
from .runners import Runners, begin, runners

FROZEN_S = 2.5  # the default

ROUND_S = BACKOFF_S * 2**CLAIM_TRIES + 0.05
"""From one question for it to the next, where the one before was answered, and a moment."""


# -- on one at a time -------------------------------------------------------------------------
@virtually
async def test_it_runs_on_the_one_whose_it_is_by_the_members_and_on_no_other() -> None:
    async with job("abc") as (r, it):
        await it.declare("abc")
        owner = it.owner("abc")
        await it.runs_on(owner, SOON_S)
        await holds(lambda: [t.runner for t in it.alive] == [owner], 30)
        assert it.never_two
        assert [n for n in "abc" if r[n].runner.singletons.held] == [owner]
        assert it.terms == sorted(set(it.terms))


@virtually
async def test_only_who_declares_it_runs_it() -> None:
    async with job("abc") as (_, it):
        for name in "abc":
            if name != it.owner("abc"):
                await it.declare(name)
        others = "abc".replace(it.owner("abc"), "")
        await it.runs_on(it.owner(others), SOON_S)


@virtually
async def test_it_ends_where_it_was_before_it_begins_elsewhere() -> None:
    async with job("a", drain_timeout=60.0) as (r, it):
        slow = asyncio.Event()

        async def reluctant(handle: Singleton) -> None:
            try:
                await for_ever(handle)
            finally:
                assert not handle.held()
                await slow.wait()

        await it.declare("a", reluctant)
        await it.runs_on("a", SOON_S)
        assert it.turns[0].handle.held()
        next_one = it.name_before("a")
        await r.start(next_one)
        await it.declare(next_one)
        # Longer than a silent member is waited for: one that answers isn't overruled.
        await holds(lambda: [t.runner for t in it.alive] == ["a"], 40)
        assert await r.say("a", HandOver(JOB, next_one)) == Kept()
        slow.set()
        assert await it.runs_on(next_one, SOON_S) < ROUND_S
        assert (it.never_two, it.terms) == (True, [1, 2])
        assert not it.turns[0].handle.held()


@virtually
async def test_who_joins_behind_leaves_it_where_it_is() -> None:
    async with job("a") as (r, it):
        await it.declare("a")
        await it.runs_on("a")
        other = it.name_behind("a")
        await r.start(other)
        await it.declare(other)
        await holds(lambda: it.terms == [1] and len(it.alive) == 1, 30)


@pytest.mark.parametrize("way", ["drain", "word"])
@virtually
async def test_who_leaves_gives_it_back_at_once(way: str) -> None:
    async with job("ab") as (r, it):
        await it.declare("ab")
        owner = it.owner("ab")
        other = "ab".replace(owner, "")
        await it.runs_on(owner)
        if way == "drain":
            draining = begin(r[owner].runner.drain())
        else:
            await r.say(owner, Drain())
            draining = begin(r[owner].drained.wait())
        assert await it.runs_on(other, SOON_S) < ROUND_S
        assert it.never_two
        await draining


@virtually
async def test_the_last_one_that_leaves_ends_it_and_the_next_that_comes_begins_it() -> None:
    async with job("a") as (r, it):
        await it.declare("a")
        await it.runs_on("a")
        await r["a"].runner.drain()
        assert not it.alive
        await r.start("b")
        await it.declare("b")
        await it.runs_on("b", 0.1)
        assert it.terms == [1, 2]


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("seed", range(4))
@virtually
async def test_never_two_and_soon_again_under_joins_drains_and_crashes(
    seed: int, settled: bool
) -> None:
    """`settled`: each change comes when the one before is over, else in the midst of it."""
    async with job("a") as (r, it):
        chance, there, under_way = random.Random(seed), "a", list[Any]()
        names = iter(chance.sample(ascii_letters[1:], 26))
        await it.declare("a")
        for _ in range(24):
            what = chance.choice(["join", "drain", "die"]) if len(there) > 1 else "join"
            if what == "join":
                name = next(names)
                await r.start(name)
                await it.declare(name)
                there += name
            else:
                gone = chance.choice([it.owner(there), *there])
                there = there.replace(gone, "")
                under_way.append(
                    begin(r[gone].runner.drain() if what == "drain" else r[gone].dies())
                )
            if settled:
                await it.runs_on(it.owner(there), 1.5)
            await asyncio.sleep(chance.uniform(0, 0.3))
        await it.runs_on(it.owner(there), 3)
        await asyncio.gather(*under_way)
        assert it.never_two
        assert it.terms == sorted(set(it.terms))
        assert len(it.terms) > 5


# -- by force ---------------------------------------------------------------------------------
@virtually
async def test_another_begins_within_a_second_or_so_if_its_runner_dies() -> None:
    async with job("abc") as (r, it):
        await it.declare("abc")
        owner = it.owner("abc")
        await it.runs_on(owner)
        await r[owner].dies()
        assert await it.runs_on(it.owner("abc".replace(owner, ""))) < 1.2
        assert it.never_two
        assert it.terms == sorted(set(it.terms))


@virtually
async def test_who_is_frozen_is_fenced_and_cancelled_as_soon_as_it_wakes_up() -> None:
    async with job("ab") as (r, it):
        await it.declare("ab")
        owner = it.owner("ab")
        other = "ab".replace(owner, "")
        await it.runs_on(owner)
        r[owner].line.freeze()
        took = await it.begins_again()
        assert FROZEN_S <= took <= FROZEN_S + 2.5
        frozen, fresh = it.turns[-2:]
        assert (frozen.runner, fresh.runner) == (owner, other)
        assert frozen.ended is None
        assert fresh.handle.term > frozen.handle.term
        r[owner].line.thaw()
        assert await until(lambda: frozen.ended is not None) < 0.1
        assert not frozen.handle.held()
        await it.runs_on(owner, 5)  # it has it by the members, now that it is back
        assert it.terms == sorted(set(it.terms))


@virtually
async def test_who_is_cut_off_is_fenced_and_cancelled_as_soon_as_it_is_back() -> None:
    async with job("ab") as (r, it):
        await it.declare("ab")
        owner = it.owner("ab")
        await it.runs_on(owner)
        r.broker.disconnect(r[owner].session, reconnect=False)
        assert await it.begins_again() < 2
        cut, fresh = it.turns[-2:]
        assert cut.ended is None
        assert fresh.handle.term > cut.handle.term
        r.broker.reconnect(r[owner].session)
        assert await until(lambda: cut.ended is not None) < 0.5
        await it.runs_on(owner, 10)
        assert it.terms == sorted(set(it.terms))


@virtually
async def test_a_short_cut_of_the_line_changes_nothing() -> None:
    async with job("ab") as (r, it):
        await it.declare("ab")
        await it.runs_on(it.owner("ab"))
        turns = len(it.turns)
        for name in "ab":
            r.broker.disconnect(r[name].session)
        await holds(lambda: len(it.turns) == turns and len(it.alive) == 1, 10)


@virtually
async def test_who_hears_that_it_was_taken_for_dead_cancels_at_once_and_begins_anew() -> None:
    async with job("a") as (r, it):
        await it.declare("a")
        await it.runs_on("a")
        subject = r.stranger.subjects.member("a")
        r.stranger.asks.send(subject, encode_word(Gone("a", r["a"].edition)))
        assert await until(lambda: it.turns[0].ended is not None) < 0.01
        await it.runs_on("a", 0.5)
        assert (it.never_two, it.terms) == (True, [1, 2])


@virtually
async def test_who_finds_a_later_term_in_the_record_cancels_though_nobody_told_it() -> None:
    async with job("a") as (r, it):
        await it.declare("a")
        await it.runs_on("a")
        await r.stranger.members.put(f"singleton.{JOB}", b'[8,"z"]')
        assert await until(lambda: it.turns[0].ended is not None) <= 3.3  # a heartbeat
        await it.runs_on("a", 1)
        assert it.terms == [1, 9]


@virtually
async def test_who_is_asked_looks_whether_it_was_replaced() -> None:
    async with job("a") as (r, it):
        await it.declare("a")
        await it.runs_on("a")
        await r.stranger.members.put(f"singleton.{JOB}", b'[8,"z"]')
        await r.say("a", HandOver(JOB, "z"))
        assert await until(lambda: it.turns[0].ended is not None) < 0.01


@virtually
async def test_a_record_that_is_lost_is_written_again_so_that_terms_grow() -> None:
    async with job("a") as (r, it):
        key = f"singleton.{JOB}"
        await r.stranger.members.put(key, b'[8,""]')
        await it.declare("a")
        await it.runs_on("a")
        assert it.terms == [9]
        await r.stranger.members.delete(key)
        members = r.stranger.members
        async with asyncio.timeout(3.3):  # a heartbeat
            while (found := await members.get(key)) is None:  # noqa: ASYNC110 (a bucket)
                await asyncio.sleep(0.01)
        assert found.value == b'[9,"a"]'
        other = it.name_before("a")
        await r.start(other)
        await it.declare(other)
        await it.runs_on(other, SOON_S)
        assert it.terms == [9, 10]


# -- views that differ ------------------------------------------------------------------------
@virtually
async def test_where_two_believe_that_it_is_theirs_one_runs_it() -> None:
    async with job("a") as (r, it):
        await it.declare("a")
        await it.runs_on("a")
        other = it.name_before("a")
        view: Any = r["a"].runner.membership.view
        real = view.add

        def add(member: Member) -> bool:
            return member.runner != other and bool(real(member))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(view, "add", add)
            await r.make(other).runner.start()
            await it.declare(other)
            await holds(lambda: [t.runner for t in it.alive] == ["a"], 60)
        await it.runs_on(other, 10)
        assert (it.never_two, it.terms) == (True, [1, 2])


@virtually
async def test_many_that_begin_at_once_get_it_one_after_another() -> None:
    async with job("abcdef") as (_, it):
        await asyncio.gather(*(it.declare(name) for name in "abcdef"))
        await it.runs_on(it.owner("abcdef"), SOON_S)
        await holds(lambda: len(it.alive) == 1, 10)
        assert it.never_two


# -- words ------------------------------------------------------------------------------------
@virtually
async def test_what_is_not_here_is_released_and_what_is_is_kept() -> None:
    async with job("ab") as (r, it):
        await it.declare("ab")
        owner = it.owner("ab")
        await it.runs_on(owner)
        other = "ab".replace(owner, "")
        assert await r.say(owner, HandOver(JOB, "z")) == Kept()
        assert await r.say(other, HandOver(JOB, "z")) == Released()
        assert await r.say(owner, HandOver("another", "z")) == Released()
        assert it.terms == [it.turns[0].handle.term]


@virtually
async def test_who_is_asked_while_it_takes_a_term_keeps_it() -> None:
    """The record names it already, and it doesn't know yet."""
    async with job("a") as (r, it):
        members: Any = r["a"].session.members
        put, stored, go_on = members.put, asyncio.Event(), asyncio.Event()

        async def slow(key: str, *args: Any, **more: Any) -> Any:
            answer = await put(key, *args, **more)
            if key == f"singleton.{JOB}":
                stored.set()
                await go_on.wait()
            return answer

        members.put = slow
        await it.declare("a")
        await stored.wait()
        assert await r.say("a", HandOver(JOB, "z")) == Kept()
        go_on.set()
        await it.runs_on("a", 0.1)


@pytest.mark.parametrize("reply", ["elsewhere.x", "perdure.log.keeper.victim", ""])
@virtually
async def test_who_asks_with_a_reply_that_may_not_be_is_not_answered(reply: str) -> None:
    async with job("a") as (r, it):
        await it.declare("a")
        heard: list[Message] = []
        if reply:
            await r.stranger.asks.subscribe(reply, heard.append)
        subject = r.stranger.subjects.member("a")
        r.stranger.asks.send(subject, encode_word(HandOver(JOB, "z")), reply=reply)
        await asyncio.sleep(1)
        assert not heard
        assert await r.recorded("victim") == []


# -- declaring --------------------------------------------------------------------------------
async def refused(work: Any) -> str:
    with pytest.raises(MalformedMessage) as caught:
        await work
    assert not caught.value.may_have_taken_effect
    return str(caught.value)


@virtually
async def test_a_mere_client_is_told_so() -> None:
    async with runners() as r:
        assert "mere client" in await refused(r.cluster.singleton(JOB, for_ever))


@pytest.mark.parametrize("name", ["", "a b", "a.b", "*", "é", "x" * 101, 7, None])
@virtually
async def test_a_name_that_cant_be_one(name: Any) -> None:
    async with runners("a") as r:
        cluster = serving(r, r["a"].runner)
        assert "isn't a name" in await refused(cluster.singleton(name, for_ever))
        assert "async function" in await refused(cluster.singleton(JOB, name))


def plain(_: Any) -> None:
    raise AssertionError("it must not be called")


async def without() -> None:
    raise AssertionError("it must not be called")


async def yields(_: Any) -> AsyncIterator[int]:
    yield 1
    raise AssertionError("it must not be called")


@pytest.mark.parametrize("run", [plain, without, yields, print, 7])
@virtually
async def test_what_cant_be_run(run: Any) -> None:
    async with runners("a") as r:
        cluster = serving(r, r["a"].runner)
        assert "an async function of one parameter" in await refused(cluster.singleton(JOB, run))
        assert r["a"].runner.singletons.declared == {}


@virtually
async def test_a_partial_and_an_object_that_is_called_like_an_async_function_can_be_run() -> None:
    class Called:
        async def __call__(self, handle: Singleton) -> None:
            await for_ever(handle)

    async def more(_: int, handle: Singleton) -> None:
        await for_ever(handle)

    async with runners("a") as r:
        cluster = serving(r, r["a"].runner)
        await cluster.singleton("called", Called())
        await cluster.singleton("partial", functools.partial(more, 1))
        await until(lambda: r["a"].runner.singletons.held == ("called", "partial"), SOON_S)


@virtually
async def test_one_name_is_declared_once_in_a_runner_and_so_many_at_most() -> None:
    async with runners("a") as r:
        cluster = serving(r, r["a"].runner)
        for n in range(SINGLETONS):
            await cluster.singleton(f"job-{n}", for_ever)
        assert "declared here already" in await refused(cluster.singleton("job-1", for_ever))
        assert "at most" in await refused(cluster.singleton("one-more", for_ever))
        await until(lambda: len(r["a"].runner.singletons.held) == SINGLETONS, SOON_S)


@virtually
async def test_who_has_left_takes_none() -> None:
    async with runners("a") as r:
        cluster = serving(r, r["a"].runner)
        await r["a"].runner.drain()
        with pytest.raises(RunnerUnavailable) as caught:
            await cluster.singleton(JOB, for_ever)
        assert not caught.value.may_have_taken_effect


def serving(r: Runners, runner: Runner) -> Cluster:
    """The client beside a runner."""
    r.cluster.declare = runner.singletons.declare
    return r.cluster
