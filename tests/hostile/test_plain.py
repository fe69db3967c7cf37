"""A program with nothing but `nc.request` and `nc.publish`: what docs/wire.md promises to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import nats.errors
import pytest
import pytest_asyncio

from perdure import MalformedMessage, RunnerNotRegistered, Settings, State, connect

from .client import PAUSE_S, escape
from .harness import NAMESPACE, TROUBLE, World, world
from .victim import Add, Victim

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADD = {"type": "add", "n": 1}
TOTAL = {"type": "total"}

IDS = [
    "a-1",
    "a.b",
    "a b",
    "*",
    ">",
    "$SYS",
    "=",
    "=41",
    "a=2Eb",
    "\0",
    "\r\n",
    "a\r\nPUB x 1\r\ny",
    "é",
    "e\u0301",
    "\U0001f600\U0001f468\u200d\U0001f469",
    "\u202e",
    "../../etc/passwd",
    "' OR 1=1 --",
    "x" * 255,
    "é" * 127,
]
LONG = ["x" * 256, "é" * 128, "x" * 1_000, "x" * 10_240]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One runner for all of it."""
    async with world(tmp_path_factory.mktemp("plain")) as made:
        yield made
        assert made.host.actions(*TROUBLE) == []


async def test_ask(one: World) -> None:
    client = one.client
    first = await client.ask("ask", {"type": "add", "n": 5}, Idempotency_Key="order-17")
    assert first == {"reply": 5, "seq": first["seq"], "version": 1}
    again = await client.ask("ask", b'{ "n":5, "type":"add" }', Idempotency_Key="order-17")
    assert again == first
    failed = await client.ask("ask", {"type": "add", "n": 5000}, Idempotency_Key="order-18")
    assert failed == {
        "failure": {"type": "too_much", "n": 5000},
        "seq": first["seq"] + 1,
        "version": 1,
    }
    assert (
        await client.ask("ask", {"type": "add", "n": 5000}, Idempotency_Key="order-18") == failed
    )
    assert (await client.ask("ask", TOTAL))["reply"] == 5
    error = (await client.ask("ask", {"type": "rob"}))["error"]
    assert set(error) == {
        *("type", "address", "key", "request_id", "cause", "may_have_taken_effect", "advice")
    }
    assert (error["type"], error["address"], error["advice"]) == (
        *("MalformedMessage", "victim/ask", "fix"),
    )


async def test_an_ask_without_a_reply_subject(one: World) -> None:
    """With a key it is executed, and nobody hears of it; without one it has no name."""
    body = json.dumps(ADD).encode()
    subject = one.client.ask_subject("silent")
    for _ in range(3):
        await one.client.nc.publish(subject, body)
        await one.client.nc.publish(subject, body, headers={"Idempotency-Key": "k"})
    assert (await one.client.ask("silent", ADD))["reply"] == 2
    assert (await one.client.ask("silent", ADD, Idempotency_Key="k"))["reply"] == 1


async def test_a_bare_ask_is_named_by_its_reply_subject(one: World) -> None:
    """Copies of one request take effect once."""
    inbox = one.client.nc.new_inbox()
    heard = await one.client.nc.subscribe(inbox)
    for _ in range(5):
        subject = one.client.ask_subject("bare")
        await one.client.nc.publish(subject, json.dumps(ADD).encode(), reply=inbox)
    answers = [json.loads((await heard.next_msg(timeout=5)).data) for _ in range(5)]
    await heard.unsubscribe()
    outcomes = [answer for answer in answers if "reply" in answer]
    assert outcomes
    assert all(answer == outcomes[0] for answer in outcomes)
    others = {answer["error"]["type"] for answer in answers if "error" in answer}
    assert others <= {"AlreadyProcessingMessage"}
    assert (await one.client.ask("bare", TOTAL))["reply"] == 1


async def test_tell(one: World) -> None:
    client = one.client
    inbox = client.nc.new_inbox()
    heard = await client.nc.subscribe(inbox)
    ack = await client.tell("tell", ADD, Idempotency_Key="k", Perdure_Reply_To=inbox)
    assert ack == {"stream": client.stream("CMD"), "seq": ack["seq"]}
    answer = json.loads((await heard.next_msg(timeout=10)).data)
    assert answer == {"reply": 1, "seq": answer["seq"], "version": 1}
    assert await client.ask("tell", ADD, Idempotency_Key="k") == answer, (
        "the same by the other way"
    )
    await client.nc.publish(client.to_subject("tell"), json.dumps(ADD).encode())
    await client.nc.publish(client.to_subject("tell"), json.dumps(ADD).encode())
    async with asyncio.timeout(10):  # named by their places: two commands
        while (await client.ask("tell", TOTAL))["reply"] != 3:  # noqa: ASYNC110 (asked of the server)
            await asyncio.sleep(PAUSE_S)
    await client.tell("tell", b"nonsense", Perdure_Reply_To=inbox)
    verdict = json.loads((await heard.next_msg(timeout=10)).data)
    assert verdict["error"]["type"] == "MalformedMessage"
    assert verdict["seq"] > answer["seq"], "a recorded verdict"
    with pytest.raises(nats.errors.TimeoutError):
        await heard.next_msg(timeout=0.2)
    await heard.unsubscribe()


