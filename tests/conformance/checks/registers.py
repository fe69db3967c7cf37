"""Snapshots, the members bucket, dead letters."""

from __future__ import annotations

import asyncio

import pytest

from perdure.streams.port import Session, Unreachable

from ..backend import POLL_S, TYPE, Backend, address
from .logs import ODD_IDS

TTL_EARLY_S = 0.1
"""How much sooner a value may go, by this process's clock, than the backend's says."""
RENEW_S = 0.2
"""Between two puts of a value that lives two seconds: even a busy machine is sooner."""


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


async def a_member_with_a_time_to_live_goes_by_itself(backend: Backend) -> None:
    """Neither sooner nor, unless it is put again, much later; others stay."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    members, loop = session.members, asyncio.get_running_loop()
    await members.put("member.stays", b"1")
    await members.put("member.kept", b"1", ttl_s=1)
    await members.put("member.kept", b"2")  # from now on without one
    began = loop.time()
    first = await members.put("member.goes", b"1", expected=0, ttl_s=1)
    assert first is not None
    await _gone(backend, other, "member.goes")
    assert loop.time() - began > 1.0 - TTL_EARLY_S
    assert set(await members.entries("member")) == {"member.stays", "member.kept"}
    assert await members.put("member.goes", b"x", expected=first) is None
    again = await members.put("member.goes", b"2", expected=0)
    assert again is not None
    assert again > first
    for key, value in (("stays", b"1"), ("kept", b"2"), ("goes", b"2")):
        entry = await other.members.get(f"member.{key}")
        assert entry is not None, key
        assert entry.value == value


async def a_member_that_is_put_again_lives_on(backend: Backend) -> None:
    """The time begins anew with each put; the last one's counts."""
    session = await backend.session()
    await session.provision(TYPE)
    members, loop = session.members, asyncio.get_running_loop()
    began = loop.time()
    revision = await members.put("member.a", b"0", expected=0, ttl_s=2)
    while loop.time() - began < 3:
        revision = await members.put("member.a", b"1", expected=revision, ttl_s=2)
        assert revision is not None
        await asyncio.sleep(RENEW_S)
    entry = await members.get("member.a")
    assert entry is not None
    assert entry.revision == revision
    await _gone(backend, session, "member.a")


async def a_removal_spares_what_is_newer(backend: Backend) -> None:
    """`upto` removes a value of that revision or an older one, and nothing else."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    first = await session.members.put("member.a", b"one", expected=0)
    assert first is not None
    between = await session.members.put("member.b", b"other")
    second = await other.members.put("member.a", b"two", expected=first)
    assert between is not None
    assert second is not None
    for upto in (first, between, second - 1):
        await session.members.delete("member.a", upto=upto)
        entry = await other.members.get("member.a")
        assert entry is not None, upto
        assert (entry.value, entry.revision) == (b"two", second)
    await session.members.delete("member.a", upto=second)
    assert await other.members.get("member.a") is None
    third = await session.members.put("member.a", b"three", expected=0)
    assert third is not None
    await session.members.delete("member.a", upto=third + 5)
    assert await other.members.get("member.a") is None
    await session.members.delete("member.never", upto=third)
    assert await other.members.get("member.b") is not None


async def a_listing_has_the_values_below_a_head(backend: Backend) -> None:
    """Of keys with just one more token, each at its last revision; nothing that was removed."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    assert await session.members.entries("member") == {}
    revisions: dict[str, int | None] = {}
    for key in ("member.a", "member.b", "member.c", "member.a"):
        revisions[key] = await session.members.put(key, f"{key} {len(revisions)}".encode())
    for key in ("member", "members.a", "member.a.b", "x.member.a", "term.a"):
        await session.members.put(key, b"another's")
    await session.members.delete("member.b")
    entries = await other.members.entries("member")
    assert {key: (entry.value, entry.revision) for key, entry in entries.items()} == {
        "member.a": (b"member.a 3", revisions["member.a"]),
        "member.c": (b"member.c 2", revisions["member.c"]),
    }
    assert list(await other.members.entries("x.member")) == ["x.member.a"]
    for key in ("member.a", "member.c"):
        await session.members.delete(key)
    assert await other.members.entries("member") == {}


async def a_listing_needs_a_connection(backend: Backend) -> None:
    """Nobody may seem to be gone because the line is."""
    session = await backend.session()
    await session.provision(TYPE)
    await session.members.put("member.a", b"1")
    async with backend.offline(session):
        with pytest.raises(Unreachable):
            await session.members.entries("member")
    assert list(await session.members.entries("member")) == ["member.a"]


async def _gone(backend: Backend, session: Session, key: str) -> None:
    """Until a value is gone."""
    async with asyncio.timeout(backend.patience_s):
        while await session.members.get(key) is not None:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)


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
