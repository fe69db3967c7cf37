"""What the memory backend has beyond the port: faults on request, names, loops, virtual time."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from perdure.entities.clock import SystemClock
from perdure.entities.settings import Settings
from perdure.streams.codec import digest
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.core import Core, check_subject
from perdure.streams.memory.registry import broker_for, forget, shared_broker
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Delivery, Message, Refused, Session, Unreachable
from perdure.streams.subjects import shard_of

from ..simulation.loop import SimulatedLoop
from .backend import TYPE, address, append, read, sealed, tell


class StandingClock:
    """Tells one time, until it is set."""

    def __init__(self) -> None:
        self.ns = 5 * 10**18

    def now_ns(self) -> int:
        return self.ns


def broker(**settings: Any) -> MemoryBroker:
    return MemoryBroker(SystemClock(), Settings(shards=4, **settings))


async def turn() -> None:
    """Let everything that was sent arrive."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def consume(session: Session, name: str, credit: int) -> tuple[list[Delivery], list[str]]:
    """What a new consumer of a-1's shard gets, and why it is lost."""
    deliveries: list[Delivery] = []
    lost: list[str] = []
    consumer = await session.commands.create(
        TYPE,
        shard_of("a-1", 4),
        name,
        owner="r",
        on_delivery=deliveries.append,
        on_lost=lost.append,
    )
    consumer.grant(credit)
    await turn()
    return deliveries, lost


def test_a_session_is_a_session() -> None:
    made: Session = broker().session()
    assert isinstance(made, MemorySession)


# -- faults on request ------------------------------------------------------------------------
async def test_a_tampered_commit_keeps_its_mark() -> None:
    server = broker()
    session = server.session()
    await session.provision(TYPE)
    one, two = await append(session, "a-1", "one", "two")
    server.tamper(address(), one, b"0ne")
    stored = await read(session, "a-1", after=0, upto=two)
    assert [s.data for s in stored] == [b"0ne", b"two"]
    assert stored[0].mark == sealed("one").mark != digest(b"0ne")
    with pytest.raises(KeyError):
        server.tamper(address("a-2"), one, b"x")


async def test_dropped_snapshots_are_gone() -> None:
    server = broker()
    session = server.session()
    await session.provision(TYPE)
    assert await session.snapshots.put(address(), b"one")
    server.drop_snapshots()
    assert await session.snapshots.get(address()) is None


async def test_a_foreign_publish_goes_where_it_says() -> None:
    server = broker()
    session = server.session()
    await session.provision(TYPE)
    server.publish_foreign(session.subjects.log(TYPE, "a-1"), b"junk")
    server.publish_foreign(session.subjects.to(TYPE, "a-1"), b"told")
    last = await session.log.last(address())
    assert last is not None
    assert (last.data, last.mark) == (b"junk", None)
    assert server.waiting(TYPE) == 1


async def test_a_rewind_sets_consumers_back() -> None:
    """As the files of the consumer are as old as those of the stream."""
    server = broker()
    session = server.session()
    await session.provision(TYPE)
    sequences = await tell(session, "a-1", *"abcd")
    deliveries, lost = await consume(session, "g1-s2-t1-a", 10)
    server.rewind(TYPE, sequences[1])
    await turn()
    assert lost == ["reconnected"]
    (info,) = await session.commands.consumers(TYPE)
    assert (info.delivered, info.pending) == (sequences[1], 0)
    assert await tell(session, "a-1", "e") == [sequences[2]]
    (info,) = await session.commands.consumers(TYPE)
    assert (info.delivered, info.pending) == (sequences[1], 1)
    assert len(deliveries) == 4
    with pytest.raises(ValueError, match="can't keep"):
        server.rewind(TYPE, 99)


async def test_a_cut_connection_loses_what_is_on_its_way() -> None:
    server = broker()
    session, other = server.session("one"), server.session("two")
    await session.provision(TYPE)
    heard: list[Message] = []
    await session.asks.subscribe("x.y", heard.append)
    await tell(session, "a-1", *"abc")
    deliveries, lost = await consume(session, "g1-s2-t1-a", 2)
    assert len(deliveries) == 2
    await tell(session, "a-1", "d")
    other.asks.send("x.y", b"lost")
    server.disconnect(session, reconnect=False)
    other.asks.send("x.y", b"lost too")
    await turn()
    assert (heard, lost, session.connected) == ([], [], False)
    with pytest.raises(Unreachable):
        await session.provision(TYPE)
    server.reconnect(session)
    other.asks.send("x.y", b"heard")
    await turn()
    assert ([m.data for m in heard], lost, session.connected) == (
        [b"heard"],
        ["reconnected"],
        True,
    )
    assert len(deliveries) == 2


async def test_a_call_in_flight_is_unreachable_when_the_line_is_cut() -> None:
    server = broker()
    session = server.session()
    await session.provision(TYPE)
    call = asyncio.ensure_future(session.log.last(address()))
    await asyncio.sleep(0)
    server.disconnect(session)
    with pytest.raises(Unreachable):
        await call


