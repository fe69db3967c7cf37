"""Shards go from one runner to another: in peace, by force, and whatever happens on the way."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from perdure import Command, Decision, Entity, Retry
from perdure.durable.claim import PATIENCE_S, STRANGER_S
from perdure.durable.runner import LISTEN_S
from perdure.durable.shard import LINGER_S
from perdure.durable.term import RELEASE_S, take
from perdure.streams.members import (
    Drain,
    Draining,
    Gone,
    Kept,
    Member,
    Release,
    Released,
    encode_word,
)
from perdure.streams.port import ConsumerInfo, Delivery, Message, Taken

from .keeper import Add, Added, Keeper, evolve
from .peers import Peer, holds, now, until, virtually
from .runners import SHARDS, Runners, begin, runners

FROZEN_S = 2.5  # the default
LATE_S = 2.0
"""Of `drain_timeout` where something isn't finished in time."""

ROUND_S = RELEASE_S + 0.5
"""One request for a shard that isn't answered, the pause before it, and the pings behind it."""


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "action", "") for record in caplog.records]


# -- in peace ---------------------------------------------------------------------------------
@virtually
async def test_who_joins_gets_its_share_when_what_is_in_hand_is_finished() -> None:
    async with runners("a") as r:
        id = r.id_of("b", among="ab")
        before = {info.name for info in r.consumers}
        r["a"].gate.shut("store")
        in_hand = begin(r.ask(id))
        await until(lambda: r["a"].gate.holding > 0)
        await r.tell(id)
        joining = begin(r.start("b"))
        await until(lambda: r["a"].view == "ab")
        released = begin(r.say("a", r.release(id), within_s=60))
        meanwhile = [begin(r.ask(id)) for _ in range(10)]
        await holds(lambda: r.owners[r.shard(id)] == "a" and not released.done(), 3)
        r["a"].gate.open()
        assert await released == Released()
        assert await in_hand == 1
        assert await r.shared("ab") < 0.5
        found = r.consumer(r.shard(id))
        assert found is not None
        assert (found.owner, found.name in before) == ("b", False)
        await joining
        assert sorted(await asyncio.gather(*meanwhile)) == list(range(3, 13))
        await r.took_effect_once(id, 12)


@virtually
async def test_the_former_owner_sends_asks_elsewhere_for_a_moment() -> None:
    async with runners("a") as r:
        id = r.id_of("b", among="ab")
        await r.start("b")
        await r.shared("ab")
        answers = await r.hearers(id)
        assert [a["reply"] for a in answers if "reply" in a] == [1]
        (error,) = (a["error"] for a in answers if "error" in a)
        assert (error["type"], error["runner"]) == ("EntityNotAssignedToRunner", "a")
        assert error["may_have_taken_effect"]  # the next owner may have heard it, too
        await asyncio.sleep(LINGER_S)
        assert [a["reply"] for a in await r.hearers(id)] == [2]


@virtually
async def test_a_bare_ask_while_a_shard_is_handed_over_is_refused_at_once() -> None:
    """Nobody can take it, and its caller shall not wait for that. It may repeat it, with a key."""
    async with runners("a") as r:
        id = r.id_of("b", among="ab")
        r["a"].gate.shut("store")
        in_hand = begin(r.ask(id))
        await until(lambda: r["a"].gate.holding > 0)
        joining = begin(r.start("b"))
        await until(lambda: r["a"].view == "ab")
        (answer,) = await r.bare(id)
        assert answer["error"]["type"] == "EntityNotAssignedToRunner"
        assert answer["error"]["runner"] == "a"
        assert answer["error"]["may_have_taken_effect"]
        r["a"].gate.open()
        assert await in_hand == 1
        await joining
        assert [a["reply"] for a in await r.bare(id)] == [2]


@virtually
async def test_who_comes_after_a_crash_answers_bare_asks_from_its_start_on() -> None:
    """The dead one is still listed, and owns half of all by that list."""
    async with runners("a") as r:
        ids = [r.id_of(owner, among="ab") for owner in "ab"]
        await r["a"].dies()
        await r.start("b")
        for id in ids:
            assert [a["reply"] for a in await r.bare(id)] == [1]


