"""Terms: one consumer a shard, order by taking over, and zombies that hit nothing."""

from __future__ import annotations

import asyncio

import pytest

from perdure.streams.port import ConsumerInfo, Full, Taken

from ..backend import (
    TYPE,
    Backend,
    Term,
    address,
    begin,
    round_trip,
    settled,
    shard_of,
    tell,
    until,
)

OLD = "g1-s0-t1-a"
NEW = "g1-s0-t2-b"


async def deliveries_are_in_order_and_numbered_from_1(backend: Backend) -> None:
    """What was there before and what comes later, without a gap in the consumer's sequence."""
    session = await backend.session()
    await session.provision(TYPE)
    sequences = await tell(session, "a-1", "0", "1", "2")
    term = await begin(backend, session, OLD, credit=100)
    await term.got(3)
    sequences += await tell(session, "a-1", *(str(n) for n in range(3, 30)))
    await term.got(30)
    assert term.texts == [str(n) for n in range(30)]
    assert term.numbers == list(range(1, 31))
    assert [d.sequence for d in term.deliveries] == sequences
    assert {d.consumer for d in term.deliveries} == {OLD} == {term.consumer.name}
    assert len({d.handle for d in term.deliveries}) == 30
    stored = await session.commands.by_sequence(TYPE, sequences[7])
    assert stored is not None
    assert stored.time_ns == term.deliveries[7].time_ns
    assert term.lost == []


async def nothing_comes_without_credit(backend: Backend) -> None:
    """Credit adds up; the server's counts say what was given and what waits."""
    session = await backend.session()
    await session.provision(TYPE)
    sequences = await tell(session, "a-1", *"abcdefgh")
    term = await begin(backend, session, OLD)
    info = await term.consumer.info()
    assert info is not None
    assert (info.delivered < sequences[0], info.pending, info.deliveries) == (True, 8, 0)
    term.consumer.grant(1)
    term.consumer.grant(2)
    await _given(backend, term, 3, pending=5)
    term.consumer.grant(4)
    await _given(backend, term, 7, pending=1)
    for delivery in term.deliveries:
        term.consumer.ack(delivery.handle)  # frees places, grants nothing
    await settled(backend, session, *sequences[:7])
    await _given(backend, term, 7, pending=1)
    term.consumer.grant(1)
    await _given(backend, term, 8, pending=0)
    assert term.texts == list("abcdefgh")


async def a_new_term_begins_with_the_first_unacked(backend: Backend) -> None:
    """Delete and create: all that is un-acked at once, in order, numbered from 1 again."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    sequences = await tell(session, "a-1", *"abcdefg")
    old = await begin(backend, session, OLD, credit=5)
    await old.got(5)
    old.consumer.ack(old.deliveries[3].handle)
    old.consumer.ack(old.deliveries[1].handle)
    await settled(backend, session, sequences[1], sequences[3])
    await other.commands.delete(TYPE, OLD)
    new = await begin(backend, other, NEW, credit=100)
    await new.got(5)
    assert new.texts == list("acefg")
    assert new.numbers == [1, 2, 3, 4, 5]
    await old.ended()
    assert old.lost == ["deleted"]
    await tell(session, "a-1", "h")
    await new.got(6)
    assert old.texts == list("abcde")


async def a_second_term_is_refused(backend: Backend) -> None:
    """Same name or overlapping filter (10148, 10100, 10013): the winner's term is untouched."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    await tell(session, "a-1", "a", "b")
    winner = await begin(backend, session, OLD, credit=1, owner="winner")
    await winner.got(1)
    for name in (OLD, NEW):
        with pytest.raises(Taken):
            await begin(backend, other, name, credit=100, owner="loser")
    with pytest.raises(Taken):
        await begin(backend, session, OLD, credit=100, owner="winner")
    assert [(i.name, i.owner) for i in await other.commands.consumers(TYPE)] == [(OLD, "winner")]
    winner.consumer.grant(10)
    await winner.got(2)
    assert (winner.texts, winner.numbers, winner.lost) == (["a", "b"], [1, 2], [])
    shard = await shard_of(session, "a-1")
    await begin(backend, other, "g1-s9-t1-c", shard=(shard + 1) % 4)


