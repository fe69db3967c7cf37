"""Consumers and their standing pull on a real server: taken over, lost, silent, restarted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from perdure.deploy.server import EmbeddedServer
from perdure.entities.address import Address
from perdure.streams.jetstream import api as api_module
from perdure.streams.jetstream import commands as commands_module
from perdure.streams.jetstream import consumer as consumer_module
from perdure.streams.jetstream import pull as pull_module
from perdure.streams.jetstream.api import Cluster, ConsumerResponse
from perdure.streams.jetstream.consumer import LOST_S, JetStreamConsumer, Missing
from perdure.streams.jetstream.outbox import Outbox
from perdure.streams.jetstream.session import JetStreamSession
from perdure.streams.port import Appended, Delivery, Taken, Unreachable

from ...support.server import nats_session, plain_client, until, until_count

Start = Callable[..., Awaitable[EmbeddedServer]]


class Term:
    """A consumer of the only shard, and all that it was given."""

    def __init__(self, session: JetStreamSession, name: str) -> None:
        self.session = session
        self.name = name
        self.got: list[Delivery] = []
        self.lost: list[str] = []
        self.consumer: JetStreamConsumer

    async def begin(self, credit: int = 0) -> Term:
        consumer = await self.session.commands.create(
            "account",
            0,
            self.name,
            owner="me",
            on_delivery=self.got.append,
            on_lost=self.lost.append,
        )
        assert isinstance(consumer, JetStreamConsumer)
        self.consumer = consumer
        consumer.grant(credit)
        return self

    @property
    def sequences(self) -> list[int]:
        return [delivery.sequence for delivery in self.got]


async def tell(session: JetStreamSession, count: int, id: str = "a-1") -> None:
    for _ in range(count):
        answer = await session.commands.publish(Address("account", id), b"x")
        assert isinstance(answer, Appended)


@pytest.fixture
async def session(nats_server: EmbeddedServer, namespace: str) -> AsyncIterator[JetStreamSession]:
    async with nats_session(nats_server, namespace, shards=1) as session:
        await session.provision("account")
        yield session


async def test_taking_over_by_delete_and_create(session: JetStreamSession) -> None:
    await tell(session, 6)
    old = await Term(session, "g1-s0-t1-aa").begin(10)
    await until(lambda: len(old.got) == 6)
    old.consumer.ack(old.got[1].handle)
    await until_gone(session, 2)
    with pytest.raises(Taken):
        await Term(session, "g1-s0-t2-bb").begin()
    await session.commands.delete("account", old.name)
    new = await Term(session, "g1-s0-t2-bb").begin(10)
    await until(lambda: len(new.got) == 5)
    assert new.sequences == [1, 3, 4, 5, 6]
    assert [d.consumer_sequence for d in new.got] == [1, 2, 3, 4, 5]
    await until(lambda: old.lost == ["deleted"])
    old.consumer.ack(old.got[0].handle)
    old.consumer.progress(old.got[0].handle)
    await tell(session, 1)
    await until(lambda: len(new.got) == 6)
    assert await session.commands.by_sequence("account", 1) is not None
    await session.commands.delete("account", old.name)  # it is gone: nothing happens


async def until_gone(session: JetStreamSession, sequence: int) -> None:
    async with asyncio.timeout(20):
        while await session.commands.by_sequence("account", sequence) is not None:
            pass


async def test_the_same_name_is_never_taken_over(session: JetStreamSession) -> None:
    """Without the nonce in its metadata the same creation would succeed a second time."""
    await Term(session, "g1-s0-t1-aa").begin()
    with pytest.raises(Taken):
        await Term(session, "g1-s0-t1-aa").begin()


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a*", "a" * 65, "é"])
async def test_names_that_no_consumer_may_have(session: JetStreamSession, name: str) -> None:
    with pytest.raises(ValueError, match="not a consumer's name"):
        await Term(session, name).begin()


async def test_a_shard_that_does_not_exist(session: JetStreamSession) -> None:
    with pytest.raises(ValueError, match="no shard 1"):
        await session.commands.create(
            "account", 1, "n", owner="me", on_delivery=lambda _: None, on_lost=lambda _: None
        )
    with pytest.raises(Unreachable, match="no command stream of ledger"):
        await session.commands.create(
            "ledger", 0, "n", owner="me", on_delivery=lambda _: None, on_lost=lambda _: None
        )


async def test_a_gap_shows_when_deliveries_are_lost_on_the_way(
    own_server: Start, namespace: str
) -> None:
    """The server redelivers what a broken connection swallowed only later, and out of order."""
    server = await own_server()
    async with nats_session(
        server, namespace, shards=1, ack_wait=1.0, ack_progress=0.5
    ) as session:
        await session.provision("account")
        await tell(session, 3)
        term = await Term(session, "g1-s0-t1-aa").begin(2)
        await until(lambda: len(term.got) == 2)
        thief = await plain_client(server)  # takes a delivery that the term will miss
        stream = session.subjects.command_stream("account")
        inbox = thief.new_inbox()
        stolen = await thief.subscribe(inbox)
        await thief.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{term.name}", b"1", reply=inbox)
        assert ".3.3." in (await stolen.next_msg(5)).reply
        await tell(session, 1)
        term.consumer.grant(10)
        await until(lambda: len(term.got) >= 3)
        assert term.got[2].sequence == 4
        assert term.got[2].consumer_sequence == 4  # 3 never came: a gap
        await until(lambda: len(term.got) >= 6)  # after the ack wait, behind the later one
        assert 3 in term.sequences[3:]
        await thief.close()


async def test_on_lost_once_after_a_reconnect(own_server: Start, namespace: str) -> None:
    server = await own_server()
    async with nats_session(server, namespace, shards=1) as session:
        await session.provision("account")
        await tell(session, 2)
        term = await Term(session, "g1-s0-t1-aa").begin(1)
        await until(lambda: len(term.got) == 1)
        await server.restart(kill=True)
        await until(lambda: bool(term.lost))
        assert term.lost == ["reconnected"]
        term.consumer.ack(term.got[0].handle)
        term.consumer.grant(10)
        await session.commands.delete("account", term.name)
        new = await Term(session, "g1-s0-t2-aa").begin(10)
        await until(lambda: len(new.got) == 2)
        assert new.sequences == [1, 2]
        assert len(term.got) == 1
        assert term.lost == ["reconnected"]


async def test_acks_between_the_loss_and_the_reconnect_are_never_sent(
    own_server: Start, namespace: str
) -> None:
    server = await own_server()
    async with nats_session(server, namespace, shards=1) as session:
        await session.provision("account")
        await tell(session, 50)
        term = await Term(session, "g1-s0-t1-aa").begin(50)
        await until(lambda: len(term.got) == 50)
        await server.kill()
        for delivery in term.got:  # some before the loss is noticed, some after
            term.consumer.ack(delivery.handle)
            await asyncio.sleep(0)
        await server.start()
        await until(lambda: bool(term.lost))
        for delivery in term.got:
            term.consumer.ack(delivery.handle)
        for sequence in range(1, 51):
            assert await session.commands.by_sequence("account", sequence) is not None


async def test_a_failing_on_lost_harms_nobody(
    own_server: Start, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = await own_server()
    async with nats_session(server, namespace, shards=2) as session:
        await session.provision("account")
        lost: list[str] = []

        def fail(reason: str) -> None:
            raise ZeroDivisionError(reason)

        for shard, on_lost in ((0, fail), (1, lost.append)):
            await session.commands.create(
                "account",
                shard,
                f"g1-s{shard}-t1-aa",
                owner="me",
                on_delivery=lambda _: None,
                on_lost=on_lost,
            )
        with caplog.at_level(logging.ERROR):
            await server.restart(kill=True)
            await until(lambda: lost == ["reconnected"])
        assert "ZeroDivisionError: reconnected" in caplog.text


async def asked_again(term: Term) -> None:
    asked = term.consumer.pull.requests
    await until(lambda: term.consumer.pull.requests > asked)


async def test_requests_that_expire_are_made_again(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "EXPIRES_S", 0.3)
    monkeypatch.setattr(pull_module, "HEARTBEAT_S", 0.1)
    term = await Term(session, "g1-s0-t1-aa").begin(5)
    for number in range(1, 6):
        await asked_again(term)
        await tell(session, 1)
        await until_count(term.got, number)
    await tell(session, 1)
    await asyncio.sleep(0.5)  # the credit is used up, whatever was asked for again and again
    assert len(term.got) == 5
    term.consumer.grant(1)
    await until(lambda: len(term.got) == 6)
    assert term.lost == []


async def test_a_lost_request_is_made_again_after_silence(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "SILENCE_S", 0.3)
    await tell(session, 3)
    lost: list[bytes] = []
    put = Outbox.put

    def lose(self: Outbox, frame: bytes) -> bool:
        if b"MSG.NEXT" in frame and not lost:
            lost.append(frame)
            return True
        return put(self, frame)

    monkeypatch.setattr(Outbox, "put", lose)
    term = await Term(session, "g1-s0-t1-aa").begin(2)
    assert len(lost) == 1
    await until(lambda: len(term.got) == 2)
    assert term.lost == []
    assert term.sequences == [1, 2]


async def test_a_consumer_without_a_leader_is_asked_for_again_at_once(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "SILENCE_S", 2.0)
    asked: list[float] = []
    info, put = pull_module.info, Outbox.put

    async def leaderless(*arguments: Any) -> ConsumerResponse | None:
        asked.append(asyncio.get_running_loop().time())
        if len(asked) < 3:
            raise Unreachable("no answer")
        return await info(*arguments)

    def lose(self: Outbox, frame: bytes) -> bool:
        return (b"MSG.NEXT" in frame and len(asked) < 3) or put(self, frame)

    monkeypatch.setattr(pull_module, "info", leaderless)
    monkeypatch.setattr(Outbox, "put", lose)
    await tell(session, 1)
    term = await Term(session, "g1-s0-t1-aa").begin(2)
    await until(lambda: len(term.got) == 1)
    assert asked[2] - asked[0] < 2.0, "it waited for another silence"
    assert term.lost == []


@pytest.mark.parametrize("made", [True, False])
async def test_a_consumer_whose_making_was_not_answered(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch, *, made: bool
) -> None:
    """Its first leader answers, and is chosen late where a server is gone: it isn't made anew."""
    silent = 2

    async def unanswered(connection: Any, path: str, *arguments: Any, **more: Any) -> Any:
        if not path.startswith("CONSUMER.CREATE."):
            return await api_module.call(connection, path, *arguments, **more)
        if made:
            await api_module.call(connection, path, *arguments, **more)
        raise Unreachable("no answer")

    async def leaderless(*arguments: Any) -> ConsumerResponse | None:
        nonlocal silent
        if silent:
            silent -= 1
            await asyncio.sleep(0.2)
            raise Unreachable("no answer")
        return await pull_module.info(*arguments)

    monkeypatch.setattr(commands_module, "ASK_S", 0.2)
    monkeypatch.setattr(commands_module, "call", unanswered)
    monkeypatch.setattr(commands_module, "info", leaderless)
    await tell(session, 1)
    if made:
        term = await Term(session, "g1-s0-t1-aa").begin(1)
        await until(lambda: len(term.got) == 1)
    else:
        with pytest.raises(Unreachable):
            await Term(session, "g1-s0-t1-aa").begin(1)
    assert silent == 0