@virtually
async def test_who_has_no_term_yet_is_not_found_and_is_where_none_can_begin() -> None:
    async with runners() as r:
        a = r.make("a")
        creating, go_on, create = asyncio.Event(), asyncio.Event(), a.session.commands.create

        async def slow(*args: Any, **more: Any) -> Any:
            creating.set()
            await go_on.wait()
            return await create(*args, **more)

        commands: Any = a.session.commands
        commands.create = slow
        starting, began = begin(a.runner.start()), now()
        await creating.wait()
        info = r.stranger.subjects.info(r.entity.name)
        while (await r.stranger.asks.request(info, b"", timeout_s=1.0)).no_responders:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.01)
        assert LISTEN_S <= now() - began <= LISTEN_S + 0.1
        assert [a["reply"] for a in await r.bare("e-1")] == [1]  # asks need no term
        go_on.set()
        await starting


@virtually
async def test_nobody_feels_who_comes_and_goes() -> None:
    """Asks without an error, tells without a loss, and each just once."""
    async with runners("a") as r:
        ids = [f"e-{n}" for n in range(20)]
        commands, going = 0, True

        async def call() -> None:
            nonlocal commands
            while going:
                commands += 1
                await asyncio.gather(*(r.ask(id) for id in ids))
                commands += 1
                await asyncio.gather(*(r.tell(id) for id in ids))
                await asyncio.sleep(0.01)

        calling = begin(call())
        for there, comes in (("ab", "b"), ("abc", "c")):
            await r.start(comes)
            await r.shared(there)
        for there, goes in (("bc", "a"), ("c", "b")):
            await r[goes].runner.drain()
            await r.shared(there, within_s=1)
        await r.start("d")
        await r.shared("cd")
        going = False
        await calling
        assert commands > 50
        for id in ids:
            await r.took_effect_once(id, commands)


# -- views that differ ------------------------------------------------------------------------
def unaware(r: Runners, name: str, of: str, patch: pytest.MonkeyPatch) -> None:
    """A runner doesn't take another into its view, whatever it hears."""
    view = r[name].runner.membership.view
    real = view.add

    def add(member: Member) -> bool:
        return member.runner != of and real(member)

    patch.setattr(view, "add", add)


@virtually
async def test_who_still_owns_by_its_view_says_so_until_views_agree() -> None:
    async with runners("a") as r:
        id = r.id_of("b", among="ab")
        with pytest.MonkeyPatch.context() as patch:
            unaware(r, "a", "b", patch)
            joining = begin(r.start("b"))
            await until(lambda: "b" in r.processes and r["b"].view == "ab")
            assert await r.say("a", r.release(id)) == Kept()
            before = r.consumers
            await holds(lambda: r.consumers == before and not r["b"].shards, PATIENCE_S - 1)
            assert await r.ask(id) == 1
            assert [a["reply"] for a in await r.hearers(id)] == [2]
        await r.shared("ab", within_s=3)
        await joining
        await r.took_effect_once(id, 2)


@virtually
async def test_two_that_both_believe_to_own_lose_nothing_and_double_nothing() -> None:
    """Each takes the shard from the other by force, again and again."""
    async with runners("a") as r:
        id = r.id_of("b", among="ab")
        with pytest.MonkeyPatch.context() as patch:
            unaware(r, "a", "b", patch)
            joining = begin(r.start("b"))
            seen: list[str] = []
            commands, end = 0, now() + 3 * PATIENCE_S
            while now() < end:
                await r.tell(id)
                assert await r.ask(id)
                commands += 2
                owner = r.owners[r.shard(id)]
                if seen[-1:] != [owner]:
                    seen.append(owner)
                await asyncio.sleep(0.1)
            assert [owner for owner in seen if owner][:4] == ["a", "b", "a", "b"]
        await r.shared("ab")
        await joining
        await r.took_effect_once(id, commands)


