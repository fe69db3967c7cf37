"""Membership: who is there, who goes, who is taken for dead, and who comes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from perdure.durable.membership import AGAIN_S, DIFFERENT, LIST_AGAIN_S, LISTINGS
from perdure.entities.address import Address
from perdure.streams.members import (
    HEAD,
    Drain,
    Gone,
    Kept,
    Member,
    Ping,
    Release,
    View,
    decode_word,
    encode_word,
    member_key,
)
from perdure.streams.memory.ports import MemoryMembers
from perdure.streams.port import Unreachable

from ..streams.test_members import HOSTILE
from .peers import Ring, holds, now, ring, stop_the_process, until, virtually

PING_S, FROZEN_S = 0.25, 2.5  # the defaults
SOON_S = 2 * PING_S + AGAIN_S
"""Until a dead member is noticed: a round that is on its way, one more, and the second look."""


async def records(r: Ring) -> str:
    """Whose records are in the bucket."""
    keys = await r.stranger.members.entries(HEAD)
    return "".join(sorted(key.rpartition(".")[2] for key in keys))


async def fails(self: Any, *args: Any, **more: Any) -> Any:
    raise Unreachable("no leader")


@contextmanager
def counted_listings() -> Generator[list[str]]:
    """Each listing of the bucket, while this lasts."""
    listings: list[str] = []
    real = MemoryMembers.entries

    async def counted(self: Any, head: str) -> dict[str, Any]:
        listings.append(head)
        return await real(self, head)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryMembers, "entries", counted)
        yield listings


# -- coming and going -------------------------------------------------------------------------
@virtually
async def test_who_joins_knows_all_and_is_known_to_all_at_once() -> None:
    async with ring("a") as r:
        began = now()
        for names in ("ab", "abc", "abcd"):
            await r.join(names[-1])
            await r.all_see(names)
            assert r[names[-1]].changes == 0 or names == "ab" or r[names[-1]].names == names
        assert now() - began < 0.1
        assert all(peer.changes for peer in r.peers.values())
        assert await records(r) == "abcd"


@virtually
async def test_a_newcomer_is_introduced_to_all_even_where_the_bucket_is_stale() -> None:
    async def nothing(self: Any, head: str) -> dict[str, Any]:
        return {}

    async with ring("ab") as r:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryMembers, "entries", nothing)
            await r.join("c", machine_id=7)
            await r.all_see("abc", within_s=0.1)


@virtually
async def test_whose_news_were_lost_is_known_soon_as_views_differ() -> None:
    async with ring("a") as r:
        r["a"].line.freeze()
        await r.join("b")
        r["a"].line.lose()
        assert r["a"].names == "a"
        assert await r.all_see("ab") <= (DIFFERENT + 1) * PING_S


@virtually
async def test_views_that_differ_for_ever_make_a_listing_now_and_then_only() -> None:
    """Somebody else's pings, of another release or a liar, don't make a flood of requests."""
    with counted_listings() as listings:
        async with ring("a") as r:
            await asyncio.sleep(10)  # the first heartbeats list, too
            listings.clear()
            for _ in range(1_000):
                r.tell("a", Ping("another"))
                await asyncio.sleep(0.01)
            assert 3 <= len(listings) <= 10 / LIST_AGAIN_S + 10 / (LISTINGS * 3) + 2


@virtually
async def test_who_is_listed_but_known_to_be_gone_is_told_and_joins_anew() -> None:
    """The word that it went was lost on its way there, and the record could not be removed."""
    async with ring("abc") as r:
        edition = r["a"].edition_of("b")
        r["a"].membership.view.remove(Gone("b", edition))
        assert await r.all_see("abc") <= (DIFFERENT + 1) * PING_S + 0.1
        assert r["a"].edition_of("b") > edition
        assert (r["b"].expelled, r["c"].expelled) == (1, 0)


@virtually
@pytest.mark.parametrize("joined_anew", [False, True], ids=["unaware", "joined_anew"])
async def test_two_that_took_each_other_for_dead_meet_by_the_shards_they_want(
    joined_anew: bool,
) -> None:
    """Neither pings the other any more, and a listing is far off."""
    async with ring("ab") as r:
        await asyncio.sleep(60)
        for one, other in ("ab", "ba"):
            r[one].membership.view.remove(Gone(other, r[one].edition_of(other)))
        if joined_anew:
            r["a"].line.freeze()
            await r["b"].membership.change(labels=("new",))
            r["a"].line.lose()
        await asyncio.sleep(1)
        assert (r["a"].names, r["b"].names) == ("a", "b")
        r.tell("a", Release(entity="till", generation=1, shard=0, runner="b"))
        assert await r.all_see("ab") <= (DIFFERENT + 1) * PING_S + 0.1
        assert r["b"].expelled == (not joined_anew)


@virtually
async def test_one_whom_all_others_missed_is_found_by_its_pings() -> None:
    """They agree with each other, and say so in between."""
    async with ring("abc") as r:
        await asyncio.sleep(60)
        for name in "ab":
            r[name].membership.view.remove(Gone("c", r[name].edition_of("c")))
            r[name].line.freeze()
        await r["c"].membership.change(labels=("new",))
        for name in "ab":
            r[name].line.lose()
        await asyncio.sleep(LIST_AGAIN_S)
        assert await r.all_see("abc") <= LIST_AGAIN_S + (DIFFERENT + 1) * PING_S + 0.1


@virtually
async def test_who_is_spoken_for_says_who_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody publishes a record of a runner that isn't its own, with an edition far ahead."""
    async with ring("ab") as r:
        forged = Member(runner="a", edition=2**50, leaving=True)
        for _ in range(3):
            r.tell_all(forged)
            await asyncio.sleep(0.01)
        seen = r["b"].membership.view.get("a")
        assert seen == r["a"].membership.own
        assert seen is not None
        assert (seen.leaving, seen.edition) == (False, 2**50 + 1)
        told = [x.levelname for x in caplog.records if "speaks as runner a" in x.message]
        assert told == ["ERROR"]
        r.tell("a", Gone("a", 2**50 + 1))
        await until(lambda: r["a"].expelled == 1, 0.1)
        assert await r.all_see("ab") < 1


