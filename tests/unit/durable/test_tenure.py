"""Tenures: terms that only grow, one taker of several, no force against one that answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import Settings
from perdure.durable.assignment import singleton_owner
from perdure.durable.claim import PATIENCE_S, STRANGER_S
from perdure.durable.tenure import Answer, Record, Standing, Tenure, standing, vacated
from perdure.durable.term import RELEASE_S
from perdure.streams.members import HandOver, Kept, Member, Released, View, Word
from perdure.streams.members import decode_word as decode
from perdure.streams.members import encode_word as encode
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Message, Unreachable

from ..streams.virtual import VirtualClock
from .peers import now, virtually

KEY = "singleton.job"
OWN = Record(7, "a")


class Place:
    """A broker, and tenures of different runners over sessions of their own."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(VirtualClock(), Settings())
        self.session = self.broker.session(name="stranger")

    def tenure(self, runner: str, *members: str) -> tuple[Tenure, MemorySession]:
        view, session = View(), self.broker.session(name=runner)
        for member in members:
            view.add(Member(runner=member, edition=1))
        return Tenure(session, view, runner, "job"), session

    async def record(self) -> bytes | None:
        entry = await self.session.members.get(KEY)
        return None if entry is None else entry.value

    async def put(self, value: bytes) -> None:
        assert await self.session.members.put(KEY, value)

    async def answering(self, runner: str, *words: Word | None) -> list[Word]:
        """A runner that says these in turn, None being nothing, and the last for ever."""
        session, heard = self.broker.session(name=runner), list[Word]()

        def hear(message: Message) -> None:
            heard.append(decode(message.data))
            said = words[min(len(heard), len(words)) - 1]
            if said is not None:
                session.asks.send(message.reply, encode(said))

        await session.asks.subscribe(session.subjects.member(runner), hear)
        return heard


# -- pure -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (Record(7, "a"), Standing.OURS),
        (Record(7, ""), Standing.LOST),
        (Record(7, "b"), Standing.LOST),
        (Record(8, "b"), Standing.LOST),
        (Record(8, "a"), Standing.LOST),
        (Record(6, "a"), Standing.BEHIND),
        (Record(6, "b"), Standing.BEHIND),
        (Record(0, ""), Standing.BEHIND),
    ],
)
def test_what_a_record_says_of_a_term(record: Record, expected: Standing) -> None:
    assert standing(record, OWN) is expected


@pytest.mark.parametrize("member", [True, False])
def test_force_is_for_those_who_do_not_answer(member: bool) -> None:
    for silent_s in (0.0, 1.0, 1_000.0):
        assert not vacated(Answer.KEPT, silent_s=silent_s, member=member)
        assert vacated(Answer.RELEASED, silent_s=silent_s, member=member)
        assert vacated(Answer.NOBODY, silent_s=silent_s, member=member)
    limit_s = PATIENCE_S if member else STRANGER_S
    assert not vacated(Answer.SILENT, silent_s=limit_s - 0.1, member=member)
    assert vacated(Answer.SILENT, silent_s=limit_s, member=member)


def test_whose_a_singleton_is() -> None:
    def member(runner: str, *singletons: str, **more: Any) -> Member:
        return Member(runner=runner, edition=1, singletons=singletons, **more)

    assert singleton_owner("job", []) == ""
    assert singleton_owner("job", [member("a"), member("b", "other")]) == ""
    assert singleton_owner("job", [member("a", "job", leaving=True)]) == ""
    pair = [member("a", "job"), member("b", "job", "other"), member("c")]
    owner = singleton_owner("job", pair)
    assert owner == singleton_owner("job", reversed(pair))
    assert {
        singleton_owner(f"job-{n}", [member(r, f"job-{n}") for r in "ab"]) for n in range(20)
    } == {
        "a",
        "b",
    }


# -- the record -------------------------------------------------------------------------------
@virtually
async def test_of_two_that_see_it_vacant_one_takes_it() -> None:
    place = Place()
    (a, _), (b, _) = place.tenure("a"), place.tenure("b")
    both = await asyncio.gather(a.vacant(), b.vacant())
    assert both[0] is not None
    assert both[0] == both[1]
    taken = await asyncio.gather(a.take(both[0]), b.take(both[0]))
    assert sorted(taken, key=str) == [1, None]
    assert await place.record() in (b'[1,"a"]', b'[1,"b"]')


