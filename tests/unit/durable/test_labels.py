"""Placement by labels: who may own a type that asks for one, in virtual time."""

from __future__ import annotations

import pytest

from perdure import Entity, RunnerNotRegistered, RunnerUnavailable
from perdure.durable.assignment import hosting_of

from .keeper import Add, Keeper, decide, evolve, keeper
from .peers import holds, until, virtually
from .runners import Runners, runners

labelled = Entity(Keeper(), decide, evolve, label="gpu")

TIMEOUT_S = 2.0
"""Of an ask that nobody will answer."""


def own(r: Runners) -> dict[str, int]:
    """How many shards each has by its own account, and by the broker."""
    return {name: r.owners.count(name) for name, p in r.processes.items() if p.shards}


@virtually
async def test_only_who_has_the_label_owns() -> None:
    async with runners(entity=labelled) as r:
        await r.start("a", labels=("cpu", "gpu2"))
        await r.start("b", labels=("gpu",))
        await r.shared("b")
        await r.start("c", labels=("cpu", "gpu"))
        await r.shared("bc")
        assert own(r) == {"b": 2, "c": 2}
        for n in range(20):
            assert await r.ask(f"e-{n}", n) == n
        await r["b"].runner.drain()
        await r.shared("c")
        assert own(r) == {"c": 4}
        assert r["a"].shards == 0


@virtually
async def test_without_a_label_everybody_owns() -> None:
    async with runners() as r:
        await r.start("a", labels=("gpu",))
        await r.start("b")
        await r.shared("ab")


@virtually
async def test_a_type_whose_label_nobody_has_waits(caplog: pytest.LogCaptureFixture) -> None:
    async with runners(entity=labelled) as r:
        ref = r.cluster.at(Keeper, "e-1")
        with pytest.raises(RunnerNotRegistered) as nobody:
            await ref.ask(Add(1), timeout=TIMEOUT_S)
        assert not nobody.value.may_have_taken_effect
        await r.start("ab", labels=("cpu",))
        await until(lambda: r["a"].view == "ab")
        with pytest.raises(RunnerUnavailable) as away:
            await ref.ask(Add(1), timeout=TIMEOUT_S)
        assert not away.value.may_have_taken_effect
        await ref.tell(Add(1), key="told-1")
        await holds(lambda: r.owners == [""] * 4 and not own(r), 30)
        assert r.broker.waiting("keeper") == 1
        told = [record for record in caplog.records if "has the label" in record.message]
        assert [getattr(record, "action", "") for record in told] == ["shards.no_label"] * 2
        assert "no runner that hosts keeper has the label 'gpu'" in told[0].message
        await r.start("c", labels=("gpu",))
        await r.shared("c")
        assert await ref.result(Add, "told-1") == 1
        assert await ref.ask(Add(1)) == 2
        await r.took_effect_once("e-1", 2)


@virtually
async def test_its_last_owner_leaves_and_another_comes() -> None:
    async with runners(entity=labelled) as r:
        await r.start("a")
        await r.start("b", labels=("gpu",))
        await r.shared("b")
        await r["b"].runner.drain()
        await r.cluster.at(Keeper, "e-1").tell(Add(1))
        await holds(lambda: not own(r), 30)
        await r.start("c", labels=("gpu",))
        await r.shared("c")
        await r.took_effect_once("e-1", 1)


@virtually
async def test_the_label_is_in_the_record_and_not_in_the_fingerprint() -> None:
    async with runners(entity=labelled) as r:
        await r.start("a", labels=("gpu",))
        (member,) = r["a"].runner.membership.view.members()
        hosting = hosting_of(member, "keeper")
        assert hosting is not None
        assert (hosting.label, hosting.version) == ("gpu", keeper.code)
        assert member.labels == ("gpu",)


@virtually
async def test_code_with_the_label_takes_over_from_code_without() -> None:
    """As in a rolling deployment: who has the old code may own until it goes."""
    async with runners("a") as r:
        id = r.id_of("a", among="a")
        assert await r.ask(id) == 1
        r.entity = labelled
        await r.start("b", labels=("gpu",))
        await r.shared("ab")
        await r.start("c")
        await r["a"].runner.drain()
        await r.shared("b")
        assert await r.ask(id) == 2
        assert own(r) == {"b": 4}