@virtually
async def test_a_forged_record_in_the_bucket_is_not_believed_either() -> None:
    async with ring("ab") as r:
        forged = Member(runner="a", edition=2**50, leaving=True)
        members, key = r.stranger.members, member_key("a")
        stored = await members.get(key)
        assert stored is not None
        await members.put(key, encode_word(forged), expected=stored.revision, ttl_s=60)

        def corrected() -> bool:
            own, seen = r["a"].membership.own, r["b"].membership.view.get("a")
            return own == seen and own.edition > forged.edition and not own.leaving

        await until(corrected, 60)
        await until(lambda: r["a"].membership.view.get("a") == r["a"].membership.own, 0.1)
        await asyncio.sleep(30)
        found = await members.get(key)
        assert found is not None
        assert decode_word(found.value) == r["a"].membership.own


@virtually
async def test_strangers_that_want_shards_make_a_listing_now_and_then_only() -> None:
    with counted_listings() as listings:
        async with ring("a") as r:
            await asyncio.sleep(10)  # the first heartbeats list, too
            listings.clear()
            for number in range(1_000):
                name = f"stranger{number}"
                r.tell("a", Release(entity="till", generation=1, shard=0, runner=name))
                await asyncio.sleep(0.01)
            assert 3 <= len(listings) <= 10 / LIST_AGAIN_S + 10 / (LISTINGS * 3) + 2


@virtually
async def test_who_leaves_is_gone_at_once_and_leaves_nothing_behind() -> None:
    async with ring("abc") as r:
        await r["b"].membership.leave()
        assert await until(lambda: r["a"].names == r["c"].names == "ac") < 0.1
        assert await records(r) == "ac"
        assert not await r.answers("b")
        assert len(await r.stranger.members.entries("machine")) == 2
        await holds(lambda: r["a"].names == "ac", 60)


@virtually
async def test_a_change_is_known_at_once_and_stored() -> None:
    async with ring("ab") as r:
        before = r["a"].edition_of("b")
        await r["b"].membership.change(leaving=True)
        await until(lambda: r["a"].edition_of("b") > before, 0.1)
        seen = r["a"].membership.view.get("b")
        assert seen is not None
        assert seen.leaving
        entry = await r.stranger.members.get(member_key("b"))
        assert entry is not None
        assert entry.value == encode_word(seen)
        assert r["b"].changes  # it arranges its own shards, too


@virtually
async def test_who_abandons_says_nothing_and_hears_nothing() -> None:
    async with ring("abc") as r:
        began = r["a"].changes
        await r["b"].membership.abandon()
        assert not await r.answers("b")
        assert r["a"].changes == began
        await r.all_see("ac", within_s=SOON_S)  # as nobody listens


