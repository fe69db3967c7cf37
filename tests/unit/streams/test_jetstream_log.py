"""Reads of the log on a real server: complete across batches, replicas and crashes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from perdure.deploy.server import EmbeddedServer
from perdure.entities.address import Address
from perdure.streams.commit import Sealed, Stored
from perdure.streams.jetstream import direct
from perdure.streams.jetstream import follow as follow_module
from perdure.streams.jetstream import log as log_module
from perdure.streams.jetstream.connection import Connection
from perdure.streams.jetstream.errors import ApiError
from perdure.streams.jetstream.session import JetStreamSession
from perdure.streams.port import Appended, Forbidden, Incompatible, Message, Unreachable

from ...support.server import freeze, nats_session, until, until_count
from .virtual import run

Start = Callable[..., Awaitable[EmbeddedServer]]

ADDRESS = Address("account", "a.1 *")


@pytest.fixture
async def session(nats_server: EmbeddedServer, namespace: str) -> AsyncIterator[JetStreamSession]:
    async with nats_session(nats_server, namespace) as session:
        await session.provision("account")
        yield session


async def append(
    session: JetStreamSession, count: int, *, after: int = 0, size: int = 10
) -> list[int]:
    """Append to ADDRESS, with a neighbour's commits in between."""
    neighbour = Address("account", "n")
    last = await session.log.last(neighbour)
    other = 0 if last is None else last.sequence
    sequences: list[int] = []
    for number in range(count):
        sealed = Sealed(f"{number}", b"x" * size, f"mark {number}")
        answer = await session.log.append(ADDRESS, sealed, expected=after)
        assert isinstance(answer, Appended)
        sequences.append(after := answer.sequence)
        answer = await session.log.append(neighbour, sealed, expected=other)
        assert isinstance(answer, Appended)
        other = answer.sequence
    return sequences


async def read(session: JetStreamSession, after: int, upto: int) -> list[int]:
    return [s.sequence async for s in session.log.read(ADDRESS, after=after, upto=upto)]


async def test_reads_go_across_batches(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "BATCH", 7)
    sequences = await append(session, 30)
    assert await read(session, 0, sequences[-1]) == sequences
    assert await read(session, sequences[6], sequences[20]) == sequences[7:21]
    assert await read(session, sequences[6], sequences[6]) == []
    assert await read(session, sequences[8], sequences[6]) == []
    found = [s async for s in session.log.read(ADDRESS, after=0, upto=sequences[1])]
    assert [s.mark for s in found] == ["mark 0", "mark 1"]
    assert found[0].data == b"x" * 10
    assert found[0] == await session.log.by_sequence("account", sequences[0])
    assert found[0].time_ns <= found[1].time_ns


async def test_a_batch_is_bounded_in_bytes(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "BATCH_BYTES", 100_000)
    sequences = await append(session, 8, size=60_000)
    assert await read(session, 0, sequences[-1]) == sequences


