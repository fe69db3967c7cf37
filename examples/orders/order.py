"""Order: from the moment it is placed to the one state in which it ends, days later perhaps.

`place` is the saga: it reserves stock, has a large order approved, charges the card, takes the
goods. Where one of these is refused it gives back what it has, newest first, and the order says
how it ended. `cancel` is another one, for an order that was confirmed.

- What it asks of stock and payment happens once in effect, whoever dies in between.
- A flow's *steps* are undone by themselves (payment.py does that); what other entities were asked
  is given back by asking them again, in the flow's own words.
- So customers who change their mind give the waiting flow a value, `Withdrawal`, which is one more
  way for it to end well. `ref.cancel` is for operators: it ends a flow right where it waits, and
  what it reserved would stay reserved.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Literal, TypeAlias

import desk
from msgspec import field
from payment import AlreadyCharged, Charge, Declined, NoProvider, NotCharged, Payment, Refund
from stock import Count, NotReserved, OutOfStock, PutBack, Release, Reserve, Stock, Take

from perdure import (
    AskFailed,
    Command,
    Decision,
    Entity,
    Event,
    Failure,
    Flow,
    Query,
    State,
    StepFailed,
    Value,
)

LIMIT_CENTS = 100_00  # what costs more is approved by a person
PATIENCE = timedelta(hours=24)  # who has this long

Status: TypeAlias = Literal[
    "new", "placed", "confirmed", "cancelling", "rejected", "expired", "cancelled"
]
FINAL: frozenset[Status] = frozenset({"confirmed", "rejected", "expired", "cancelled"})


# What it is
class Order(State):
    status: Status = "new"
    customer: str = ""
    lines: dict[str, int] = field(default_factory=dict[str, int])
    """How many of which article."""
    cents: int = 0
    why: str = ""
    """Of one that was rejected: the tag of the failure."""


# What it may refuse
class AlreadyPlaced(Failure):
    status: Status


class SoldOut(Failure):
    sku: str
    available: int


class NotApproved(Failure):
    by: str


class NotInTime(Failure):
    """Nobody decided about it."""


class Withdrawn(Failure):
    """The customer took it back before it was approved."""


class NotConfirmed(Failure):
    status: Status


class OutOfOrder(Failure):
    """Something of the shop's own doesn't work; what was done is given back."""

    why: str


Refusal: TypeAlias = (
    SoldOut
    | NotApproved
    | NotInTime
    | Withdrawn
    | Declined
    | NoProvider
    | AlreadyCharged
    | OutOfOrder
)
REFUSALS = (
    *(SoldOut, NotApproved, NotInTime, Withdrawn),
    *(Declined, NoProvider, AlreadyCharged, OutOfOrder),
)


# What it is asked, what it answers
class Place(Command[Order, int, AlreadyPlaced | Refusal]):
    """Answers how many cents were charged, once it is confirmed."""

    customer: str
    card: str
    lines: dict[str, Count]
    cents: Count


class Cancel(Command[Order, int, NotConfirmed]):
    """Of a confirmed order; answers how many cents were given back."""


class GetOrder(Query[Order, Order]):
    """How does it stand?"""


# What happened
class Placed(Event):
    customer: str
    lines: dict[str, int]
    cents: int


class Confirmed(Event):
    pass


class Rejected(Event):
    why: str


class Expired(Event):
    pass


class CancelAsked(Event):
    pass


class Cancelled(Event):
    pass


OrderEvent: TypeAlias = Placed | Confirmed | Rejected | Expired | CancelAsked | Cancelled


def decide(state: Order, command: GetOrder) -> Decision[OrderEvent]:
    return command.answer(state)


def evolve(state: Order, event: OrderEvent) -> Order:
    match event:
        case Placed(customer, lines, cents):
            return Order("placed", customer, lines, cents)
        case Confirmed():
            return state.replace(status="confirmed")
        case Rejected(why):
            return state.replace(status="rejected", why=why)
        case Expired():
            return state.replace(status="expired")
        case CancelAsked():
            return state.replace(status="cancelling")
        case Cancelled():
            return state.replace(status="cancelled")


# What takes its time
class Verdict(Value):
    """What the approver gives the flow."""

    approved: bool
    by: str


class Withdrawal(Value):
    """What the customer gives the flow instead."""


OrderFlow: TypeAlias = Flow[Order, OrderEvent]
GiveBack: TypeAlias = dict[str, Callable[[], Awaitable[object]]]
"""What an order has of others, by whom, oldest first, and how to give that back."""


async def place(flow: OrderFlow, command: Place) -> Decision[OrderEvent]:
    if flow.state.status != "new":
        return command.reject(AlreadyPlaced(flow.state.status))
    await flow.emit(Placed(command.customer, command.lines, command.cents))
    has: GiveBack = {}
    try:
        await reserve(flow, command, has)
        if command.cents > LIMIT_CENTS:
            await approval(flow, command.cents)
        await charge(flow, command, has)
        await take(flow, command, has)
    except REFUSALS as failure:
        return await give_up(flow, command, has, failure)
    except (AskFailed, StepFailed, NotReserved) as error:
        return await give_up(flow, command, has, OutOfOrder(str(error)))
    return command.accept(command.cents, Confirmed())


async def reserve(flow: OrderFlow, command: Place, has: GiveBack) -> None:
    order = flow.address.id
    for sku, count in command.lines.items():
        shelf = flow.at(Stock, sku)
        match await shelf.outcome(Reserve(order, count), name=f"reserve {sku}"):
            case OutOfStock(available=left):
                raise SoldOut(sku, left)
            case int():
                has[f"stock {sku}"] = partial(shelf.outcome, Release(order), name=f"release {sku}")


async def approval(flow: OrderFlow, cents: int) -> None:
    """Two may decide, each by a token of their own: the approver finds one on the desk, whoever
    placed the order is told the other. So nobody can approve their own order."""
    order = flow.address.id
    verdict = flow.deferred("verdict", Verdict)
    await flow.step("put on desk").run(desk.put, order, cents, str(verdict.token))
    withdrawal = flow.deferred("withdrawal", Withdrawal, tell_caller=True)
    decided = await flow.first(verdict, withdrawal).within(PATIENCE)
    await flow.step("clear desk").run(desk.clear, order)
    match decided:
        case Verdict(approved=True):
            return
        case Verdict(by=by):
            raise NotApproved(by)
        case Withdrawal():
            raise Withdrawn
        case None:
            raise NotInTime


async def charge(flow: OrderFlow, command: Place, has: GiveBack) -> None:
    payment = flow.at(Payment, flow.address.id)
    await payment.ask(Charge(command.card, command.cents))  # its refusal is the order's
    has["payment"] = partial(payment.outcome, Refund())


async def take(flow: OrderFlow, command: Place, has: GiveBack) -> None:
    for sku, count in command.lines.items():
        shelf = flow.at(Stock, sku)
        await shelf.ask(Take(flow.address.id), name=f"take {sku}")
        has[f"stock {sku}"] = partial(shelf.outcome, PutBack(count), name=f"put back {sku}")


async def give_up(
    flow: OrderFlow, command: Place, has: GiveBack, failure: Refusal
) -> Decision[OrderEvent]:
    for give_back in reversed(has.values()):
        await give_back()  # a refusal here says that it has nothing to give back
    match failure:
        case NotInTime():
            await flow.emit(Expired())
        case Withdrawn():
            await flow.emit(Cancelled())
        case _:
            await flow.emit(Rejected(failure.tag))
    return command.reject(failure)


async def cancel(flow: OrderFlow, command: Cancel) -> Decision[OrderEvent]:
    if flow.state.status != "confirmed":
        return command.reject(NotConfirmed(flow.state.status))
    await flow.emit(CancelAsked())  # from here on a second one is refused
    match await flow.at(Payment, flow.address.id).outcome(Refund()):
        case NotCharged():
            cents = 0
        case cents:
            pass
    for sku, count in flow.state.lines.items():
        await flow.at(Stock, sku).ask(PutBack(count), name=f"put back {sku}")
    return command.accept(cents, Cancelled())


order = Entity(Order(), decide, evolve, flows=[place, cancel])
