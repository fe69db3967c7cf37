"""given, when, then: what it says when a test fails."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure import (
    Command,
    Decision,
    Entity,
    Event,
    Failure,
    IdempotencyKey,
    Query,
    State,
    given,
)
from tests.bank import (
    Account,
    Balance,
    Deposit,
    Deposited,
    GetBalance,
    InsufficientFunds,
    Withdraw,
    Withdrawn,
    account,
)


def test_given_when_then() -> None:
    given(account, Deposited(500)).when(Withdraw(200)).accepts(Balance(300), Withdrawn(200))
    given(account, Deposited(100)).when(Withdraw(200)).rejects(InsufficientFunds(100, 200))
    assert given(account, Deposited(100)).query(GetBalance()) == Balance(100)
    assert given(account, Deposited(500), Withdrawn(200)).state == Account(300)


def test_a_wrong_reply_is_told() -> None:
    with pytest.raises(AssertionError) as caught:
        given(account).when(Deposit(5)).accepts(Balance(6), Deposited(5))
    assert str(caught.value).splitlines() == [
        "given Account(balance=0, held=0)",
        "    when: Deposit(cents=5)",
        "expected: accepts Balance(cents=6) with Deposited(cents=5)",
        "     got: accepts Balance(cents=5) with Deposited(cents=5)",
    ]


def test_a_refusal_in_place_of_a_reply_is_told_and_the_other_way() -> None:
    with pytest.raises(AssertionError, match="got: rejects InsufficientFunds"):
        given(account).when(Withdraw(5)).accepts(Balance(0), Withdrawn(5))
    with pytest.raises(AssertionError, match=r"got: accepts .* with Deposited"):
        given(account).when(Deposit(5)).rejects(_any(InsufficientFunds(0, 5)))
    with pytest.raises(AssertionError, match=r"expected: accepts .* with no events"):
        given(account).when(Deposit(5)).accepts(Balance(5))


def _any(value: Any) -> Any:
    return value


class Thing(State):
    n: int = 0


class Other(State):
    pass


class Nope(Failure):
    n: int


class Yep(Failure):
    pass


class Do(Command[Thing, int, Yep]):
    how: str


class Elsewhere(Command[Other, int]):
    pass


class Look(Query[Thing, int]):
    how: str


class Done(Event):
    n: int


class Stranger(Event):
    pass


def decide(state: Thing, command: Do | Look) -> Decision[Done]:
    if isinstance(command, Look):
        return _looked(command)
    match command.how:
        case "undeclared":
            return command.reject(_any(Nope(1)))
        case "none":
            nothing: Decision[Done] = _any(None)
            return nothing
        case "event":
            return command.accept(1, _any(Stranger()))
        case "reply":
            return command.accept(_any("text"), Done(1))
        case "key":
            return command.accept(_any(IdempotencyKey("k")), Done(1))
        case _:
            return command.accept(1, Done({"zero": 0, "nothing": 7, "other": 8}[command.how]))


def _looked(query: Look) -> Decision[Done]:
    match query.how:
        case "event":
            return Decision((Done(1),), 5)
        case "failure":
            return Decision((), None, Yep())
        case _:
            return query.answer(5)


def evolve(state: Thing, event: Done) -> Thing:
    match event.n:
        case 7:
            nothing: Thing = _any(None)
            return nothing
        case 8:
            other: Thing = _any(Other())
            return other
        case _:
            return Thing(1 // event.n)


thing = Entity(Thing(), decide, evolve)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("none", "decide returned None for Do"),
        ("event", "with Stranger.* can't be stored: Invalid value 'stranger'"),
        ("reply", "accepts 'text' .* can't be stored: Expected `int`, got `str`"),
        (
            "undeclared",
            r"rejects Nope\(n=1\), which Do doesn't declare \(declared: Yep\)",
        ),
        ("nothing", r"evolve returned None for Done\(n=7\), not Thing"),
        ("other", r"evolve returned Other\(\) for Done\(n=8\), not Thing"),
        ("key", "can't be stored: Encoding objects of type IdempotencyKey"),
    ],
)
def test_what_a_runner_would_refuse_fails_here(how: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        given(thing).when(Do(how))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("event", r"accepts 5 with Done\(n=1\) for Look, a Query: it only answers"),
        ("failure", r"rejects Yep\(\) for Look, a Query: it only answers"),
    ],
)
def test_a_query_only_answers(how: str, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        given(thing).query(Look(how))
    assert given(thing).query(Look("")) == 5


def test_the_events_given_are_folded_with_the_same_care() -> None:
    with pytest.raises(AssertionError, match=r"evolve returned None for Done\(n=7\), not Thing"):
        given(thing, Done(7))


def test_an_evolve_that_fails_is_found() -> None:
    with pytest.raises(ZeroDivisionError):
        given(thing).when(Do("zero"))


def test_a_command_that_decide_does_not_take() -> None:
    with pytest.raises(
        AssertionError, match=r"Entity\('thing': do, look\) doesn't take Elsewhere"
    ):
        given(thing).when(_any(Elsewhere()))


def test_a_command_that_can_not_travel() -> None:
    with pytest.raises(AssertionError, match="can't be sent: Expected `int`, got `str`"):
        given(account).when(Deposit(_any("5")))


class Cart(State):
    items: list[str] = msgspec.field(default_factory=list[str])


class Add(Command[Cart, None]):
    item: str
    at: str = ""


class Added(Event):
    item: str
    at: str = ""


def add(state: Cart, command: Add) -> Decision[Added]:
    if command.at == "decide":
        state.items.append(command.item)
    return command.accept(None, Added(command.item, command.at))


def added(state: Cart, event: Added) -> Cart:
    if event.at == "evolve":
        state.items.append(event.item)
        return state
    if event.at == "wrong":
        return state.replace(items=[1])
    return state.replace(items=[*state.items, event.item])


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ("decide", r"decide changed the state .* in place, for Add\(.*: emit an event instead"),
        ("evolve", r"evolve changed the state .* in place, for Added\(.*: return state\.replace"),
        ("wrong", r"the state Cart\(items=\[1\]\) can't be stored: Expected `str`, got `int`"),
    ],
)
def test_a_state_that_is_changed_in_place_is_told(at: str, says: str) -> None:
    cart = Entity(Cart(), add, added)
    with pytest.raises(AssertionError, match=says):
        given(cart).when(Add("tea", at))
    if at != "decide":
        with pytest.raises(AssertionError, match=says):
            given(cart, Added("tea", at))
    assert cart.initial == Cart()
    given(cart, Added("tea")).when(Add("milk")).accepts(None, Added("milk"))
