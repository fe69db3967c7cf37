"""The log: conditional appends, unknown acknowledgements, complete reads, foreign messages."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from perdure.streams.commit import Stored
from perdure.streams.port import Appended, NoAck, Session, Unreachable, WrongLast
from perdure.streams.subjects import ID_BYTES, escape

from ..backend import POLL_S, TYPE, Backend, address, append, read, round_trip, sealed, until

ODD_IDS = (
    "a.b",
    "a b",
    "*",
    ">",
    "=",
    "=41",
    "A",
    "a",
    "ä",
    "\0\r\n",
    "$JS.API",
    "𝄞",
    "a/b",
    "x" * ID_BYTES,
    "é" * (ID_BYTES // 2),
)
"""Each must have a log, a mailbox and a snapshot of its own."""


async def a_first_append_expects_0(backend: Backend) -> None:
    """Once there is a message, 0 is refused (10071)."""
    session = await backend.session()
    await session.provision(TYPE)
    assert await session.log.last(address()) is None
    first = await session.log.append(address(), sealed("one"), expected=0)
    assert isinstance(first, Appended)
    assert await session.log.append(address(), sealed("two"), expected=0) == WrongLast()
    last = await session.log.last(address())
    assert last is not None
    assert (last.sequence, last.data, last.mark) == (first.sequence, b"one", sealed("one").mark)
    assert abs(last.time_ns - session.clock.now_ns()) < 60 * 10**9


async def an_expectation_is_of_the_entity_and_exact(backend: Backend) -> None:
    """Neither the stream's last sequence will do, nor an older one, nor a future one."""
    session = await backend.session()
    await session.provision(TYPE)
    mine = await append(session, "a-1", "one", "two")
    (other,) = await append(session, "b-1", "other")
    assert mine[0] < mine[1] < other
    for wrong in (0, mine[0], other, other + 1, 2**40):
        answer = await session.log.append(address(), sealed("three"), expected=wrong)
        assert answer == WrongLast(), wrong
    assert await append(session, "a-1", "three", after=mine[1]) == [other + 1]
    assert [s.data for s in await read(session, "a-1", after=0, upto=other + 1)] == [
        b"one",
        b"two",
        b"three",
    ]


async def messages_are_counted_by_entity(backend: Backend) -> None:
    """The count tells a new entity from one whose last message can't be read."""
    session = await backend.session()
    await session.provision(TYPE)
    assert await session.log.count(address()) == 0
    await append(session, "a-1", "one", "two")
    await append(session, "a", "other")
    assert await session.log.count(address()) == 2
    assert await session.log.count(address("a*")) == 0


async def of_concurrent_appends_exactly_one_wins(backend: Backend) -> None:
    """The others hear WrongLast, by either code (10071, 10164)."""
    sessions = [await backend.session() for _ in range(3)]
    await sessions[0].provision(TYPE)
    last = 0
    for round in range(5):
        answers = await asyncio.gather(
            *(
                session.log.append(address(), sealed(f"{round}.{n}.{i}"), expected=last)
                for n, session in enumerate(sessions)
                for i in range(8)
            )
        )
        won = [a for a in answers if isinstance(a, Appended)]
        assert len(won) == 1, answers
        assert answers.count(WrongLast()) == len(answers) - 1
        last = won[0].sequence
    assert len(await read(sessions[0], "a-1", after=0, upto=last)) == 5


async def an_unacknowledged_append_is_found_by_its_mark(backend: Backend) -> None:
    """No answer means unknown; the same append again is refused, and the last message is ours."""
    session = await backend.session()
    await session.provision(TYPE)
    (before,) = await append(session, "a-1", "one")
    commit = sealed("two")
    assert isinstance(
        await backend.unanswered(
            session, lambda: session.log.append(address(), commit, expected=before)
        ),
        NoAck,
    )
    assert await session.log.append(address(), commit, expected=before) == WrongLast()
    last = await session.log.last(address())
    assert last is not None
    assert last.mark == commit.mark
    assert [s.data for s in await read(session, "a-1", after=0, upto=last.sequence)] == [
        b"one",
        b"two",
    ]


