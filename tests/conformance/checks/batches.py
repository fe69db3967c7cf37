"""Batches of appends: all or none, each under its own condition, sequences in a row."""

from __future__ import annotations

from perdure.streams.port import (
    BATCH_COMMITS,
    Append,
    AppendAnswer,
    Appended,
    NoAck,
    Refused,
    Session,
    WrongLast,
)

from ..backend import TYPE, Backend, address, append, read, sealed


async def a_batch_is_stored_in_its_order(backend: Backend) -> None:
    """Its answer is the last one's sequence; the others come right before it."""
    session = await backend.session()
    await session.provision(TYPE)
    (before,) = await append(session, "a-0", "zero")
    answer = await _batch(session, {"a-0": before, "b-1": 0, "c-1": 0}, "one")
    assert answer == Appended(before + 3)
    for offset, id in enumerate(("a-0", "b-1", "c-1"), 1):
        last = await session.log.last(address(id))
        assert last is not None
        text = f"one of {id}"
        stored = (last.sequence, last.data, last.mark)
        assert stored == (before + offset, text.encode(), sealed(text).mark)


async def one_wrong_expectation_refuses_a_batch(backend: Backend) -> None:
    """Wherever it is: nothing is stored, and no sequence is used up."""
    session = await backend.session()
    await session.provision(TYPE)
    (first,) = await append(session, "a-1", "one")
    right = {"a-1": first, "b-1": 0, "c-1": 0}
    for wrong in right:
        answer = await _batch(session, {**right, wrong: first + 7}, "two")
        assert answer == WrongLast(), wrong
    assert await session.log.last(address("b-1")) is None
    assert await append(session, "a-1", "two", after=first) == [first + 1]
    assert [s.data for s in await read(session, "a-1", after=0, upto=first + 1)] == [
        b"one",
        b"two",
    ]


async def two_commits_of_one_entity_refuse_a_batch(backend: Backend) -> None:
    """Even if the second's condition is what the first would make true."""
    session = await backend.session()
    await session.provision(TYPE)
    for second in (0, 1):
        one, two = (Append(address("a-1"), sealed(t), n) for t, n in (("one", 0), ("two", second)))
        other = Append(address("b-1"), sealed("other"), 0)
        assert await session.log.append_batch([one, two, other]) == WrongLast()
    assert await session.log.last(address("a-1")) is None
    assert await session.log.last(address("b-1")) is None


async def the_largest_batch_is_taken(backend: Backend) -> None:
    """As many commits as a batch may have."""
    session = await backend.session()
    await session.provision(TYPE)
    expected = dict.fromkeys((f"e-{n}" for n in range(BATCH_COMMITS)), 0)
    assert await _batch(session, expected, "one") == Appended(BATCH_COMMITS)
    again = {id: n for n, id in enumerate(expected, 1)}
    assert await _batch(session, again, "two") == Appended(2 * BATCH_COMMITS)
    last = await session.log.last(address(f"e-{BATCH_COMMITS - 1}"))
    assert last is not None
    assert last.sequence == 2 * BATCH_COMMITS


async def a_batch_with_one_that_is_too_large_is_refused(backend: Backend) -> None:
    """Nothing of it is stored, and the connection goes on."""
    session = await backend.session()
    await session.provision(TYPE)
    large = sealed("x" * session.max_payload)
    batch = [Append(address("a-1"), sealed("one"), 0), Append(address("b-1"), large, 0)]
    assert isinstance(await session.log.append_batch(batch), Refused)
    assert await session.log.last(address("a-1")) is None
    assert session.connected


async def an_unacknowledged_batch_is_found_by_its_marks(backend: Backend) -> None:
    """No answer means unknown; each entity's last message tells."""
    session = await backend.session()
    await session.provision(TYPE)
    batch = [Append(address(id), sealed(id), 0) for id in ("a-1", "b-1")]
    answer = await backend.unanswered(session, lambda: session.log.append_batch(batch))
    assert isinstance(answer, NoAck)
    for id in ("a-1", "b-1"):
        last = await session.log.last(address(id))
        assert last is not None
        assert last.mark == sealed(id).mark
    assert await session.log.append_batch(batch) == WrongLast()


async def a_batch_of_a_type_without_a_log_is_refused(backend: Backend) -> None:
    """As a single append is."""
    session = await backend.session()
    answer = await _batch(session, {"a-1": 0, "b-1": 0}, "one")
    assert isinstance(answer, Refused | NoAck)


async def _batch(session: Session, expected: dict[str, int], text: str) -> AppendAnswer:
    appends = [Append(address(id), sealed(f"{text} of {id}"), n) for id, n in expected.items()]
    return await session.log.append_batch(appends)
