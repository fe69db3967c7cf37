"""The connection on real servers that are killed, frozen, closed, or reached by web."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure.deploy.server import EmbeddedServer
from perdure.entities.address import Address
from perdure.streams.commit import Sealed
from perdure.streams.jetstream import connection as connection_module
from perdure.streams.jetstream import link as link_module
from perdure.streams.jetstream.messages import frame
from perdure.streams.jetstream.outbox import OVERHEAD_BYTES
from perdure.streams.jetstream.reader import BURST_BYTES
from perdure.streams.jetstream.session import JetStreamSession, open_session
from perdure.streams.port import (
    Appended,
    Full,
    Message,
    NoAck,
    Refused,
    Unreachable,
    WrongLast,
)

from ...support.server import freeze, nats_session, plain_client, settings_for, until

Start = Callable[..., Awaitable[EmbeddedServer]]

ADDRESS = Address("account", "a-1")


def commit(text: str) -> Sealed:
    return Sealed(text, text.encode(), "mark")


def only(tasks: set[asyncio.Task[Any]]) -> list[str]:
    return [task.get_name() for task in tasks if task is not asyncio.current_task()]


# -- killed -------------------------------------------------------------------------------------
async def test_all_goes_on_after_a_crash_of_the_server(own_server: Start, namespace: str) -> None:
    server = await own_server()
    async with nats_session(server, namespace) as session:
        await session.provision("account")
        heard: list[bytes] = []
        answers: list[Message] = []
        await session.asks.subscribe("x.y", lambda m: heard.append(m.data))
        inbox = session.asks.inbox(answers.append)
        assert await session.log.append(ADDRESS, commit("1"), expected=0) == Appended(1)
        await server.kill()
        await until(lambda: not session.connected)
        assert isinstance(await session.log.append(ADDRESS, commit("2"), expected=1), NoAck)
        with pytest.raises(Unreachable, match=f"no connection to {server.url}"):
            await session.log.last(ADDRESS)
        session.asks.send("x.y", b"dropped")
        await server.start()
        await until(lambda: session.connected)
        assert await session.log.append(ADDRESS, commit("2"), expected=1) == Appended(2)
        session.asks.send("x.y", b"heard")
        await until(lambda: bool(heard))
        assert heard == [b"heard"]
        session.asks.send("nobody.listens", b"", reply=inbox.subject("7"))
        await until(lambda: bool(answers))
        assert answers[0].no_responders
        assert answers[0].subject == inbox.subject("7")


async def test_every_call_in_flight_ends_at_once(own_server: Start, namespace: str) -> None:
    server = await own_server()
    async with nats_session(server, namespace) as session:
        await session.provision("account")
        await freeze(server, session)
        calls = [
            *(session.log.append(Address("account", f"{i}"), commit("1"), expected=0)
              for i in range(200)),
            *(session.commands.publish(Address("account", f"{i}"), b"") for i in range(200)),
            session.log.last(ADDRESS),
            session.members.get("k"),
            session.sharding("account"),
            session.asks.request("x", b"", timeout_s=60),
        ]  # fmt: skip
        under_way = [asyncio.ensure_future(call) for call in calls]
        for _ in range(10):
            await asyncio.sleep(0)
        started = asyncio.get_running_loop().time()
        await server.kill()
        done = await asyncio.gather(*under_way, return_exceptions=True)
        assert asyncio.get_running_loop().time() - started < 1
        assert all(isinstance(answer, NoAck) for answer in done[:400])
        assert all(isinstance(answer, Unreachable) for answer in done[400:])


async def test_a_lost_append_is_never_sent_later(own_server: Start, namespace: str) -> None:
    server = await own_server()
    async with nats_session(server, namespace) as session:
        await session.provision("account")
        await server.kill()
        answers = await asyncio.gather(
            *(session.log.append(ADDRESS, commit("x"), expected=0) for _ in range(50)),
            *(session.commands.publish(ADDRESS, b"x") for _ in range(50)),
        )
        assert all(isinstance(answer, NoAck) for answer in answers)
        await server.start()
        await until(lambda: session.connected)
        assert await session.log.last(ADDRESS) is None
        assert await session.commands.by_sequence("account", 1) is None


async def grown(stored: list[int], by: int) -> None:
    wanted = sum(stored) + by
    await until(lambda: sum(stored) >= wanted)


async def until_some(answers: list[object]) -> None:
    await until(lambda: len(answers) > 20)


@pytest.mark.parametrize("kill", [True, False])
async def test_kill_and_restart_again_and_again(
    own_server: Start, namespace: str, kill: bool
) -> None:
    server = await own_server()
    async with nats_session(server, namespace) as session:
        await session.provision("account")
        done = asyncio.Event()
        stored = [0] * 8

        async def write(number: int) -> None:
            address = Address("account", f"w{number}")
            last, unsure = 0, False
            while unsure or not done.is_set():
                answer = await session.log.append(address, commit("x"), expected=last)
                if isinstance(answer, Appended):
                    last, unsure = answer.sequence, False
                    stored[number] += 1
                    continue
                unsure = True  # until the leader says what it has
                if isinstance(answer, Refused):
                    assert answer.code == 503, answer  # while it stops
                try:
                    found = await session.log.last(address)
                except Unreachable:
                    await asyncio.sleep(0.01)
                    continue
                unsure = False
                landed = found is not None and found.sequence != last
                stored[number] += landed
                last = 0 if found is None else found.sequence

        writers = [asyncio.create_task(write(n)) for n in range(8)]
        for _ in range(4):
            await grown(stored, 50)
            await server.restart(kill=kill)
        await until(lambda: session.connected)
        done.set()
        await asyncio.gather(*writers)
        for number in range(8):
            address = Address("account", f"w{number}")
            last = await session.log.last(address)
            assert last is not None
            read = [s async for s in session.log.read(address, after=0, upto=last.sequence)]
            assert len(read) == stored[number]


async def test_a_server_that_stops_is_not_a_missing_stream(
    own_server: Start, namespace: str
) -> None:
    server = await own_server()
    async with nats_session(server, namespace) as session:
        await session.provision("account")
        for _ in range(3):
            answers: list[object] = []

            async def tell(answers: list[object]) -> None:
                while session.connected:
                    answers.append(await session.commands.publish(ADDRESS, b""))

            telling = [asyncio.create_task(tell(answers)) for _ in range(8)]
            await until_some(answers)
            await server.restart()
            await asyncio.gather(*telling)
            assert not [a for a in answers if not isinstance(a, (Appended, NoAck, Full))]
            await until(lambda: session.connected)


async def test_nothing_is_left_behind(own_server: Start, namespace: str) -> None:
    server = await own_server()
    before = only(asyncio.all_tasks())
    session = await open_session(settings_for(server, namespace), name="t")
    await session.provision("account")
    await session.asks.subscribe("x", lambda _: None)
    await server.restart(kill=True)
    await until(lambda: session.connected)
    await session.close()
    await session.close()
    assert not session.connected
    await asyncio.sleep(0)
    assert only(asyncio.all_tasks()) == before
    with pytest.raises(Unreachable, match="closed"):
        await session.log.last(ADDRESS)
    assert isinstance(await session.log.append(ADDRESS, commit("x"), expected=0), NoAck)


async def test_closing_while_the_server_is_down(own_server: Start, namespace: str) -> None:
    server = await own_server()
    before = only(asyncio.all_tasks())
    session = await open_session(settings_for(server, namespace), name="t")
    await server.kill()
    await until(lambda: not session.connected)
    async with asyncio.timeout(5):
        await session.close()
    await asyncio.sleep(0)
    assert only(asyncio.all_tasks()) == before


async def test_closing_sends_what_waits(nats_server: EmbeddedServer, namespace: str) -> None:
    client = await plain_client(nats_server)
    subscription = await client.subscribe(f"{namespace}.>")
    await client.flush()
    session = await open_session(settings_for(nats_server, namespace), name="t")
    for number in range(5000):
        session.asks.send(f"{namespace}.{number}", b"x" * 100)
    await session.close()
    for number in range(5000):
        assert (await subscription.next_msg(5)).subject == f"{namespace}.{number}"
    await client.close()


# -- frozen -------------------------------------------------------------------------------------
async def test_a_frozen_server_is_told_by_time(
    own_server: Start, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "ACK_TIMEOUT_S", 0.3)
    server = await own_server()
    async with nats_session(server, namespace) as session:
        await session.provision("account")
        await freeze(server, session)
        answer = await session.log.append(ADDRESS, commit("1"), expected=0)
        assert isinstance(answer, NoAck)
        assert "in 0.3 s" in answer.why
        server.resume()
        await until(lambda: session.connected)
        found = None
        while found is None:  # it arrives when the server wakes up
            found = await session.log.last(ADDRESS)
        assert found.data == b"1"
        assert await session.log.append(ADDRESS, commit("1"), expected=0) == WrongLast()


async def test_a_frozen_server_is_left_and_found_again(
    own_server: Start, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "PING_S", 0.1)
    monkeypatch.setattr(link_module, "CONNECT_TIMEOUT_S", 1)
    server = await own_server()
    async with nats_session(server, namespace) as session:
        await session.provision("account")
        server.pause()
        await until(lambda: not session.connected)
        monkeypatch.setattr(link_module, "PING_S", 3)
        assert isinstance(await session.log.append(ADDRESS, commit("1"), expected=0), NoAck)
        server.resume()
        await until(lambda: session.connected)
        assert await session.log.append(ADDRESS, commit("1"), expected=0) == Appended(1)


# -- what must never end a connection -----------------------------------------------------------
async def test_too_much_is_refused_before_it_is_sent(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with nats_session(nats_server, namespace) as session:
        await session.provision("account")
        links = session.epoch
        assert session.max_payload == 1024 * 1024
        most = session.max_payload
        for size in (most - 20, most, most + 1):  # the headers count too
            answer = await session.log.append(ADDRESS, commit("x" * size), expected=0)
            assert isinstance(answer, Refused), size
            assert answer.code == 10054
        told = await session.commands.publish(ADDRESS, bytes(most + 1))
        assert isinstance(told, Refused)
        assert isinstance(await session.commands.publish(ADDRESS, bytes(most)), Appended)
        headers = {"a": "b" * 100}
        told = await session.commands.publish(ADDRESS, bytes(most - 90), headers)
        assert isinstance(told, Refused)
        assert not await session.snapshots.put(ADDRESS, bytes(most + 1))
        assert not await session.dead.put(ADDRESS, bytes(most + 1))
        session.asks.send("x", bytes(most + 1))
        with pytest.raises(Unreachable, match="the server takes"):
            await session.asks.request("x", bytes(most + 1), timeout_s=1)
        with pytest.raises(Unreachable, match="the server takes"):
            await session.members.put("k", bytes(most + 1))
        assert (await session.asks.request("x", b"", timeout_s=1)).no_responders
        assert session.epoch == links


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0", "a" * 2000, "é" * 1000])
async def test_subjects_that_would_end_the_connection(
    nats_server: EmbeddedServer, namespace: str, subject: str
) -> None:
    async with nats_session(nats_server, namespace) as session:
        links = session.epoch
        with pytest.raises(ValueError, match="not a subject"):
            session.asks.send(subject, b"")
        with pytest.raises(ValueError, match="not a subject"):
            session.asks.send("x", b"", reply=subject or " ")
        with pytest.raises(ValueError, match="not a subject"):
            await session.asks.request(subject, b"", timeout_s=1)
        with pytest.raises(ValueError, match="not a subject"):
            await session.asks.subscribe(subject, lambda _: None)
        assert (await session.asks.request("x", b"", timeout_s=1)).no_responders
        assert session.epoch == links


async def test_a_message_that_can_not_be_encoded_keeps_back_no_other(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with nats_session(nats_server, namespace) as session:
        heard: list[bytes] = []
        await session.asks.subscribe(f"{namespace}.x", lambda m: heard.append(m.data))
        session.asks.send("\ud800", b"")
        with pytest.raises(ValueError, match="not a header's name"):
            session.asks.send(f"{namespace}.x", b"1", headers={"a b": "c"})
        session.asks.send(f"{namespace}.x", b"2", reply="\udfff")
        session.asks.send(f"{namespace}.x", b"3")
        await until(lambda: heard == [b"3"])


async def test_a_failing_callback_does_not_end_a_subscription(
    nats_server: EmbeddedServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with nats_session(nats_server, namespace) as session:
        heard: list[bytes] = []

        def listen(message: Message) -> None:
            heard.append(message.data)
            if message.data == b"1":
                raise ZeroDivisionError("one")
            if message.data == b"2":
                raise asyncio.CancelledError

        await session.asks.subscribe(f"{namespace}.x", listen)
        with caplog.at_level(logging.ERROR):
            for number in range(4):
                session.asks.send(f"{namespace}.x", b"%d" % number)
            await until(lambda: len(heard) == 4)
        assert "ZeroDivisionError" in caplog.text
        assert caplog.text.count("a handler of") == 2


async def test_a_stopped_subscription_hears_nothing_also_after_a_crash(
    own_server: Start, namespace: str
) -> None:
    server = await own_server()
    async with nats_session(server, namespace) as session:
        heard: list[bytes] = []
        subscription = await session.asks.subscribe("x", lambda m: heard.append(m.data))
        await subscription.stop()
        await subscription.stop()
        assert (await session.asks.request("x", b"", timeout_s=1)).no_responders
        await server.restart(kill=True)
        await until(lambda: session.connected)
        assert (await session.asks.request("x", b"", timeout_s=1)).no_responders
        assert heard == []


async def test_a_closed_inbox_hears_nothing(nats_server: EmbeddedServer, namespace: str) -> None:
    async with nats_session(nats_server, namespace) as session:
        heard: list[str] = []
        first = session.asks.inbox(lambda m: heard.append(m.subject))
        second = session.asks.inbox(lambda m: heard.append(m.subject))
        first.close()
        session.asks.send(first.subject("1"), b"")
        session.asks.send(second.subject("2"), b"")
        await until(lambda: bool(heard))
        assert heard == [second.subject("2")]


async def test_more_in_flight_than_there_is_room_for(
    nats_server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "IN_FLIGHT_BYTES", 500_000)
    async with nats_session(nats_server, namespace) as session:
        await session.provision("account")
        answers = await asyncio.gather(
            *(
                session.log.append(Address("account", f"{n}"), commit("x" * 200_000), expected=0)
                for n in range(40)
            )
        )
        assert all(isinstance(answer, Appended) for answer in answers)


async def test_an_overload_waits_before_it_is_sent(
    own_server: Start, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for an acknowledgement begins when its turn comes, so none of these is unknown."""
    monkeypatch.setattr(connection_module, "IN_FLIGHT_BYTES", 100 * 16 * 1024)
    server = await own_server(fsync=True)
    async with nats_session(server, namespace) as session:
        await session.provision("account")
        appends = [
            asyncio.ensure_future(
                session.log.append(Address("account", f"{n}"), commit("x"), expected=0)
            )
            for n in range(3000)
        ]
        await asyncio.sleep(0)
        most = 0
        while not all(append.done() for append in appends):
            most = max(most, session.statistics().waiting)
            await asyncio.sleep(0.01)
        assert 0 < most <= 100
        assert all(isinstance(append.result(), Appended) for append in appends)