# -- the dead ---------------------------------------------------------------------------------
@virtually
async def test_who_dies_is_gone_for_all_soon_and_its_record_too() -> None:
    async with ring("abcd") as r:
        await r["c"].dies()
        assert await r.all_see("abd") <= SOON_S
        await asyncio.sleep(0.1)
        assert await records(r) == "abd"
        assert [peer.expelled for peer in r.peers.values()] == [0, 0, 0, 0]


@virtually
async def test_a_record_that_could_not_be_removed_is_removed_by_who_lists_it() -> None:
    """Who missed the news would believe it until it goes by itself."""
    async with ring("abcd") as r:
        dead = r["c"].membership.own
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryMembers, "delete", fails)
            await r["c"].dies()
            await r.all_see("abd")
            await asyncio.sleep(0.1)
        assert await records(r) == "abcd"
        missed = View()
        for member in (*r["d"].membership.view.members(), dead):
            missed.add(member)
        r["d"].membership.view = missed  # d watches a and b
        assert await r.all_see("abd") <= 2 * LIST_AGAIN_S + DIFFERENT * PING_S
        assert await records(r) == "abd"


@virtually
async def test_who_dies_together_with_its_watchers_is_noticed_by_the_next() -> None:
    async with ring("abcdef") as r:
        for runner in "bcd":  # a and f watch b; b and c watch d
            await r[runner].dies()
        assert await r.all_see("aef") <= 3 * SOON_S


@virtually
async def test_where_all_died_a_newcomer_is_alone_soon() -> None:
    async with ring("abc") as r:
        for runner in "abc":
            await r[runner].dies()
        assert await records(r) == "abc"
        await r.join("d")
        assert r["d"].names == "d"
        await asyncio.sleep(0.1)
        assert await records(r) == "d"


@virtually
async def test_a_record_that_nobody_renews_goes_by_itself() -> None:
    async with ring("a") as r:
        await r["a"].dies()
        await asyncio.sleep(14)
        assert await records(r) == "a"
        await asyncio.sleep(2)
        assert await records(r) == ""


@virtually
async def test_one_ping_that_nobody_heard_is_no_death() -> None:
    """The moment in which a connection is made anew."""
    async with ring("ab") as r:
        r.broker.disconnect(r["b"].session, reconnect=False)
        await asyncio.sleep(AGAIN_S / 2)
        r.broker.reconnect(r["b"].session)
        await holds(lambda: r["a"].names == "ab" and r["b"].names == "ab", 5)


@virtually
async def test_each_watches_two_whatever_their_number() -> None:
    async with ring("abcdef") as r:
        await asyncio.sleep(1)
        assert "watches ['d', 'e']" in repr(r["c"].membership)
        assert "watches ['a', 'b']" in repr(r["f"].membership)


# -- the silent -------------------------------------------------------------------------------
@virtually
async def test_who_is_silent_is_gone_after_a_while_and_joins_again() -> None:
    async with ring("abc") as r:
        edition = r["a"].edition_of("b")
        r["b"].line.freeze()
        took = await until(lambda: r["a"].names == r["c"].names == "ac")
        assert FROZEN_S <= took <= FROZEN_S + 1.0
        assert r["b"].expelled == 0
        r["b"].line.thaw()
        assert await r.all_see("abc") < 0.2
        assert r["b"].expelled == 1
        assert r["a"].edition_of("b") == r["c"].edition_of("b") > edition
        await asyncio.sleep(0.1)
        assert await records(r) == "abc"
        await holds(lambda: r["a"].names == "abc", 60)
        assert [peer.expelled for peer in r.peers.values()] == [0, 1, 0]


@virtually
async def test_a_short_silence_is_no_death() -> None:
    async with ring("abc") as r:
        for _ in range(5):
            r["b"].line.freeze()
            await asyncio.sleep(FROZEN_S - 0.5)
            r["b"].line.thaw()
            await asyncio.sleep(1.5)
        assert r["a"].names == r["b"].names == r["c"].names == "abc"
        assert r["b"].expelled == 0


@virtually
async def test_who_cannot_hear_itself_expels_nobody() -> None:
    async with ring("abc") as r:
        r["a"].line.freeze()
        await until(lambda: r["b"].names == r["c"].names == "bc")
        assert r["a"].names == "abc"
        r["a"].line.thaw()
        await r.all_see("abc")
        assert (r["b"].expelled, r["c"].expelled) == (0, 0)


