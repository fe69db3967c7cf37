"""Bytes that no client library sends: subjects, replies and headers as a socket can write them.

nats-server passes on any byte but space, tab, CR and LF. A stored one comes again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from .harness import NAMESPACE, TROUBLE, World, world
from .raw import Raw

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADD = b'{"type":"add","n":1}'
TOTAL = {"type": "total"}
HEAD = NAMESPACE.encode()

TOKENS = [
    b"\xff",
    b"a\xff\xfe",
    b"\xc3",
    b"\xed\xa0\x80",  # a surrogate
    b"a\x0bb",
    b"a\x0cb",
    b"a\x0b1",
    b"\x0b1\x0b2",
    b"a\x00b",
    b"\x1b[31m",
    "é".encode(),
    "a\u00a0b".encode(),
    "a\u2028b".encode(),
    "\U0001f600".encode(),
    b"x" * 256,
    b"x" * 3_900,
]
ESCAPED_OTHERWISE = [b"a=2e", b"=61", b"a=2", b"=C3", b"caf=E9", b"=", b"==", b"a%2Eb", b"=ZZ"]

ODD_INBOXES = [
    b"_INBOX.\xff",
    b"_INBOX.\xed\xa0\x80",
    "_INBOX.é".encode(),
    "_INBOX.\U0001f600".encode(),
]
"""Below a prefix, and nothing in them that a line of the protocol could trip over."""

FORBIDDEN = [
    b"_INBOX",
    b"_INBOX.",
    b"_INBOX..x",
    b"_INBOX.*",
    b"_INBOX.>",
    b"_INBOXES.x",
    b"_INBOX.a\x0bb",
    b"_INBOX.a\x0b1",
    b"_INBOX.a\x0cb",
    b"_INBOX.a\x00b",
    b"_INBOX.\x1b[31m",
    b"_INBOX.\x7f",
    "_INBOX.a\u00a0b".encode(),
    "_INBOX.a\u2028b".encode(),
    b"_INBOX." + b"x" * 600,
    b"$SYS.REQ.SERVER.PING",
    b"$JS.API.STREAM.PURGE.HOSTILE_LOG_victim",
    b"$JS.API.STREAM.DELETE.HOSTILE_CMD_victim",
    HEAD + b".to.victim.another",
    HEAD + b".log.victim.another",
    HEAD + b".snap.victim.another",
    HEAD + b".dead.victim.another",
    b"$KV.HOSTILE_MEMBERS.term.victim.1.0",
]

HEADERS = [
    b"NATS/1.0",
    b"NATS/1.0 ",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 503 No Responders\r\n\r\n",
    b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 256\r\n\r\n",
    b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\nNats-Consumer-Stalled: hostile.log.victim.x\r\n\r\n",
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    b"NATS/1.0 503 \xff\xfe\r\n\r\n",
    b"NATS/1.0\xff\r\na: b\r\n\r\n",
    b"garbage, no headers",
    b"\x00" * 16,
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\n: no name\r\n\r\n",
    b"NATS/1.0\r\n\xff: \xff\r\n\r\n",
    b"NATS/1.0\r\ntraceparent: \xff\xfe\xed\xa0\x80\r\n\r\n",
    b"NATS/1.0\r\ntraceparent: " + b"t" * 10_000 + b"\r\n\r\n",
    b"NATS/1.0\r\nX: a\nIdempotency-Key: stolen\r\n\r\n",
    b"NATS/1.0\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
    b"NATS/1.0\r\na: " + b"b" * 300_000 + b"\r\n\r\n",
]

STREAM_HEADER_BYTES = 64 * 1024
"""A server stores no larger headers."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One runner for all of it."""
    async with world(tmp_path_factory.mktemp("wire")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def raw(one: World) -> AsyncIterator[Raw]:
    """A socket; at the end all is well."""
    runner = await one.ready()
    made = await Raw.open(one.server.url)
    yield made
    await made.close()
    async with asyncio.timeout(5):
        assert (await one.client.ask("a neighbour", TOTAL))["reply"] == 0
        await one.client.settled()
    assert await one.ready() == runner
    assert one.host.actions(*TROUBLE) == []
    assert len(one.host.actions("term.begin")) == 4, "the connection held, and all terms"


@pytest.mark.parametrize("token", [*TOKENS, *ESCAPED_OTHERWISE], ids=repr)
async def test_a_token_that_is_no_id(one: World, raw: Raw, token: bytes) -> None:
    log, dead = await one.client.count("LOG"), await one.client.count("DEAD")
    heard = await one.client.nc.subscribe("_INBOX.wire.*")
    await one.client.nc.flush()
    await raw.publish(HEAD + b".ask.victim." + token, ADD, reply=b"_INBOX.wire.1")
    answer = await heard.next_msg(timeout=5)
    await heard.unsubscribe()
    assert b'"MalformedMessage"' in answer.data
    await raw.tell(HEAD + b".to.victim." + token, ADD)
    (letter,) = await one.client.dead(after=dead)
    assert letter["dead"]["reason"] == "malformed"
    assert letter["dead"]["error"]["type"] == "MalformedMessage"
    await raw.publish(HEAD + b".info.victim", token, reply=b"_INBOX.wire.2")
    assert await one.client.count("LOG") == log


async def test_a_token_that_the_servers_index_refuses(tmp_path: Path) -> None:
    """A DEL is no part of any subject to the server's index: nobody is given such a tell, no limit
    of a subject counts it, and the stream would fill up."""
    async with world(tmp_path, env={"PERDURE_HOST_LOOK_S": "0.2"}) as w:
        made = await Raw.open(w.server.url)
        for token in (b"a\x7fb", b"\x7f", b"=7f\x7f"):
            await made.tell(HEAD + b".to.victim." + token, ADD)
        await made.close()
        letters = await w.client.dead()
        assert [letter["dead"]["error"]["type"] for letter in letters] == ["MalformedMessage"] * 3
        assert len(w.host.actions("command.dead")) == 3


@pytest.mark.parametrize("size", [4_097, 10_240, 100_000])
async def test_a_subject_that_the_server_refuses(one: World, raw: Raw, size: int) -> None:
    """It ends the connection of whoever sent it, and of nobody else."""
    for way in (b".ask.victim.", b".to.victim."):
        sender = await Raw.open(one.server.url)
        await sender.publish(HEAD + way + b"x" * size, ADD)
        assert sender.closed
        await sender.close()


@pytest.mark.parametrize("reply", [*ODD_INBOXES, *FORBIDDEN], ids=lambda reply: repr(reply[:40]))
async def test_a_reply_subject_elsewhere(one: World, raw: Raw, reply: bytes) -> None:
    """A bare ask isn't executed: its name would be a weapon. All else is, and not answered."""
    counts = {kind: await one.client.count(kind) for kind in ("SNAP", "DEAD")}
    id = f"r{[*ODD_INBOXES, *FORBIDDEN].index(reply)}"
    ask = HEAD + b".ask.victim." + id.encode()
    await raw.publish(ask, ADD, reply=reply)
    named = b"NATS/1.0\r\nIdempotency-Key: k\r\n\r\n"
    await raw.publish(ask, ADD, reply=reply, headers=named)
    block = b"NATS/1.0\r\nPerdure-Reply-To: " + reply + b"\r\n\r\n"
    await raw.tell(HEAD + b".to.victim." + id.encode(), ADD, headers=block)
    await raw.publish(HEAD + b".info.victim", b"", reply=reply)
    await raw.publish(HEAD + b".member." + (await one.ready()).encode(), b"", reply=reply)
    await one.client.settled()
    last = await one.client.ask(id, {"type": "add", "n": 0})
    assert last["reply"] == 2 + (reply in ODD_INBOXES)
    assert await one.client.log("another") == []
    assert {kind: await one.client.count(kind) for kind in counts} == counts


@pytest.mark.parametrize("block", HEADERS, ids=lambda block: repr(block[:40]))
async def test_headers_that_are_none(one: World, raw: Raw, block: bytes) -> None:
    """What can be read counts; the rest is as if it weren't there."""
    id = f"h{HEADERS.index(block)}"
    await raw.publish(
        HEAD + b".ask.victim." + id.encode(), ADD, reply=b"_INBOX.nobody.1", headers=block
    )
    await raw.tell(HEAD + b".to.victim." + id.encode(), ADD, headers=block)
    await one.client.settled()
    stored = len(block) < STREAM_HEADER_BYTES
    answer = await one.client.ask(id, {"type": "add", "n": 7}, Idempotency_Key="stolen")
    assert answer["reply"] == 1 + stored + 7, "no header came out of another's value"


async def test_nobody_can_forge_an_acknowledgement(tmp_path: Path) -> None:
    """A vertical tab and a number once chose which of the runner's subscriptions heard a message:
    behind the name of its inbox's next reply, it was the server's word on an append."""
    forged = b'{"stream":"HOSTILE_LOG_victim","seq":777}'
    head = HEAD + b".ask.victim."
    padding = b"x" * (len("_INBOX.") + 22 + len(".") - len(head))
    subjects = [head + padding + b"a%d\x0b1" % number for number in range(30, 200)]
    async with world(tmp_path) as w:
        made = await Raw.open(w.server.url)
        for n in range(40):
            ask = asyncio.ensure_future(w.client.ask(f"f{n}", {"type": "add", "n": 1}))
            for _ in range(5):
                await made.pour(subjects, forged)
            async with asyncio.timeout(5):
                assert await ask == {"reply": 1, "seq": n + 1, "version": 1}
        await made.close()
        assert await w.client.count("LOG") == 40
