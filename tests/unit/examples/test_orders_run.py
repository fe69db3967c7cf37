"""The orders example in a real runner, in memory, on a clock that moves when told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from random import Random

import desk
import outside
import provider
import pytest
import pytest_asyncio
from books import contradictions, read
from order import (
    PATIENCE,
    Cancel,
    NotApproved,
    NotConfirmed,
    NotInTime,
    Order,
    Place,
    SoldOut,
    Verdict,
    Withdrawal,
    Withdrawn,
)
from payment import AlreadyCharged, Charge, Declined, NoProvider, Payment
from shop import ENTITIES
from stock import GetShelf, Receive, Reserve, Shelf, Stock
from takings import SHOP, GetTakings, Takings

from perdure import Suspended, TestCluster, Token, memory

RECEIVED = {"lamp": 10, "table": 4}
BOTH = {"lamp": 2, "table": 1}


@pytest_asyncio.fixture
async def shop(outside_file: Path) -> AsyncIterator[TestCluster]:
    async with memory(*ENTITIES) as cluster:
        for sku, count in RECEIVED.items():
            await cluster.at(Stock, sku).ask(Receive(count))
        yield cluster


def place(card: str = "good", cents: int = 50_00) -> Place:
    return Place("ann", card, BOTH, cents)


async def balanced(shop: TestCluster) -> None:
    assert contradictions(await read(shop), RECEIVED) == []


async def waiting(shop: TestCluster, id: str = "o-1") -> Token[Withdrawal]:
    """A large order, until it waits; the token that its customer is told."""
    await shop.at(Order, id).tell(place(cents=200_00), key="k")
    await shop.quiet()
    with pytest.raises(Suspended) as caught:
        await shop.at(Order, id).ask(place(cents=200_00), key="k", on_suspend="raise")
    assert caught.value.waits_for[:2] == ("verdict", "withdrawal")
    assert caught.value.resume_token is not None
    return Token[Withdrawal](caught.value.resume_token)


async def decide(shop: TestCluster, id: str, *, approved: bool) -> None:
    token = Token[Verdict](desk.requests()[id].token)
    await shop.resume(token, Verdict(approved=approved, by="kim"))


# -- how an order ends --------------------------------------------------------------------------
async def test_the_day_is_closed_at_night_by_itself(shop: TestCluster) -> None:
    await shop.at(Order, "o-1").ask(place())
    await shop.advance(timedelta(days=1))
    assert await shop.at(Takings, SHOP).query(GetTakings()) == 50_00
    await shop.at(Order, "o-2").ask(place())
    await shop.crash()
    await shop.advance(timedelta(days=3))
    assert await shop.at(Takings, SHOP).query(GetTakings()) == 100_00
    nights = (await shop.at(Takings, SHOP).state()).nights
    assert 3 <= nights <= 5  # four, unless a clock is put forward or back


async def test_a_small_order_is_paid_and_its_goods_leave(shop: TestCluster) -> None:
    assert await shop.at(Order, "o-1").ask(place()) == 50_00
    assert await shop.at(Stock, "lamp").query(GetShelf()) == Shelf(8, 0, 2)
    assert list(provider.books().values()) == [50_00]
    await balanced(shop)


async def test_a_charge_that_is_declined_releases_the_goods(shop: TestCluster) -> None:
    outcome = await shop.at(Order, "o-1").outcome(place("declined"))
    assert outcome == Declined("insufficient funds")
    assert await shop.at(Stock, "lamp").query(GetShelf()) == Shelf(10, 0, 0)
    await balanced(shop)


async def test_an_answer_that_is_lost_is_one_charge(shop: TestCluster) -> None:
    assert await shop.at(Order, "o-1").ask(place("flaky")) == 50_00
    assert list(provider.books().values()) == [50_00]
    await balanced(shop)


async def test_a_charge_of_unknown_outcome_is_given_back(
    shop: TestCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider takes the money each time, and its answer never comes."""
    charge = provider.charge

    async def lost(card: str, cents: int, *, idempotency_key: str) -> str:
        await charge(card, cents, idempotency_key=idempotency_key)
        raise provider.NoAnswer("lost")

    monkeypatch.setattr(provider, "charge", lost)
    assert await shop.at(Order, "o-1").outcome(place()) == NoProvider()
    with outside.opened() as db:
        assert list(db.execute("SELECT taken, given_back FROM charges")) == [(50_00, 50_00)]
    await balanced(shop)


