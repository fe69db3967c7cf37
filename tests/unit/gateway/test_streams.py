"""Histories in pages and as events, clients that go away, bounds, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, MutableMapping
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio

from perdure import Commit, SerializationError
from perdure.deploy.gateway.limits import Limits
from perdure.deploy.gateway.past import Past, Stream
from perdure.deploy.gateway.protocol import Protocol
from perdure.deploy.server import EmbeddedServer

from ...support.server import PATIENCE_S, fresh_namespace, until
from . import till as tills
from .house import House, deaf, house

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVENTS = {"Accept": "text/event-stream"}
LIMITS = Limits(requests=3, streams=2, page_bytes=600, pages=1, ping_s=0.1, drain_s=5.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(nats_server: EmbeddedServer) -> AsyncIterator[House]:
    async with house(nats_server, fresh_namespace(), LIMITS) as made:
        yield made


async def put(made: House, id: str, cents: int) -> None:
    answer = await made.http.post(f"/entities/till/{id}/put", json={"cents": cents})
    assert answer.status_code == 200


async def refused(made: House, id: str) -> None:
    answer = await made.http.post(f"/entities/till/{id}/take", json={"cents": 1_000_000})
    assert answer.status_code == 409


async def events(lines: AsyncIterator[str], count: int) -> list[dict[str, Any]]:
    """The next outcomes of a stream, whose ids are their positions."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE_S):
        id = ""
        async for line in lines:
            if line.startswith("id: "):
                id = line[4:]
            elif line.startswith("data: "):
                found.append(json.loads(line[6:]))
                assert id == str(found[-1]["position"])
            if len(found) == count:
                return found
    raise AssertionError(f"it ended after {len(found)}")


async def test_pages_leave_out_nothing(shared: House) -> None:
    await put(shared, "paged", 1)
    for _ in range(3):
        await refused(shared, "paged")
    await put(shared, "paged", 2)
    seen: list[tuple[int, int]] = []
    path: str | None = "/entities/till/paged/history?limit=2"
    pages = 0
    while path:
        page = await shared.http.get(path)
        body, pages = page.json(), pages + 1
        seen += [(item["position"], item["version"]) for item in body["items"]]
        path = body["next"]
        assert ("link" in page.headers) is (path is not None)
    assert (pages, seen) == (3, [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2)])
    whole = (await shared.http.get("/entities/till/paged/history")).json()
    assert whole["next"] == "/entities/till/paged/history?after=3&limit=100"  # page_bytes
    assert whole["items"][0]["events"] == [{"type": "moved", "cents": 1}]
    nothing = (await shared.http.get("/entities/till/nobody/history")).json()
    assert nothing == {"items": [], "next": None}


async def test_a_stream_goes_on_where_it_was(shared: House) -> None:
    await put(shared, "live", 1)
    await refused(shared, "live")
    at = "/entities/till/live/history"
    async with shared.http.stream("GET", at, headers=EVENTS) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.aiter_lines()
        assert [e["version"] for e in await events(lines, 2)] == [1, 1]
        await put(shared, "live", 2)
        (newest,) = await events(lines, 1)
        assert (newest["position"], newest["version"], newest["reply"]) == (3, 2, 3)
        async with asyncio.timeout(PATIENCE_S):
            while await anext(lines) != ": ":  # it says that it lives
                pass
    await until(lambda: shared.gateway.streams == 0, "the stream's end")
    again = {**EVENTS, "Last-Event-ID": "1"}
    async with shared.http.stream("GET", at, headers=again) as stream:
        assert [e["position"] for e in await events(stream.aiter_lines(), 2)] == [2, 3]
    bad = await shared.http.get(at, headers={**EVENTS, "Last-Event-ID": "x"})
    assert bad.status_code == 400


async def test_streams_are_bounded(shared: House) -> None:
    at = "/entities/till/many/history"
    async with (
        shared.http.stream("GET", at, headers=EVENTS),
        shared.http.stream("GET", at, headers=EVENTS),
    ):
        third = await shared.http.get(at, headers=EVENTS)
        assert (third.status_code, third.headers["retry-after"]) == (503, "5")
        assert (await shared.http.get(at)).status_code == 200
    await until(lambda: shared.gateway.streams == 0, "their end")


async def test_pages_in_hand_are_bounded(shared: House) -> None:
    note = {"cents": 1, "note": "x" * 450_000}
    assert (await shared.http.post("/entities/till/large/put", json=note)).status_code == 200
    at = "/entities/till/large/history"
    asks = f"GET {at} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with contextlib.closing(deaf(int(shared.at.rpartition(":")[2]), asks)):
        await until(lambda: shared.gateway.requests == 1, "its page")
        second = await shared.http.get("/entities/till/paged/history?wait=0.2")
        assert (second.status_code, shared.gateway.requests) == (504, 1)
    await until(lambda: shared.gateway.requests == 0, "its end")
    for _ in range(2):
        page = await shared.http.get(at)
        assert (page.status_code, len(page.content) > 450_000) == (200, True)