async def without_a_connection_nothing_is_known(backend: Backend) -> None:
    """Appends are unknown at once, reads are Unreachable; nothing is sent later."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    (before,) = await append(session, "a-1", "one")
    async with backend.offline(session):
        assert not session.connected
        answer = await session.log.append(address(), sealed("two"), expected=before)
        assert isinstance(answer, NoAck)
        with pytest.raises(Unreachable):
            await session.log.last(address())
        with pytest.raises(Unreachable):
            await read(session, "a-1", after=0, upto=before)
    assert session.connected
    await round_trip(session)
    last = await other.log.last(address())
    assert last is not None
    assert last.sequence == before
    assert await append(session, "a-1", "two", after=before) == [before + 1]


async def a_read_is_complete(backend: Backend) -> None:
    """All messages of the entity, in order, over more than one batch; both ends are exact."""
    session = await backend.session()
    await session.provision(TYPE)
    texts = [f"commit {n}" for n in range(1_050)]

    async def other() -> None:
        await append(session, "b-1", *(f"other {n}" for n in range(200)))

    mine, _ = await asyncio.gather(append(session, "a-1", *texts), other())
    stored = await read(session, "a-1", after=0, upto=mine[-1])
    assert [s.sequence for s in stored] == mine
    assert [s.data.decode() for s in stored] == texts
    assert [s.mark for s in stored] == [sealed(text).mark for text in texts]
    assert all(a.time_ns <= b.time_ns for a, b in itertools.pairwise(stored))
    part = await read(session, "a-1", after=mine[3], upto=mine[7])
    assert [s.sequence for s in part] == mine[4:8]
    assert await read(session, "a-1", after=mine[-1], upto=mine[-1]) == []


async def a_read_never_ends_early(backend: Backend) -> None:
    """Up to what the leader has just confirmed, every time; else it says so."""
    writer, reader = await backend.session(), await backend.session()
    await writer.provision(TYPE)
    last = 0
    for n in range(50):
        (last,) = await append(writer, "a-1", f"commit {n}", after=last)
        stored = await read(reader, "a-1", after=0, upto=last)
        assert len(stored) == n + 1
        assert stored[-1].sequence == last
    with pytest.raises(Unreachable):
        await read(reader, "a-1", after=0, upto=last + 1)


async def the_last_message_is_the_leaders(backend: Backend) -> None:
    """What one session appended, another's `last` shows at once."""
    writer, reader = await backend.session(), await backend.session()
    await writer.provision(TYPE)
    last = 0
    for n in range(50):
        (last,) = await append(writer, "a-1", f"commit {n}", after=last)
        stored = await reader.log.last(address())
        assert stored is not None
        assert stored.sequence == last


async def a_message_is_found_by_its_sequence(backend: Backend) -> None:
    """Of any entity of the type; None where there is none."""
    session = await backend.session()
    await session.provision(TYPE)
    (one,) = await append(session, "a-1", "one")
    (two,) = await append(session, "b-1", "two")
    for sequence, text in ((one, "one"), (two, "two")):
        stored = await session.log.by_sequence(TYPE, sequence)
        assert stored is not None
        assert (stored.sequence, stored.data) == (sequence, text.encode())
        assert stored.mark == sealed(text).mark
    assert await session.log.by_sequence(TYPE, two + 1) is None