@virtually
async def test_a_process_that_was_stopped_doubts_its_own_watch() -> None:
    """Its time is another one at once: it would take all others for silent."""
    async with ring("abc") as r:
        await asyncio.sleep(1)
        stop_the_process(60)
        await holds(lambda: all(peer.names == "abc" for peer in r.peers.values()), 5)


@virtually
async def test_after_a_new_connection_others_have_time_to_come_back() -> None:
    """They may have lost the same server."""
    async with ring("ab") as r:
        r.broker.disconnect(r["b"].session, reconnect=False)
        r.broker.disconnect(r["a"].session)
        await holds(lambda: r["a"].names == "ab", FROZEN_S - 0.5)
        r.broker.reconnect(r["b"].session)
        await holds(lambda: r["a"].names == r["b"].names == "ab", 10)


@virtually
async def test_without_a_connection_nobody_is_taken_for_dead() -> None:
    async with ring("ab", frozen_after=0.5, ping_every=0.1) as r:
        r.broker.disconnect(r["a"].session, reconnect=False)
        await holds(lambda: r["a"].names == "ab", 5)
        r.broker.reconnect(r["a"].session)
        await r.all_see("ab", within_s=15)


# -- its own record ---------------------------------------------------------------------------
@virtually
async def test_whose_record_was_removed_joins_with_a_higher_edition() -> None:
    """Somebody took it for dead while it could not hear that."""
    async with ring("ab") as r:
        edition = r["a"].edition_of("b")
        await r.stranger.members.delete(member_key("b"))
        r["a"].membership.view.remove(Gone("b", edition))
        assert await r.all_see("ab") <= 3.1
        assert r["a"].edition_of("b") > edition
        assert await records(r) == "ab"


@virtually
async def test_a_lost_acknowledgement_changes_nothing() -> None:
    real = MemoryMembers.put

    async def lost(self: Any, *args: Any, **more: Any) -> int | None:
        await real(self, *args, **more)
        raise Unreachable("stored, but nobody heard")

    async with ring("ab") as r:
        edition = r["a"].edition_of("b")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryMembers, "put", lost)
            await asyncio.sleep(10)
        await asyncio.sleep(10)
        assert await records(r) == "ab"
        assert r["a"].edition_of("b") == edition
        entry = await r.stranger.members.get(member_key("b"))
        assert entry is not None


@virtually
async def test_the_bucket_may_fail_for_a_while() -> None:
    async with ring("abc") as r:
        with pytest.MonkeyPatch.context() as patch:
            for method in ("put", "get", "entries", "delete"):
                patch.setattr(MemoryMembers, method, fails)
            await r["c"].dies()
            assert await until(lambda: r["a"].names == r["b"].names == "ab") <= SOON_S
            await holds(lambda: r["a"].names == r["b"].names == "ab", 20)
        await holds(lambda: "a" in r["b"].names and "b" in r["a"].names, 20)
        await r.all_see("ab", within_s=40)


@virtually
async def test_a_lost_machine_number_is_replaced_and_told() -> None:
    async with ring("ab") as r:
        number = r["b"].membership.own.machine
        assert number is not None
        assert number != r["a"].membership.own.machine
        await r.stranger.members.put(f"machine.{number}", b"another")
        await until(lambda: r["b"].membership.own.machine != number, 3.1)
        await asyncio.sleep(0.1)
        seen = r["a"].membership.view.get("b")
        assert seen is not None
        assert seen.machine == r["b"].membership.own.machine


@virtually
async def test_a_given_machine_number_needs_no_lease() -> None:
    async with ring() as r:
        await r.join("a", machine_id=7)
        assert await r.stranger.members.entries("machine") == {}


# -- what is said -----------------------------------------------------------------------------
@virtually
async def test_late_news_change_nothing() -> None:
    async with ring("ab") as r:
        old = r["b"].membership.own
        await r["b"].membership.change(leaving=True)
        await asyncio.sleep(0.1)
        changes = r["a"].changes
        r.tell_all(old)
        r.tell("a", old)
        r.tell_all(Gone("b", old.edition))
        r.tell_all(Gone("nobody", 5))
        await asyncio.sleep(0.1)
        assert r["a"].changes == changes
        assert r["a"].names == "ab"
        assert (r["a"].expelled, r["b"].expelled) == (0, 0)