# -- by force ---------------------------------------------------------------------------------
async def held_by(peer: Peer, r: Runners, shard: int) -> ConsumerInfo:
    """One who is no runner holds a shard."""

    def ignore(delivery: Delivery, suspect: bool) -> None:
        pass

    await peer.session.provision(r.entity.name)
    await take(
        peer.session,
        r.entity.name,
        r.sharding,
        shard,
        runner=peer.membership.own.runner,
        suspects=0,
        on_tell=ignore,
    )
    found = r.consumer(shard)
    assert found is not None
    return found


@virtually
async def test_a_stranger_that_does_not_answer_is_asked_for_a_second_only() -> None:
    async with runners() as r:
        peer, heard = Peer(r.broker, r.settings, "g"), list[Message]()
        subject = peer.session.subjects.member("g")
        await peer.session.asks.subscribe(subject, heard.append)
        held = await held_by(peer, r, 1)
        starting, began = begin(r.start("a")), now()
        await until(lambda: r.owners.count("a") == r.sharding.shards - 1, 0.1)
        await holds(lambda: held in r.consumers, STRANGER_S - 0.1)
        await r.shared("a")
        assert STRANGER_S <= now() - began <= STRANGER_S + ROUND_S
        assert heard
        await starting
        await peer.session.close()


@virtually
async def test_who_is_gone_is_not_waited_for() -> None:
    async with runners() as r:
        peer = Peer(r.broker, r.settings, "g")
        await held_by(peer, r, 1)
        await peer.session.close()
        began = now()
        await r.start("a")
        await r.shared("a")
        assert now() - began < 0.1


@virtually
async def test_a_member_is_waited_for_much_longer(caplog: pytest.LogCaptureFixture) -> None:
    """It may finish something long."""
    async with runners() as r:
        peer = Peer(r.broker, r.settings, "g")
        held = await held_by(peer, r, 1)
        await peer.membership.join()
        await peer.membership.change(leaving=True)  # it gets none, and is still there
        starting, began = begin(r.start("a")), now()
        await until(lambda: r.owners.count("a") == r.sharding.shards - 1, 0.1)
        await holds(lambda: held in r.consumers, PATIENCE_S - 0.1)
        assert "shard.forced" not in actions(caplog)
        await r.shared("a")
        assert PATIENCE_S <= now() - began <= PATIENCE_S + ROUND_S
        assert actions(caplog).count("shard.forced") == 1
        assert r["a"].view == "ag"
        words = {word for word, _ in peer.words}
        assert words == {Release(r.entity.name, 1, 1, runner="a")}
        assert len(peer.words) >= PATIENCE_S / RELEASE_S / 2
        await starting
        await peer.dies()


# -- what isn't finished in time --------------------------------------------------------------
@pytest.mark.parametrize("stored", ["before", "late", "never"])
@virtually
async def test_what_does_not_end_is_interrupted_and_given_to_the_next_owner(
    stored: Literal["before", "late", "never"], caplog: pytest.LogCaptureFixture
) -> None:
    """A tell whose commit is stored, or not, or only after the next owner's."""
    async with runners("a", drain_timeout=LATE_S) as r:
        id = r.id_of("b", among="ab")
        r["a"].gate.shut("answer" if stored == "before" else "store")
        await r.tell(id)
        await until(lambda: r["a"].gate.holding > 0)
        joining, began = begin(r.start("b")), now()
        await holds(lambda: r.owners[r.shard(id)] == "a", LATE_S - 0.1)
        await until(lambda: r.owners[r.shard(id)] == "b")
        assert LATE_S <= now() - began <= LATE_S + 0.2
        assert "shard.late" in actions(caplog)
        await joining
        await r.quiet()
        if stored != "never":
            r["a"].gate.open()
            await until(lambda: r["a"].gate.holding == 0)
        await r.took_effect_once(id, 1)
        assert len({"shard.failed", "entity.failed"} & set(actions(caplog))) == 0


TRIES: list[int] = []


class Try(Command[Keeper, int]):
    pass


