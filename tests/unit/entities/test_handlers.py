"""What an entity makes of what its handlers do: failures raised, and states kept apart."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure import Command, Decision, Entity, Event, State, given
from tests.bank import (
    Account,
    Deposit,
    Deposited,
    GetBalance,
    InsufficientFunds,
    Withdraw,
    evolve,
)


def raising(state: Account, command: Withdraw | Deposit | GetBalance) -> Decision[Deposited]:
    raise InsufficientFunds(state.balance, 5)


def test_a_declared_failure_may_be_raised() -> None:
    entity = Entity(Account(), raising, evolve)
    decision = entity.decide(Account(), Withdraw(5))
    assert decision == Withdraw(5).reject(InsufficientFunds(0, 5))
    assert decision.failure is not None
    assert decision.failure.__traceback__ is None
    given(entity).when(Withdraw(5)).rejects(InsufficientFunds(0, 5))


def test_an_undeclared_failure_is_a_defect_with_a_hint() -> None:
    entity = Entity(Account(), raising, evolve)
    with pytest.raises(TypeError) as caught:
        entity.decide(Account(), Deposit(5))
    assert str(caught.value) == (
        "decide raised InsufficientFunds(balance=0, wanted=5), which Deposit doesn't declare: "
        "declare InsufficientFunds there, and return command.reject(...)"
    )
    assert caught.value.__cause__ == InsufficientFunds(0, 5)
    with pytest.raises(TypeError, match="GetBalance is a Query, which has no failures"):
        given(entity).query(GetBalance())


class Bag(State):
    items: dict[str, list[int]] = msgspec.field(default_factory=dict[str, list[int]])


class Put(Command[Bag, None]):
    pass


class WasPut(Event):
    pass


def put(state: Bag, command: Put) -> Decision[WasPut]:
    return command.accept(None, WasPut())


def was_put(state: Bag, event: WasPut) -> Bag:
    return Bag({**state.items, "b": [1]})


def test_each_first_state_is_its_own() -> None:
    bag = Entity(Bag({"a": [1]}), put, was_put)
    spoiled = bag.fresh()
    spoiled.items["a"].append(2)
    bag.initial.items.clear()
    assert bag.fresh() == Bag({"a": [1]})


def test_a_first_state_that_can_not_be_stored() -> None:
    wrong: Any = {"a": ["one"]}
    with pytest.raises(TypeError) as caught:
        Entity(Bag(wrong), put, was_put)
    assert str(caught.value) == (
        "Entity 'bag': the first state can't be stored: "
        "Expected `int`, got `str` - at `$.items[...][0]`"
    )