async def test_the_second_article_is_sold_out(shop: TestCluster) -> None:
    await shop.at(Stock, "table").ask(Reserve("somebody", 4))
    assert await shop.at(Order, "o-1").outcome(place()) == SoldOut("table", 0)
    assert await shop.at(Stock, "lamp").query(GetShelf()) == Shelf(10, 0, 0)


async def test_an_order_that_was_charged_by_hand_is_not_charged_again(shop: TestCluster) -> None:
    name = await shop.at(Payment, "o-1").ask(Charge("good", 1))
    assert await shop.at(Order, "o-1").outcome(place()) == AlreadyCharged(name)
    assert await shop.at(Stock, "lamp").query(GetShelf()) == Shelf(10, 0, 0)


@pytest.mark.parametrize("crash", [False, True])
async def test_a_person_decides(shop: TestCluster, crash: bool) -> None:
    for id in ("o-1", "o-2"):
        await waiting(shop, id)
    assert await shop.at(Stock, "lamp").query(GetShelf()) == Shelf(10, 4, 0)
    if crash:
        await shop.crash()
    await decide(shop, "o-1", approved=True)
    await decide(shop, "o-2", approved=False)
    assert await shop.at(Order, "o-1").result(Place, "k") == 200_00
    with pytest.raises(NotApproved):
        await shop.at(Order, "o-2").result(Place, "k")
    assert desk.requests() == {}
    await balanced(shop)


@pytest.mark.parametrize("crash", [False, True])
async def test_nobody_decides_for_a_day(shop: TestCluster, crash: bool) -> None:
    withdrawal = await waiting(shop)
    verdict = Token[Verdict](desk.requests()["o-1"].token)
    await shop.advance(PATIENCE - timedelta(seconds=1))
    assert (await shop.at(Order, "o-1").state()).status == "placed"
    if crash:
        await shop.crash()
    await shop.advance(timedelta(seconds=1))
    with pytest.raises(NotInTime):
        await shop.at(Order, "o-1").result(Place, "k")
    await shop.resume(verdict, Verdict(approved=True, by="kim"))  # too late: nothing changes
    await shop.resume(withdrawal, Withdrawal())
    await shop.quiet()
    assert (await shop.at(Order, "o-1").state()).status == "expired"
    assert desk.requests() == {}
    await balanced(shop)


async def test_the_customer_takes_it_back(shop: TestCluster) -> None:
    withdrawal = await waiting(shop)
    await shop.resume(withdrawal, Withdrawal())
    with pytest.raises(Withdrawn):
        await shop.at(Order, "o-1").result(Place, "k")
    assert (await shop.at(Order, "o-1").state()).status == "cancelled"
    await balanced(shop)


async def test_a_confirmed_order_is_cancelled_once(shop: TestCluster) -> None:
    order = shop.at(Order, "o-1")
    assert await order.ask(place()) == 50_00
    found = await asyncio.gather(*(order.outcome(Cancel(), key=f"c-{n}") for n in range(3)))
    assert found.count(50_00) == 1
    assert all(f == 50_00 or isinstance(f, NotConfirmed) for f in found)
    assert (await order.state()).status == "cancelled"
    assert await shop.at(Stock, "lamp").query(GetShelf()) == Shelf(10, 0, 0)
    assert sum(provider.books().values()) == 0
    await balanced(shop)