async def test_no_room_to_ask_is_made_up_for(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "HEARTBEAT_S", 0.2)
    await tell(session, 1)
    monkeypatch.setattr("perdure.streams.jetstream.outbox.OUTBOX_BYTES", 0)
    term = await Term(session, "g1-s0-t1-aa").begin(2)
    monkeypatch.setattr("perdure.streams.jetstream.outbox.OUTBOX_BYTES", 1_000_000)
    await until(lambda: len(term.got) == 1)


async def test_a_consumer_that_vanishes_without_a_word(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "HEARTBEAT_S", 0.2)
    term = await Term(session, "g1-s0-t1-aa").begin(0)  # no request is out that could be ended
    await session.commands.delete("account", term.name)
    await until(lambda: bool(term.lost))
    assert term.lost == ["deleted"]
    other = await Term(session, "g1-s0-t2-aa").begin(0)
    await session.commands.delete("account", other.name)
    other.consumer.grant(1)  # the server says that nobody is there
    await until(lambda: bool(other.lost))
    assert other.lost == ["deleted"]


async def test_a_deleted_stream_ends_its_terms(session: JetStreamSession) -> None:
    term = await Term(session, "g1-s0-t1-aa").begin(1)
    stream = session.subjects.command_stream("account")
    await session.asks.request(f"$JS.API.STREAM.DELETE.{stream}", b"", timeout_s=5)
    await until(lambda: term.lost == ["deleted"])
    assert await term.consumer.info() is None
    assert await session.commands.consumers("account") == []


