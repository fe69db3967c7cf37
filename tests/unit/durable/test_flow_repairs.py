"""Flows whose code was wrong, and what is left of it once that is mended: no effect is lost or had
twice, and what doesn't fit is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from perdure import (
    Decision,
    Entity,
    Event,
    Flow,
    MalformedMessage,
    RpcClientError,
    Token,
    memory,
)
from perdure.durable.testing import TestCluster
from perdure.entities import askref
from perdure.entities.address import Address
from perdure.entities.contract import Contract, contract_of
from perdure.streams.asks import Envelope, encode_envelope

from .case import Case, Denied, Note, Noted, Open, Read, decide, evolve
from .test_parked import ONCE, SETTINGS, cancel, outcome
from .test_parked import retry as let_go


@dataclass
class Shop:
    """What happens outside, and whether the code, or the partner, is wrong."""

    broken: bool = True
    done: list[str] = field(default_factory=list[str])
    tokens: list[Token[Any]] = field(default_factory=list[Token[Any]])

    async def act(self, what: str) -> None:
        self.done.append(what)

    async def fail(self, what: str) -> None:
        self.done.append(f"{what}!" if self.broken else what)
        if self.broken:
            raise OSError("the partner is down")

    async def send(self, token: Token[Any]) -> None:
        self.tokens.append(token)

    async def slow(self) -> None:
        self.done.append("slow")
        await asyncio.Event().wait()


Body = Callable[[Shop, Flow[Case, Noted], Open], Awaitable[Decision[Noted]]]


def kit(shop: Shop, body: Body) -> AbstractAsyncContextManager[TestCluster]:
    async def opens(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        return await body(shop, flow, command)

    return memory(Entity(Case(), decide, evolve, flows=[opens]), settings=SETTINGS)


async def retry(cluster: TestCluster, shop: Shop) -> str:
    """What is told after it was mended, and let go on."""
    await let_go(cluster, shop)
    return str(await outcome(cluster))


# -- it breaks at its end -----------------------------------------------------------------------
async def charges(flow: Flow[Case, Noted], shop: Shop) -> None:
    await flow.step("charge").undo(shop.act, "refund").run(shop.act, "charge")


async def wrong_reply(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
    await charges(flow, shop)
    reply: Any = object() if shop.broken else "ok"
    return command.accept(reply)


async def large_reply(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
    await charges(flow, shop)
    return command.accept("x" * 3_000_000 if shop.broken else "ok")


async def no_return(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
    await charges(flow, shop)
    nothing: Any = None
    return nothing if shop.broken else command.accept("ok")


async def forgotten(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
    await charges(flow, shop)
    if shop.broken:
        flow.sleep("x", 1)
    return command.accept("ok")


ENDS = pytest.mark.parametrize("body", [wrong_reply, large_reply, no_return, forgotten])


@ENDS
async def test_what_a_step_did_before_a_bad_end_is_not_done_again(body: Body) -> None:
    shop = Shop()
    async with kit(shop, body) as cluster:
        assert "the flow is parked" in str(await outcome(cluster))
        assert await retry(cluster, shop) == "ok"
        assert shop.done == ["charge"]


@ENDS
async def test_what_a_step_did_before_a_bad_end_is_undone(body: Body) -> None:
    shop = Shop()
    async with kit(shop, body) as cluster:
        await outcome(cluster)
        await cancel(cluster)
        assert "it was cancelled" in str(await outcome(cluster))
        assert shop.done == ["charge", "refund"]


async def test_what_was_undone_before_a_bad_end_is_not_undone_again() -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await charges(flow, shop)
        wrong: Any = 7 if shop.broken else "no"
        return command.reject(Denied(wrong))

    shop = Shop()
    async with kit(shop, body) as cluster:
        assert "the flow is parked" in str(await outcome(cluster))
        assert "no" in await retry(cluster, shop)
        assert shop.done == ["charge", "refund"]


async def test_what_was_undone_has_to_stay_so() -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await charges(flow, shop)
        await flow.step("car", retry=ONCE).undo(shop.fail, "undo car").run(shop.act, "car")
        await flow.step("hotel").undo(shop.act, "undo hotel").run(shop.act, "hotel")
        return command.reject(Denied("no")) if shop.broken else command.accept("ok")

    shop = Shop()
    async with kit(shop, body) as cluster:
        assert "the flow is parked" in str(await outcome(cluster))
        assert "'hotel' was undone, and isn't any more" in await retry(cluster, shop)


# -- after a mistake nothing has an effect -------------------------------------------------------
async def test_code_that_catches_a_mistake_does_not_compensate_for_it() -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        try:
            await flow.step("charge").run(shop.act, "charge")
            if shop.broken:
                flow.step("charge")
        except Exception:
            await flow.step("refund").run(shop.act, "refund")
            return command.accept("refunded")
        await flow.step("ship").run(shop.act, "ship")
        return command.accept("shipped")

    shop = Shop()
    async with kit(shop, body) as cluster:
        assert "'charge' is named twice" in str(await outcome(cluster))
        assert await retry(cluster, shop) == "shipped"
        assert shop.done == ["charge", "ship"]


async def test_a_loop_that_catches_its_own_mistake_ends() -> None:
    """It ran for ever, and its runner with it."""

    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        while True:
            try:
                await flow.step("charge").run(shop.fail, "charge")
                return command.accept("ok")
            except Exception:
                continue

    shop = Shop()
    async with kit(shop, body) as cluster:
        assert "'charge' is named twice" in str(await outcome(cluster))


async def test_an_answer_that_cannot_be_read_is_a_mismatch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        try:
            asked = flow.at(Case, "other").ask(Note("x"))
            count, _ = await flow.all(asked, flow.sleep("a while", 5))
        except Exception:
            await flow.step("refund").run(shop.act, "refund")
            return command.accept("refunded")
        return command.accept(str(count))

    def since(*args: Any) -> Contract:
        return replace(contract_of(*args), reply_decoder=msgspec.json.Decoder(str))

    shop = Shop()
    async with kit(shop, body) as cluster:
        await outcome(cluster)
        await cluster.quiet()
        monkeypatch.setattr(askref, "contract_of", since)
        await cluster.advance(6)
        assert "its answer can't be read" in str(await outcome(cluster))
        assert shop.done == []


async def test_a_step_that_uses_its_flow_is_run_again_once_it_does_not() -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        async def act() -> None:
            if shop.broken:
                await flow.emit(Noted("x"))
            shop.done.append("act")

        await flow.step("act").run(act)
        return command.accept("ok")

    shop = Shop()
    async with kit(shop, body) as cluster:
        assert "a flow does one thing at a time" in str(await outcome(cluster))
        assert await retry(cluster, shop) == "ok"
        assert shop.done == ["act"]


async def test_a_step_that_its_flow_cancels_is_recorded_as_failed() -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        try:
            async with asyncio.timeout(0.05):
                await flow.step("slow").undo(shop.act, "undo slow").run(shop.slow)
        except TimeoutError:
            return command.reject(Denied("too slow"))
        return command.accept("ok")

    shop = Shop()
    async with kit(shop, body) as cluster:
        assert "its own code cancels it" in str(await outcome(cluster))
        await cancel(cluster)
        assert "it was cancelled" in str(await outcome(cluster))
        assert shop.done == ["slow", "undo slow"]


async def test_the_flow_of_another_call_is_told_as_what_it_is() -> None:
    kept: list[Flow[Case, Noted]] = []

    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        kept.append(flow)
        if command.n:
            await kept[0].emit(Noted("x"))
        return command.accept("ok")

    async with kit(Shop(), body) as cluster:
        assert await outcome(cluster) == "ok"
        with pytest.raises(RpcClientError, match="the flow that this belongs to has ended"):
            await cluster.at(Case, "c").ask(Open(1), key="k2", timeout=5)
        kept.clear()  # else the entity stays in memory with it


# -- mended otherwise than it was ---------------------------------------------------------------
async def test_a_step_that_was_renamed_while_it_was_parked_is_told() -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await flow.step("hotel" if shop.broken else "book hotel").run(shop.act, "hotel")
        if shop.broken:
            raise ValueError("a bug")
        await flow.step("car").run(shop.act, "car")
        return command.accept("ok")

    shop = Shop()
    async with kit(shop, body) as cluster:
        assert "a bug" in str(await outcome(cluster))
        assert "step 'hotel' was run here, and isn't any more" in await retry(cluster, shop)
        assert shop.done == ["hotel"]


async def test_an_emit_that_was_removed_while_it_was_parked_is_told() -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        if shop.broken:
            await flow.emit(Noted("reserved"))
        await flow.step("hotel").run(shop.act, "hotel")
        if shop.broken:
            raise ValueError("a bug")
        await flow.step("car").run(shop.act, "car")
        return command.accept("ok")

    shop = Shop()
    async with kit(shop, body) as cluster:
        assert "a bug" in str(await outcome(cluster))
        assert "it doesn't emit events that it emitted" in await retry(cluster, shop)
        assert shop.done == ["hotel"]


def parked_before(kind: type[object]) -> Body:
    """A flow that is parked before it comes to wait for a value of that type."""

    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        answer = flow.deferred("answer", kind)
        await flow.step("send").run(shop.send, answer.token)
        if shop.broken:
            raise ValueError("a bug")
        return command.accept(f"{await answer}")

    return body


async def test_a_wrong_value_that_came_while_it_was_parked_is_dropped() -> None:
    """The flow was parked for ever, and its token used up."""
    shop = Shop()
    async with kit(shop, parked_before(int)) as cluster:
        assert "a bug" in str(await outcome(cluster))
        await cluster.resume(shop.tokens[0], "seven")
        await cluster.resume(shop.tokens[0], "seven")  # the same one, again
        with pytest.raises(MalformedMessage, match="parked, and keeps another value"):
            await cluster.resume(shop.tokens[0], 7)
        assert "a bug" in str(await outcome(cluster))
        assert "The flow waits" in await retry(cluster, shop)
        await cluster.crash()
        with pytest.raises(MalformedMessage, match="Expected `int`, got `str`"):
            await cluster.resume(shop.tokens[0], "eight")
        await cluster.resume(shop.tokens[0], 9)
        assert await outcome(cluster) == "9"
        await cluster.resume(shop.tokens[0], 10)  # changes nothing


async def test_a_second_value_changes_nothing_once_the_first_one_counts() -> None:
    """Though its flow is parked, later on."""

    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        answer = flow.deferred("answer", dict[str, int])
        await flow.step("send").run(shop.send, answer.token)
        given = await answer
        await flow.sleep("nap", 1)
        if shop.broken:
            raise ValueError("a bug")
        return command.accept(f"{given}")

    shop = Shop()
    async with kit(shop, body) as cluster:
        await outcome(cluster)
        await cluster.resume(shop.tokens[0], {"a": 1})
        await cluster.advance(2)
        assert "a bug" in str(await outcome(cluster))
        await cluster.resume(shop.tokens[0], {"a": 2})
        assert await retry(cluster, shop) == "{'a': 1}"


async def test_the_same_value_in_another_spelling_is_no_other_one() -> None:
    shop = Shop()
    async with kit(shop, parked_before(dict[str, int])) as cluster:
        await outcome(cluster)
        await cluster.resume(shop.tokens[0], Raw(b'{"a":1,"b":2}'))
        await cluster.resume(shop.tokens[0], Raw(b'{"b": 2, "a": 1}'))
        with pytest.raises(MalformedMessage, match="keeps another value for deferred answer"):
            await cluster.resume(shop.tokens[0], Raw(b'{"a":1,"b":3}'))
        assert await retry(cluster, shop) == "{'a': 1, 'b': 2}"


class Tagged(Event, tag="noted"):
    text: str


class TaggedSince(Event, tag="noted"):
    text: str
    language: str = "en"
    tags: frozenset[str] = frozenset()


def tagged(shop: Shop, event: Any) -> Entity[Any, Any]:
    """The same entity before and after its event has got fields."""

    async def opens(flow: Any, command: Any) -> Any:
        await flow.emit(event("begun"))
        answer = flow.deferred("answer", int)
        await flow.step("send").run(shop.send, answer.token)
        return command.accept(f"{await answer}")

    def evolves(state: Case, event: Any) -> Case:
        return state.replace(notes=(*state.notes, event.text))

    def decides(state: Case, command: Any) -> Any:
        return command.answer(state.notes)

    opens.__annotations__ = {
        "flow": Flow[Case, event], "command": Open, "return": Decision[event],
    }  # fmt: skip
    evolves.__annotations__ = {"state": Case, "event": event, "return": Case}
    decides.__annotations__ = {"state": Case, "command": Read, "return": Decision[event]}
    return Entity(Case(), decides, evolves, flows=[opens])


async def test_a_new_field_of_an_event_is_no_other_event() -> None:
    shop = Shop()
    async with memory(tagged(shop, Tagged), settings=SETTINGS) as cluster:
        await outcome(cluster)
        await cluster.stop()
        await cluster.start(tagged(shop, TaggedSince))
        await cluster.resume(shop.tokens[0], 5)
        assert await cluster.at(Case, "c").result(Open, "k", timeout=5) == "5"


# -- cancelled, parked, exclusive -----------------------------------------------------------------
async def test_a_deadline_that_passes_while_an_undo_fails_does_not_give_it_up() -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await flow.step("car", retry=ONCE).undo(shop.fail, "undo car").run(shop.act, "car")
        await flow.sleep("for long", 3600)
        return command.accept("ok")

    shop = Shop()
    async with kit(shop, body) as cluster:
        plain = vars(cluster)["_broker"].session("plain")
        deadline = cluster.clock.now_ns() // 1_000_000 + 60_000
        command = Raw(b'{"type":"open"}')
        tell = encode_envelope(Envelope(1, "tell", command, "k", deadline=deadline))
        await plain.commands.publish(Address("case", "c"), tell)
        await cluster.quiet()
        await cancel(cluster)
        await cluster.advance(120)
        assert "the flow is parked" in str(await outcome(cluster))
        assert "it was cancelled" in await retry(cluster, shop)
        assert shop.done[-1] == "undo car"


@pytest.mark.parametrize("step", [False, True])
async def test_parked_in_an_exclusive_a_flow_keeps_its_entity(step: bool) -> None:
    async def body(shop: Shop, flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        async with flow.exclusive():
            await flow.sleep("a second", 1)
            if step:
                await flow.step("act").run(shop.act, "act")
            if shop.broken:
                raise ValueError("a bug")
        await flow.sleep("another", 1)
        return command.accept(",".join(flow.state.notes))

    shop = Shop()
    async with kit(shop, body) as cluster:
        case = cluster.at(Case, "c")
        await outcome(cluster)
        await cluster.advance(1.01)
        await case.tell(Note("told"))
        with pytest.raises(RpcClientError, match="is parked that has the entity for itself"):
            await case.ask(Note("asked"), timeout=5)
        assert await case.query(Read()) == ()
        await let_go(cluster, shop)
        assert await case.query(Read()) == ("told",)
        await cluster.advance(1.01)
        assert await outcome(cluster) == "told"
