"""Tells for later, and the listing of what is open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure import (
    Command,
    Decision,
    Entity,
    Event,
    Flow,
    MailboxFull,
    MalformedMessage,
    Query,
    RpcClientError,
    State,
    Suspended,
    Suspension,
    Token,
    memory,
)
from perdure.durable.testing import TestCluster
from perdure.durable.timers import Forgetting
from perdure.streams.token import Body, make_token

from .case import DAY, Case, Note, Open, Read, World, case_of, hosted, suspended


class Bell(State):
    rings: tuple[int, ...] = ()


class Rang(Event):
    n: int


class Ring(Command[Bell, int]):
    n: int


class Rings(Query[Bell, tuple[int, ...]]):
    pass


def decide(state: Bell, command: Ring | Rings) -> Decision[Rang]:
    match command:
        case Ring(n):
            if n < 0:
                raise ValueError(f"{n} rings")
            return command.accept(len(state.rings) + 1, Rang(n))
        case Rings():
            return command.answer(state.rings)


def evolve(state: Bell, event: Rang) -> Bell:
    return state.replace(rings=(*state.rings, event.n))


bell = Entity(Bell(), decide, evolve)
"""A type without flows."""


MS = timedelta(milliseconds=1)


def in_(cluster: TestCluster, after: timedelta) -> datetime:
    """A whole millisecond, as timers have: no earlier than after that time, by one at most."""
    now_ms = -(-cluster.clock.now_ns() // 1_000_000)
    return datetime(1970, 1, 1, tzinfo=UTC) + now_ms * MS + after


async def rings(cluster: TestCluster, id: str = "b") -> tuple[int, ...]:
    return await cluster.at(Bell, id).query(Rings())


async def listed(cluster: TestCluster, of: type[State] = Case) -> list[Suspension]:
    return [flow async for flow in cluster.suspended(of)]


# -- later ------------------------------------------------------------------------------------
async def test_a_tell_for_later_is_done_at_its_time_and_not_before() -> None:
    async with memory(bell) as cluster:
        ref = cluster.at(Bell, "b")
        key = await ref.tell(Ring(2), at=in_(cluster, DAY))
        assert await ref.ask(Ring(1)) == 1
        await cluster.advance(DAY - MS)
        assert await rings(cluster) == (1,)
        with pytest.raises(Suspended):
            await ref.ask(Ring(2), key=key, on_suspend="raise")
        await cluster.advance(2 * MS)
        assert await rings(cluster) == (1, 2)
        assert await ref.result(Ring, key) == 2


async def test_it_waits_over_crashes_and_has_one_effect_under_its_key() -> None:
    async with memory(bell) as cluster:
        ref, at = cluster.at(Bell, "b"), in_(cluster, DAY)
        for _ in range(3):
            assert await ref.tell(Ring(7), key="k", at=at) == "k"
            await cluster.crash()
        await cluster.advance(2 * DAY)
        await ref.tell(Ring(7), key="k", at=in_(cluster, DAY))
        await cluster.advance(2 * DAY)
        assert await rings(cluster) == (7,)


async def test_a_time_that_has_passed_is_now() -> None:
    async with memory(bell) as cluster:
        ref = cluster.at(Bell, "b")
        key = await ref.tell(Ring(1), at=in_(cluster, -DAY))
        assert await ref.result(Ring, key) == 1
        assert await listed(cluster, Bell) == []


async def test_it_can_be_cancelled() -> None:
    async with memory(bell) as cluster:
        ref = cluster.at(Bell, "b")
        key = await ref.tell(Ring(1), at=in_(cluster, DAY))
        await ref.cancel(key)
        with pytest.raises(RpcClientError, match="it was cancelled"):
            await ref.result(Ring, key)
        await cluster.advance(2 * DAY)
        assert await rings(cluster) == ()


async def test_a_type_without_flows_has_no_secret_that_a_token_could_be_signed_with() -> None:
    async with memory(bell) as cluster:
        await cluster.at(Bell, "b").tell(Ring(1), key="k", at=in_(cluster, DAY))
        for secrets in ([b""], [b"0" * 32]):
            body = Body(1, "bell", "b", "k", "(time)", "")
            token = Token[int](make_token(secrets, "perdure", body))
            with pytest.raises(MalformedMessage, match="isn't genuine"):
                await cluster.resume(token, 1)
        await cluster.advance(DAY / 2)
        assert await rings(cluster) == ()


async def test_a_flow_can_be_begun_later() -> None:
    async with hosted() as (cluster, world):
        key = await cluster.at(Case, "c").tell(Open(), at=in_(cluster, DAY))
        await cluster.advance(DAY / 2)
        assert world.tokens == []
        await cluster.advance(DAY)
        (token,) = world.tokens
        await cluster.resume(token, 3)
        assert await cluster.at(Case, "c").result(Open, key) == "3 after begun"


async def test_its_time_waits_for_a_flow_that_has_the_entity_for_itself() -> None:
    async with hosted() as (cluster, world):
        await cluster.at(Case, "c").tell(Note("in time"), at=in_(cluster, DAY))
        await suspended(cluster, "c", "k", 3)
        await cluster.advance(2 * DAY)
        await cluster.resume(world.tokens[0], 1)
        await cluster.quiet()
        assert await cluster.at(Case, "c").query(Read()) == ("begun", "ended", "in time")


async def test_a_bug_at_its_time_parks_it() -> None:
    async with memory(bell) as cluster:
        await cluster.at(Bell, "b").tell(Ring(-1), key="k", at=in_(cluster, DAY))
        await cluster.advance(DAY + MS)
        (flow,) = await listed(cluster, Bell)
        assert "ValueError: -1 rings" in (flow.parked or "")
        assert await cluster.at(Bell, "b").ask(Ring(4)) == 1


@pytest.mark.parametrize(
    "at",
    [datetime(2030, 1, 1), datetime(2262, 1, 1, tzinfo=UTC), "tomorrow", 5],
)
async def test_a_time_that_cant_be(at: object) -> None:
    async with memory(bell) as cluster:
        with pytest.raises(MalformedMessage, match="at="):
            await cluster.at(Bell, "b").tell(Ring(1), at=at)  # type: ignore[arg-type]


async def test_an_entity_has_a_thousand_open_flows_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perdure.durable.plan.OPEN_FLOWS", 3)
    async with hosted() as (cluster, world):
        ref = cluster.at(Case, "c")
        for n in range(3):
            await ref.tell(Note(f"{n}"), key=f"k-{n}", at=in_(cluster, DAY))
        await ref.tell(Note("too many"), key="k-3", at=in_(cluster, DAY))
        for command in (ref.result(Note, "k-3"), ref.ask(Open(), key="k")):
            with pytest.raises(MailboxFull, match="flows of this entity are open"):
                await command
        assert await ref.ask(Note("plain")) == 1
        await cluster.advance(2 * DAY)
        first, *later = await ref.query(Read())
        assert (first, sorted(later)) == ("plain", ["0", "1", "2"])
        await suspended(cluster, "c", "k")
        assert len(world.tokens) == 1


# -- the listing ------------------------------------------------------------------------------
def forgets_nothing(self: Forgetting, *_: object) -> None:
    """Instead of `add`."""


async def test_who_waits_for_no_time_is_listed_for_as_long_and_no_ghost_for_longer_than_a_month(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with hosted() as (cluster, world):
        schedules = cluster._caller.session.schedules  # pyright: ignore[reportPrivateUsage]
        await suspended(cluster, "c", "k", 1)
        for _month in range(3):
            await cluster.advance(31 * DAY)
            assert [flow.key for flow in await listed(cluster)] == ["k"]
            assert len(await schedules.pending("case", after=0)) == 1
        with monkeypatch.context() as killed:  # before it could delete what nobody waits for
            killed.setattr(Forgetting, "add", forgets_nothing)
            await cluster.resume(world.tokens[0], 3)
            await cluster.quiet()
        assert await listed(cluster) == []
        assert len(await schedules.pending("case", after=0)) == 1
        await cluster.advance(31 * DAY)
        assert await schedules.pending("case", after=0) == []


async def test_open_flows_are_listed_until_they_end() -> None:
    async with hosted() as (cluster, world):
        began, due = cluster.clock.now_ns() // 1_000_000, in_(cluster, DAY)
        await suspended(cluster, "c", "k", 1)
        await cluster.at(Case, "d").tell(Note("later"), key="n", at=due)
        await cluster.quiet()
        deferred, timed = await listed(cluster)
        assert deferred == Suspension(
            address="case/c",
            command="open",
            key="k",
            waits_for=("answer",),
            since=datetime(1970, 1, 1, tzinfo=UTC) + began * MS,
        )
        assert (timed.address, timed.command, timed.key) == ("case/d", "note", "n")
        assert timed.due == due
        assert [f.key async for f in cluster.suspended(Case, prefix="d")] == ["n"]
        await cluster.resume(world.tokens[0], 1)
        await cluster.advance(2 * DAY)
        assert await listed(cluster) == []
        assert await cluster.at(Case, "d").query(Read()) == ("later",)


async def test_nothing_stays_armed_for_flows_that_have_ended() -> None:
    async with hosted() as (cluster, world):
        inside: Any = cluster
        schedules = inside._caller.session.schedules
        for n in range(3):
            await suspended(cluster, f"c-{n}", "k", 0)
        assert len(await schedules.pending("case", after=0)) == 3
        for token in world.tokens:
            await cluster.resume(token, 1)
        await cluster.quiet()
        assert await schedules.pending("case", after=0) == []


async def test_more_open_flows_than_a_page() -> None:
    async with hosted() as (cluster, _):
        for n in range(230):
            await cluster.at(Case, f"c-{n}").tell(Note("x"), at=in_(cluster, DAY))
        await cluster.quiet()
        assert len({flow.address for flow in await listed(cluster)}) == 230


# -- call cycles ------------------------------------------------------------------------------
class Left(State):
    n: int = 0


class Right(State):
    n: int = 0


class Turned(Event):
    pass


class GoLeft(Command[Left, str]):
    alone: bool


class Bump(Command[Left, int]):
    pass


class GoRight(Command[Right, str]):
    pass


def decide_left(state: Left, command: Bump) -> Decision[Turned]:
    return command.accept(state.n + 1, Turned())


class Look(Command[Right, int]):
    pass


def decide_right(state: Right, command: Look) -> Decision[Turned]:
    return command.accept(state.n)


def evolve_left(state: Left, event: Turned) -> Left:
    return state.replace(n=state.n + 1)


def evolve_right(state: Right, event: Turned) -> Right:
    return state.replace(n=state.n + 1)


async def go_left(flow: Flow[Left, Turned], command: GoLeft) -> Decision[Turned]:
    if not command.alone:
        return command.accept(await flow.at(Right, "r").ask(GoRight()))
    async with flow.exclusive():
        return command.accept(await flow.at(Right, "r").ask(GoRight()))


async def go_right(flow: Flow[Right, Turned], command: GoRight) -> Decision[Turned]:
    return command.accept(f"{await flow.at(Left, 'l').ask(Bump())}")


left = Entity(Left(), decide_left, evolve_left, flows=[go_left])
right = Entity(Right(), decide_right, evolve_right, flows=[go_right])


async def test_a_cycle_that_would_wait_for_ever_is_refused_with_its_chain() -> None:
    async with memory(left, right) as cluster:
        ref = cluster.at(Left, "l")
        with pytest.raises(RpcClientError, match="left/l → right/r → left/l"):
            await ref.ask(GoLeft(True))
        assert await ref.ask(Bump()) == 1


async def test_who_is_asked_may_ask_back_where_nobody_is_excluded() -> None:
    async with memory(left, right) as cluster:
        assert await cluster.at(Left, "l").ask(GoLeft(False)) == "1"


async def test_others_wait_for_an_exclusive_flow_that_doesnt_wait_for_them() -> None:
    world = World()
    async with memory(case_of(world)) as cluster:
        await suspended(cluster, "c", "k", 3)
        await cluster.at(Case, "c").tell(Note("behind"))
        await cluster.resume(world.tokens[0], 1)
        await cluster.quiet()
        assert await cluster.at(Case, "c").query(Read()) == ("begun", "ended", "behind")
