"""Undo in a rehearsed flow: what is undone, in which order, and what isn't."""

from __future__ import annotations

from typing import Any

import pytest

from perdure import Decision, Entity, Flow, Retry, given
from perdure.entities.steps import StepFailed

from .test_rehearsal import Case, Denied, Noted, Try, decide, evolve, trying


async def test_a_declared_failure_of_a_step_is_raised_each_time_and_undone_nothing() -> None:
    async def pay() -> None:
        raise Denied("broke")

    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        try:
            await flow.step("pay").undo(pay).run(pay)
        except Denied as denied:
            await flow.sleep("nap", 1)
            return command.reject(denied)
        return command.accept("")

    when = trying(handler).advance(1)
    when.rejects(Denied("broke"))
    assert when.performed == ("pay",)


async def test_what_was_done_is_undone_in_reverse() -> None:
    undone: list[object] = []

    async def act(n: int) -> int:
        if n == 3:
            raise ValueError("who knows")
        return n

    async def undo(n: int) -> None:
        undone.append(n)

    async def handler(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        for n in (1, 2, 3):
            try:
                await flow.step(f"act {n}", retry=Retry(attempts=1)).undo(undo, n).run(act, n)
            except StepFailed:
                await flow.sleep("nap", 1)
        return command.reject(Denied("no"))

    when = trying(handler).advance(1)
    when.rejects(Denied("no"))
    assert when.performed[-3:] == ("undo act 3", "undo act 2", "undo act 1")
    assert undone == [3, 2, 1]


def test_a_flow_that_is_cancelled_is_undone() -> None:
    async def nothing() -> None:
        pass

    async def books(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        for name in ("hotel", "car"):
            await flow.step(name).undo(nothing).run(nothing)
            await flow.emit(Noted(name))
            await flow.sleep(f"after {name}", 60)
        return command.accept("booked")

    begun = given(Entity(Case(), decide, evolve, flows=[books])).when(Try())
    cancelled = begun.advance(60).cancel()
    assert (begun.cancelled, cancelled.cancelled) == (False, True)
    assert cancelled.performed == ("hotel", "car", "undo car", "undo hotel")
    assert cancelled.emitted == (Noted("hotel"), Noted("car"))
    assert begun.cancel().performed == ("hotel", "undo hotel")
    assert begun.advance(120).cancelled is False
    with pytest.raises(AssertionError, match="got: the flow was cancelled"):
        cancelled.accepts("booked")
    with pytest.raises(AssertionError, match="got: the flow was cancelled"):
        cancelled.advance(3600).waits_for("after car")
    for ended in (cancelled, begun.advance(120)):
        with pytest.raises(AssertionError, match="nothing is to be cancelled: the flow"):
            ended.cancel()


def test_a_plain_function_is_a_step_too_as_in_a_runner() -> None:
    def seven() -> int:
        return 7

    async def runs(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        plain: Any = seven
        return command.accept(str(await flow.step("seven").run(plain)))

    given(Entity(Case(), decide, evolve, flows=[runs])).when(Try()).accepts("7")


def test_a_value_of_the_wrong_type_is_told() -> None:
    async def waits(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        return command.accept(str(await flow.deferred("answer", int)))

    when = given(Entity(Case(), decide, evolve, flows=[waits])).when(Try())
    with pytest.raises(AssertionError, match="deferred answer: Expected `int`, got `str`"):
        when.resume("answer", "seven")
    when.resume("answer", 7).accepts("7")


def test_what_the_test_gave_is_not_undone_for_real() -> None:
    real: list[str] = []

    async def act(what: str) -> str:
        real.append(what)
        return what

    async def pays(flow: Flow[Case, Noted], command: Try) -> Decision[Noted]:
        await flow.step("pay", retry=Retry(attempts=1)).undo(act, "back").run(act, "pay")
        await flow.step("ship", retry=Retry(attempts=1)).undo(act, "return").run(act, "ship")
        await flow.sleep("a day", 60)
        return command.accept("done")

    entity = Entity(Case(), decide, evolve, flows=[pays])
    when = given(entity).when(Try(), steps={"pay": "paid"}).cancel()
    assert when.performed == ("pay", "ship", "undo ship", "undo pay")
    assert real == ["ship", "return"]
    refused = given(entity).when(Try(), steps={"pay": "", "undo pay": OSError("down")})
    with pytest.raises(StepFailed, match="step 'undo pay': OSError: down"):
        refused.cancel()
