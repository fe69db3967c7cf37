"""Scanning whole streams, and removing messages, on a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure.deploy.server import EmbeddedServer
from perdure.streams.commit import MARK
from perdure.streams.jetstream import direct
from perdure.streams.jetstream.api import delete_message
from perdure.streams.jetstream.connection import Connection, Publish
from perdure.streams.jetstream.messages import headers_block
from perdure.streams.jetstream.scan import Bounds, bounds, get, names, scan
from perdure.streams.port import Incompatible, Message, Unreachable

from ...support.server import nats_session


@pytest.fixture
async def connection(nats_server: EmbeddedServer, namespace: str) -> AsyncIterator[Connection]:
    async with nats_session(nats_server, namespace) as session:
        yield session.connection


async def stream(connection: Connection, name: str, **config: Any) -> str:
    """A stream of its own, with ten messages on `<name>.a` and `<name>.b` in turn."""
    wanted = {"name": name, "subjects": [f"{name}.*"], "storage": "file", "allow_direct": True}
    body = json.dumps({**wanted, **config}).encode()
    answer = await connection.request(f"$JS.API.STREAM.CREATE.{name}", body, timeout_s=5)
    assert b'"error"' not in answer.data
    for n in range(10):
        mark = headers_block({MARK: f"m{n}"})
        subject = f"{name}.{'ab'[n % 2]}"
        await connection.publish(Publish(subject, str(n).encode(), mark))
    return name


async def sequences(connection: Connection, name: str, subject: str, **to: int) -> list[int]:
    return [record.sequence async for record in scan(connection, name, subject, **to)]


@pytest.mark.parametrize("allow_direct", [True, False])
async def test_a_scan_is_complete_and_in_order(
    connection: Connection,
    namespace: str,
    allow_direct: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without direct get, the leader is asked one by one; with it, in batches of three."""
    monkeypatch.setattr(direct, "BATCH", 3)
    name = await stream(connection, namespace.upper(), allow_direct=allow_direct)
    assert await bounds(connection, name) == Bounds(1, 10, 10)
    assert await sequences(connection, name, f"{name}.*", upto=10) == list(range(1, 11))
    assert await sequences(connection, name, f"{name}.b", upto=99) == [2, 4, 6, 8, 10]
    assert await sequences(connection, name, f"{name}.a", after=3, upto=6) == [5]
    assert await sequences(connection, name, f"{name}.c", upto=10) == []
    (second,) = [r async for r in scan(connection, name, f"{name}.*", after=1, upto=2)]
    assert (second.subject, second.token, second.data, second.mark) == (
        f"{name}.b",
        "b",
        b"1",
        "m1",
    )
    assert second.stored.mark == "m1"
    assert second == await get(connection, name, 2)


async def test_removing(connection: Connection, namespace: str) -> None:
    name = await stream(connection, namespace.upper())
    assert await delete_message(connection, name, 4) is True
    assert await delete_message(connection, name, 4) is False
    assert await delete_message(connection, name, 99) is False
    assert await get(connection, name, 4) is None
    assert await bounds(connection, name) == Bounds(1, 10, 9)
    assert 4 not in await sequences(connection, name, f"{name}.*", upto=10)
    kept = await stream(connection, f"{namespace.upper()}K", deny_delete=True)
    with pytest.raises(Incompatible, match="can't be deleted"):
        await delete_message(connection, kept, 1)


async def test_a_server_without_an_answer_forbids_nothing(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(*args: Any, **more: Any) -> Message:
        return Message("", b"", no_responders=True)

    monkeypatch.setattr(connection, "request", nobody)
    with pytest.raises(Unreachable, match="nobody answers"):
        await delete_message(connection, "ANY", 1)


async def test_what_is_not_there(connection: Connection, namespace: str) -> None:
    assert await bounds(connection, f"{namespace}-none") is None
    assert await get(connection, f"{namespace}-none", 1) is None
    assert await names(connection, f"{namespace}.nothing.*") == []
    name = await stream(connection, namespace.upper())
    assert await names(connection, f"{name}.a") == [name]
    await connection.close()
    with pytest.raises(Unreachable):
        await sequences(connection, name, f"{name}.*", upto=10)