def decide(state: Keeper, command: Add | Try) -> Decision[Added]:
    match command:
        case Add(n):
            return command.accept(state.n + n, Added(n))
        case Try():
            TRIES.append(state.n)
            if len(TRIES) == 1:
                raise ValueError("the first time")
            return command.accept(state.n + 1, Added(1))


trying = Entity(Keeper(), decide, evolve)


@virtually
async def test_a_handler_that_is_tried_again_for_too_long_goes_on_elsewhere() -> None:
    TRIES.clear()
    lasting = Retry(attempts=5, base=60.0, factor=1.0)
    async with runners("a", entity=trying, drain_timeout=LATE_S, defect_retry=lasting) as r:
        id = r.id_of("b", among="ab")
        asked = begin(r.cluster.at(Keeper, id).ask(Try()))
        await until(lambda: len(TRIES) == 1)
        await r.start("b")
        assert await asked == 1
        assert await r.shared("ab") < 1
        await asyncio.sleep(120)
        assert TRIES == [0, 0]
        await r.took_effect_once(id, 1)


# -- who comes too late -----------------------------------------------------------------------
@virtually
async def test_who_is_refused_a_term_leaves_the_others_as_it_is() -> None:
    """It saw no consumer, since the other made it a moment later."""
    async with runners("a") as r:
        id = r.id_of("a", among="a")
        r["a"].gate.shut("answer")
        await r.tell(id)
        await until(lambda: r["a"].gate.holding > 0)
        before = r.consumers
        late = r.make("b")
        commands: Any = late.session.commands
        refused = 0
        create = commands.create

        async def nothing(*_: object) -> list[ConsumerInfo]:
            return []

        async def counted(*args: Any, **more: Any) -> Any:
            nonlocal refused
            try:
                return await create(*args, **more)
            except Taken:
                refused += 1
                raise

        with pytest.MonkeyPatch.context() as patch:
            unaware(r, "a", "b", patch)
            patch.setattr(commands, "consumers", nothing)
            patch.setattr(commands, "create", counted)
            starting = begin(late.runner.start())
            await holds(lambda: r.consumers == before, 10)
            assert refused > 4
            r["a"].gate.open()
            await r.quiet()  # so its acknowledgement counts
            await r.tell(id)
            await r.quiet()
            assert [info.name for info in r.consumers] == [info.name for info in before]
            assert await r.recorded(id) == list(dict.fromkeys(await r.recorded(id)))
        await r.shared("ab")
        await starting
        await r.took_effect_once(id, 2)


# -- words ------------------------------------------------------------------------------------
@pytest.mark.parametrize("reply", ["elsewhere.x", "perdure.log.keeper.victim", ""])
@virtually
async def test_words_whose_reply_may_not_go_there_are_not_answered(reply: str) -> None:
    """And not obeyed either."""
    async with runners("ab") as r:
        heard: list[Message] = []
        if reply:
            await r.stranger.asks.subscribe(reply, heard.append)
        subject = r.stranger.subjects.member("a")
        id = r.id_of("a", among="ab")
        for word in (r.release(id), r.release(r.id_of("b", among="ab")), Drain()):
            r.stranger.asks.send(subject, encode_word(word), reply=reply)
        await asyncio.sleep(1)
        assert not heard
        assert await r.recorded("victim") == []
        assert not r["a"].drained.is_set()
        assert await r.say("a", r.release(id)) == Kept()
        assert await r.shared("ab") == 0


@virtually
async def test_what_is_not_held_is_released_whatever_it_is() -> None:
    async with runners("ab") as r:
        mine, other = r.id_of("a", among="ab"), r.id_of("b", among="ab")
        assert await r.say("a", r.release(other)) == Released()
        asked = r.release(mine)
        assert await r.say("a", asked) == Kept()
        for strange in (
            Release("other", 1, asked.shard, runner="s"),
            Release(asked.entity, 2, asked.shard, runner="s"),
            Release(asked.entity, 1, SHARDS, runner="s"),
            Release(asked.entity, 1, -1, runner="s"),
        ):
            assert await r.say("a", strange) == Released()
        assert await r.shared("ab") == 0


