"""Members, snapshots and dead letters on a real server, where conformance doesn't look."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure.deploy.server import EmbeddedServer
from perdure.entities.address import Address
from perdure.streams.jetstream.session import JetStreamSession
from perdure.streams.port import Entry, Unreachable

from ...support.server import nats_session

ADDRESS = Address("account", "a-1")


@pytest.fixture
async def session(nats_server: EmbeddedServer, namespace: str) -> AsyncIterator[JetStreamSession]:
    async with nats_session(nats_server, namespace) as session:
        await session.provision("account")
        yield session


async def api(session: JetStreamSession, path: str, body: object) -> dict[str, Any]:
    answer = await session.asks.request(f"$JS.API.{path}", json.dumps(body).encode(), timeout_s=5)
    found: dict[str, Any] = json.loads(answer.data)
    assert "error" not in found, found
    return found


async def test_another_tools_marker_is_no_value(session: JetStreamSession) -> None:
    """`nats kv del` leaves one; it may be the newest message of a key."""
    members = session.members
    subject = f"$KV.{session.subjects.members_bucket}.runner.r1"
    for operation in ("DEL", "PURGE"):
        assert await members.put("runner.r1", b"1") is not None
        marked = await members.get("runner.r1")
        assert marked is not None
        session.asks.send(subject, b"", headers={"KV-Operation": operation})
        while await members.get("runner.r1") is not None:
            pass
        revision = await members.put("runner.r1", b"2", expected=0)
        assert revision is not None
        assert revision == marked.revision + 2
        assert await members.get("runner.r1") == Entry(b"2", revision)
        assert await members.put("runner.r1", b"3", expected=0) is None
        await members.delete("runner.r1")


async def test_a_deleted_key_leaves_nothing(session: JetStreamSession) -> None:
    for number in range(10):
        await session.members.put(f"mark.{number}", b"x")
        await session.members.delete(f"mark.{number}")
    await session.members.delete("never.there")
    stream = f"KV_{session.subjects.members_bucket}"
    state = (await api(session, f"STREAM.INFO.{stream}", None))["state"]
    assert state["messages"] == 0
    assert state["last_seq"] == 10


async def test_other_tools_read_the_bucket(session: JetStreamSession) -> None:
    await session.members.put("runner.r1", b"alive")
    bucket = session.subjects.members_bucket
    query = {"last_by_subj": f"$KV.{bucket}.runner.r1"}
    message = (await api(session, f"STREAM.MSG.GET.KV_{bucket}", query))["message"]
    assert base64.b64decode(message["data"]) == b"alive"


@pytest.mark.parametrize("key", ["", "a b", "a..b", ".a", "a.", "a*", ">", "é", "a\r\n"])
async def test_keys_are_plain(session: JetStreamSession, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        await session.members.put(key, b"")
    with pytest.raises(ValueError, match="not a key"):
        await session.members.get(key)
    with pytest.raises(ValueError, match="not a key"):
        await session.members.delete(key)


async def test_without_a_bucket(nats_server: EmbeddedServer, namespace: str) -> None:
    async with nats_session(nats_server, namespace) as session:
        assert await session.members.get("k") is None
        await session.members.delete("k")
        with pytest.raises(Unreachable, match="doesn't exist"):
            await session.members.put("k", b"")
        with pytest.raises(Unreachable, match="doesn't exist"):
            await session.members.put("k", b"", expected=0)
        assert await session.snapshots.get(ADDRESS) is None
        assert not await session.snapshots.put(ADDRESS, b"")
        assert not await session.dead.put(ADDRESS, b"")


@pytest.mark.parametrize("part", ["", "a.b", "a b", "*", ">", "\r\n"])
async def test_parts_of_snapshots_are_plain_tokens(session: JetStreamSession, part: str) -> None:
    with pytest.raises(ValueError, match="not a part"):
        await session.snapshots.put(ADDRESS, b"", part)
    with pytest.raises(ValueError, match="not a part"):
        await session.snapshots.get(ADDRESS, part)


async def test_a_full_stream_of_dead_letters_is_told(session: JetStreamSession) -> None:
    stream = session.subjects.dead_stream
    info = await api(session, f"STREAM.INFO.{stream}", None)
    config = info["config"]
    await api(session, f"STREAM.UPDATE.{stream}", {**config, "max_bytes": 3000})
    assert await session.dead.put(ADDRESS, bytes(2000))
    assert not await session.dead.put(ADDRESS, bytes(2000))
    assert await session.dead.put_raw("account", "no token", b"")
    await session.provision("account")  # the operator's choice is no fault
    assert await session.check("account") == []


async def test_another_tools_marker_isnt_listed(session: JetStreamSession) -> None:
    members = session.members
    subject = f"$KV.{session.subjects.members_bucket}.member.b"
    await members.put("member.a", b"1")
    for operation in ("DEL", "PURGE"):
        await members.put("member.b", b"2")
        assert list(await members.entries("member")) == ["member.a", "member.b"]
        session.asks.send(subject, b"", headers={"KV-Operation": operation})
        while await members.get("member.b") is not None:
            pass
        assert list(await members.entries("member")) == ["member.a"]


async def test_a_listing_that_the_server_refuses_isnt_an_empty_one(
    session: JetStreamSession,
) -> None:
    """It lists 1,024 subjects at most; nobody may seem to be gone since there are more."""
    puts = (session.members.put(f"member.{number}", b"") for number in range(1_100))
    await asyncio.gather(*puts)
    with pytest.raises(Unreachable, match=r"not listed in full: 413"):
        await session.members.entries("member")


async def test_a_listing_of_no_bucket_is_unreachable(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with nats_session(nats_server, namespace) as session:
        with pytest.raises(Unreachable, match="not listed in full"):
            await session.members.entries("member")
