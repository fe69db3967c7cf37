"""Resizing: a halted type takes nothing, and what is cut anew begins with the next generation."""

from __future__ import annotations

import pytest

from perdure.entities.address import Address
from perdure.streams.port import Halted, Incompatible, NoStream, Outdated, Unreachable
from perdure.streams.subjects import Sharding, escape

from ..backend import SHARDS, TYPE, Backend, address, begin, settled, tell, until

BEFORE = Sharding(1, SHARDS)
AFTER = Sharding(2, 7)
"""Cut so that hardly an id keeps the number of its shard."""


async def a_halted_type_takes_no_tell(backend: Backend) -> None:
    """Whoever publishes hears that nobody is there; what waits stays, and no term begins."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    (one,) = await tell(session, "a-1", "1")
    assert await session.halt(TYPE, "x1") == BEFORE
    assert await other.commands.publish(address(), b"2") == NoStream()
    to = session.subjects.to(TYPE, "a-1")
    answer = await other.asks.request(to, b"2", timeout_s=backend.patience_s)
    assert answer.no_responders
    assert await session.commands.count(TYPE) == 1
    with pytest.raises(Unreachable):
        await begin(backend, session, "g1-s2-t1-a", shard=2)
    await session.recut(TYPE, BEFORE, "x1")
    (three,) = await tell(other, "a-1", "3")
    assert three > one
    term = await begin(backend, session, "g1-s2-t1-a", credit=10)
    await term.got(2)
    assert term.texts == ["1", "3"]


async def a_halted_type_is_not_provisioned(backend: Backend) -> None:
    """A runner that starts meanwhile must not go by a sharding that ends."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    await session.halt(TYPE, "x1")
    for look in (other.provision, other.sharding):
        found: Sharding | None = None
        try:
            await look(TYPE)
        except Halted as halted:
            found = halted.sharding
        assert found == BEFORE
    await session.recut(TYPE, AFTER, "x1")
    assert await other.provision(TYPE) == AFTER


async def tells_go_where_the_type_is_cut_anew(backend: Backend) -> None:
    """By the server's partition of the new number, after all sequences that were given out."""
    session = await backend.session()
    await session.provision(TYPE)
    before = await tell(session, "a-1", "before")
    term = await begin(backend, session, "g1-s2-t1-a", credit=1)
    await term.got(1)
    term.consumer.ack(term.deliveries[0].handle)
    await settled(backend, session, *before)
    await session.halt(TYPE, "x1")
    await session.recut(TYPE, AFTER, "x1")
    assert await session.sharding(TYPE) == AFTER
    terms = [
        await begin(backend, session, f"g2-s{n}-t1-a", shard=n, credit=100)
        for n in range(AFTER.shards)
    ]
    ids = [f"id-{n}" for n in range(30)]
    for id in ids:
        assert (await tell(session, id, id))[0] > before[0]
    await until(backend, lambda: sum(len(t.texts) for t in terms) >= len(ids), "all delivered")
    for shard, one in enumerate(terms):
        assert one.texts == [id for id in ids if AFTER.shard(escape(id)) == shard]


async def an_earlier_generation_gets_no_term(backend: Backend) -> None:
    """A runner that was cut off all the while must notice, or it would wait for nothing."""
    session = await backend.session()
    await session.provision(TYPE)
    await session.halt(TYPE, "x1")
    await session.recut(TYPE, AFTER, "x1")
    try:
        await begin(backend, session, "g1-s2-t1-a", shard=2)
    except Outdated:
        pass
    else:
        pytest.fail("a term of generation 1 began")
    assert await session.commands.consumers(TYPE) == []
    await begin(backend, session, "g2-s2-t1-a", shard=2)


async def a_tell_of_an_earlier_generation_stays_there(backend: Backend) -> None:
    """Only a consumer of its own generation is given it: so none may be there when it is cut."""
    session = await backend.session()
    await session.provision(TYPE)
    old = await begin(backend, session, "g1-s2-t1-a", shard=2, credit=0)
    await tell(session, "a-1", "old")
    await session.halt(TYPE, "x1")
    await session.recut(TYPE, Sharding(2, SHARDS), "x1")
    new = await begin(backend, session, "g2-s2-t1-a", shard=2, credit=10)
    await tell(session, "a-1", "new")
    await new.got(1)
    old.consumer.grant(10)
    await old.got(1)
    assert (old.texts, new.texts) == (["old"], ["new"])
    assert await session.commands.count(TYPE) == 2


async def only_who_halted_it_cuts_it(backend: Backend) -> None:
    """Of two at a time the later one takes over, and a type that goes isn't cut."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    await session.halt(TYPE, "x1")
    assert await other.halt(TYPE, "x2") == BEFORE
    for token, sharding, refused in (
        ("x1", AFTER, True),
        ("x2", BEFORE, False),
        ("x2", AFTER, True),
    ):
        try:
            await session.recut(TYPE, sharding, token)
        except Incompatible:
            assert refused
        else:
            assert not refused, token
    assert await session.sharding(TYPE) == BEFORE
    for call in (session.halt("unknown", "x1"), session.recut("unknown", AFTER, "x1")):
        with pytest.raises(Incompatible):
            await call


async def stored_tells_are_counted(backend: Backend) -> None:
    """Held ones, those of every entity, and such as nobody is given; acknowledged ones not."""
    session = await backend.session()
    assert await session.commands.count(TYPE) == 0
    await session.provision(TYPE)
    assert await session.commands.count(TYPE) == 0
    (one, _) = await tell(session, "a-1", "1", "2")
    await tell(session, "a-2", "3")
    hidden = session.subjects.to(TYPE, "a\x7fb")
    await session.asks.request(hidden, b"x", timeout_s=backend.patience_s)
    term = await begin(backend, session, "g1-s2-t1-a", credit=2)
    await term.got(2)
    assert await session.commands.count(TYPE) == 4
    term.consumer.ack(term.deliveries[0].handle)
    await settled(backend, session, one)
    assert await session.commands.count(TYPE) == 3
    assert isinstance(await session.commands.publish(Address("unknown", "a"), b""), NoStream)
    assert await session.commands.count("unknown") == 0