@virtually
async def test_who_hears_that_it_is_gone_joins_anew_whatever_the_edition() -> None:
    async with ring("ab") as r:
        for edition in (r["b"].membership.own.edition, 2**53):
            r.tell_all(Gone("b", edition))
            await asyncio.sleep(0.1)
            assert r["a"].edition_of("b") > edition
            await r.all_see("ab", within_s=0.1)
        assert r["b"].expelled == 2
        await asyncio.sleep(0.1)
        entry = await r.stranger.members.get(member_key("b"))
        assert entry is not None
        assert b'"edition":%d' % (2**53 + 1) in entry.value


@virtually
async def test_what_is_said_of_a_runner_to_itself_does_not_count() -> None:
    async with ring("ab") as r:
        own = r["b"].membership.own
        forged = Member(runner="b", edition=own.edition + 1, leaving=True)
        r.tell("b", forged)
        await asyncio.sleep(0.1)
        renewed = r["b"].membership.own
        assert (renewed.edition, renewed.leaving) == (own.edition + 2, own.leaving)


@virtually
async def test_a_pretender_that_does_not_answer_goes_soon() -> None:
    async with ring("ab") as r:
        r.tell_all(Member(runner="p", edition=9))
        await until(lambda: r["a"].names == r["b"].names == "abp", 0.1)
        assert await r.all_see("ab") <= SOON_S


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_malformed_words_hurt_nobody(data: bytes) -> None:
    @virtually
    async def main() -> None:
        async with ring("ab") as r:
            changes = [peer.changes for peer in r.peers.values()]
            if data:  # else it is a ping
                r.tell("a", data, reply="perdure.log.keeper.victim")
            r.tell_all(data)
            await r.stranger.members.put("member.z", data)
            await holds(lambda: all(peer.names == "ab" for peer in r.peers.values()), 16)
            assert [peer.changes for peer in r.peers.values()] == changes
            assert r["a"].words == []
            assert await r.answers("a")

    main()


@virtually
async def test_other_words_go_to_the_runner_with_their_reply() -> None:
    async with ring("ab") as r:
        release = Release("keeper", 1, 0, "b")
        r.tell("a", release, reply="_INBOX.x.1")
        r.tell("a", Drain())
        r.tell_all(Drain())  # nobody's: it isn't for all
        r.tell("a", Kept())
        await until(lambda: len(r["a"].words) == 3, 0.1)
        assert [word for word, _ in r["a"].words] == [release, Drain(), Kept()]
        assert [message.reply for _, message in r["a"].words] == ["_INBOX.x.1", "", ""]
        assert r["b"].words == []


@pytest.mark.parametrize(
    "reply", ["perdure.log.keeper.victim", "perdure.to.keeper.victim", "$JS.API.X", "x.y", ""]
)
def test_a_ping_with_a_reply_elsewhere_is_not_answered(reply: str) -> None:
    @virtually
    async def main() -> None:
        async with ring("a") as r:
            await r.stranger.provision("keeper")
            heard: list[str] = []
            if reply:
                await r.stranger.asks.subscribe(reply, lambda message: heard.append(reply))
            r.tell("a", b"", reply=reply)
            await asyncio.sleep(1)
            assert heard == []
            assert await r.stranger.log.last(Address("keeper", "victim")) is None
            assert r.broker.waiting("keeper") == 0
            assert await r.answers("a")

    main()


@virtually
async def test_a_runner_of_another_namespace_is_never_seen() -> None:
    async with ring("a") as r:
        await r.join("b", namespace="other")
        await holds(lambda: r["a"].names == "a" and r["b"].names == "b", 20)
        await r["b"].dies()
        await holds(lambda: r["a"].names == "a", 5)
        assert (r["a"].changes, r["b"].changes) == (0, 0)


# -- a bug in it ------------------------------------------------------------------------------
@virtually
async def test_a_defect_in_its_timers_is_told_and_not_their_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(self: Any, head: str) -> dict[str, Any]:
        raise ValueError("a defect")

    async with ring("ab") as r:
        with (
            caplog.at_level(logging.ERROR, "perdure.members"),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(MemoryMembers, "entries", fails)
            await asyncio.sleep(4)
        assert "_beat failed" in caplog.text
        caplog.clear()
        await r["b"].dies()
        await r.all_see("a")
        await asyncio.sleep(20)
        assert await records(r) == "a"
