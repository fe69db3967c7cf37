"""Tells: the subject is the mailbox, the server's transform places it, the answer is honest."""

from __future__ import annotations

import asyncio
import json

from perdure.streams.port import Appended, Full, Message, NoAck, NoStream, Refused
from perdure.streams.subjects import escape

from ..backend import SHARDS, TYPE, Backend, address, begin, round_trip, settled, tell, until
from .logs import ODD_IDS

CAPACITY = 100
"""The default of `mailbox_capacity`."""


async def a_tell_is_stored_as_it_was(backend: Backend) -> None:
    """Found again by its sequence, with token, headers and time."""
    session = await backend.session()
    await session.provision(TYPE)
    one = await session.commands.publish(address("a b"), b'{"n": 1}', {"Idempotency-Key": "k-1"})
    assert isinstance(one, Appended)
    (two,) = await tell(session, "b-1", "{}")
    assert two == one.sequence + 1
    stored = await session.commands.by_sequence(TYPE, one.sequence)
    assert stored is not None
    assert (stored.sequence, stored.token, stored.data) == (one.sequence, "a=20b", b'{"n": 1}')
    assert dict(stored.headers or {}) == {"Idempotency-Key": "k-1"}
    assert abs(stored.time_ns - session.clock.now_ns()) < 60 * 10**9
    assert (stored.consumer, stored.handle) == ("", "")
    plain = await session.commands.by_sequence(TYPE, two)
    assert plain is not None
    assert not plain.headers
    assert await session.commands.by_sequence(TYPE, two + 1) is None


async def the_101st_waiting_tell_is_refused(backend: Backend) -> None:
    """10077 for the session as for a plain publisher; a neighbour isn't affected."""
    session = await backend.session()
    await session.provision(TYPE)
    await tell(session, "a-1", *(f"{n}" for n in range(CAPACITY)))
    assert await session.commands.publish(address(), b"one too many") == Full()
    to = session.subjects.to(TYPE, "a-1")
    plain = await session.asks.request(to, b"one too many", timeout_s=backend.patience_s)
    assert json.loads(plain.data)["error"]["err_code"] == 10077
    session.asks.send(to, b"nobody hears of this one")
    await round_trip(session)
    term = await begin(backend, session, "g1-s0-t1-a", credit=2 * CAPACITY)
    await term.got(CAPACITY)
    assert await session.commands.publish(address(), b"still full") == Full()
    assert len(await tell(session, "a-2", "neighbour")) == 1


async def of_concurrent_tells_exactly_100_are_stored(backend: Backend) -> None:
    """No more by a race, and no fewer."""
    sessions = [await backend.session() for _ in range(3)]
    await sessions[0].provision(TYPE)
    answers = await asyncio.gather(
        *(s.commands.publish(address(), b"x") for s in sessions for _ in range(60))
    )
    assert sum(isinstance(a, Appended) for a in answers) == CAPACITY, answers
    assert answers.count(Full()) == 180 - CAPACITY


async def an_acknowledged_tell_frees_one_place(backend: Backend) -> None:
    """Delivered ones still count; each ack frees exactly one."""
    session = await backend.session(mailbox_capacity=3)
    await session.provision(TYPE)
    await tell(session, "a-1", "1", "2", "3")
    term = await begin(backend, session, "g1-s0-t1-a", credit=10)
    await term.got(3)
    assert await session.commands.publish(address(), b"x") == Full()
    term.consumer.ack(term.deliveries[1].handle)
    await settled(backend, session, term.deliveries[1].sequence)
    await tell(session, "a-1", "4")
    assert await session.commands.publish(address(), b"x") == Full()
    await term.got(4)
    assert term.texts == ["1", "2", "3", "4"]


async def a_full_stream_is_no_full_mailbox(backend: Backend) -> None:
    """10077 is its code too, but it isn't the entity's fault."""
    session = await backend.session(command_stream_bytes=1024**2)
    await session.provision(TYPE)
    payload = "x" * 200_000
    await tell(session, "a-1", *([payload] * 5))
    answer = await session.commands.publish(address("a-2"), payload.encode())
    assert isinstance(answer, Refused)
    assert answer.code == 10077
    await tell(session, "a-2", "a small one fits")


async def nobody_stores_tells_of_an_unknown_type(backend: Backend) -> None:
    """NoStream is definite: nothing happened."""
    session = await backend.session()
    await session.provision(TYPE)
    unknown = type(address())("unknown", "a-1")
    assert await session.commands.publish(unknown, b"{}") == NoStream()
    assert await session.sharding("unknown") is None
    plain = await session.asks.request(
        session.subjects.to("unknown", "a-1"), b"{}", timeout_s=backend.patience_s
    )
    assert plain.no_responders


async def an_existing_sharding_wins(backend: Backend) -> None:
    """Provisioning again changes nothing, whatever the settings say."""
    session, other = await backend.session(), await backend.session(shards=7)
    assert await session.sharding(TYPE) is None
    sharding = await session.provision(TYPE)
    assert (sharding.generation, sharding.shards) == (1, SHARDS)
    assert await session.provision(TYPE) == sharding
    assert await other.provision(TYPE) == sharding
    assert await other.sharding(TYPE) == sharding


