"""A command stream that lost its tail: an old backup, or a power cut without fsync."""

from __future__ import annotations

from ..backend import TYPE, Backend, append, begin, settled, tell


async def a_rewound_stream_gives_its_sequences_again(backend: Backend) -> None:
    """The same sequence, another time; terms are lost, and a new one gets what is left."""
    session, publisher = await backend.session(), await backend.session()
    await session.provision(TYPE)
    kept = await tell(session, "a-1", "a", "b")
    await backend.remember(session)
    old = await begin(backend, session, "g1-s0-t1-a", credit=100)
    await old.got(2)
    (commit,) = await append(session, "a-1", "commit")
    lost = await tell(publisher, "a-1", "c", "d")
    await old.got(4)
    await backend.rewind(session)
    await old.ended()
    assert len(old.lost) == 1
    assert old.lost[0] in ("reconnected", "restarted")
    again = await tell(publisher, "a-1", "e")
    assert again == lost[:1]
    await session.commands.delete(TYPE, old.name)
    new = await begin(backend, session, "g1-s0-t2-b", credit=100)
    await new.got(3)
    assert (new.texts, new.numbers) == (["a", "b", "e"], [1, 2, 3])
    assert [d.sequence for d in new.deliveries] == [*kept, lost[0]]
    assert new.deliveries[2].time_ns > old.deliveries[2].time_ns
    for delivery in new.deliveries:
        new.consumer.ack(delivery.handle)
    await settled(backend, session, *kept, *again)
    last = await session.log.by_sequence(TYPE, commit)
    assert last is not None
    assert last.data == b"commit"