@virtually
async def test_a_term_is_begun_given_back_and_followed_by_the_next() -> None:
    place = Place()
    (a, _), (b, _) = place.tenure("a"), place.tenure("b")
    found = await a.vacant()
    assert found is not None
    assert await a.take(found) == 1
    assert await a.check(1) is Standing.OURS
    await a.give_back(1)
    assert await place.record() == b'[1,""]'
    assert await a.check(1) is Standing.LOST
    found = await b.vacant()
    assert found is not None
    assert await b.take(found) == 2
    await a.give_back(1)  # too late to change anything
    assert await place.record() == b'[2,"b"]'


@virtually
async def test_who_begins_again_while_it_is_asked_about_an_earlier_term_is_not_overruled() -> None:
    place = Place()
    b, session = place.tenure("b")
    await place.put(b'[1,"a"]')
    await place.answering("a", Released())
    members: Any = session.members
    get, reads = members.get, 0

    async def begun_again(key: str) -> Any:
        nonlocal reads
        reads += 1
        if reads == 2:
            await place.put(b'[2,"a"]')
        return await get(key)

    members.get = begun_again
    assert await b.vacant() is None
    assert reads == 2


@virtually
async def test_an_acknowledgement_that_is_lost_costs_a_number_and_nothing_else() -> None:
    place = Place()
    a, session = place.tenure("a")
    members: Any = session.members
    put = members.put

    async def lost(*args: Any, **more: Any) -> Any:
        await put(*args, **more)
        members.put = put
        raise Unreachable("no acknowledgement")

    members.put = lost
    found = await a.vacant()
    assert found is not None
    with pytest.raises(Unreachable):
        await a.take(found)
    found = await a.vacant()  # the record names itself: it needn't ask
    assert found is not None
    assert await a.take(found) == 2


@virtually
async def test_what_the_bucket_lost_is_written_again() -> None:
    place = Place()
    a, _ = place.tenure("a")
    assert await a.check(7) is Standing.BEHIND
    assert await place.record() == b'[7,"a"]'
    await place.put(b'[3,"b"]')
    assert await a.check(7) is Standing.BEHIND
    assert await a.check(7) is Standing.OURS


# -- asking -----------------------------------------------------------------------------------
async def taken_after(tenure: Tenure, limit_s: float) -> float:
    """After how many seconds of asking it was to be had; infinite if not by then."""
    began = now()
    while now() - began < limit_s:
        if await tenure.vacant() is not None:
            return now() - began
        await asyncio.sleep(0.1)
    return float("inf")


@pytest.mark.parametrize("members", ["", "a"])
@virtually
async def test_one_that_answers_is_asked_for_ever(members: str) -> None:
    place = Place()
    b, _ = place.tenure("b", *members)
    await place.put(b'[1,"a"]')
    heard = await place.answering("a", Kept())
    assert await taken_after(b, 100) == float("inf")
    assert set(heard) == {HandOver("job", "b")}


@virtually
async def test_silence_of_a_member_is_borne_longer_than_that_of_a_stranger() -> None:
    for members, limit_s in (("", STRANGER_S), ("a", PATIENCE_S)):
        place = Place()
        b, _ = place.tenure("b", *members)
        await place.put(b'[1,"a"]')
        await place.answering("a", None)
        took = await taken_after(b, 100)
        assert limit_s <= took <= 1.2 * limit_s + RELEASE_S


@virtually
async def test_an_answer_in_between_makes_silence_begin_anew() -> None:
    place = Place()
    b, _ = place.tenure("b", "a")
    await place.put(b'[1,"a"]')
    await place.answering("a", *[None] * 10, Kept(), None)
    assert await taken_after(b, 100) > 10 + PATIENCE_S


@virtually
async def test_silence_while_our_own_line_was_cut_says_nothing_of_the_other() -> None:
    place = Place()
    b, session = place.tenure("b")
    await place.put(b'[1,"a"]')
    await place.answering("a", None)
    asking = asyncio.create_task(b.vacant())
    await asyncio.sleep(0.5)
    place.broker.disconnect(session)
    assert await asking is None


@virtually
async def test_nobody_there_is_believed_the_second_time() -> None:
    place = Place()
    b, session = place.tenure("b", "a")
    await place.put(b'[1,"a"]')
    asks: Any = session.asks
    request, asked = asks.request, 0

    async def counted(*args: Any, **more: Any) -> Any:
        nonlocal asked
        asked += 1
        answer = await request(*args, **more)
        if asked == 1:
            await place.answering("a", Kept())  # its connection is there again
        return answer

    asks.request = counted
    assert await b.vacant() is None
    assert asked == 2
    await place.put(b'[1,"z"]')
    began = now()
    assert await b.vacant() is not None
    assert now() - began < 0.1