async def the_shard_is_the_servers_partition(backend: Backend) -> None:
    """Our function and the server's transform agree, also on ids that had to be escaped."""
    session = await backend.session()
    sharding = await session.provision(TYPE)
    terms = [
        await begin(backend, session, f"g1-s{n}-t1-a", shard=n, credit=100) for n in range(SHARDS)
    ]
    ids = [*ODD_IDS, *(f"id-{n}" for n in range(40))]
    for id in ids:
        await tell(session, id, id)
    await until(
        backend, lambda: sum(len(t.deliveries) for t in terms) == len(ids), "all delivered"
    )
    for shard, term in enumerate(terms):
        assert term.texts == [id for id in ids if sharding.shard(escape(id)) == shard]
        assert [d.token for d in term.deliveries] == [escape(id) for id in term.texts]


async def a_plain_publish_is_a_tell(backend: Backend) -> None:
    """From any language: delivered with its headers, and acknowledged if it asks for that."""
    session = await backend.session()
    await session.provision(TYPE)
    term = await begin(backend, session, "g1-s0-t1-a", credit=10)
    to = session.subjects.to(TYPE, "a-1")
    session.asks.send(to, b"one", headers={"Idempotency-Key": "k-1", "X": "y z"})
    answers: list[Message] = []
    inbox = session.asks.inbox(answers.append)
    session.asks.send(to, b"two", reply=inbox.subject("1"))
    await term.got(2)
    await until(backend, lambda: len(answers) == 1, "the acknowledgement")
    assert term.texts == ["one", "two"]
    assert dict(term.deliveries[0].headers or {}) == {"Idempotency-Key": "k-1", "X": "y z"}
    assert not term.deliveries[1].headers
    body = json.loads(answers[0].data)
    assert body["seq"] == term.deliveries[1].sequence
    assert body["stream"] == session.subjects.command_stream(TYPE)


async def an_unacknowledged_tell_is_stored_once(backend: Backend) -> None:
    """No answer means unknown; here it was stored, and repeating is the caller's business."""
    session = await backend.session()
    await session.provision(TYPE)
    assert isinstance(
        await backend.unanswered(session, lambda: session.commands.publish(address(), b"one")),
        NoAck,
    )
    await tell(session, "a-1", "two")
    term = await begin(backend, session, "g1-s0-t1-a", credit=10)
    await term.got(2)
    assert term.texts == ["one", "two"]


async def a_token_with_a_del_is_never_delivered(backend: Backend) -> None:
    """Stored and acknowledged, but no filter and no limit of a subject finds it; `oldest` does."""
    session = await backend.session(mailbox_capacity=1)
    await session.provision(TYPE)
    terms = [
        await begin(backend, session, f"g1-s{n}-t1-a", shard=n, credit=100) for n in range(SHARDS)
    ]
    hidden = session.subjects.to(TYPE, "a\x7fb")
    for number in (1, 2):
        answer = await session.asks.request(hidden, b"x", timeout_s=backend.patience_s)
        assert json.loads(answer.data)["seq"] == number
    await tell(session, "a-1", "an innocent one")
    await until(backend, lambda: any(term.texts for term in terms), "the innocent one")
    assert [text for term in terms for text in term.texts] == ["an innocent one"]
    found = await session.commands.oldest(TYPE, after=1)
    assert found is not None
    assert (found.sequence, found.token, found.data) == (2, "a\x7fb", b"x")


async def the_oldest_tell_beyond_a_sequence(backend: Backend) -> None:
    """In the order of the stream, of all entities, as by its sequence, held or not."""
    session = await backend.session()
    await session.provision(TYPE)
    assert await session.commands.oldest(TYPE, after=0) is None
    assert await session.commands.oldest("unknown", after=0) is None
    await tell(session, "a-1", "1")
    await tell(session, "a-2", "2")
    await tell(session, "a-1", "3")
    term = await begin(backend, session, "g1-s0-t1-a", credit=10)
    await term.got(2)
    found = [await session.commands.oldest(TYPE, after=n) for n in range(4)]
    assert [None if f is None else f.data for f in found] == [b"1", b"2", b"3", None]
    assert found[0] == await session.commands.by_sequence(TYPE, 1)
    term.consumer.ack(term.deliveries[0].handle)
    await settled(backend, session, 1)
    assert await session.commands.oldest(TYPE, after=0) == found[1]


async def a_removed_tell_is_gone(backend: Backend) -> None:
    """Not delivered, not counted; held ones don't come again. Removing it again does nothing."""
    session = await backend.session(mailbox_capacity=4, ack_wait=1, ack_progress=0.2)
    await session.provision(TYPE)
    await tell(session, "a-1", "1", "2", "3", "4")
    term = await begin(backend, session, "g1-s0-t1-a", credit=2)
    await term.got(2)
    for sequence in (2, 3, 2, 99):
        await session.commands.remove(TYPE, sequence)
    await session.commands.remove("unknown", 1)
    assert await session.commands.by_sequence(TYPE, 2) is None
    await tell(session, "a-1", "5", "6")
    assert await session.commands.publish(address(), b"x") == Full()
    term.consumer.grant(10)
    await until(backend, lambda: term.texts.count("1") > 1, "the held one again")
    assert "3" not in term.texts
    assert term.texts.count("2") == 1
    await session.commands.delete(TYPE, term.name)
    again = await begin(backend, session, "g1-s0-t2-b", credit=10)
    await again.got(4)
    assert again.texts == ["1", "4", "5", "6"]