async def test_requests_are_bounded_and_a_client_that_goes_frees_everything(
    shared: House,
) -> None:
    tills.released.clear()
    try:
        held = [
            asyncio.create_task(
                shared.http.post(f"/entities/till/held-{n}/wait", headers={"Prefer": "wait=15"})
            )
            for n in range(3)
        ]
        await until(lambda: shared.gateway.requests == 3, "three requests in hand")
        more = await shared.http.get("/entities/till/a/state")
        assert (more.status_code, more.headers["retry-after"]) == (503, "1")
        assert more.headers["content-type"] == "application/problem+json"
        assert (await shared.http.get("/livez")).status_code == 200
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        await until(lambda: shared.gateway.requests == 0, "their end")
        assert "<Caller 0 calls open" in repr(shared.cluster)
    finally:
        tills.released.set()


async def test_headers_are_bounded(shared: House) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(shared.at.rpartition(":")[2]))
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40_000)
    async with asyncio.timeout(PATIENCE_S):
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()


@pytest.mark.parametrize("begun", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_has_its_time(
    shared: House, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(Protocol, "HEAD_S", 0.2)
    port = int(shared.at.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    whole = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    async with asyncio.timeout(PATIENCE_S):
        if begun:  # a whole one before doesn't count
            writer.write(whole)
            assert (await reader.readuntil(b"}")).endswith(b'{"live":true}')
        writer.write(begun)
        assert await reader.read() == b""
    writer.close()


class _Sent:
    """What a stream sends; it may take nothing."""

    def __init__(self, *, takes: bool = True) -> None:
        self.body, self.ended, self._takes = b"", False, takes

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body" and not self._takes:
            await asyncio.Event().wait()
        self.body += message.get("body", b"")
        self.ended = message["type"] == "http.response.body" and not message["more_body"]


async def _never() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


async def _breaks() -> AsyncIterator[Commit[Any]]:
    yield Commit(1, datetime(2026, 11, 30, tzinfo=UTC), (), "k", reply=b"1", sequence=7)
    raise SerializationError(cause="sequence 8: a hole", request_id="r-1")


async def test_what_fails_on_the_way_is_an_event(shared: House) -> None:
    past = Past(shared.cluster, LIMITS, asyncio.Event(), root="")
    sent = _Sent()
    await Stream(past, _breaks(), 0, LIMITS)({}, _never, sent)
    first, outcome, problem, rest = sent.body.split(b"\n\n")
    assert (first, rest, sent.ended, past.streams) == (b"retry: 2000", b"", True, 0)
    assert outcome.startswith(b"id: 1\nevent: outcome\n")
    assert problem.startswith(b"event: problem\n")
    assert b"SerializationError" in problem
    assert b"hole" not in problem


async def test_a_client_that_takes_nothing_is_let_go(shared: House) -> None:
    limits = Limits(send_s=0.05)
    past = Past(shared.cluster, limits, asyncio.Event(), root="")
    sent = _Sent(takes=False)
    async with asyncio.timeout(PATIENCE_S):
        await Stream(past, _breaks(), 0, limits)({}, _never, sent)
    assert (sent.ended, past.streams) == (False, 0)


async def test_it_finishes_what_runs_and_ends_its_streams(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with house(nats_server, namespace, LIMITS) as made:
        await put(made, "a", 1)
        tills.released.clear()
        asked = made.http.post("/entities/till/last/wait", headers={"Prefer": "wait=15"})
        running = asyncio.create_task(asked)
        async with made.http.stream("GET", "/entities/till/a/history", headers=EVENTS) as stream:
            lines = stream.aiter_lines()
            await events(lines, 1)
            await until(lambda: made.gateway.requests == 2, "both in hand")
            stopping = asyncio.create_task(made.stop())
            async with asyncio.timeout(PATIENCE_S):
                while await anext(lines, None) is not None:  # until it ends, without an error
                    pass
        tills.released.set()
        assert (await running).json() is True
        await stopping
        with pytest.raises(httpx.ConnectError):
            await made.http.get("/livez")


async def test_what_does_not_end_in_time_is_told_so(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    limits = Limits(drain_s=1.0)
    async with house(nats_server, namespace, limits) as made:
        tills.released.clear()
        ask = made.http.post("/entities/till/long/wait", headers={"Prefer": "wait=15"})
        running = asyncio.create_task(ask)
        await until(lambda: made.gateway.requests == 1, "it in hand")
        await made.stop()
        answer = await running
        tills.released.set()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["content-type"] == "application/problem+json"
