"""The books: what orders, stock, payments and the provider say, and where they contradict.

Whatever is killed while orders are on their way: once all of them have ended, what was sold is
what the confirmed orders bought, and the provider has their money, to the cent.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import provider
from order import FINAL, GetOrder, Order
from payment import Payment
from stock import Stock

from perdure import Cluster

T = TypeVar("T")

AT_ONCE = 32  # readers: enough to be quick, few enough for a small machine


@dataclass(frozen=True)
class Books:
    """What everybody says. Money in cents."""

    orders: Mapping[str, Order]
    stocks: Mapping[str, Stock]
    payments: Mapping[str, Payment]
    provider: Mapping[str, int]

    @property
    def confirmed(self) -> dict[str, Order]:
        """Those that were bought, by id."""
        return {id: order for id, order in self.orders.items() if order.status == "confirmed"}

    @property
    def income(self) -> int:
        """What the confirmed orders cost."""
        return sum(order.cents for order in self.confirmed.values())

    @property
    def sold(self) -> Counter[str]:
        """What they bought, by article."""
        bought = Counter[str]()
        for order in self.confirmed.values():
            bought.update(order.lines)
        return bought


async def read(cluster: Cluster) -> Books:
    """Read all of it. Raises ClusterError."""
    return Books(
        orders=await _all(
            cluster.ids(Order), lambda id: cluster.at(Order, id).query(GetOrder(), fresh=True)
        ),
        stocks=await _all(cluster.ids(Stock), lambda id: cluster.at(Stock, id).state()),
        payments=await _all(cluster.ids(Payment), lambda id: cluster.at(Payment, id).state()),
        provider=await asyncio.to_thread(provider.books),
    )


def contradictions(books: Books, received: Mapping[str, int]) -> list[str]:
    """What can't be, a line each; `received` is how many of each article came in."""
    return [*_open(books), *_stock(books, received), *_money(books)]


def _open(books: Books) -> list[str]:
    return [
        f"order {id} is {order.status}"
        for id, order in books.orders.items()
        if order.status not in FINAL
    ]


def _stock(books: Books, received: Mapping[str, int]) -> list[str]:
    found: list[str] = []
    for sku in received.keys() | books.stocks.keys():
        stock, sold = books.stocks.get(sku, Stock()), books.sold[sku]
        if stock.reserved:
            found.append(f"{sku}: still reserved for {', '.join(stock.reserved)}")
        if stock.sold != sold:
            found.append(f"{sku}: {stock.sold} sold, {sold} in confirmed orders")
        if stock.on_hand + stock.sold != received.get(sku, 0):
            found.append(f"{sku}: {stock.on_hand} there, {stock.sold} sold of {received.get(sku)}")
    return found


def _money(books: Books) -> list[str]:
    found: list[str] = []
    for id in books.payments.keys() | books.confirmed.keys():
        payment = books.payments.get(id, Payment())
        due = books.confirmed[id].cents if id in books.confirmed else 0
        kept = payment.taken - payment.given_back
        there = books.provider.get(payment.charge, 0)
        if not due == kept == there:
            found.append(f"order {id}: due {due}, payment has {kept}, provider has {there}")
    total = sum(books.provider.values())
    if total != books.income:
        found.append(f"the provider has {total} cents, the orders come to {books.income}")
    return found


async def _all(ids: AsyncIterator[str], look: Callable[[str], Awaitable[T]]) -> dict[str, T]:
    """Look at each, some at once."""
    waiting = iter([id async for id in ids])
    found = dict[str, T]()

    async def work() -> None:
        for id in waiting:
            found[id] = await look(id)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    return found