# -- time -------------------------------------------------------------------------------------
def test_ack_wait_passes_in_the_loops_time() -> None:
    times: list[float] = []

    async def main() -> None:
        session = broker().session()  # ack_wait is a minute
        await session.provision(TYPE)
        await tell(session, "a-1", "a")
        consumer = await session.commands.create(
            TYPE,
            shard_of("a-1", 4),
            "g1-s2-t1-a",
            owner="r",
            on_delivery=lambda delivery: times.append(loop.time()),
            on_lost=lambda reason: None,
        )
        consumer.grant(10)
        await asyncio.sleep(200)

    loop = SimulatedLoop(100_000)
    try:
        loop.run(main())
    finally:
        loop.close()
    assert times == pytest.approx([0, 60, 120, 180], abs=0.01)


async def test_stored_times_are_the_brokers() -> None:
    clock = StandingClock()
    server = MemoryBroker(clock, Settings(shards=4))
    session = server.session(clock=SystemClock())
    await session.provision(TYPE)
    (one,) = await append(session, "a-1", "one")
    clock.ns -= 7
    (told,) = await tell(session, "a-1", "a")
    stored = await session.log.by_sequence(TYPE, one)
    tell_again = await session.commands.by_sequence(TYPE, told)
    assert stored is not None
    assert tell_again is not None
    assert (stored.time_ns, tell_again.time_ns) == (clock.ns + 7, clock.ns)


# -- names and loops --------------------------------------------------------------------------
def test_a_name_is_shared_and_no_name_is_private() -> None:
    try:
        assert broker_for("memory:orders") is shared_broker("orders")
        assert broker_for("memory:orders") is not broker_for("memory:bills")
        assert broker_for("memory:") is not broker_for("memory:")
        mine = shared_broker("orders")
        forget("orders")
        assert shared_broker("orders") is not mine
    finally:
        forget("orders")
        forget("bills")
    with pytest.raises(ValueError, match="not a memory URL"):
        broker_for("nats://127.0.0.1")


def test_namespaces_share_nothing() -> None:
    async def main() -> None:
        server = broker()
        one = server.session()
        two = server.session(settings=Settings(namespace="other", shards=2))
        await one.provision(TYPE)
        assert await two.sharding(TYPE) is None
        await append(one, "a-1", "one")
        assert (await two.provision(TYPE)).shards == 2
        assert await two.log.last(address()) is None

    asyncio.run(main())


def test_a_closed_loop_takes_its_sessions_along() -> None:
    """The next loop of the process finds the data, and none of the old listeners."""
    server = broker()

    async def first() -> None:
        session = server.session()
        await session.provision(TYPE)
        await append(session, "a-1", "one")
        await tell(session, "a-1", "a")
        await session.asks.subscribe("x.y", lambda message: None)
        await consume(session, "g1-s2-t1-a", 10)

    async def second() -> None:
        session = server.session()
        answer = await session.asks.request("x.y", b"", timeout_s=5)
        assert answer.no_responders
        await tell(session, "a-1", "b")
        await session.commands.delete(TYPE, "g1-s2-t1-a")
        deliveries, _ = await consume(session, "g1-s2-t2-b", 10)
        assert [d.data for d in deliveries] == [b"a", b"b"]
        assert await session.log.last(address()) is not None

    asyncio.run(first())
    asyncio.run(second())


async def test_what_arrives_runs_in_the_receivers_context() -> None:
    """Nothing of the sender's leaks over, as nothing would over a network."""
    whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody")
    server = broker()
    whose.set("receiver")
    session = server.session()
    heard: list[str] = []
    await session.asks.subscribe("x.y", lambda message: heard.append(whose.get()))
    whose.set("sender")
    server.session().asks.send("x.y", b"")
    await turn()
    assert heard == ["receiver"]


# -- bounds -----------------------------------------------------------------------------------
async def test_too_large_a_message_is_refused() -> None:
    server = MemoryBroker(SystemClock(), Settings(shards=4), max_payload=2_000)
    session = server.session()
    await session.provision(TYPE)
    assert session.max_payload == 2_000
    large = "x" * 2_001
    assert isinstance(await session.log.append(address(), sealed(large), expected=0), Refused)
    assert isinstance(await session.commands.publish(address(), large.encode()), Refused)
    assert not await session.snapshots.put(address(), large.encode())
    assert not await session.dead.put(address(), large.encode())
    heard: list[Message] = []
    await session.asks.subscribe("x.y", heard.append)
    session.asks.send("x.y", large.encode())
    session.asks.send("x.y", b"small")
    await turn()
    assert [m.data for m in heard] == [b"small"]


@pytest.mark.parametrize("subject", ["", "a..b", ".a", "a.", "a b", "a\n", "a.>.b", "a\0"])
def test_what_is_no_subject_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match="not a subject"):
        check_subject(subject, wildcards=True)


@pytest.mark.parametrize(
    ("pattern", "hears", "deaf"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "a.c"]),
        ("a.*", ["a.b", "a.c"], ["a", "a.b.c", "b.b"]),
        ("*.b", ["a.b", "c.b"], ["b", "a.c", "a.b.b"]),
        ("a.*.c", ["a.b.c"], ["a.c", "a.b.d", "a.b.c.d"]),
        ("a.>", ["a.b", "a.b.c"], ["a", "b.a"]),
        (">", ["a", "a.b.c"], []),
    ],
)
async def test_wildcards(pattern: str, hears: list[str], deaf: list[str]) -> None:
    server = broker()
    session = server.session()
    await session.asks.subscribe(pattern, lambda message: None)
    core: Core = server.core
    assert [s for s in hears + deaf if core.match(s)] == hears
