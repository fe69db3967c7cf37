"""Snapshots, the members bucket, dead letters."""

from __future__ import annotations

import asyncio

from ..backend import TYPE, Backend, address
from .logs import ODD_IDS


async def a_snapshot_is_replaced(backend: Backend) -> None:
    """The newest one is kept, for each entity and each of its parts."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    assert await session.snapshots.get(address()) is None
    for data in (b"one", b"two"):
        assert await session.snapshots.put(address(), data)
        assert await other.snapshots.get(address()) == data
    assert await session.snapshots.put(address(), b"page 0", "p0")
    assert await session.snapshots.put(address(), b"page 1", "p1")
    assert await session.snapshots.put(address("a-2"), b"other")
    assert await other.snapshots.get(address()) == b"two"
    assert await other.snapshots.get(address(), "p0") == b"page 0"
    assert await other.snapshots.get(address(), "p1") == b"page 1"
    assert await other.snapshots.get(address(), "p2") is None
    assert await other.snapshots.get(address("a-2")) == b"other"


async def every_id_has_its_own_snapshot(backend: Backend) -> None:
    """Whatever characters it has."""
    session = await backend.session()
    await session.provision(TYPE)
    for id in ODD_IDS:
        assert await session.snapshots.put(address(id), repr(id).encode(), "p0")
    for id in ODD_IDS:
        assert await session.snapshots.get(address(id), "p0") == repr(id).encode()
        assert await session.snapshots.get(address(id)) is None


async def without_a_connection_nothing_is_confirmed(backend: Backend) -> None:
    """A snapshot or a dead letter that nobody confirmed isn't reported as stored."""
    session = await backend.session()
    await session.provision(TYPE)
    async with backend.offline(session):
        assert not await session.snapshots.put(address(), b"one")
        assert not await session.dead.put(address(), b"one")
    assert await session.snapshots.get(address()) is None
    assert await backend.dead_letters(session, "a-1") == []


async def a_member_changes_only_as_expected(backend: Backend) -> None:
    """0 expects no value, a number just that revision, None anything."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    key = "term.account.1.3"
    assert await session.members.get(key) is None
    assert await session.members.put(key, b"x", expected=5) is None
    first = await session.members.put(key, b"one", expected=0)
    assert first is not None
    assert await other.members.put(key, b"two", expected=0) is None
    assert await other.members.put(key, b"two", expected=first + 1) is None
    second = await other.members.put(key, b"two", expected=first)
    assert second is not None
    assert second > first
    assert await session.members.put(key, b"old", expected=first) is None
    third = await session.members.put(key, b"three")
    assert third is not None
    assert third > second
    entry = await other.members.get(key)
    assert entry is not None
    assert (entry.value, entry.revision) == (b"three", third)
    assert await other.members.get("term.account.1.4") is None


async def a_deleted_member_can_be_created_again(backend: Backend) -> None:
    """A removal counts as no value, and no revision comes twice."""
    session = await backend.session()
    await session.provision(TYPE)
    first = await session.members.put("key", b"one", expected=0)
    assert first is not None
    await session.members.delete("key")
    await session.members.delete("key")
    await session.members.delete("never-there")
    assert await session.members.get("key") is None
    assert await session.members.put("key", b"x", expected=first) is None
    again = await session.members.put("key", b"two", expected=0)
    assert again is not None
    assert again > first
    entry = await session.members.get("key")
    assert entry is not None
    assert (entry.value, entry.revision) == (b"two", again)


async def of_concurrent_creations_exactly_one_wins(backend: Backend) -> None:
    """Also where a removed value was."""
    sessions = [await backend.session() for _ in range(3)]
    await sessions[0].provision(TYPE)
    for _ in range(2):
        revisions = await asyncio.gather(
            *(s.members.put("key", f"{n}".encode(), expected=0) for n, s in enumerate(sessions))
        )
        assert sum(r is not None for r in revisions) == 1, revisions
        winner = next(n for n, r in enumerate(revisions) if r is not None)
        entry = await sessions[0].members.get("key")
        assert entry is not None
        assert (entry.value, entry.revision) == (f"{winner}".encode(), revisions[winner])
        await sessions[0].members.delete("key")


async def dead_letters_are_kept(backend: Backend) -> None:
    """Each of them, under its entity; what has no valid id goes under `=`."""
    session = await backend.session()
    await session.provision(TYPE)
    assert await session.dead.put(address(), b"one")
    assert await session.dead.put(address(), b"two")
    assert await session.dead.put(address("a b"), b"three")
    assert await session.dead.put(address(""), b"empty")
    assert await session.dead.put(address("x" * 300), b"long")
    assert await session.dead.put_raw(TYPE, "=zz.*>", b"raw")
    assert await backend.dead_letters(session, "a-1") == [b"one", b"two"]
    assert await backend.dead_letters(session, "a=20b") == [b"three"]
    assert await backend.dead_letters(session, "=") == [b"empty", b"long", b"raw"]
