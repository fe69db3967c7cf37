"""The registry of ids: parts of pages, whole pages, and reading them in order."""

from __future__ import annotations

from perdure.streams.port import IDS_BYTES, Appended, NoAck, NoStream, Refused, Session

from ..backend import TYPE, Backend, append, round_trip


async def registrations_come_in_their_order(backend: Backend) -> None:
    """All of them, whatever their page, between two sequences."""
    session, other = await backend.session(), await backend.session()
    await session.provision(TYPE)
    assert await other.ids.last(TYPE) == 0
    assert await other.ids.read(TYPE, after=0, upto=10) == []
    for page, text in ("p-1", "one"), ("q-1", "two"), ("p-1", "three"), ("p-2", "four"):
        await _add(session, page, text)
    last = await other.ids.last(TYPE)
    assert last == 4
    assert await _read(other, 0, last) == {1: "one", 2: "two", 3: "three", 4: "four"}
    assert await _read(other, 1, 3) == {2: "two", 3: "three"}
    assert await _read(other, last, last) == {}
    assert await _read(other, last, last + 10) == {}


async def a_whole_page_takes_the_place_of_its_parts(backend: Backend) -> None:
    """In the same step, at the end; other pages stay as they are, and so does what comes later."""
    session = await backend.session()
    await session.provision(TYPE)
    for page, text in ("p-1", "one"), ("q-1", "two"), ("p-1", "three"):
        await _add(session, page, text)
    assert await _add(session, "p-1", "one three four", whole=True) == 4
    assert await _read(session, 0, 4) == {2: "two", 4: "one three four"}
    assert await session.ids.last(TYPE) == 4
    assert await _add(session, "p-1", "late") == 5
    assert await _read(session, 0, 5) == {2: "two", 4: "one three four", 5: "late"}


async def a_long_registry_is_read_in_pieces(backend: Backend) -> None:
    """Each within its bound, one message at least, and none left out."""
    session = await backend.session()
    await session.provision(TYPE)
    large = "x" * (IDS_BYTES * 2 // 5)
    for number in range(7):
        await _add(session, "p-1", f"{number}{large}")
    await _add(session, "p-1", "y" * (IDS_BYTES + 1))
    await _add(session, "p-1", "z")
    found: list[str] = []
    after, reads = 0, 0
    while page := await session.ids.read(TYPE, after=after, upto=9):
        size = sum(len(stored.data) for stored in page)
        assert len(page) == 1 or size <= IDS_BYTES * 3 // 2  # headers count on a server
        assert len(page) < 7
        found += [stored.data.decode()[0] for stored in page]
        after = page[-1].sequence
        reads += 1
    assert "".join(found) == "0123456yz"
    assert reads > 2


async def anybody_may_write_to_a_page(backend: Backend) -> None:
    """A plain publish is a part of it, as far as the stream knows."""
    session = await backend.session()
    await session.provision(TYPE)
    await _add(session, "p-1", "one")
    session.asks.send(session.subjects.ids(TYPE, "p-1"), b"foreign")
    await round_trip(session)
    found = await session.ids.read(TYPE, after=0, upto=10)
    assert [stored.data for stored in found] == [b"one", b"foreign"]


async def what_isnt_confirmed_is_unknown(backend: Backend) -> None:
    """A lost acknowledgement, no connection, no registry and too large a message: each told."""
    session, other = await backend.session(), await backend.session()
    assert isinstance(await session.ids.add(TYPE, "p-1", b"one", whole=False), NoStream)
    await session.provision(TYPE)
    answer = await backend.unanswered(
        session, lambda: session.ids.add(TYPE, "p-1", b'"seq": one', whole=False)
    )
    assert isinstance(answer, NoAck), answer
    assert await other.ids.last(TYPE) == 1
    async with backend.offline(session):
        assert isinstance(await session.ids.add(TYPE, "p-1", b"two", whole=False), NoAck)
    large = b"x" * (session.max_payload + 1)
    assert isinstance(await session.ids.add(TYPE, "p-1", large, whole=False), Refused)
    assert await other.ids.last(TYPE) == 1


async def the_log_tells_who_is_in_it(backend: Backend) -> None:
    """Each once, sorted, after as many as are skipped."""
    session = await backend.session()
    assert await session.ids.logged(TYPE, skip=0) == []
    await session.provision(TYPE)
    assert await session.ids.logged(TYPE, skip=0) == []
    for id in "b-1", "a 1", "c-1":
        await append(session, id, "one", "two")
    assert await session.ids.logged(TYPE, skip=0) == ["a=201", "b-1", "c-1"]
    assert await session.ids.logged(TYPE, skip=2) == ["c-1"]
    assert await session.ids.logged(TYPE, skip=3) == []


async def _add(session: Session, page: str, text: str, *, whole: bool = False) -> int:
    answer = await session.ids.add(TYPE, page, text.encode(), whole=whole)
    assert isinstance(answer, Appended), answer
    return answer.sequence


async def _read(session: Session, after: int, upto: int) -> dict[int, str]:
    found = await session.ids.read(TYPE, after=after, upto=upto)
    return {stored.sequence: stored.data.decode() for stored in found}