async def of_concurrent_claims_exactly_one_wins(backend: Backend) -> None:
    """However many runners want the shard at once."""
    sessions = [await backend.session() for _ in range(4)]
    shard = await shard_of(sessions[0], "a-1")
    claims = await asyncio.gather(
        *(
            begin(backend, session, f"g1-s0-t1-{n}", shard=shard, owner=f"r{n}")
            for n, session in enumerate(sessions)
        ),
        return_exceptions=True,
    )
    won = [c for c in claims if isinstance(c, Term)]
    assert len(won) == 1, claims
    assert sum(isinstance(c, Taken) for c in claims) == 3, claims
    (info,) = await sessions[0].commands.consumers(TYPE)
    assert info.name == won[0].name


async def a_zombie_hits_nothing(backend: Backend) -> None:
    """Acks, progress and credit of a deleted consumer change nothing for its successor."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    sequences = await tell(session, "a-1", *"abc")
    zombie = await begin(backend, session, OLD, credit=2)
    await zombie.got(2)
    await other.commands.delete(TYPE, OLD)
    new = await begin(backend, other, NEW, credit=2)
    await new.got(2)
    for delivery in zombie.deliveries:
        zombie.consumer.progress(delivery.handle)
        zombie.consumer.ack(delivery.handle)
    zombie.consumer.grant(100)
    await round_trip(session)
    new.consumer.grant(100)
    await new.got(3)
    assert (new.texts, new.numbers) == (list("abc"), [1, 2, 3])
    assert zombie.texts == list("ab")
    new.consumer.ack(new.deliveries[2].handle)
    await settled(backend, session, sequences[2])
    for sequence in sequences[:2]:
        assert await session.commands.by_sequence(TYPE, sequence) is not None
    assert await zombie.consumer.info() is None


async def a_lost_term_is_told_once(backend: Backend) -> None:
    """Deleted, then deleted again, then reconnected: one call."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    term = await begin(backend, session, OLD, credit=10)
    await other.commands.delete(TYPE, OLD)
    await term.ended()
    await other.commands.delete(TYPE, OLD)
    await backend.disconnect(session)
    successor = await begin(backend, session, NEW, credit=10)
    await other.commands.delete(TYPE, NEW)
    await successor.ended()
    assert (term.lost, successor.lost) == (["deleted"], ["deleted"])


async def a_term_without_credit_is_told_too(backend: Backend) -> None:
    """Its deletion is noticed although it waits for nothing."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    await tell(session, "a-1", "a")
    term = await begin(backend, session, OLD, credit=1)
    await term.got(1)
    await other.commands.delete(TYPE, OLD)
    await term.ended()
    assert term.lost == ["deleted"]


async def a_term_ends_with_its_connection(backend: Backend) -> None:
    """After a reconnect it takes nothing; the consumer is still there, its successor gets all."""
    session = await backend.session()
    await session.provision(TYPE)
    await tell(session, "a-1", *"ab")
    term = await begin(backend, session, OLD, credit=10)
    await term.got(2)
    await backend.disconnect(session)
    await term.ended()
    assert term.lost == ["reconnected"]
    await tell(session, "a-1", "c")
    (info,) = await session.commands.consumers(TYPE)
    assert (info.name, info.owner) == (OLD, "runner")
    await session.commands.delete(TYPE, OLD)
    new = await begin(backend, session, NEW, credit=10)
    await new.got(3)
    assert (new.texts, new.numbers) == (list("abc"), [1, 2, 3])
    assert (term.texts, len(term.lost)) == (list("ab"), 1)


async def a_lost_term_acks_nothing(backend: Backend) -> None:
    """Its consumer is still there, but the stream may have been rewound: no ack goes out."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    sequences = await tell(session, "a-1", *"abc")
    lost = await begin(backend, session, OLD, credit=10)
    stopped = await begin(backend, session, "g1-s0-t1-b", id="b-1", credit=10)
    sequences += await tell(session, "b-1", "x")
    await lost.got(3)
    await stopped.got(1)
    await stopped.consumer.stop()
    await backend.disconnect(session)
    await lost.ended()
    for term in (lost, stopped):
        for delivery in term.deliveries:
            term.consumer.ack(delivery.handle)
    await round_trip(session)
    await tell(session, "c-1", "y")
    for sequence in sequences:
        assert await other.commands.by_sequence(TYPE, sequence) is not None
    assert (lost.lost, stopped.lost) == (["reconnected"], [])


