"""What damaged logs and bugs of our own do to a runner: one entity suffers, no neighbour."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.durable.folded import Folded
from perdure.durable.phase import Quarantined
from perdure.durable.plan import Plan, make_plan
from perdure.durable.runner import Runner
from perdure.entities.address import Address
from perdure.streams.memory.logs import LogStore

from .keeper import add, keeper
from .world import world


async def test_a_log_that_cant_be_folded_quarantines_its_entity_alone() -> None:
    async with world(keeper) as w:
        await w.ask("c", add(1))
        await w.ask("d", add(1))
        stored = await w.caller.log.last(Address("keeper", "c"))
        assert stored is not None
        w.broker.tamper(Address("keeper", "c"), 1, stored.data.replace(b'"n":1', b'"n":2'))
        w.runners[0][0].passivate_all()
        error = (await w.ask("c", add(1)))["error"]
        assert error["type"] == "SerializationError"
        await w.tell("c", add(1))
        await w.tell("d", add(1))
        await w.until(lambda: w.broker.waiting("keeper") == 1)
        assert (await w.ask("d", add(1)))["reply"] == 3
        w.broker.tamper(Address("keeper", "c"), 1, stored.data)  # repaired
        hosted = w.runners[0][0]._hosted[0]  # pyright: ignore[reportPrivateUsage]
        (activation,) = [
            shard.activations["c"] for shard in hosted.shards if "c" in shard.activations
        ]
        assert isinstance(activation.phase, Quarantined)
        activation.phase.until = 0.0
        assert (await w.ask("c", add(1)))["reply"] == 3  # the parked tell came first
        await w.quiet()


async def test_a_parked_tell_is_held_once_however_often_it_is_delivered() -> None:
    """What is held bounds what a shard takes: a count that grows would starve the healthy."""
    async with world(keeper, shards=1) as w:
        await w.ask("c", add(1))
        w.broker.tamper(Address("keeper", "c"), 1, b'{"v":1}')
        w.runners[0][0].passivate_all()
        for n in range(5):
            await w.tell("c", add(1), key=f"t{n}")
        hosted = w.runners[0][0]._hosted[0]  # pyright: ignore[reportPrivateUsage]
        (shard,) = hosted.shards

        def parked() -> list[str]:
            found = shard.activations.get("c")
            phase = None if found is None else found.phase
            return [i.consumer for i in phase.parked] if isinstance(phase, Quarantined) else []

        await w.until(lambda: len(parked()) == 5)

        async def delivered_anew() -> None:
            before = set(parked())
            w.broker.disconnect(w.runners[0][1])
            await w.until(lambda: before.isdisjoint(parked()))

        for _ in range(4):
            await delivered_anew()
            assert len(parked()) == 5
            assert shard._held == 5  # pyright: ignore[reportPrivateUsage]


async def test_a_bug_in_a_sweep_is_not_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweeps: list[float] = []

    def broken(self: Runner, idle_s: float) -> None:
        sweeps.append(idle_s)
        raise KeyError("a bug")

    monkeypatch.setattr(Runner, "_sweep", broken)
    async with world(keeper, passivate_after=0.01) as w:
        await w.until(lambda: len(sweeps) >= 2)
    assert "_sweeps failed" in caplog.text


async def test_foreign_messages_on_a_log_count_and_are_never_folded() -> None:
    async with world(keeper) as w:
        await w.ask("c", add(1))
        w.broker.publish_foreign("perdure.log.keeper.c", b'{"stream":"X","seq":1}')
        assert (await w.ask("c", add(1)))["reply"] == 2
        w.runners[0][0].passivate_all()
        assert (await w.ask("c", add(1)))["reply"] == 3


async def test_a_last_message_that_cant_be_read_is_no_new_entity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world(keeper) as w:
        await w.ask("c", add(1))
        w.runners[0][0].passivate_all()
        # what a server does with a message whose checksum is wrong: it is counted, and not there
        monkeypatch.setattr(LogStore, "last", lambda self, token: None)  # pyright: ignore
        error = (await w.ask("c", add(1)))["error"]
        assert error["type"] == "SerializationError"
        assert await w.caller.log.count(Address("keeper", "c")) == 1


async def test_an_internal_error_quarantines_one_entity_and_not_its_shard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = make_plan

    def plan(of: Any, address: Address, folded: Folded, queue: Any, **limits: Any) -> Plan:
        if folded.version == 1 and folded.state.n == 7:
            raise ZeroDivisionError("a bug of ours")
        return real(of, address, folded, queue, **limits)

    monkeypatch.setattr("perdure.durable.execution.make_plan", plan)
    async with world(keeper, shards=1) as w:
        await w.ask("c", add(7))
        terms = w.runners[0][0].statistics().terms
        error = (await w.ask("c", add(1)))["error"]
        assert (error["type"], "a bug of ours" in error["cause"]) == ("SerializationError", True)
        assert (await w.ask("d", add(1)))["reply"] == 1
        assert w.runners[0][0].statistics().terms == terms