async def test_the_only_server_of_a_stream_that_falls_silent_may_be_back_with_less(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream with one replica in a cluster restarts without breaking our connection."""
    monkeypatch.setattr(pull_module, "SILENCE_S", 0.2)

    def lose(*_: object) -> bool:
        return True

    monkeypatch.setattr(Outbox, "put", lose)  # the request is lost, as on its way

    async def alone(*_: object) -> ConsumerResponse:
        return ConsumerResponse(name="n", cluster=Cluster())

    monkeypatch.setattr(pull_module, "info", alone)
    term = await Term(session, "g1-s0-t1-aa").begin(1)
    await until(lambda: term.lost == ["restarted"])


async def test_a_delivery_that_gets_lost_behind_all_others_ends_its_term(
    session: JetStreamSession, nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes behind it that would show a gap; the server would give it again after 60 s."""
    monkeypatch.setattr(pull_module, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(consumer_module, "LOST_S", 0.5)
    await tell(session, 2)
    term = await Term(session, "g1-s0-t1-aa").begin(3)
    await until(lambda: len(term.got) == 2)
    stream = session.subjects.command_stream("account")
    pull = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{term.name}"
    info = f"$JS.API.CONSUMER.INFO.{stream}.{term.name}"
    other = await plain_client(nats_server)
    elsewhere = await other.subscribe("elsewhere")
    await other.publish(pull, b'{"batch":1,"expires":20000000000}', reply="elsewhere")
    async with asyncio.timeout(20):
        while b'"num_waiting":2' not in (await session.asks.request(info, b"", timeout_s=5)).data:
            pass
    assert term.lost == []
    await tell(session, 2)  # one as far as credit reaches, and one that we never see
    assert (await elsewhere.next_msg(timeout=20)).subject.endswith(".a-1")
    await other.close()
    term.consumer.grant(5)
    await until(lambda: term.lost == ["gap"])
    assert term.sequences == [1, 2, 3]
    term.consumer.ack(term.got[0].handle)
    await session.commands.delete("account", term.name)
    after = await Term(session, "g1-s0-t2-aa").begin(10)
    await until(lambda: len(after.got) == 4)
    assert after.sequences == [1, 2, 3, 4]


def test_what_a_majority_must_know_of_first_is_not_lost() -> None:
    missing = Missing()
    assert not missing.is_lost(0, 100)
    missing.arrived = 2
    assert not missing.is_lost(3, 110)
    assert not missing.is_lost(3, 110 + LOST_S - 1)
    missing.arrived = 3
    assert not missing.is_lost(3, 110 + LOST_S)
    assert not missing.is_lost(4, 200)
    missing.arrived = 4
    assert not missing.is_lost(5, 200 + LOST_S)  # another one
    assert missing.is_lost(7, 200 + 2 * LOST_S)


@pytest.mark.parametrize(
    ("status", "text", "lost"),
    [
        ("409", "Consumer Deleted", ["deleted"]),
        ("409", "Server Shutdown", ["restarted"]),
        ("409", "Leadership Change", []),
        ("409", "Batch Completed", []),
        ("408", "Request Timeout", []),
        ("100", "Idle Heartbeat", []),
        ("100 2", "Idle Heartbeat", []),
        ("100 3", "Idle Heartbeat", []),
        ("100 many", "Idle Heartbeat", []),
        ("400", "Bad Request", []),
    ],
)
async def test_what_each_status_does(
    session: JetStreamSession, status: str, text: str, lost: list[str]
) -> None:
    await tell(session, 4)
    term = await Term(session, "g1-s0-t1-aa").begin(2)
    await until(lambda: len(term.got) == 2)
    status, _, given = status.partition(" ")
    headers = {"Status": status, "Description": text, "Nats-Last-Consumer": given}
    session.asks.send(term.consumer.pull.inbox + ".1", b"", headers=headers)
    term.consumer.grant(2)
    if lost:
        await until(lambda: term.lost == lost)
    else:
        await until(lambda: len(term.got) == 4)
        assert term.lost == []


async def test_a_stopped_consumer_acks_what_it_holds_and_stays(session: JetStreamSession) -> None:
    await tell(session, 3)
    term = await Term(session, "g1-s0-t1-aa").begin(2)
    await until(lambda: len(term.got) == 2)
    await term.consumer.stop()
    await term.consumer.stop()
    term.consumer.grant(5)
    term.consumer.ack(term.got[0].handle)
    await until_gone(session, 1)
    found = await term.consumer.info()
    assert found is not None
    assert (found.name, found.owner, found.delivered) == (term.name, "me", 2)
    assert len(term.got) == 2


async def test_closing_a_session_tells_nobody(nats_server: EmbeddedServer, namespace: str) -> None:
    async with nats_session(nats_server, namespace, shards=1) as session:
        await session.provision("account")
        term = await Term(session, "g1-s0-t1-aa").begin(1)
    assert term.lost == []
    term.consumer.grant(1)
    term.consumer.ack("$JS.ACK.x")
    with pytest.raises(Unreachable):
        await term.consumer.info()


async def test_a_busy_consumer_asks_seldom(session: JetStreamSession) -> None:
    term = Term(session, "g1-s0-t1-aa")

    def take(delivery: Delivery) -> None:
        term.got.append(delivery)
        term.consumer.ack(delivery.handle)
        term.consumer.grant(1)

    consumer = await session.commands.create(
        "account", 0, term.name, owner="me", on_delivery=take, on_lost=term.lost.append
    )
    assert isinstance(consumer, JetStreamConsumer)
    term.consumer = consumer
    consumer.grant(64)
    await asyncio.gather(*(tell(session, 10, f"a-{n}") for n in range(100)))
    await until(lambda: len(term.got) == 1000)
    assert term.sequences == list(range(1, 1001))
    assert consumer.pull.requests < 100


async def test_many_consumers_are_listed(nats_server: EmbeddedServer, namespace: str) -> None:
    async with nats_session(nats_server, namespace, shards=300) as session:
        await session.provision("account")
        await asyncio.gather(
            *(
                session.commands.create(
                    "account",
                    shard,
                    f"g1-s{shard}-t1-aa",
                    owner=f"r{shard}",
                    on_delivery=lambda _: None,
                    on_lost=lambda _: None,
                )
                for shard in range(300)
            )
        )
        found = await session.commands.consumers("account")
        assert {c.name: c.owner for c in found} == {
            f"g1-s{shard}-t1-aa": f"r{shard}" for shard in range(300)
        }
