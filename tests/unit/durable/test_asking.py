"""Flows that ask other entities: once in effect, whoever ends in between."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import pytest
from msgspec import Raw

from perdure import (
    Command,
    Decision,
    Entity,
    Event,
    Failure,
    Flow,
    Query,
    RpcClientError,
    State,
    memory,
)
from perdure.durable.asking import again_ms
from perdure.durable.testing import TestCluster
from perdure.entities.address import Address
from perdure.streams.asks import Envelope, encode_envelope

MONTH_S = 30 * 86_400


# -- stock: plain --------------------------------------------------------------------------------
class Stock(State):
    left: int = 10


class SoldOut(Failure):
    left: int


class Reserve(Command[Stock, int, SoldOut]):
    pieces: int


class Boom(Command[Stock, int]):
    pass


class Left(Query[Stock, int]):
    pass


class Reserved(Event):
    pieces: int


def decide_stock(state: Stock, command: Reserve | Boom | Left) -> Decision[Reserved]:
    match command:
        case Reserve(pieces) if pieces > state.left:
            return command.reject(SoldOut(state.left))
        case Reserve(pieces):
            return command.accept(state.left - pieces, Reserved(pieces))
        case Left():
            return command.answer(state.left)
        case Boom():
            raise ValueError("as planned")


def evolve_stock(state: Stock, event: Reserved) -> Stock:
    return state.replace(left=state.left - event.pieces)


stock = Entity(Stock(), decide_stock, evolve_stock)


# -- payment: a flow of its own -----------------------------------------------------------------
class Payment(State):
    paid: int = 0


class Paid(Event):
    cents: int


class Pay(Command[Payment, int]):
    cents: int


class GetPaid(Query[Payment, int]):
    pass


def decide_payment(state: Payment, command: GetPaid) -> Decision[Paid]:
    return command.answer(state.paid)


def evolve_payment(state: Payment, event: Paid) -> Payment:
    return state.replace(paid=state.paid + event.cents)


async def pays(flow: Flow[Payment, Paid], command: Pay) -> Decision[Paid]:
    await flow.sleep("clearing", 3600)
    return command.accept(flow.state.paid + command.cents, Paid(command.cents))


payment = Entity(Payment(), decide_payment, evolve_payment, flows=[pays])


# -- order: asks both -----------------------------------------------------------------------------
class Order(State):
    done: tuple[str, ...] = ()


class Did(Event):
    what: str


class Place(Command[Order, str, SoldOut]):
    pieces: int


class Break(Command[Order, str]):
    pass


class Bill(Command[Order, int]):
    pass


class GetDone(Query[Order, tuple[str, ...]]):
    pass


def decide_order(state: Order, command: GetDone) -> Decision[Did]:
    return command.answer(state.done)


def evolve_order(state: Order, event: Did) -> Order:
    return state.replace(done=(*state.done, event.what))


async def places(flow: Flow[Order, Did], command: Place) -> Decision[Did]:
    left = await flow.at(Stock, "s").ask(Reserve(command.pieces))
    await flow.emit(Did(f"reserved, {left} left"))
    cents = await flow.at(Payment, "p").ask(Pay(100 * command.pieces))
    return command.accept(f"{left} {cents}", Did("paid"))


async def breaks(flow: Flow[Order, Did], command: Break) -> Decision[Did]:
    await flow.at(Stock, "s").ask(Boom())
    return command.accept("")


async def bills(flow: Flow[Order, Did], command: Bill) -> Decision[Did]:
    await flow.sleep("month", MONTH_S)
    return command.accept(await flow.at(Payment, "p").ask(Pay(100)))


order = Entity(Order(), decide_order, evolve_order, flows=[places, breaks, bills])


@asynccontextmanager
async def shop() -> AsyncGenerator[TestCluster]:
    async with memory(stock, payment, order) as cluster:
        yield cluster


async def test_a_flow_asks_a_command_and_a_flow_of_others() -> None:
    async with shop() as cluster:
        key = await cluster.at(Order, "o").tell(Place(3))
        await cluster.quiet()
        assert await cluster.at(Order, "o").query(GetDone()) == ("reserved, 7 left",)
        await cluster.advance(3600)
        assert await cluster.at(Order, "o").result(Place, key) == "7 300"
        assert await cluster.at(Payment, "p").query(GetPaid()) == 300
        assert await cluster.at(Stock, "s").query(Left()) == 7


async def test_what_is_answered_is_not_asked_again() -> None:
    async with shop() as cluster:
        schedules = cluster._caller.session.schedules  # pyright: ignore[reportPrivateUsage]
        await cluster.at(Order, "o").tell(Place(3))
        await cluster.quiet()
        left = [msgspec.json.decode(one.data) for one in await schedules.pending("order", after=0)]
        assert [timer["timer"] for timer in left] == ["ask pay"]
        await cluster.advance(3600)
        assert await schedules.pending("order", after=0) == []


async def test_how_soon_is_asked_again_is_a_matter_of_the_question_and_not_of_its_flow() -> None:
    async with shop() as cluster:
        schedules = cluster._caller.session.schedules  # pyright: ignore[reportPrivateUsage]

        async def due_ms() -> int:
            await cluster.quiet()
            (one,) = await schedules.pending("order", after=0)
            timer = msgspec.json.decode(one.data)
            assert timer["timer"] == "ask pay"
            return int(timer["due_ms"])

        key = await cluster.at(Order, "o").tell(Bill())
        await cluster.quiet()
        await cluster.advance(MONTH_S)
        due = await due_ms()
        gaps_s: list[float] = []
        for _ in range(4):
            await cluster.advance(gaps_s[-1] if gaps_s else 5)
            before, due = due, await due_ms()
            gaps_s.append((due - before) / 1000)
        assert gaps_s == pytest.approx([5, 5, 7.5, 11.25], abs=0.1)
        await cluster.advance(3600)
        assert await cluster.at(Order, "o").result(Bill, key) == 100


@pytest.mark.parametrize(("waited_s", "s"), [(0, 5), (10, 5), (60, 30), (7200, 3600), (1e6, 3600)])
def test_who_waits_longer_asks_again_later_up_to_an_hour(waited_s: float, s: float) -> None:
    assert again_ms(int(waited_s * 1000)) == s * 1000


async def test_a_failure_of_another_is_raised_in_the_flow() -> None:
    async with shop() as cluster:
        with pytest.raises(SoldOut):
            await cluster.at(Order, "o").ask(Place(11), timeout=5)
        assert await cluster.at(Order, "o").query(GetDone()) == ()


async def test_what_breaks_there_breaks_here() -> None:
    async with shop() as cluster:
        key = await cluster.at(Order, "o").tell(Break())
        with pytest.raises(RpcClientError, match="RpcClientError: defect: ValueError: as planned"):
            await cluster.at(Order, "o").result(Break, key, timeout=20)


@pytest.mark.parametrize("crashes", range(1, 6))
async def test_crashes_on_the_way_change_nothing(crashes: int) -> None:
    """At each turn of the loop where something may be in the air."""
    async with shop() as cluster:
        keys = [await cluster.at(Order, f"o-{n}").tell(Place(1)) for n in range(5)]
        for _ in range(crashes):
            for _ in range(7 * crashes):
                await asyncio.sleep(0)
            await cluster.crash()
        await cluster.quiet()
        await cluster.advance(4 * 3600)
        for n, key in enumerate(keys):
            found = await cluster.at(Order, f"o-{n}").result(Place, key)
            assert found.split()[0] in "98765"
        assert await cluster.at(Stock, "s").query(Left()) == 5
        assert await cluster.at(Payment, "p").query(GetPaid()) == 500


async def test_nobody_else_can_answer() -> None:
    async with shop() as cluster:
        key = await cluster.at(Order, "o").tell(Place(3))
        caller = cluster._caller  # pyright: ignore[reportPrivateUsage]
        forged = b'{"type":"$answer","token":"lwGnYWNjb3VudA.AAAA","answer":{"reply":9}}'
        body = encode_envelope(Envelope(1, "tell", Raw(forged), "forged"))
        await caller.session.commands.publish(Address("order", "o"), body)
        spoof = Envelope(1, "tell", Raw(b'{"type":"reserve","pieces":1}'), "s", reply_to="flow:x")
        await caller.session.commands.publish(Address("stock", "s"), encode_envelope(spoof))
        await cluster.quiet()
        await cluster.advance(3600)
        assert (await cluster.at(Order, "o").result(Place, key)).split()[1] == "300"


async def test_who_begins_a_flow_cannot_have_its_answer_signed_for_another() -> None:
    body = [1, "order", "o", "k", "ask pay", ""]
    head = base64.urlsafe_b64encode(msgspec.msgpack.encode(body)).rstrip(b"=").decode()
    forged = f"flow:{head}.{'A' * 22}"
    evil = Envelope(1, "tell", Raw(b'{"type":"pay","cents":1}'), "evil", reply_to=forged)
    async with shop() as cluster:
        caller = cluster._caller  # pyright: ignore[reportPrivateUsage]
        await caller.session.commands.publish(Address("payment", "x"), encode_envelope(evil))
        await cluster.advance(1800)
        await cluster.at(Order, "o").tell(Place(3), key="k")
        await cluster.advance(1800)
        assert await cluster.at(Payment, "x").query(GetPaid()) == 1
        assert await cluster.at(Order, "o").query(GetDone()) == ("reserved, 7 left",)
        await cluster.advance(1800)
        assert await cluster.at(Order, "o").result(Place, "k") == "7 300"