async def what_is_not_acked_comes_again(backend: Backend) -> None:
    """After ack_wait, to the same consumer, under new numbers; either handle acknowledges it."""
    session = await backend.session(ack_wait=1.0, ack_progress=0.5)
    await session.provision(TYPE)
    sequences = await tell(session, "a-1", *"abc")
    term = await begin(backend, session, OLD, credit=100)
    await term.got(3)
    term.consumer.ack(term.deliveries[1].handle)
    await until(backend, lambda: len(term.deliveries) >= 5, "the redeliveries")
    assert term.texts[:5] == ["a", "b", "c", "a", "c"]
    assert term.numbers[:5] == [1, 2, 3, 4, 5]
    assert [d.sequence for d in term.deliveries[3:5]] == [sequences[0], sequences[2]]
    assert term.deliveries[3].time_ns == term.deliveries[0].time_ns
    assert term.deliveries[3].handle != term.deliveries[0].handle
    term.consumer.ack(term.deliveries[0].handle)
    term.consumer.ack(term.deliveries[4].handle)
    await settled(backend, session, *sequences)
    assert term.lost == []


async def a_redelivery_needs_credit(backend: Backend) -> None:
    """And comes before what is new."""
    session = await backend.session(ack_wait=1.0, ack_progress=0.5)
    await session.provision(TYPE)
    await tell(session, "a-1", *"ab")
    term = await begin(backend, session, OLD, credit=1)
    await term.got(1)
    loop = asyncio.get_running_loop()
    waited = loop.time() + 1.3
    await until(backend, lambda: loop.time() > waited, "the end of ack_wait")
    await term.got(1)
    term.consumer.grant(2)
    await until(backend, lambda: len(term.deliveries) >= 3, "both")
    assert term.texts[:3] == ["a", "a", "b"]
    assert term.numbers[:3] == [1, 2, 3]


async def progress_postpones_a_redelivery(backend: Backend) -> None:
    """Of two tells only the one that nobody reports on comes again."""
    session = await backend.session(ack_wait=1.0, ack_progress=0.5)
    await session.provision(TYPE)
    await tell(session, "a-1", *"ab")
    term = await begin(backend, session, OLD, credit=100)
    await term.got(2)
    held = term.deliveries[0]

    def again() -> bool:
        term.consumer.progress(held.handle)
        return len(term.deliveries) > 2

    await until(backend, again, "the redelivery of the other")
    assert term.texts == ["a", "b", "b"]


async def unacked_tells_block_no_neighbour(backend: Backend) -> None:
    """More of them than the server's default max_ack_pending (1,000)."""
    session = await backend.session()
    shard = await shard_of(session, "a-1")
    sharding = await session.provision(TYPE)
    slow = [id for id in (f"s-{n}" for n in range(200)) if sharding.shard(id) == shard][:12]
    await asyncio.gather(*(tell(session, id, *["x"] * 100) for id in slow))
    term = await begin(backend, session, OLD, shard=shard, credit=5_000)
    await term.got(1_200)
    await tell(session, "a-1", "neighbour")
    await term.got(1_201)
    assert term.texts[-1] == "neighbour"
    assert term.numbers == list(range(1, 1_202))


async def an_unknown_ack_is_ignored(backend: Backend) -> None:
    """Acknowledged already, or no handle at all: the others stay as they are."""
    session = await backend.session(mailbox_capacity=2)
    await session.provision(TYPE)
    sequences = await tell(session, "a-1", "a", "b")
    term = await begin(backend, session, OLD, credit=10)
    await term.got(2)
    first = term.deliveries[0].handle
    term.consumer.ack(first)
    await settled(backend, session, sequences[0])
    sequences += await tell(session, "a-1", "c")
    await term.got(3)
    for handle in (first, first, "no.handle.at.all"):
        term.consumer.ack(handle)
        term.consumer.progress(handle)
    await round_trip(session)
    assert await session.commands.publish(address(), b"d") == Full()
    for sequence in sequences[1:]:
        assert await session.commands.by_sequence(TYPE, sequence) is not None


