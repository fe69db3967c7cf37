"""Streams on a real server: created once, taken as they are, refused if they aren't ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from perdure.deploy.server import EmbeddedServer
from perdure.entities.address import Address
from perdure.streams.commit import Sealed
from perdure.streams.jetstream import commands as commands_module
from perdure.streams.jetstream.session import JetStreamSession, open_session
from perdure.streams.port import (
    Appended,
    Full,
    Incompatible,
    Message,
    NoAck,
    NoStream,
    Refused,
    Unreachable,
)
from perdure.streams.subjects import Sharding, Subjects

from ...support.server import nats_session, plain_client, settings_for

Start = Callable[..., Awaitable[EmbeddedServer]]


class Raw:
    """The JetStream API, by hand."""

    def __init__(self, client: Any, namespace: str) -> None:
        self.client = client
        self.subjects = Subjects(namespace)

    async def api(self, path: str, body: object = None) -> dict[str, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        answer: dict[str, Any] = json.loads(
            (await self.client.request(f"$JS.API.{path}", data, timeout=5)).data
        )
        return answer

    async def config(self, stream: str) -> dict[str, Any]:
        config: dict[str, Any] = (await self.api(f"STREAM.INFO.{stream}"))["config"]
        return config

    async def edit(self, stream: str, **changes: Any) -> None:
        config = {**await self.config(stream), **changes}
        answer = await self.api(f"STREAM.UPDATE.{stream}", config)
        assert "error" not in answer, answer

    async def create(self, stream: str, **config: Any) -> None:
        answer = await self.api(f"STREAM.CREATE.{stream}", {"name": stream, **config})
        assert "error" not in answer, answer


@pytest.fixture
async def raw(nats_server: EmbeddedServer, namespace: str) -> AsyncIterator[Raw]:
    client = await plain_client(nats_server)
    yield Raw(client, namespace)
    await client.close()


@pytest.fixture
async def session(nats_server: EmbeddedServer, namespace: str) -> AsyncIterator[JetStreamSession]:
    async with nats_session(nats_server, namespace) as session:
        yield session


async def test_provisioning_twice_changes_nothing(session: JetStreamSession, raw: Raw) -> None:
    assert await session.sharding("account") is None
    assert await session.check("account") == []
    assert await session.provision("account") == Sharding(1, 4)
    before = await raw.config(raw.subjects.command_stream("account"))
    assert await session.provision("account") == Sharding(1, 4)
    assert await raw.config(raw.subjects.command_stream("account")) == before
    assert await session.sharding("account") == Sharding(1, 4)
    assert await session.check("account") == []


async def test_many_provision_at_once_and_agree(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    sessions = [
        await open_session(settings_for(nats_server, namespace, shards=n), name=f"s{n}")
        for n in (1, 2, 3, 5)
    ]
    try:
        cuts = await asyncio.gather(*(s.provision("account") for s in sessions for _ in range(3)))
        assert len(set(cuts)) == 1
    finally:
        for session in sessions:
            await session.close()


async def test_an_existing_sharding_wins(nats_server: EmbeddedServer, namespace: str) -> None:
    async with nats_session(nats_server, namespace, shards=3) as first:
        await first.provision("account")
    async with nats_session(nats_server, namespace, shards=64) as second:
        assert await second.provision("account") == Sharding(1, 3)


async def test_capacity_follows_the_settings(
    nats_server: EmbeddedServer, namespace: str, raw: Raw
) -> None:
    address = Address("account", "a-1")
    async with nats_session(nats_server, namespace, mailbox_capacity=2) as first:
        await first.provision("account")
        answers = [await first.commands.publish(address, b"") for _ in range(3)]
        assert answers == [Appended(1), Appended(2), Full()]
    stream = raw.subjects.command_stream("account")
    await raw.edit(stream, description="the operator's words")
    async with nats_session(nats_server, namespace, mailbox_capacity=3) as second:
        assert [str(d) for d in await second.check("account")] == [
            f"{stream}: max_msgs_per_subject is 2, perdure needs 3"
        ]
        await second.provision("account")
        assert await second.commands.publish(address, b"") == Appended(3)
    config = await raw.config(stream)
    assert config["max_msgs_per_subject"] == 3
    assert config["description"] == "the operator's words"


async def test_a_full_command_stream_is_no_full_mailbox(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with nats_session(nats_server, namespace, command_stream_bytes=2**20) as session:
        await session.provision("account")
        for number in range(3):
            await session.commands.publish(Address("account", f"a-{number}"), bytes(300_000))
        answer = await session.commands.publish(Address("account", "b"), bytes(300_000))
        assert answer == Refused(10077, "maximum bytes exceeded")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_age": 3_600_000_000_000}, "max_age is 3600000000000, perdure needs 0"),
        ({"allow_rollup_hdrs": True, "deny_purge": False}, "allow_rollup_hdrs is true"),
        ({"max_msgs": 1000}, "max_msgs is 1000, perdure needs -1"),
        ({"discard": "old"}, 'discard is "old", perdure needs "new"'),
    ],
)
async def test_a_log_that_forgets_is_refused(
    session: JetStreamSession, raw: Raw, changes: dict[str, Any], told: str
) -> None:
    stream = raw.subjects.log_stream("account")
    wanted = {"subjects": [raw.subjects.log("account", "*")], "allow_direct": True}
    wanted |= {"discard": "new", "deny_delete": True, "deny_purge": True, "allow_atomic": True}
    await raw.create(stream, **{**wanted, **changes})
    with pytest.raises(Incompatible) as caught:
        await session.provision("account")
    assert told in str(caught.value)
    assert stream in str(caught.value)
    assert "nats stream edit" in str(caught.value)
    assert told in "; ".join(map(str, await session.check("account")))


async def test_each_difference_of_each_stream_is_listed(
    session: JetStreamSession, raw: Raw
) -> None:
    await session.provision("account")
    log, snapshots = raw.subjects.log_stream("account"), raw.subjects.snapshot_stream("account")
    await raw.edit(log, max_age=3_600_000_000_000)
    await raw.edit(snapshots, max_msgs_per_subject=9, max_age=3_600_000_000_000)
    with pytest.raises(Incompatible) as caught:
        await session.provision("account")
    told = str(caught.value)
    assert f"{log}: max_age is" in told
    assert f"{snapshots}: max_msgs_per_subject is 9, perdure needs 1" in told
    assert f"{snapshots}: max_age is" in told


async def test_a_foreign_command_stream_is_refused(session: JetStreamSession, raw: Raw) -> None:
    stream = raw.subjects.command_stream("account")
    await raw.create(stream, subjects=[f"{raw.subjects.namespace}.cmd.account.>"])
    for attempt in (session.sharding, session.provision):
        with pytest.raises(Incompatible, match=f"{stream}: subject_transform is None"):
            await attempt("account")


async def test_another_streams_claim_on_our_subjects_is_told(
    session: JetStreamSession, raw: Raw
) -> None:
    await raw.create(f"X{raw.subjects.namespace}", subjects=[f"{raw.subjects.namespace}.to.>"])
    with pytest.raises(Incompatible, match=r"overlap.*another namespace"):
        await session.provision("account")
    await raw.api(f"STREAM.DELETE.X{raw.subjects.namespace}")
    await session.provision("account")


async def test_more_replicas_than_servers_are_refused(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with nats_session(nats_server, namespace, replicas=3) as session:
        with pytest.raises(Incompatible, match="replicas"):
            await session.provision("account")


async def test_without_jetstream_nothing_is_provisioned(own_server: Start, namespace: str) -> None:
    accounts = "accounts { A { users: [{user: a, password: p}] } }"
    server = await own_server(extra=accounts)
    async with nats_session(server, namespace, user="a", password="p") as session:
        with pytest.raises(Incompatible, match=r"JetStream not enabled for account.*enable it"):
            await session.provision("account")
        with pytest.raises(Incompatible, match="enable it"):
            await session.sharding("account")
        with pytest.raises(Unreachable, match="enable it"):
            await session.log.last(Address("account", "a-1"))


async def test_a_server_without_jetstream(own_server: Start, namespace: str) -> None:
    server = await own_server(extra="jetstream: disabled")
    async with nats_session(server, namespace) as session:
        with pytest.raises(Incompatible, match=r"no JetStream here.*enable it"):
            await session.provision("account")


async def test_no_permission_for_the_api_is_told_at_once(
    own_server: Start, namespace: str
) -> None:
    users = (
        "authorization { users: [{ user: a, password: p, permissions: "
        '{ publish: { deny: ["$JS.API.STREAM.>", "*.log.>"] } } }] }'
    )
    server = await own_server(extra=users)
    async with nats_session(server, namespace, user="a", password="p") as session:
        async with asyncio.timeout(2):
            with pytest.raises(Unreachable, match="permissions violation for publish"):
                await session.sharding("account")
            answer = await session.log.append(
                Address("account", "A-1"), Sealed("c", b"{}", "m"), expected=0
            )
        assert isinstance(answer, Refused)
        assert answer.code == 403
        told = await session.commands.publish(Address("account", "a-1"), b"")
        assert told == NoStream()  # nobody took it, and more can't be known
        assert len(session.violations) == 2
        assert "$JS.API.STREAM.INFO" in session.violations[0]


async def test_a_lacking_permission_is_logged_once(
    own_server: Start, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    users = (
        "authorization { users: [{ user: a, password: p, permissions: "
        '{ publish: { deny: ["*.info.>"] } } }] }'
    )
    server = await own_server(extra=users)
    async with nats_session(server, namespace, user="a", password="p") as session:
        for entity in ("account", "account", "order", "account"):
            with pytest.raises(Unreachable, match="permissions violation for publish"):
                await session.asks.request(session.subjects.info(entity), b"", timeout_s=2)
        assert len(session.violations) == 2
    logged = [r for r in caplog.records if "permissions violation" in r.getMessage()]
    assert len([r for r in logged if r.levelname == "ERROR"]) == 2


async def test_a_stream_without_a_leader_is_not_missing(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While three replicas elect a leader nobody takes a tell, and INFO may say nothing."""
    await session.provision("account")

    async def nobody(*_: object) -> Message:
        return Message("", b"", no_responders=True)

    monkeypatch.setattr(commands_module, "answered", nobody)
    answer = await session.commands.publish(Address("account", "a-1"), b"")
    assert isinstance(answer, NoAck)
    assert "no leader" in answer.why

    async def silent(*_: object, **__: object) -> None:
        raise Unreachable("no answer")

    monkeypatch.setattr(commands_module, "call", silent)
    assert await session.commands.publish(Address("account", "a-1"), b"") == NoAck("no answer")


async def test_the_servers_clock(nats_server: EmbeddedServer, namespace: str) -> None:
    """On one machine both tell the same; before there are streams nobody tells."""
    async with nats_session(nats_server, namespace) as session:
        with pytest.raises(Unreachable):
            await session.clock_ahead_s()
        await session.provision("account")
        assert abs(await session.clock_ahead_s()) < 1
