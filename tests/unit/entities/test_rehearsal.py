"""A flow in a test: from wait to wait, by `given(...).when(...)`."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from perdure import (
    Command,
    Decision,
    Entity,
    Event,
    Failure,
    Flow,
    Retry,
    State,
    Token,
    Value,
    given,
)
from perdure.entities.steps import RESULT_BYTES, StepFailed
from tests.bank import (
    Balance,
    Deposit,
    Deposited,
    Held,
    InsufficientFunds,
    NotApproved,
    Released,
    Verdict,
    WithdrawLarge,
    Withdrawn,
    account,
)

DAY = timedelta(days=1)


# -- a flow of the bank's -----------------------------------------------------------------------
LARGE = given(account, Deposited(100)).when(WithdrawLarge(60), steps={"mail approver": None})


def test_a_flow_comes_to_its_first_wait() -> None:
    LARGE.waits_for("approval")
    assert LARGE.emitted == (Held(60),)
    assert LARGE.performed == ("mail approver",)


def test_it_goes_on_with_what_it_waited_for() -> None:
    approved = LARGE.resume("approval", Verdict(approved=True, by="ann"))
    approved.accepts(Balance(40), Held(60), Released(60), Withdrawn(60))
    refused = LARGE.resume("approval", Verdict(approved=False, by="ann"))
    refused.rejects(NotApproved(by="ann"))
    assert refused.emitted == (Held(60), Released(60))
    LARGE.waits_for("approval")  # it is as it was


def test_time_passes_and_no_more() -> None:
    LARGE.advance(DAY - timedelta(milliseconds=1)).waits_for("approval")
    LARGE.advance(DAY).rejects(NotApproved(by=None))
    LARGE.advance(DAY / 2).advance(DAY / 2).rejects(NotApproved(by=None))


def test_it_sees_what_others_did_meanwhile() -> None:
    after = LARGE.meanwhile(Deposited(11), Deposited(4))
    after.resume("approval", Verdict(approved=True, by="ann")).accepts(
        Balance(55), Held(60), Released(60), Withdrawn(60)
    )


def test_a_flow_that_needs_no_wait_is_decided() -> None:
    when = given(account, Deposited(5)).when(WithdrawLarge(60))
    when.rejects(InsufficientFunds(5, 60))
    assert when.emitted == ()
    assert when.performed == ()


def test_what_went_wrong_is_told() -> None:
    with pytest.raises(AssertionError) as caught:
        LARGE.accepts(Balance(40), Withdrawn(60))
    assert str(caught.value).splitlines() == [
        "given Account(balance=100, held=0)",
        "    when: WithdrawLarge(cents=60)",
        "     got: the flow waits for approval",
    ]
    with pytest.raises(AssertionError, match=r"expected: waits for \('payment',\)"):
        LARGE.waits_for("payment")
    with pytest.raises(AssertionError, match="got: the flow has ended"):
        LARGE.advance(DAY).waits_for("approval")
    with pytest.raises(AssertionError, match=r"no deferred 'payment' is open; .* waits for app"):
        LARGE.resume("payment", Verdict(approved=True, by="ann"))
    with pytest.raises(AssertionError, match="deferred approval: Expected `object`, got `int`"):
        LARGE.resume("approval", 5)
    with pytest.raises(AssertionError, match="nobody is asked 'reserve'"):
        LARGE.answer("reserve", 5)
    with pytest.raises(AssertionError, match="there is no flow"):
        given(account).when(Deposit(5)).resume("approval", 5)


# -- flows of all kinds -------------------------------------------------------------------------
class Case(State):
    steps: tuple[str, ...] = ()


class Denied(Failure):
    why: str


class Try(Command[Case, str, Denied]):
    n: int = 0


class Stock(State):
    left: int = 0


class SoldOut(Failure):
    left: int


class Reserve(Command[Stock, int, SoldOut]):
    pieces: int


class Note(Command[Case, int]):
    text: str


class Noted(Event):
    text: str


def decide(state: Case, command: Note) -> Decision[Noted]:
    return command.accept(len(state.steps) + 1, Noted(command.text))


def evolve(state: Case, event: Noted) -> Case:
    return state.replace(steps=(*state.steps, event.text))


Handler = Callable[[Flow[Case, Noted], Try], Awaitable[Decision[Noted]]]


def trying(handler: Handler, **steps: object) -> Any:
    """The flow at its first wait."""

    async def flow(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        return await handler(flow, command)

    case = Entity(Case(), decide, evolve, flows=[flow])
    named = {name.replace("_", " "): value for name, value in steps.items()}
    return given(case).when(Try(), steps=named)


async def test_first_gives_what_came_first_and_all_waits_for_both() -> None:
    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        one, two = flow.deferred("one", int), flow.deferred("two", str)
        either = await flow.first(one, two)
        both = await flow.all(one, two)
        return command.accept(f"{either} {both}")

    when = trying(handler)
    when.waits_for("one", "two")
    when.resume("two", "b").waits_for("one", "two")
    when.resume("two", "b").resume("one", 1).accepts("b (1, 'b')")
    when.resume("one", 1).resume("two", "b").accepts("1 (1, 'b')")


async def test_what_was_not_awaited_in_time_stays_open() -> None:
    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        answer = flow.deferred("answer", int)
        soon = await answer.within(60)
        await flow.emit(Noted(f"soon: {soon}"))
        late = await answer.within(60, name="the end")
        return command.accept(f"{soon} {late}")

    when = trying(handler)
    when.waits_for("answer")
    when.resume("answer", 1).accepts("1 1", Noted("soon: 1"))
    late = when.advance(60)
    late.waits_for("answer", "the end")
    late.resume("answer", 2).accepts("None 2", Noted("soon: None"))
    when.advance(120).accepts("None None", Noted("soon: None"))


async def test_what_is_there_already_is_not_waited_for() -> None:
    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        early = flow.deferred("early", int)
        await flow.sleep("nap", 1)
        await flow.emit(Noted("awake"))
        return command.accept(str(await early.within(5)), Noted("done"))

    when = trying(handler)
    early = when.resume("early", 7)
    early.waits_for("nap")
    early.advance(1).accepts("7", Noted("awake"), Noted("done"))
    when.advance(1).waits_for("early")


async def test_sleeps_of_a_loop_fire_in_their_order() -> None:
    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        for day in range(30):
            await flow.sleep(f"day {day}", DAY)
            await flow.emit(Noted(str(day)))
        return command.accept(str(len(flow.state.steps)))

    trying(handler).advance(29 * DAY).waits_for("day 29")
    trying(handler).advance(30 * DAY).accepts("30", *(Noted(str(day)) for day in range(30)))


def test_a_flow_is_of_an_entity_called_test() -> None:
    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        return command.accept(str(flow.address))

    trying(handler).accepts("case/test")


async def test_each_line_sees_the_state_that_it_saw_first() -> None:
    seen: list[tuple[str, ...]] = []

    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        seen.append(flow.state.steps)
        after = await flow.emit(Noted("a"))
        assert after is flow.state
        seen.append(flow.state.steps)
        await flow.sleep("nap", 1)
        seen.append(flow.state.steps)
        await flow.emit(Noted("b"))
        await flow.sleep("nap again", 1)
        seen.append(flow.state.steps)
        return command.accept("")

    when = trying(handler).meanwhile(Noted("x")).advance(1).meanwhile(Noted("y"), Noted("z"))
    seen.clear()
    when.advance(1).accepts("", Noted("a"), Noted("b"))
    states = [(), ("a",), ("a", "x"), ("a", "x", "b", "y", "z")]
    assert seen == states


# -- steps --------------------------------------------------------------------------------------
async def test_a_step_is_run_once_and_its_result_kept() -> None:
    calls: list[str] = []
    keys: set[str] = set()

    async def fetch(name: str, *, key: str) -> Price:
        calls.append(name)
        keys.add(key)
        return Price(cents=5)

    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        step = flow.step("fetch")
        price = await step.run(fetch, "x", key=step.key)
        await flow.sleep("nap", 1)
        keys.add(step.key)
        return command.accept(str(price.cents))

    when = trying(handler)
    when.advance(1).accepts("5")
    assert (calls, len(keys)) == (["x"], 1)
    assert when.performed == ("fetch",)


class Price(Value):
    cents: int


async def test_a_result_has_the_type_that_the_function_says() -> None:
    async def fetch() -> Price:
        return Price(cents=5)

    async def nothing() -> None:
        pass

    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        price = await flow.step("fetch").run(fetch)
        await flow.sleep("nap", 1)
        assert price == Price(cents=5)
        assert await flow.step("nothing").run(nothing) is None  # type: ignore[func-returns-value]
        return command.accept("")

    trying(handler).advance(1).accepts("")


async def test_a_step_is_tried_as_often_as_it_says_and_its_error_recorded() -> None:
    tries = itertools.count(1)

    async def fails() -> str:
        if (n := next(tries)) < 3:
            raise ValueError(f"try {n}")
        return f"after {n}"

    async def never() -> str:
        next(tries)
        raise ValueError("never")

    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        result = await flow.step("fails").run(fails)
        try:
            await flow.step("never", retry=Retry(attempts=2)).run(never)
        except StepFailed as error:
            result += f", {error}"
        await flow.sleep("nap", 1)
        return command.accept(result)

    trying(handler).advance(1).accepts("after 3, step 'never': ValueError: never")
    assert next(tries) == 6


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "can't be stored"),
        ("x" * RESULT_BYTES, f"has {RESULT_BYTES + 2} bytes, at most"),
        (5, "isn't what it says: Expected `str`, got `int`"),
    ],
)
async def test_a_result_that_can_not_be_kept_is_an_error_of_the_step(
    value: object, says: str
) -> None:
    async def fetch() -> str:
        raise AssertionError("not run")

    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        try:
            return command.accept(await flow.step("fetch").run(fetch))
        except StepFailed as error:
            await flow.sleep("nap", 1)
            return command.accept(error.why)

    when = trying(handler, fetch=value).advance(1)
    assert says in str(when.decision.reply)


# -- other entities -----------------------------------------------------------------------------
async def test_another_entity_is_asked_and_answers() -> None:
    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        stock = flow.at(Stock, "s-1")
        left = await stock.ask(Reserve(3))
        more = await stock.outcome(Reserve(4), name="more")
        if isinstance(more, SoldOut):
            return command.accept(f"{left}, then {more.left}")
        return command.accept(f"{left}, {more}")

    when = trying(handler)
    when.waits_for("reserve")
    after = when.answer("reserve", 7)
    after.waits_for("more")
    after.answer("more", 3).accepts("7, 3")
    after.answer("more", SoldOut(left=1)).accepts("7, then 1")
    with pytest.raises(SoldOut):  # which `Try` doesn't declare
        when.answer("reserve", SoldOut(left=0))


# -- what no flow can do ------------------------------------------------------------------------
async def nothing() -> None:
    pass


async def twice(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.sleep("nap", 1)
    await flow.sleep("nap", 1)
    return command.accept("")


async def twice_run(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    step = flow.step("pay")
    await step.run(nothing)
    await step.run(nothing)
    return command.accept("")


async def late_undo(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    step = flow.step("pay")
    await step.run(nothing)
    step.undo(nothing)
    return command.accept("")


async def forgets(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    flow.sleep("nap", 1)
    return command.accept("")


async def catches_all(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    with suppress(BaseException):
        await flow.sleep("nap", 1)
    return command.accept("")


async def catches_all_and_waits(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    for n in range(3):
        with suppress(BaseException):
            await flow.sleep(f"nap {n}", 1)
    return command.accept("")


async def backwards(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.sleep("nap", -1)
    return command.accept("")


async def unnamed(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.step("").run(nothing)
    return command.accept("")


async def no_type(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.deferred("it", Thread)
    return command.accept("")


class Thread:
    pass


async def foreign(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.emit(Deposited(5))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return command.accept("")


async def undeclared(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    async def pay() -> None:
        raise SoldOut(1)

    await flow.step("pay").run(pay)
    return command.accept("")


async def forgets_step(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    _ = flow.step("pay").run(nothing)
    return command.accept("")


async def forgets_emit(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    _ = flow.emit(Noted("x"))
    return command.accept("")


async def forgets_and_waits(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    _ = flow.step("pay").run(nothing)
    await flow.sleep("nap", 100)
    return command.accept("")


async def named_as_undo(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    await flow.step("undo pay").run(nothing)
    return command.accept("")


async def hides(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    try:
        return await twice(flow, command)
    except Exception:
        return command.accept("all is well")


async def no_decision(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
    return 5  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (twice, "timer 'nap' is named twice"),
        (twice_run, "step 'pay' is run twice"),
        (late_undo, "step 'pay': say undo before it is run"),
        (forgets, "timer nap was made and never awaited"),
        (catches_all, "it catches what ends it"),
        (catches_all_and_waits, "it catches what ends it"),
        (backwards, "timer 'nap': not a duration: -1"),
        (unnamed, "step '': a name has 1 to 200 characters"),
        (no_type, "deferred 'it': "),
        (foreign, "it emits Deposited, which evolve doesn't take"),
        (forgets_step, "step 'pay' was called and never awaited"),
        (forgets_emit, "emit was called and never awaited"),
        (forgets_and_waits, "step 'pay' was called and never awaited"),
        (named_as_undo, "undo steps' names begin with 'undo '"),
        (hides, "timer 'nap' is named twice"),
        (no_decision, "the flow returned 5, not a Decision"),
    ],
)
def test_a_mistake_is_told(handler: Handler, says: str) -> None:
    with pytest.raises(AssertionError) as caught:
        trying(handler).advance(10)
    assert says in str(caught.value)


def test_a_failure_that_is_not_declared_is_an_error_of_its_step() -> None:
    with pytest.raises(StepFailed, match="step 'pay': SoldOut"):
        trying(undeclared).advance(10)


def test_a_flow_that_is_not_the_same_each_time_is_found() -> None:
    numbers: Iterator[int] = itertools.count()

    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        await flow.emit(Noted(str(next(numbers))))
        await flow.sleep("nap", 1)
        return command.accept("")

    with pytest.raises(AssertionError, match="emits noted, and emitted something else here"):
        trying(handler).advance(1)


def test_a_token_is_handed_out_where_it_is_asked_for() -> None:
    sent: list[Token[int]] = []

    async def send(token: Token[int]) -> None:
        sent.append(token)

    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        answer = flow.deferred("answer", int, expires=60)
        await flow.step("send").run(send, answer.token)
        return command.accept(str(await answer))

    when = trying(handler)
    when.advance(59).resume("answer", 1).accepts("1")
    with pytest.raises(AssertionError, match="the token of deferred 'answer' has expired"):
        when.advance(60).resume("answer", 1)
    assert len(sent) == 1