async def a_stopped_term_takes_nothing_more(backend: Backend) -> None:
    """It may still acknowledge what it holds; the consumer stays for its successor."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    sequences = await tell(session, "a-1", "a", "b")
    old = await begin(backend, session, OLD, credit=100)
    await old.got(2)
    await old.consumer.stop()
    await tell(session, "a-1", "c")
    old.consumer.grant(100)
    old.consumer.ack(old.deliveries[0].handle)
    await settled(backend, session, sequences[0])
    info = await old.consumer.info()
    assert info is not None
    assert (info.name, info.owner) == (OLD, "runner")
    await other.commands.delete(TYPE, OLD)
    new = await begin(backend, other, NEW, credit=100)
    await new.got(2)
    assert (new.texts, old.texts) == (["b", "c"], ["a", "b"])


async def consumers_are_listed_with_their_owners(backend: Backend) -> None:
    """What a successor reads: names, owners, how far each was given, what waits."""
    session, other = await backend.session(), await backend.session()
    shard = await shard_of(session, "a-1")
    assert await session.commands.consumers(TYPE) == []
    sequences = await tell(session, "a-1", *"abc")
    term = await begin(backend, session, OLD, shard=shard, credit=2, owner="r-1")
    await begin(backend, other, "odd_name", shard=(shard + 1) % 4, owner="")
    await term.got(2)
    found = {info.name: info for info in await other.commands.consumers(TYPE)}
    assert set(found) == {OLD, "odd_name"}
    assert found[OLD] == ConsumerInfo(OLD, "r-1", sequences[1], 1, 2)
    assert (found["odd_name"].owner, found["odd_name"].pending) == ("", 0)
    await other.commands.delete(TYPE, OLD)
    await other.commands.delete(TYPE, OLD)
    await other.commands.delete(TYPE, "never existed"[:5])
    assert [i.name for i in await session.commands.consumers(TYPE)] == ["odd_name"]
    assert await term.consumer.info() is None


async def deliveries_count_only_what_was_given(backend: Backend) -> None:
    """While `delivered` may run ahead over other shards' tells, also to the stream's end."""
    session = await backend.session()
    await session.provision(TYPE)
    (mine,) = await tell(session, "a-1", "a")
    others = await tell(session, "b-1", *"xyz")
    empty = await begin(backend, session, "g1-s1-t1-c", shard=1, credit=10)
    term = await begin(backend, session, OLD, credit=10)
    await term.got(1)
    for _ in range(2):
        for consumer, first, given in ((term.consumer, mine, 1), (empty.consumer, 0, 0)):
            info = await consumer.info()
            assert info is not None
            assert (info.pending, info.deliveries) == (0, given)
            assert first <= info.delivered <= others[-1]
        others += await tell(session, "c-1", *"xyz")
    last = others[-1]
    sequences = await tell(session, "a-1", *"bc")
    await term.got(3)
    info = await term.consumer.info()
    assert info is not None
    assert (info.pending, info.deliveries, info.delivered) == (0, 3, sequences[-1])
    assert info.delivered > last
    assert empty.deliveries == []


async def a_consumer_outlives_its_session(backend: Backend) -> None:
    """As after a kill: it is still listed, and its shard still taken."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    await tell(session, "a-1", "a")
    old = await begin(backend, session, OLD, credit=10, owner="dead")
    await old.got(1)
    await session.close()
    with pytest.raises(Taken):
        await begin(backend, other, NEW)
    (info,) = await other.commands.consumers(TYPE)
    assert (info.name, info.owner) == (OLD, "dead")
    await other.commands.delete(TYPE, OLD)
    new = await begin(backend, other, NEW, credit=10)
    await new.got(1)
    assert new.texts == ["a"]


async def _given(backend: Backend, term: Term, count: int, *, pending: int) -> None:
    """Just so many were given, and the server says so too."""
    await term.got(count)
    info = await term.consumer.info()
    assert info is not None
    assert info.pending == pending
    assert info.delivered == term.deliveries[-1].sequence
    assert info.deliveries == count
    await term.got(count)