async def test_an_outbox_that_is_full_drops(
    nats_server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.streams.jetstream.outbox.OUTBOX_BYTES", 100_000)
    monkeypatch.setattr("perdure.streams.jetstream.reader.BURST_BYTES", 1 << 40)  # nothing leaves
    async with nats_session(nats_server, namespace) as session:
        heard: list[bytes] = []
        await session.asks.subscribe(f"{namespace}.x", lambda m: heard.append(m.data))
        for _ in range(1000):
            session.asks.send(f"{namespace}.x", bytes(800))
        fits = (100_000 - OVERHEAD_BYTES) // len(frame(f"{namespace}.x", "", b"", bytes(800)))
        await until(lambda: len(heard) == fits)
        session.asks.send(f"{namespace}.x", b"last")
        await until(lambda: heard[-1] == b"last")
        assert len(heard) == fits + 1


async def test_what_is_sent_goes_out_while_more_is_made(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    async with nats_session(nats_server, namespace) as session:
        heard: list[bytes] = []
        await session.asks.subscribe(f"{namespace}.x", lambda m: heard.append(m.data))
        assert session.connection.link is not None
        client = session.connection.link.client
        for number in range(100):  # without a turn for anybody else
            session.asks.send(f"{namespace}.x", b"%d" % number + bytes(1000))
            assert client.pending_data_size < BURST_BYTES
        await until(lambda: len(heard) == 100)
        assert [int(data.partition(b"\0")[0]) for data in heard] == list(range(100))


async def test_large_sends_wait_for_the_socket(
    nats_server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.streams.jetstream.outbox.PENDING_BYTES", 100_000)
    async with nats_session(nats_server, namespace) as session:
        heard = 0

        def listen(message: Message) -> None:
            nonlocal heard
            heard += len(message.data)

        await session.asks.subscribe(f"{namespace}.x", listen)
        for _ in range(60):
            session.asks.send(f"{namespace}.x", bytes(500_000))
        await until(lambda: heard == 30_000_000)


async def test_statistics(own_server: Start, namespace: str) -> None:
    server = await own_server()
    async with nats_session(server, namespace) as session:
        await session.provision("account")
        idle = session.statistics()
        assert idle.connected
        assert (idle.links, idle.waiting, idle.in_flight_bytes, idle.outbox_bytes) == (1, 0, 0, 0)
        assert (idle.dropped, idle.violations) == (0, ())
        await freeze(server, session)
        appending = asyncio.ensure_future(session.log.append(ADDRESS, commit("x"), expected=0))
        await asyncio.sleep(0)
        session.asks.send("x", b"y" * 1000)
        busy = session.statistics()
        assert busy.waiting == 1
        assert busy.in_flight_bytes > 0
        assert busy.outbox_bytes > 1000
        await server.restart(kill=True)
        await until(lambda: session.statistics().links == 2)
        assert isinstance(await appending, NoAck)
        assert session.statistics().waiting == 0


async def test_sessions_are_separate(nats_server: EmbeddedServer, namespace: str) -> None:
    async def ping(session: JetStreamSession, number: int) -> bytes:
        message = await session.asks.request(f"{namespace}.x", b"%d" % number, timeout_s=10)
        return message.data

    async with (
        nats_session(nats_server, namespace) as first,
        nats_session(nats_server, namespace) as second,
    ):
        await first.asks.subscribe(f"{namespace}.x", lambda m: first.asks.send(m.reply, m.data))
        answers = await asyncio.gather(*(ping(first if n % 2 else second, n) for n in range(500)))
        assert answers == [b"%d" % n for n in range(500)]
