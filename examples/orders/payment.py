"""Payment: the money of one order, and the only place that talks to the provider.

Both flows here are short: one effect outside, recorded once. What makes them right whatever
happens is that the provider gets the same key however often it is asked, and that a charge whose
outcome nobody knows is given back (`undo`).
"""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TypeAlias

import provider

from perdure import (
    Command,
    Decision,
    Entity,
    Event,
    Failure,
    Flow,
    Query,
    Retry,
    State,
    StepFailed,
)

PATIENCE = Retry(attempts=4, base=0.2)  # of one step: it holds the payment, so it is short
ATTEMPT_S = 15  # more than the provider itself may take
LATER = timedelta(minutes=5)  # between two such rounds of a refund, which is never given up …
LATEST = timedelta(hours=1)  # … and longer each time, up to this: for 80 days


# What it is
class Payment(State):
    """Amounts in cents. What the shop has of it is `taken - given_back`."""

    charge: str = ""
    """The provider's name of it."""
    taken: int = 0
    given_back: int = 0


# What it may refuse
class Declined(Failure):
    why: str


class NoProvider(Failure):
    """The provider didn't answer. If it took anything, that is given back."""


class AlreadyCharged(Failure):
    charge: str


class NotCharged(Failure):
    pass


# What it is asked, what it answers
class Charge(Command[Payment, str, Declined | NoProvider | AlreadyCharged]):
    """Answers the provider's name of the charge."""

    card: str
    cents: int


class Refund(Command[Payment, int, NotCharged]):
    """Give back all of it; answers how many cents that is, also when it was done before."""


class GetKept(Query[Payment, int]):
    """How many cents does the shop have of it?"""


# What happened
class Charged(Event):
    charge: str
    cents: int


class Refunded(Event):
    cents: int


PaymentEvent: TypeAlias = Charged | Refunded


def decide(state: Payment, command: GetKept) -> Decision[PaymentEvent]:
    return command.answer(state.taken - state.given_back)


def evolve(state: Payment, event: PaymentEvent) -> Payment:
    match event:
        case Charged(charge, cents):
            return state.replace(charge=charge, taken=cents)
        case Refunded(cents):
            return state.replace(given_back=cents)


# What talks to the provider
async def take(card: str, cents: int, *, idempotency_key: str) -> str:
    """The provider's no is an answer, so it isn't tried again; everything else is."""
    try:
        return await provider.charge(card, cents, idempotency_key=idempotency_key)
    except provider.CardDeclined as no:
        raise Declined(str(no)) from no


async def charge(flow: Flow[Payment, PaymentEvent], command: Charge) -> Decision[PaymentEvent]:
    if flow.state.charge:
        return command.reject(AlreadyCharged(flow.state.charge))
    step = flow.step("charge", retry=PATIENCE, timeout=ATTEMPT_S)
    step.undo(provider.refund, step.key)
    try:
        name = await step.run(take, command.card, command.cents, idempotency_key=step.key)
    except StepFailed:
        return command.reject(NoProvider())  # a refusal undoes the step
    return command.accept(name, Charged(name, command.cents))


async def refund(flow: Flow[Payment, PaymentEvent], command: Refund) -> Decision[PaymentEvent]:
    if not flow.state.charge:
        return command.reject(NotCharged())
    cents = await given_back(flow)
    if flow.state.given_back:  # another refund was quicker while this one slept
        return command.accept(cents)
    return command.accept(cents, Refunded(cents))


async def given_back(flow: Flow[Payment, PaymentEvent]) -> int:
    for n in itertools.count(1):
        step = flow.step(f"refund {n}", retry=PATIENCE, timeout=ATTEMPT_S)
        try:
            return await step.run(provider.refund, flow.state.charge)
        except StepFailed:
            await flow.sleep(f"after {n}", min(n * LATER, LATEST))
    raise AssertionError("itertools.count ends")


payment = Entity(Payment(), decide, evolve, flows=[charge, refund])