async def test_info_and_the_shards_subject(one: World) -> None:
    info = await one.client.request(f"{NAMESPACE}.info.victim", b"")
    assert (info["entity"], info["generation"], info["shards"]) == ("victim", 1, 4)
    assert set(info["schemas"]) == {"commands", "events", "$defs"}
    answers: list[dict[str, Any]] = []
    for shard in range(4):
        subject = f"{NAMESPACE}.ask.victim.1.{shard}.by-shard"
        answers.append(await one.client.request(subject, ADD))
    outcomes = [answer for answer in answers if "reply" in answer]
    assert [answer["reply"] for answer in outcomes] == [1]
    wrong = {answer["error"]["type"] for answer in answers if "error" in answer}
    assert wrong == {"EntityNotAssignedToRunner"}
    assert (await one.client.ask("by-shard", TOTAL))["reply"] == 1


@pytest.mark.parametrize("id", IDS, ids=lambda id: ascii(id)[:30])
async def test_an_odd_id_is_an_entity_like_any_other(one: World, id: str) -> None:
    settings = Settings(url=one.server.url, namespace=NAMESPACE)
    async with connect(settings=settings) as cluster:
        assert (await one.client.ask(id, ADD))["reply"] == 1
        await one.client.tell(id, ADD)
        await one.client.settled()
        assert await cluster.at(Victim, id).ask(Add(1)) == 3
        assert len(await one.client.log(id)) == 3


@pytest.mark.parametrize("id", LONG, ids=lambda id: f"{len(id.encode())} bytes")
async def test_an_id_that_is_too_long(one: World, id: str) -> None:
    """The Python client sends nothing. A plain one is told, or cut off by the server itself."""
    settings = Settings(url=one.server.url, namespace=NAMESPACE)
    async with connect(settings=settings) as cluster:
        for call in (cluster.at(Victim, id).ask(Add(1)), cluster.at(Victim, id).tell(Add(1))):
            with pytest.raises(MalformedMessage) as refused:
                await call
            assert refused.value.may_have_taken_effect is False
        assert await cluster.at(Victim, "beside it").ask(Add(0)) == 0
    if len(escape(id)) < 4_000:
        error = (await one.client.ask(id, ADD))["error"]
        assert (error["type"], error["may_have_taken_effect"]) == ("MalformedMessage", False)
        dead = await one.client.count("DEAD")
        await one.client.tell(id, ADD)
        (letter,) = await one.client.dead(after=dead)
        assert letter["dead"]["reason"] == "malformed"


async def test_headers_are_not_made_of_values(one: World) -> None:
    """Lines within a value: of an envelope they are text, and nobody publishes anything."""
    lines = "x\r\nIdempotency-Key: y\r\n\r\nPUB hostile.log.victim.lines 2\r\n{}\r\n"
    body = [1, "ask", ADD, None, None, lines, lines, None, None, None, False, lines]
    assert (await one.client.ask("lines", body))["reply"] == 1
    await one.client.tell("lines", [1, "tell", ADD, None, None, lines, lines])
    await one.client.settled()
    assert (await one.client.ask("lines", ADD))["reply"] == 3
    assert len(await one.client.log("lines")) == 3


async def test_nobody_hosts_the_type(one: World) -> None:
    class Nobody(State):
        n: int = 0

    for subject in (f"{NAMESPACE}.info.nobody", f"{NAMESPACE}.ask.nobody.a-1"):
        with pytest.raises(nats.errors.NoRespondersError):
            await one.client.nc.request(subject, b"{}", timeout=5)
    with pytest.raises(nats.errors.NoRespondersError):
        await one.client.nc.request(f"{NAMESPACE}.to.nobody.a-1", b"{}", timeout=5)
    settings = Settings(url=one.server.url, namespace=NAMESPACE)
    async with asyncio.timeout(10), connect(settings=settings) as cluster:
        with pytest.raises(RunnerNotRegistered) as refused:
            await cluster.at(Nobody, "a-1").state()
        assert refused.value.may_have_taken_effect is False
