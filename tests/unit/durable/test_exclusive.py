"""A flow that has its entity for itself: who asks is told so, tells wait, and nothing is lost."""

from __future__ import annotations

import asyncio

import pytest

from perdure import (
    Decision,
    Entity,
    Flow,
    Suspended,
    memory,
)
from perdure.durable.runner import Hosted
from perdure.durable.testing import TestCluster

from .case import (
    Case,
    Note,
    Noted,
    Open,
    Read,
    World,
    decide,
    evolve,
    hosted,
    suspended,
)
from .peers import until


async def test_while_a_flow_is_exclusive_asks_are_refused_and_tells_wait() -> None:
    async with hosted() as (cluster, world):
        await suspended(cluster, key="k", n=3)
        case = cluster.at(Case, "c")
        with pytest.raises(Suspended) as caught:
            await case.ask(Note("ask"), key="a", on_suspend="raise")
        assert caught.value.waits_for == ("answer",)
        assert caught.value.may_have_taken_effect
        assert caught.value.advice == "retry with the same key"  # it isn't kept
        assert "for itself: k" in str(caught.value)
        told = [await case.tell(Note(f"told {n}"), key=f"t-{n}") for n in range(20)]
        assert await case.query(Read()) == ("begun",)
        await cluster.crash()
        waits = asyncio.create_task(case.ask(Note("after the tells"), key="w", timeout=20))
        await cluster.resume(world.tokens[0], 1)
        assert await case.result(Open, "k") == "1 after begun"
        assert await case.result(Note, told[-1]) >= 22
        assert await waits == 23
        notes = await case.query(Read())
        assert notes[:2] == ("begun", "ended")
        assert len(notes) == 23
        assert [note for note in notes if note.startswith("told")] == [
            f"told {n}" for n in range(20)
        ]
        assert "ask" not in notes


async def test_who_asks_after_a_tell_that_is_held_is_told_what_it_waits_for() -> None:
    async with hosted() as (cluster, world):
        await suspended(cluster, key="k", n=3)
        case = cluster.at(Case, "c")
        await case.tell(Note("told"), key="t")
        with pytest.raises(Suspended) as caught:
            await case.ask(Note("ask"), key="a", on_suspend="raise", timeout=5)
        assert caught.value.waits_for == ("answer",)
        await cluster.resume(world.tokens[0], 1)
        assert await case.ask(Note("ask"), key="a", on_suspend="raise") == 4
        assert await case.query(Read()) == ("begun", "ended", "told", "ask")


async def test_what_was_held_is_looked_at_again_in_the_next_term() -> None:
    async with hosted() as (cluster, world):
        await suspended(cluster, key="k", n=3)
        case = cluster.at(Case, "c")
        await case.tell(Note("told"), key="t")
        (shard,) = [s for s in _hosted(cluster).shards if "c" in s.activations]
        flows, first = shard.activations["c"].flows, shard.term
        await until(lambda: bool(flows.held))
        held = flows.held[0]
        await cluster.resume(world.tokens[0], 1)
        assert await case.result(Note, "t") == 3
        flows.held.append(held)  # as where another owner did it, and this one doesn't know
        assert first is not None
        first.end("gap")
        await until(lambda: shard.term not in (None, first))
        await until(lambda: shard.activations["c"].idle)
        assert await case.query(Read()) == ("begun", "ended", "told")


def _hosted(cluster: TestCluster) -> Hosted:
    (hosted,) = vars(cluster)["_runner"]._hosted
    assert isinstance(hosted, Hosted)
    return hosted


async def test_what_was_held_goes_on_where_a_flow_ends_that_cannot_be_undone() -> None:
    world = World()

    async def holds(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        async with flow.exclusive():
            await flow.deferred("answer", int)
        return command.accept("")

    async def other(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await flow.step("another").run(world.act, "x", "y")
        return command.accept("")

    async with memory(Entity(Case(), decide, evolve, flows=[holds])) as cluster:
        await suspended(cluster)
        held = await cluster.at(Case, "c").tell(Note("held"))
        await cluster.quiet()
        vars(cluster)["_entities"] = (Entity(Case(), decide, evolve, flows=[other]),)
        await cluster.crash()
        await cluster.at(Case, "c").cancel("k")
        assert await cluster.at(Case, "c").result(Note, held, timeout=5) == 1
        assert await cluster.at(Case, "c").query(Read()) == ("held",)
