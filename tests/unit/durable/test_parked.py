"""Flows that are parked in the middle of a turn: others go on, and so do they, or are undone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest

from perdure import (
    Decision,
    Entity,
    Flow,
    Retry,
    RpcClientError,
    Settings,
    Suspended,
    Token,
    memory,
)
from perdure.durable.testing import TestCluster

from .case import Case, Denied, Note, Noted, Open, Read, decide, evolve
from .test_flows import publish

ONCE = Retry(attempts=1)
SETTINGS = Settings(defect_retry=Retry(attempts=2, base=0.001))


@dataclass
class Shop:
    """What happens outside."""

    broken: bool = True
    done: list[str] = field(default_factory=list[str])
    seen: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    tokens: dict[str, Token[int]] = field(default_factory=dict[str, Token[int]])

    async def act(self, what: str) -> None:
        self.done.append(what)

    async def fail(self, what: str) -> None:
        self.done.append(what)
        if self.broken:
            raise OSError("the partner is down")

    async def send(self, name: str, token: Token[int]) -> None:
        self.tokens[name] = token

    async def wait(self, flow: Flow[Case, Noted], name: str) -> int:
        deferred = flow.deferred(name, int)
        await flow.step(f"send {name}").run(self.send, name, deferred.token)
        return await deferred

    def break_down(self) -> None:
        if self.broken:
            raise ValueError("a bug")


Body = Callable[[Shop, Flow[Case, Noted], Open], Awaitable[Decision[Noted]]]


def kit(shop: Shop, body: Body) -> AbstractAsyncContextManager[TestCluster]:
    async def opens(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        return await body(shop, flow, command)

    return memory(Entity(Case(), decide, evolve, flows=[opens]), settings=SETTINGS)


async def outcome(cluster: TestCluster) -> object:
    try:
        return await cluster.at(Case, "c").ask(Open(), key="k", on_suspend="raise", timeout=5)
    except (Denied, RpcClientError, Suspended) as error:
        return error


async def parked(cluster: TestCluster, shop: Shop) -> None:
    """Bring the flow to where its code, or what it calls, is wrong."""
    await outcome(cluster)
    if "d" in shop.tokens:
        await cluster.resume(shop.tokens["d"], 1)
        await cluster.quiet()
    assert "the flow is parked" in str(await outcome(cluster))


class Mendable(Protocol):
    broken: bool


async def retry(cluster: TestCluster, shop: Mendable) -> None:
    """It is mended, and an operator lets the flow go on."""
    shop.broken = False
    await publish(cluster, b'{"type":"$retry","flow":"k"}')
    await cluster.quiet()


async def cancel(cluster: TestCluster, key: str = "k") -> None:
    await cluster.at(Case, "c").cancel(key)
    await cluster.quiet()


async def midway(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
    def look() -> None:
        seen.append("+".join(flow.state.notes))

    seen: list[str] = []
    look()
    await shop.wait(flow, "d")
    look()
    await flow.step("hotel").undo(shop.act, "undo hotel").run(shop.act, "hotel")
    await flow.emit(Noted("hotel"))
    look()
    shop.break_down()
    await flow.step("car").undo(shop.act, "undo car").run(shop.act, "car")
    look()
    await flow.emit(Noted("car"))
    await shop.wait(flow, "e")
    look()
    shop.seen.append(tuple(seen))
    return command.accept("ok")


@pytest.mark.parametrize("crashes", [False, True])
async def test_it_goes_on_with_what_others_made_of_the_entity(crashes: bool) -> None:
    shop = Shop()
    async with kit(shop, midway) as cluster:
        await parked(cluster, shop)
        await cluster.at(Case, "c").ask(Note("x"))
        if crashes:
            await cluster.crash()
        await retry(cluster, shop)
        if crashes:
            await cluster.crash()
        await cluster.at(Case, "c").ask(Note("y"))
        await cluster.resume(shop.tokens["e"], 1)
        assert await outcome(cluster) == "ok"
        assert shop.done == ["hotel", "car"], "each once"
        states = ("", "", "hotel", "hotel+x", "hotel+x+car+y")
        assert shop.seen == [states]
        assert await cluster.at(Case, "c").query(Read()) == ("hotel", "x", "car", "y")


async def test_it_is_parked_again_and_goes_on_again() -> None:
    shop = Shop()
    async with kit(shop, midway) as cluster:
        await parked(cluster, shop)
        for text in ("x", "y"):
            await cluster.at(Case, "c").ask(Note(text))
            await publish(cluster, b'{"type":"$retry","flow":"k"}')
            await cluster.quiet()
            assert "ValueError: a bug" in str(await outcome(cluster))
        await retry(cluster, shop)
        await cluster.resume(shop.tokens["e"], 1)
        assert await outcome(cluster) == "ok"
        assert shop.done == ["hotel", "car"]
        assert shop.seen[0][:4] == ("", "", "hotel", "hotel+x+y")


@pytest.mark.parametrize("mended", [True, False])
async def test_it_is_undone_when_it_is_cancelled_if_its_code_can_be_run(mended: bool) -> None:
    shop = Shop()
    async with kit(shop, midway) as cluster:
        await parked(cluster, shop)
        await cluster.at(Case, "c").ask(Note("x"))
        shop.broken = not mended
        await cancel(cluster)
        told = str(await outcome(cluster))
        assert "the flow has ended: it was cancelled" in told
        assert ("nothing was undone: ValueError: a bug" in told) is not mended
        assert shop.done == ["hotel", "undo hotel"] if mended else ["hotel"]


async def test_in_its_first_turn_it_ends_there_too() -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await flow.step("a").undo(shop.act, "undo a").run(shop.act, "a")
        shop.break_down()
        await flow.step("charge").run(shop.act, "charge")
        return command.accept("charged")

    shop = Shop()
    async with kit(shop, body) as cluster:
        await parked(cluster, shop)
        shop.broken = False
        await cancel(cluster)
        assert "the flow has ended: it was cancelled" in str(await outcome(cluster))
        assert shop.done == ["a", "undo a"]


async def reject(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
    await flow.step("hotel").undo(shop.act, "undo hotel").run(shop.act, "hotel")
    await flow.step("car", retry=ONCE).undo(shop.fail, "undo car").run(shop.act, "car")
    await shop.wait(flow, "d")
    return command.reject(Denied("no"))


async def test_an_undo_is_tried_again_whatever_others_did_meanwhile() -> None:
    shop = Shop()
    async with kit(shop, reject) as cluster:
        await parked(cluster, shop)
        await cluster.at(Case, "c").ask(Note("x"))
        await retry(cluster, shop)
        assert await outcome(cluster) == Denied("no")
        assert shop.done[-2:] == ["undo car", "undo hotel"]


async def test_what_cannot_be_undone_is_cancelled_twice() -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await flow.step("car", retry=ONCE).undo(shop.fail, "undo car").run(shop.act, "car")
        await flow.step("hotel").undo(shop.act, "undo hotel").run(shop.act, "hotel")
        await shop.wait(flow, "d")
        return command.accept("")

    shop = Shop()
    async with kit(shop, body) as cluster:
        await outcome(cluster)
        await cancel(cluster)
        assert "the flow is parked: StepFailed: step 'undo car'" in str(await outcome(cluster))
        await cluster.at(Case, "c").ask(Note("x"))
        await cancel(cluster)
        told = str(await outcome(cluster))
        assert "the flow has ended: it was cancelled, and not all was undone: StepFailed" in told
        assert shop.done.count("undo hotel") == 1


async def test_what_a_step_did_before_a_bug_is_recorded() -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await shop.wait(flow, "d")
        await flow.step("charge").run(shop.act, "charge")
        shop.break_down()
        return command.accept("charged")

    shop = Shop()
    async with kit(shop, body) as cluster:
        await parked(cluster, shop)
        await retry(cluster, shop)
        assert await outcome(cluster) == "charged"
        assert shop.done == ["charge"]


async def test_cancelling_what_is_held_comes_behind_it() -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        async with flow.exclusive():
            await shop.wait(flow, "d")
        return command.accept("")

    shop = Shop()
    async with kit(shop, body) as cluster:
        await outcome(cluster)
        ref: Any = cluster.at(Case, "c")
        at = datetime.fromtimestamp(cluster.clock.now_ns() / 1e9, UTC) + timedelta(days=1)
        await ref.tell(Note("gift"), key="g", at=at)
        await cluster.quiet()
        await publish(cluster, b'{"type":"$cancel","flow":"g"}')
        await cluster.quiet()
        await cluster.resume(shop.tokens["d"], 1)
        await cluster.advance(timedelta(days=2))
        assert await ref.query(Read()) == ()


async def behind_its_last_line(
    shop: Shop, flow: Flow[Case, Noted], command: Open
) -> Decision[Noted]:
    await flow.step("hotel").undo(shop.act, "undo hotel").run(shop.act, "hotel")
    if command.n:
        car = flow.step("car", retry=ONCE).undo(shop.fail, "undo car")
        await car.run(shop.act, "car")
        return command.reject(Denied("no"))
    shop.break_down()
    return command.accept("ok")


async def test_cancelled_behind_its_last_line_it_ends_so() -> None:
    """It answered whoever cancelled it, and then it accepted."""
    shop = Shop()
    async with kit(shop, behind_its_last_line) as cluster:
        await parked(cluster, shop)
        shop.broken = False
        await cancel(cluster)
        assert "it was cancelled" in str(await outcome(cluster))
        assert shop.done == ["hotel", "undo hotel"]
        assert await cluster.at(Case, "c").query(Read()) == ()


async def test_cancelled_while_what_undoes_a_refusal_fails_it_is_undone() -> None:
    """It ended as it was, and nothing was undone."""
    shop = Shop()
    async with kit(shop, behind_its_last_line) as cluster:
        ref = cluster.at(Case, "c")
        with pytest.raises(RpcClientError, match=r"the flow is parked: .*partner is down"):
            await ref.ask(Open(1), key="k", timeout=60)
        shop.broken = False
        await cancel(cluster)
        with pytest.raises(RpcClientError, match=r"it was cancelled \("):
            await ref.ask(Open(1), key="k", timeout=5)
        assert shop.done[-2:] == ["undo car", "undo hotel"]
        assert shop.done.count("undo hotel") == 1