async def test_what_a_stale_replica_lacks_comes_from_the_leader(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = await append(session, 6)

    async def stale(connection: Connection, *rest: Any, **named: Any) -> list[Stored]:
        found = await direct.batch(connection, *rest, **named)
        return [stored for stored in found if stored.sequence <= sequences[2]]

    async def nothing(*_: Any) -> None:
        return None

    monkeypatch.setattr(log_module, "batch", stale)
    monkeypatch.setattr(log_module, "one", nothing)
    assert await read(session, 0, sequences[-1]) == sequences
    found = await session.log.by_sequence("account", sequences[5])
    assert found is not None
    assert found.sequence == sequences[5]
    assert found.mark == "mark 5"


async def test_a_read_that_can_not_be_complete_says_so(session: JetStreamSession) -> None:
    sequences = await append(session, 3)
    upto = sequences[-1] + 5
    reading = aiter(session.log.read(ADDRESS, after=0, upto=upto))
    assert [(await anext(reading)).sequence for _ in range(3)] == sequences
    with pytest.raises(Unreachable, match=f"no sequence {upto}"):
        await anext(reading)
    with pytest.raises(Unreachable, match="no sequence 7"):
        await anext(aiter(session.log.read(Address("account", "none"), after=0, upto=7)))
    with pytest.raises(Unreachable, match="no sequence 7"):
        await anext(aiter(session.log.read(Address("nothing", "none"), after=0, upto=7)))


@pytest.mark.parametrize("place", [0, 2])
async def test_a_message_lost_of_a_batch_is_asked_for_again(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    sequences = await append(session, 5)
    receive = direct._Batch.receive  # pyright: ignore[reportPrivateUsage]
    dropped: list[object] = []

    def lossy(self: Any, message: Message) -> None:
        if (message.headers or {}).get("Nats-Sequence") == str(sequences[place]) and not dropped:
            dropped.append(message)
        else:
            receive(self, message)

    monkeypatch.setattr(direct._Batch, "receive", lossy)  # pyright: ignore[reportPrivateUsage]
    assert await read(session, 0, sequences[-1]) == sequences
    assert len(dropped) == 1


async def test_a_batch_that_never_ends_is_given_up(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "TIMEOUT_S", 0.2)
    sequences = await append(session, 2)
    receive = direct._Batch.receive  # pyright: ignore[reportPrivateUsage]

    def endless(self: Any, message: Message) -> None:
        if "Nats-Sequence" in (message.headers or {}):
            receive(self, message)

    monkeypatch.setattr(direct._Batch, "receive", endless)  # pyright: ignore[reportPrivateUsage]
    assert await read(session, 0, sequences[-1]) == sequences


async def test_a_foreign_header_is_no_end_of_a_batch(session: JetStreamSession) -> None:
    subject = session.subjects.log("account", "a=2E1=20=2A")
    await session.asks.request(subject, b"", timeout_s=5)
    session.asks.send(subject, b"", headers={"Status": "204", "Nats-Sequence": "99"})
    await until_last(session, 2)
    assert await read(session, 0, 2) == [1, 2]


async def until_last(session: JetStreamSession, sequence: int) -> None:
    async with asyncio.timeout(20):
        while (found := await session.log.last(ADDRESS)) is None or found.sequence < sequence:
            pass


async def test_reading_through_a_crash(own_server: Start, namespace: str) -> None:
    server = await own_server()
    async with nats_session(server, namespace) as session:
        await session.provision("account")
        sequences = await append(session, 3)
        await server.kill()
        with pytest.raises(Unreachable):
            await read(session, 0, sequences[-1])
        await server.start()
        await until(lambda: session.connected)
        assert await read(session, 0, sequences[-1]) == sequences


async def test_a_batch_ends_with_its_connection(own_server: Start, namespace: str) -> None:
    server = await own_server()
    async with nats_session(server, namespace) as session:
        await session.provision("account")
        sequences = await append(session, 3)
        await freeze(server, session)
        reading = asyncio.ensure_future(read(session, 0, sequences[-1]))
        await asyncio.sleep(0)
        await server.kill()
        async with asyncio.timeout(2):
            with pytest.raises(Unreachable):
                await reading


async def collect(session: JetStreamSession, after: int, into: list[Stored]) -> None:
    async for stored in session.log.follow(ADDRESS, after=after):
        into.append(stored)


async def test_following_through_crashes(own_server: Start, namespace: str) -> None:
    server = await own_server()
    async with nats_session(server, namespace) as session:
        await session.provision("account")
        sequences = await append(session, 5)
        got: list[Stored] = []
        following = asyncio.create_task(collect(session, sequences[1], got))
        for _ in range(3):
            await until_count(got, len(sequences) - 2)
            await server.restart(kill=True)
            await until(lambda: session.connected)
            sequences += await append(session, 5, after=sequences[-1])
        await until_count(got, len(sequences) - 2)
        assert [s.sequence for s in got] == sequences[2:]
        assert got[0].mark == "mark 2"
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following


async def test_following_more_than_the_credit(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_module, "CREDIT", 4)
    sequences = await append(session, 30)
    got: list[Stored] = []
    following = asyncio.create_task(collect(session, 0, got))
    await until(lambda: len(got) == 30)
    assert [s.sequence for s in got] == sequences
    following.cancel()


async def test_a_gap_while_following_starts_a_new_reader(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = await append(session, 4)
    arrived = follow_module._Reader._arrived  # pyright: ignore[reportPrivateUsage]
    lost: list[Any] = []

    def lossy(self: Any, message: Any) -> None:
        if not lost and f".{sequences[1]}.2." in message.reply:
            lost.append(message)
        else:
            arrived(self, message)

    monkeypatch.setattr(follow_module._Reader, "_arrived", lossy)  # pyright: ignore[reportPrivateUsage]
    got: list[Stored] = []
    following = asyncio.create_task(collect(session, 0, got))
    await until(lambda: len(got) == 4)
    assert [s.sequence for s in got] == sequences
    assert len(lost) == 1
    following.cancel()


async def test_following_what_does_not_exist(session: JetStreamSession) -> None:
    with pytest.raises(Unreachable, match="LOG_ledger"):
        await anext(aiter(session.log.follow(Address("ledger", "a"), after=0)))


async def test_following_ends_with_the_session(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with nats_session(nats_server, namespace) as session:
        await session.provision("account")
        sequences = await append(session, 1)
        got: list[Stored] = []
        following = asyncio.create_task(collect(session, 0, got))
        await until(lambda: len(got) == 1)
        assert got[0].sequence == sequences[0]
    with pytest.raises(Unreachable, match="closed"):
        await following


async def test_a_reader_that_stops_leaves_no_consumer(session: JetStreamSession) -> None:
    await append(session, 1)
    stream = session.subjects.log_stream("account")
    got: list[Stored] = []
    following = asyncio.create_task(collect(session, 0, got))
    await until(lambda: len(got) == 1)
    path = f"$JS.API.CONSUMER.NAMES.{stream}"
    assert b'"total":1' in (await session.asks.request(path, b"", timeout_s=5)).data
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert b'"total":0' in (await session.asks.request(path, b"", timeout_s=5)).data


# -- when following fails ---------------------------------------------------------------------
class Link:
    """Of a connection, what a follower's patience looks at."""

    links = 1

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def patience(link: Link | None = None) -> follow_module.Patience:
    connection: Any = link or Link()
    return follow_module.Patience(connection, "log")


async def fail_for(patient: follow_module.Patience, error: Any, seconds: float) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        await patient.fail(error)


@pytest.mark.parametrize("error", [Incompatible("no"), ApiError("no"), Unreachable("silent")])
def test_who_was_heard_is_waited_for_in_bounds(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        patient = patience()
        patient.heard()
        assert follow_module.GIVE_UP_S > 60, "a server restarts, a leader is chosen"
        await fail_for(patient, error, follow_module.GIVE_UP_S - 1)
        with pytest.raises(Unreachable, match=f"not followed any more, 300 s in vain: {error}"):
            await fail_for(patient, error, 10)

    run(main())
    (warned,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert warned.getMessage() == f"following log: {error}"


def test_patience_begins_anew_when_it_is_heard_and_with_each_connection() -> None:
    async def main() -> None:
        link = Link()
        patient = patience(link)
        for _ in range(3):
            patient.heard()
            await fail_for(patient, Unreachable("silent"), follow_module.GIVE_UP_S - 1)
            link.links += 1
            await fail_for(patient, Unreachable("silent"), follow_module.GIVE_UP_S - 1)

    run(main())


def test_a_refusal_of_who_was_never_heard_is_told_at_once() -> None:
    async def main() -> None:
        for error in (Incompatible("no"), ApiError("no")):
            with pytest.raises(Unreachable, match="no"):
                await patience().fail(error)
        silent = patience()
        await fail_for(silent, Unreachable("silent"), 60)
        silent.heard()
        with pytest.raises(Forbidden, match="may not"):
            await silent.fail(Forbidden("may not"))

    run(main())


async def test_a_limit_of_consumers_is_told(own_server: Start, namespace: str) -> None:
    limited = "jetstream: {max_consumers: 1, max_mem: 100M, max_store: 1G}"
    users = f"accounts {{ A {{ {limited}, users: [{{user: a, password: p}}] }} }}"
    server = await own_server(extra=users)
    async with nats_session(server, namespace, user="a", password="p") as session:
        await session.provision("account")
        await append(session, 1)
        got: list[Stored] = []
        first = asyncio.create_task(collect(session, 0, got))
        await until_count(got, 1)
        with pytest.raises(Unreachable, match=r"maximum consumers limit reached \(10026\)"):
            async with asyncio.timeout(5):
                await anext(aiter(session.log.follow(ADDRESS, after=0)))
        first.cancel()
        await asyncio.wait({first})


async def recreate(session: JetStreamSession) -> None:
    """The log's stream, as somebody does who begins anew; with one commit."""
    path = f"$JS.API.STREAM.DELETE.{session.subjects.log_stream('account')}"
    await session.asks.request(path, b"", timeout_s=5)
    await session.provision("account")
    await append(session, 1)


@pytest.mark.parametrize("at_home", [True, False])
async def test_a_log_that_was_made_anew_is_told(
    session: JetStreamSession, monkeypatch: pytest.MonkeyPatch, at_home: bool
) -> None:
    monkeypatch.setattr(session.connection, "at_home", at_home)
    monkeypatch.setattr(follow_module, "LOOK_BACK", 2)
    read, anew = asyncio.Event(), asyncio.Event()

    async def pause(seconds: float) -> None:
        read.set()
        await anew.wait()

    async def opened(self: Any, after: int) -> None:
        if after:
            await pause(0)
        await open_reader(self, after)

    open_reader = follow_module._Reader.open  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(follow_module._Reader, "open", opened)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(session.connection, "pause", pause)
    sequences = await append(session, 3)
    got: list[Stored] = []
    following = asyncio.create_task(collect(session, 0, got))
    await until_count(got, 3)
    if not at_home:
        await read.wait()
    await recreate(session)
    anew.set()
    with pytest.raises(Unreachable, match=rf"ends at 1, .* up to {sequences[-1]}: .* made anew"):
        async with asyncio.timeout(20):
            await following


async def test_a_log_without_what_was_read_is_told_as_well(session: JetStreamSession) -> None:
    subject = session.subjects.log("account", "none")
    stream = session.subjects.log_stream("account")
    await follow_module.require_read(session.connection, stream, subject, 0)
    with pytest.raises(Unreachable, match="has nothing, and was read up to 7"):
        await follow_module.require_read(session.connection, stream, subject, 7)