async def a_foreign_message_counts_and_has_no_mark(backend: Backend) -> None:
    """Somebody published to a log subject: it moves the last sequence, and is recognisable."""
    session = await backend.session()
    await session.provision(TYPE)
    (one,) = await append(session, "a-1", "one")
    session.asks.send(session.subjects.log(TYPE, "a-1"), b"junk")
    junk = await _last_beyond(backend, session, "a-1", one)
    assert (junk.sequence, junk.data, junk.mark) == (one + 1, b"junk", None)
    assert await session.log.append(address(), sealed("two"), expected=one) == WrongLast()
    (two,) = await append(session, "a-1", "two", after=one + 1)
    stored = await read(session, "a-1", after=0, upto=two)
    assert [(s.data, s.mark) for s in stored] == [
        (b"one", sealed("one").mark),
        (b"junk", None),
        (b"two", sealed("two").mark),
    ]
    by_sequence = await session.log.by_sequence(TYPE, one + 1)
    assert by_sequence is not None
    assert by_sequence.mark is None


async def a_reply_subject_can_be_a_log(backend: Backend) -> None:
    """The stream's own acknowledgement is stored where the publisher's reply subject points."""
    session = await backend.session()
    await session.provision(TYPE)
    victim = session.subjects.log(TYPE, "victim")
    session.asks.send(session.subjects.to(TYPE, "a-1"), b"{}", reply=victim)
    stored = await _last_beyond(backend, session, "victim", 0)
    assert stored.mark is None
    assert b'"seq"' in stored.data


async def every_id_has_its_own_log(backend: Backend) -> None:
    """Ids with dots, wildcards, spaces, control characters, capitals, and the longest ones."""
    session = await backend.session()
    await session.provision(TYPE)
    last = {id: (await append(session, id, f"log of {id!r}"))[0] for id in ODD_IDS}
    assert len(set(last.values())) == len(ODD_IDS)
    for id, sequence in last.items():
        stored = await read(session, id, after=0, upto=sequence)
        assert [s.data.decode() for s in stored] == [f"log of {id!r}"]
    assert len({escape(id) for id in ODD_IDS}) == len(ODD_IDS)


async def following_has_no_gap(backend: Backend) -> None:
    """History, then live ones, each once, in order, of this entity alone."""
    session, writer = await backend.session(), await backend.session()
    await writer.provision(TYPE)
    before = await append(writer, "a-1", *(f"old {n}" for n in range(20)))
    seen: list[int] = []

    async def follow() -> None:
        async for message in session.log.follow(address(), after=before[4]):
            seen.append(message.sequence)

    task = asyncio.create_task(follow())
    try:
        after = await append(writer, "a-1", *(f"new {n}" for n in range(40)), after=before[-1])
        await append(writer, "b-1", "other")
        await until(backend, lambda: len(seen) >= 55, "all followed")
        after += await append(writer, "a-1", "last", after=after[-1])
        await until(backend, lambda: len(seen) >= 56, "the live one")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert seen == before[5:] + after


async def following_survives_a_reconnect(backend: Backend) -> None:
    """What was appended around a broken connection arrives, each once."""
    session, writer = await backend.session(), await backend.session()
    await writer.provision(TYPE)
    sequences = await append(writer, "a-1", "one")
    seen: list[int] = []

    async def follow() -> None:
        async for message in session.log.follow(address(), after=0):
            seen.append(message.sequence)

    task = asyncio.create_task(follow())
    try:
        await until(backend, lambda: len(seen) == 1, "the first")
        async with backend.offline(session):
            sequences += await append(writer, "a-1", "two", after=sequences[-1])
        await until(backend, lambda: len(seen) == 2, "the one appended meanwhile")
        sequences += await append(writer, "a-1", "three", after=sequences[-1])
        await until(backend, lambda: len(seen) == 3, "the one appended afterwards")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert seen == sequences


async def _last_beyond(backend: Backend, session: Session, id: str, after: int) -> Stored:
    """The entity's last message, as soon as there is one beyond a sequence."""
    async with asyncio.timeout(backend.patience_s):
        while True:
            last = await session.log.last(address(id))
            if last is not None and last.sequence > after:
                return last
            await asyncio.sleep(POLL_S)