async def test_a_refund_waits_until_the_provider_is_back(
    shop: TestCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    refund = provider.refund

    async def down(charge: str) -> int:
        raise provider.NoAnswer("down")

    await shop.at(Order, "o-1").ask(place())
    monkeypatch.setattr(provider, "refund", down)
    await shop.at(Order, "o-1").tell(Cancel(), key="c")
    await shop.advance(timedelta(minutes=4))
    assert (await shop.at(Order, "o-1").state()).status == "cancelling"
    monkeypatch.setattr(provider, "refund", refund)
    await shop.advance(timedelta(minutes=2))
    assert await shop.at(Order, "o-1").result(Cancel, "c") == 50_00
    await balanced(shop)


# -- whatever happens ---------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
async def test_the_books_balance_whatever_is_ordered_and_crashes(
    shop: TestCluster, seed: int
) -> None:
    """Random orders, decisions and crashes at any moment; then all the time that is needed."""
    random, placed = Random(seed), list[str]()
    print(f"seed {seed}")
    cards = ["good"] * 4 + ["declined", "flaky"]
    for n in range(30):
        id, count = f"o-{n}", random.randint(1, 3)
        lines = {sku: count for sku in ("lamp", "table") if random.random() < 0.7} or {"lamp": 1}
        command = Place("ann", random.choice(cards), lines, random.choice([50_00, 200_00]))
        await shop.at(Order, id).tell(command, key="k")
        placed.append(id)
        await asyncio.sleep(random.choice([0, 0, 0.002, 0.01]))  # it gets on its way, or doesn't
        if random.random() < 0.2:
            await shop.crash()
        if random.random() < 0.2:
            await shop.at(Order, random.choice(placed)).tell(Cancel(), key=f"c-{n}")
        for waits in list(desk.requests()):
            if random.random() < 0.3:
                with suppress(KeyError):  # it was just taken off the desk
                    await decide(shop, waits, approved=random.random() < 0.6)
    await shop.at(Stock, "chair").ask(Receive(1))
    await shop.at(Order, "last").tell(Place("ann", "good", {"chair": 1}, 200_00), key="k")
    await shop.crash()
    await shop.advance(timedelta(days=2))
    found = await read(shop)
    assert set(found.orders) == {*placed, "last"}
    assert contradictions(found, RECEIVED | {"chair": 1}) == []
    assert desk.requests() == {}
    assert found.orders["last"].status == "expired"
    statuses = {order.status for order in found.orders.values()}
    assert {"confirmed", "rejected"} <= statuses


async def test_books_that_do_not_balance_are_told(shop: TestCluster) -> None:
    await shop.at(Order, "o-1").ask(place())
    await waiting(shop, "o-2")
    await provider.charge("good", 7, idempotency_key="not ours")
    await shop.at(Stock, "lamp").ask(Receive(1))
    assert set(contradictions(await read(shop), RECEIVED)) == {
        "order o-2 is placed",
        "lamp: still reserved for o-2",
        "lamp: 9 there, 2 sold of 10",
        "table: still reserved for o-2",
        "the provider has 5007 cents, the orders come to 5000",
    }


async def test_what_the_provider_promises(outside_file: Path) -> None:
    names = [await provider.charge("good", 5, idempotency_key="k") for _ in range(3)]
    assert names == ["k"] * 3
    assert provider.books() == {"k": 5}
    with pytest.raises(provider.CardDeclined, match="another amount"):
        await provider.charge("good", 6, idempotency_key="k")
    assert [await provider.refund("k") for _ in range(2)] == [5, 5]
    with pytest.raises(provider.CardDeclined, match="was given back"):
        await provider.charge("good", 5, idempotency_key="k")
    assert await provider.refund("early") == 0
    with pytest.raises(provider.CardDeclined, match="was given back"):
        await provider.charge("good", 5, idempotency_key="early")
    assert provider.books() == {"k": 0, "early": 0}
