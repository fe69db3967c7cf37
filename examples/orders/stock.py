"""Stock: how much of one article there is, and which orders it is kept for.

One entity per article. It knows nothing of customers or money: orders reserve, then take or
release. Each of these is one command, and the flow that asks it does so once in effect, so there
is nothing here about repeats.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, field

from perdure import Command, Decision, Entity, Event, Failure, Query, State, Value

Count: TypeAlias = Annotated[int, Meta(ge=1)]
"""Another number is refused as malformed, before anybody decides about it."""


# What it is
class Stock(State):
    """One article. What is reserved is still in the house: `on_hand` counts it, too."""

    on_hand: int = 0
    reserved: dict[str, int] = field(default_factory=dict[str, int])
    """How many for which order; an order that took or released them isn't in it any more."""
    sold: int = 0


# What it may refuse
class OutOfStock(Failure):
    available: int


class NotReserved(Failure):
    order: str


# What it is asked, what it answers
class Receive(Command[Stock, int]):
    """Goods come in; answers how many are available."""

    count: Count


class Reserve(Command[Stock, int, OutOfStock]):
    """Keep some for an order; answers how many are available to others."""

    order: str
    count: Count


class Release(Command[Stock, int, NotReserved]):
    """The order doesn't want them; answers how many are available."""

    order: str


class Take(Command[Stock, int, NotReserved]):
    """The order is confirmed, its goods leave the house; answers how many these were."""

    order: str


class PutBack(Command[Stock, int]):
    """Sold goods come back; answers how many are available."""

    count: Count


class Shelf(Value):
    """The article in numbers."""

    on_hand: int
    reserved: int
    sold: int


class GetShelf(Query[Stock, Shelf]):
    """What is there of it?"""


# What happened
class Received(Event):
    count: int


class Reserved(Event):
    order: str
    count: int


class Released(Event):
    order: str


class Taken(Event):
    order: str


class WasPutBack(Event):
    count: int


StockCommand: TypeAlias = Receive | Reserve | Release | Take | PutBack | GetShelf
StockEvent: TypeAlias = Received | Reserved | Released | Taken | WasPutBack


def decide(state: Stock, command: StockCommand) -> Decision[StockEvent]:
    left = available(state)
    match command:
        case GetShelf():
            return command.answer(shelf(state))
        case Receive(count):
            return command.accept(left + count, Received(count))
        case PutBack(count):
            return command.accept(left + count, WasPutBack(count))
        case Reserve(_, count) if count > left:
            return command.reject(OutOfStock(left))
        case Reserve(order, count):
            return command.accept(left - count, Reserved(order, count))
        case Release(order) | Take(order) if order not in state.reserved:
            return command.reject(NotReserved(order))
        case Release(order):
            return command.accept(left + state.reserved[order], Released(order))
        case Take(order):
            return command.accept(state.reserved[order], Taken(order))


def evolve(state: Stock, event: StockEvent) -> Stock:
    match event:
        case Received(count):
            return state.replace(on_hand=state.on_hand + count)
        case WasPutBack(count):
            return state.replace(on_hand=state.on_hand + count, sold=state.sold - count)
        case Reserved(order, count):
            count += state.reserved.get(order, 0)
            return state.replace(reserved=state.reserved | {order: count})
        case Released(order):
            return state.replace(reserved=without(state.reserved, order))
        case Taken(order):
            count = state.reserved[order]
            return state.replace(
                on_hand=state.on_hand - count,
                reserved=without(state.reserved, order),
                sold=state.sold + count,
            )


def available(state: Stock) -> int:
    return state.on_hand - sum(state.reserved.values())


def shelf(state: Stock) -> Shelf:
    return Shelf(state.on_hand, sum(state.reserved.values()), state.sold)


def without(reserved: dict[str, int], order: str) -> dict[str, int]:
    return {name: count for name, count in reserved.items() if name != order}


stock = Entity(Stock(), decide, evolve)