@virtually
async def test_who_is_told_to_drain_gives_all_away_and_lets_its_process_know() -> None:
    async with runners("ab") as r:
        id = r.id_of("a", among="ab")
        r["a"].gate.shut("store")
        asked = begin(r.ask(id))
        await until(lambda: r["a"].gate.holding > 0)
        assert await r.say("a", Drain()) == Draining()
        await asyncio.wait_for(r["a"].drained.wait(), 0.1)
        await holds(lambda: r.owners[r.shard(id)] == "a", 1)
        r["a"].gate.open()
        assert await asked == 1
        await r.shared("b", within_s=0.5)
        assert r["a"].shards == 0
        assert r["b"].view == "ab"  # it answers until its process ends
        assert await r.ask(id) == 2
        assert await r.say("a", Drain()) == Draining()  # once more changes nothing
        await r["a"].runner.drain()
        await until(lambda: r["b"].view == "b", 0.1)
        await r.took_effect_once(id, 2)


@virtually
async def test_the_only_runner_that_is_told_to_drain_leaves_what_waits_to_the_next() -> None:
    async with runners("a") as r:
        assert await r.say("a", Drain()) == Draining()
        await until(lambda: r.owners == [""] * SHARDS)
        await r.tell("e-1")
        await holds(lambda: r.broker.waiting(r.entity.name) > 0, 1)
        await r["a"].runner.drain()
        await r.start("b")
        await r.shared("b")
        await r.took_effect_once("e-1", 1)


# -- taken for dead ---------------------------------------------------------------------------
@virtually
async def test_who_is_told_that_it_is_gone_drops_all_and_joins_anew() -> None:
    async with runners("ab") as r:
        id = r.id_of("a", among="ab")
        assert await r.ask(id) == 1
        r["a"].gate.shut("answer")
        await r.tell(id)
        await until(lambda: r["a"].gate.holding > 0)
        before, edition = r.consumer(r.shard(id)), r["a"].edition
        gone = Gone("a", edition)
        for name in "ab":
            r.stranger.asks.send(r.stranger.subjects.member(name), encode_word(gone))
        await until(lambda: r["a"].edition > edition, 0.1)
        r["a"].gate.open()
        await r.shared("ab")
        assert r.consumer(r.shard(id)) != before
        await r.took_effect_once(id, 2)


@virtually
async def test_who_was_frozen_comes_back_with_a_higher_edition_and_loses_nothing() -> None:
    async with runners("ab") as r:
        id, edition = r.id_of("a", among="ab"), r["a"].edition
        r["a"].gate.shut("answer")
        await r.tell(id)  # stored, and not acknowledged
        await until(lambda: r["a"].gate.holding > 0)
        r["a"].line.freeze()
        await r.tell(id)  # given to the frozen one
        asked = begin(r.ask(id))
        assert FROZEN_S <= await r.shared("b") <= FROZEN_S + 0.5 + STRANGER_S + ROUND_S
        assert await asked in (2, 3)  # asks are heard before there is a term
        r["a"].gate.open()
        r["a"].line.thaw()
        await until(lambda: r["a"].edition > edition, 0.2)
        await r.shared("ab", within_s=5)
        assert r["b"].view == "ab"
        assert await r.ask(id) == 4
        await r.took_effect_once(id, 4)


@virtually
async def test_who_is_told_so_while_it_takes_a_shard_takes_it_all_the_same() -> None:
    """And answers the asks of what it holds."""
    async with runners() as r:
        a = r.make("a")
        commands: Any = a.session.commands
        create, creating, go_on = commands.create, asyncio.Event(), asyncio.Event()

        async def slow(*args: Any, **more: Any) -> Any:
            creating.set()
            await go_on.wait()
            return await create(*args, **more)

        commands.create = slow
        starting = begin(a.runner.start())
        await creating.wait()
        r.stranger.asks.send(r.stranger.subjects.member("a"), encode_word(Gone("a", a.edition)))
        await until(lambda: a.edition > 1)
        go_on.set()
        await starting
        await until(lambda: a.runner.statistics().terms == SHARDS)
        assert await r.ask("e-1") == 1
        await r.shared("a")
