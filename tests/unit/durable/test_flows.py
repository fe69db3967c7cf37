"""Flows in a runner, on the memory backend: steps, deferreds, tokens, and what may go wrong."""

from __future__ import annotations

import asyncio
import base64
import time
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from perdure import (
    Decision,
    Entity,
    Flow,
    MalformedMessage,
    Retry,
    RpcClientError,
    SendTimeout,
    Suspended,
    Token,
    memory,
)
from perdure.durable.testing import MS, TestCluster
from perdure.entities.address import Address
from perdure.entities.settings import Settings
from perdure.entities.steps import StepFailed
from perdure.streams.asks import Envelope, encode_envelope
from perdure.streams.port import Session

from .case import (
    DAY,
    Ask,
    Book,
    Case,
    Denied,
    Nap,
    Note,
    Noted,
    Open,
    Read,
    Walk,
    World,
    case_of,
    decide,
    evolve,
    hosted,
    suspended,
)


# -- waiting and going on -----------------------------------------------------------------------
async def test_a_flow_waits_and_goes_on_with_a_token() -> None:
    async with hosted() as (cluster, world):
        error = await suspended(cluster)
        assert (error.waits_for, error.resume_token) == (("answer",), None)
        assert (await cluster.at(Case, "c").status()).status == "suspended"
        waits = asyncio.create_task(cluster.at(Case, "c").ask(Open(), key="k"))
        assert await cluster.at(Case, "c").ask(Note("between")) == 2
        await cluster.resume(world.tokens[0], 7)
        assert await waits == "7 after begun,between"
        assert await cluster.at(Case, "c").query(Read()) == ("begun", "between", "ended")
        assert (await cluster.at(Case, "c").status()).status == "idle"
        assert len(world.tokens) == 1


async def test_the_outcome_is_recorded_and_every_repeat_gets_it() -> None:
    async with hosted() as (cluster, world):
        await suspended(cluster)
        await cluster.resume(world.tokens[0], -1)
        for _ in range(2):
            with pytest.raises(Denied):
                await cluster.at(Case, "c").ask(Open(), key="k")
        with pytest.raises(Denied):
            await cluster.at(Case, "c").result(Open, "k")
        with pytest.raises(MalformedMessage):
            await cluster.at(Case, "c").ask(Note("x"), key="k")


async def test_a_flow_that_was_told_goes_on_too() -> None:
    async with hosted() as (cluster, world):
        key = await cluster.at(Case, "c").tell(Open())
        await cluster.quiet()
        with pytest.raises(Suspended):
            await cluster.at(Case, "c").ask(Open(), key=key, on_suspend="raise")
        await cluster.resume(world.tokens[0], 1)
        assert await cluster.at(Case, "c").result(Open, key) == "1 after begun"


async def test_two_flows_of_one_entity_wait_beside_each_other() -> None:
    async with hosted() as (cluster, world):
        await suspended(cluster, key="one", n=2)
        await suspended(cluster, key="two", n=2)
        one, two = world.tokens
        await cluster.resume(two, 2)
        assert await cluster.at(Case, "c").result(Open, "two") == "2 after begun,begun"
        await cluster.resume(one, 1)
        assert await cluster.at(Case, "c").result(Open, "one") == "1 after begun,begun,ended"


async def test_who_asks_sees_the_token_only_where_the_flow_says_so() -> None:
    async with hosted() as (cluster, world):
        assert (await suspended(cluster, "a", n=0)).resume_token is None
        shown = await suspended(cluster, "b", n=1)
        assert shown.resume_token == str(world.tokens[1])
        again = await suspended(cluster, "b", n=1)
        assert again.resume_token == shown.resume_token
        assert len(world.tokens) == 2


@pytest.mark.parametrize("crashes", [1, 3])
async def test_it_is_the_same_after_a_crash(crashes: int) -> None:
    async with hosted() as (cluster, world):
        await suspended(cluster)
        for _ in range(crashes):
            await cluster.crash()
        for n in range(60):  # a snapshot is taken on the way
            await cluster.at(Case, "c").ask(Note(str(n)))
        await cluster.crash()
        await suspended(cluster)
        await cluster.resume(world.tokens[0], 7)
        notes = ",".join(str(n) for n in range(60))
        assert await cluster.at(Case, "c").result(Open, "k") == f"7 after begun,{notes}"
        assert len(world.tokens) == 1


# -- tokens -------------------------------------------------------------------------------------
async def test_a_token_resumes_once_and_is_answered_the_same_each_time() -> None:
    async with hosted() as (cluster, world):
        await suspended(cluster)
        token = world.tokens[0]
        await asyncio.gather(*(cluster.resume(token, n) for n in (5, 6, 7)))
        outcome = await cluster.at(Case, "c").result(Open, "k")
        await cluster.resume(token, 8)
        await cluster.crash()
        await cluster.resume(token, 9)
        assert await cluster.at(Case, "c").result(Open, "k") == outcome
        assert (await cluster.at(Case, "c").query(Read())) == ("begun", "ended")


async def test_what_is_no_token_of_this_flow_is_refused_and_changes_nothing() -> None:
    async with hosted() as (cluster, world):
        await suspended(cluster)
        good = str(world.tokens[0])
        head, _, mac = good.partition(".")
        bad = ["", "x", good[:-1], good + "A", f"{head}.", f".{mac}", f"{head}.{mac[::-1]}", "é"]
        async with hosted() as (other, elsewhere):
            await suspended(other)
            bad.append(str(elsewhere.tokens[0]))  # of another cluster, with another secret
            for text in bad:
                with pytest.raises(MalformedMessage):
                    await cluster.resume(Token[int](text), 5)
        with pytest.raises(MalformedMessage, match="Expected `int`, got `str`"):
            await cluster.resume(Token[str](good), "5")
        await suspended(cluster)
        await cluster.resume(world.tokens[0], 5)
        assert await cluster.at(Case, "c").result(Open, "k") == "5 after begun"


@pytest.mark.parametrize("form", ["json", "msgpack"])
async def test_a_snapshot_has_the_flows(form: Any, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    often = Settings(snapshot_min_commits=1, snapshot_max_commits=1, commit_format=form)
    async with memory(case_of(world), settings=often) as cluster:
        await suspended(cluster)
        broker: Any = vars(cluster)["_broker"]
        operator: Session = broker.session("operator")
        async with asyncio.timeout(10):
            while await operator.snapshots.get(Address("case", "c")) is None:  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.001)
        await cluster.crash()
        await cluster.resume(world.tokens[0], 5)
        assert await cluster.at(Case, "c").result(Open, "k") == "5 after begun"
    actions = [vars(record).get("action") for record in caplog.records]
    assert "snapshot.ignored" not in actions


async def publish(cluster: TestCluster, payload: bytes) -> None:
    """Tell the case something, as any program can."""
    broker: Any = vars(cluster)["_broker"]
    plain: Session = broker.session("plain")
    body = encode_envelope(Envelope(1, "tell", Raw(payload)))
    await plain.commands.publish(Address("case", "c"), body)


async def test_a_token_that_is_nothing_but_depth_harms_nobody() -> None:
    known = b"\x98\x01\xa4case\xa1c\xa1k\xa6answer\xa0\xc0"
    deep = base64.urlsafe_b64encode(known + b"\x91" * 1_400 + b"\x01").rstrip(b"=").decode()
    text = f"{deep}.{'A' * 22}"
    async with hosted() as (cluster, world):
        await suspended(cluster)
        for rest in (b'"$resume","value":1', b'"$answer","answer":{}'):
            await publish(cluster, b'{"token":"%b","type":%b}' % (text.encode(), rest))
        await cluster.quiet()
        await cluster.resume(world.tokens[0], 5)
        assert await cluster.at(Case, "c").result(Open, "k") == "5 after begun"


async def test_a_wrong_resume_leaves_its_token_nowhere() -> None:
    world = World()
    case = case_of(world)
    async with memory(case) as cluster:
        await suspended(cluster)
        text = str(world.tokens[0])
        payload = msgspec.json.encode({"type": "$resume", "token": text, "value": 1, "more": 2})
        await publish(cluster, payload)
        await publish(cluster, payload.replace(b"$resume", b"$resumed"))
        await cluster.quiet()
        broker: Any = vars(cluster)["_broker"]
        reader = broker.session("reader")
        last = await reader.log.last(Address("case", "c"))
        log = reader.log.read(Address("case", "c"), after=0, upto=last.sequence)
        outcomes = [o async for m in log for o in msgspec.json.decode(m.data)["outcomes"]]
        buried = [outcome["dead"] for outcome in outcomes if "dead" in outcome]
        assert len(buried) == 2
        assert not any("raw" in dead for dead in buried)
        assert text not in repr(outcomes)


async def test_a_question_for_the_result_does_not_keep_its_command_away() -> None:
    async with hosted() as (cluster, _):
        early = asyncio.create_task(cluster.at(Case, "c").result(Walk, "k", timeout=20))
        await cluster.at(Case, "c").query(Read())
        assert await cluster.at(Case, "c").ask(Walk(1), key="k", timeout=10) == "1"
        assert await early == "1"


async def test_a_bare_ask_of_a_flow_is_answered() -> None:
    async with hosted() as (cluster, _):
        broker: Any = vars(cluster)["_broker"]
        plain: Session = broker.session("plain")
        subject = plain.subjects.ask("case", "c")
        answer = await plain.asks.request(subject, b'{"type":"walk","steps":1}', timeout_s=10)
        assert msgspec.json.decode(answer.data)["reply"] == "1"


async def test_steps_side_by_side_are_refused() -> None:
    world = World()

    async def both(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        one, two = flow.step("one"), flow.step("two")
        await asyncio.gather(one.run(world.act, "one", "1"), two.run(world.act, "two", "2"))
        return command.accept("")

    async with memory(Entity(Case(), decide, evolve, flows=[both])) as cluster:
        with pytest.raises(RpcClientError, match="a flow does one thing at a time"):
            await cluster.at(Case, "c").ask(Open(), key="k", timeout=5)


async def test_no_token_is_in_the_log() -> None:
    world = World()
    case = case_of(world)
    async with memory(case) as cluster:
        await suspended(cluster, n=1)
        with pytest.raises(MalformedMessage):
            await cluster.resume(Token[str](str(world.tokens[0])), "5")
        await cluster.resume(world.tokens[0], 5)
        stored = [commit async for commit in cluster.history(case, "c")]
        assert str(world.tokens[0]) not in repr(stored)
        assert len(stored) >= 4


# -- steps --------------------------------------------------------------------------------------
async def test_steps_are_run_once_each_with_a_key_of_their_own() -> None:
    async with hosted() as (cluster, world):
        assert await cluster.at(Case, "c").ask(Walk(3)) == "3"
        assert world.calls == [("act", "0"), ("act", "1"), ("act", "2")]
        assert len({key for keys in world.keys.values() for key in keys}) == 3


async def test_who_asks_for_the_result_of_a_turn_that_ended_midway_waits() -> None:
    """Also where what began it doesn't come again, so that nobody has that turn."""
    async with hosted() as (cluster, world):
        world.gate = asyncio.Event()
        key = await cluster.at(Case, "c").tell(Walk(2))
        await world.called("0")
        broker: Any = vars(cluster)["_broker"]
        operator: Session = broker.session("operator")
        await operator.commands.remove("case", 1)
        assert await operator.commands.count("case") == 0
        await cluster.crash()
        with pytest.raises(SendTimeout):
            await cluster.at(Case, "c").result(Walk, key, timeout=0.2)
        world.gate.set()
        assert await cluster.at(Case, "c").result(Walk, key) == "2"


async def test_what_was_recorded_is_not_run_again_after_a_crash() -> None:
    async with hosted() as (cluster, world):
        world.gate = asyncio.Event()
        world.gate.set()

        def stops_after_one(name: str) -> None:
            if name == "1" and world.gate is not None:
                world.gate.clear()

        world.fail = stops_after_one
        key = await cluster.at(Case, "c").tell(Walk(4))
        await world.called("2")
        await cluster.crash()
        world.fail = lambda name: None
        world.gate.set()
        assert await cluster.at(Case, "c").result(Walk, key) == "4"
        names = [name for _, name in world.calls]
        assert names == ["0", "1", "2", "2", "3"]
        assert all(len(keys) == 1 for keys in world.keys.values())
        assert await cluster.at(Case, "c").query(Read()) == tuple(f"did {n}" for n in range(4))


async def test_other_commands_wait_while_a_step_runs() -> None:
    async with hosted() as (cluster, world):
        world.gate = asyncio.Event()
        walks = asyncio.create_task(cluster.at(Case, "c").ask(Walk(1)))
        await world.called("0")
        note = asyncio.create_task(cluster.at(Case, "c").ask(Note("after")))
        assert await cluster.at(Case, "d").ask(Note("elsewhere")) == 1
        assert not note.done()
        world.gate.set()
        assert (await walks, await note) == ("1", 2)


async def test_a_step_that_fails_breaks_a_flow_that_does_not_catch_it() -> None:
    async with hosted() as (cluster, world):
        world.fail = lambda name: ValueError("as planned") if name == "1" else None
        for _ in range(2):
            with pytest.raises(RpcClientError, match="step 'step 1': ValueError: as planned"):
                await cluster.at(Case, "c").ask(Walk(3), key="k")
        assert [name for _, name in world.calls] == ["0", "1", "1"]
        assert await cluster.at(Case, "c").query(Read()) == ("did 0",)
        assert await cluster.at(Case, "c").ask(Note("on")) == 2


async def test_what_a_broken_flow_had_still_to_wait_for_is_not_forgotten() -> None:
    undone: list[str] = []

    async def fails() -> None:
        raise ValueError("as planned")

    async def undo() -> None:
        undone.append("undone")

    async def breaks(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        answer = flow.deferred("answer", int)
        await flow.step("one", retry=Retry(attempts=1)).undo(undo).run(fails)
        return command.accept(str(await answer))

    async with memory(Entity(Case(), decide, evolve, flows=[breaks])) as cluster:
        with pytest.raises(RpcClientError, match="step 'one': ValueError: as planned"):
            await cluster.at(Case, "c").ask(Open(), key="k", timeout=5)
        assert undone == ["undone"]


# -- time ---------------------------------------------------------------------------------------
async def test_a_flow_sleeps_and_goes_on_by_itself() -> None:
    async with hosted() as (cluster, _):
        key = await cluster.at(Case, "c").tell(Nap(3))
        await cluster.advance(3 * DAY - timedelta(milliseconds=2))
        assert await cluster.at(Case, "c").query(Read()) == ("slept 0", "slept 1")
        await cluster.crash()
        await cluster.advance(timedelta(milliseconds=2))
        assert await cluster.at(Case, "c").result(Nap, key) == "3"


async def test_what_does_not_come_in_time_is_none() -> None:
    async with hosted() as (cluster, world):
        for id, waits in (("in-time", DAY / 2), ("late", 2 * DAY)):
            await cluster.at(Case, id).tell(Ask(), key="k")
            await cluster.quiet()
            await cluster.advance(waits)
            await cluster.resume(world.tokens[-1], 5)
        assert await cluster.at(Case, "in-time").result(Ask, "k") == "5"
        assert await cluster.at(Case, "late").result(Ask, "k") == "None"


async def test_thirty_days_pass_in_no_time() -> None:
    async with hosted() as (cluster, _):
        key = await cluster.at(Case, "c").tell(Nap(30))
        began = time.perf_counter()
        await cluster.advance(30 * DAY)
        assert await cluster.at(Case, "c").result(Nap, key) == "30"
        print(f"{time.perf_counter() - began:.3f} s")


async def test_an_approval_that_comes_after_thirty_days() -> None:
    async with hosted() as (cluster, world):
        began = time.perf_counter()
        await suspended(cluster)
        await cluster.advance(30 * DAY)
        await cluster.resume(world.tokens[0], 7)
        assert await cluster.at(Case, "c").result(Open, "k") == "7 after begun"
        print(f"{time.perf_counter() - began:.3f} s")


async def test_a_flow_knows_which_entity_it_is() -> None:
    async def says(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await flow.sleep("a while", DAY)
        return command.accept(str(flow.address))

    async with memory(Entity(Case(), decide, evolve, flows=[says])) as cluster:
        key = await cluster.at(Case, "c-7").tell(Open())
        await cluster.advance(DAY)
        assert await cluster.at(Case, "c-7").result(Open, key) == "case/c-7"


# -- what is undone -----------------------------------------------------------------------------
async def test_a_cancelled_flow_is_undone_where_it_waits() -> None:
    async with hosted() as (cluster, world):
        case = cluster.at(Case, "c")
        waits = asyncio.create_task(case.ask(Book(), key="k"))
        await world.called("car")
        await cluster.quiet()
        await case.cancel("k")
        with pytest.raises(RpcClientError, match="the flow has ended: it was cancelled"):
            await waits
        assert world.names == ["hotel", "car", "undo car", "undo hotel"]
        assert await case.query(Read()) == ("booked",)
        await case.cancel("k")
        await case.cancel("never-there")
        with pytest.raises(RpcClientError, match="it was cancelled"):
            await case.ask(Book(), key="k")
        await cluster.resume(world.tokens[0], 1)
        assert world.names[4:] == []


async def test_a_refused_flow_is_undone_once_also_after_a_crash() -> None:
    async with hosted() as (cluster, world):
        case = cluster.at(Case, "c")
        world.gate = asyncio.Event()
        world.gate.set()

        def stops(name: str) -> None:
            if name == "undo car" and world.gate is not None:
                world.gate.clear()

        world.fail = stops
        key = await case.tell(Book())
        await cluster.quiet()
        resumed = asyncio.create_task(cluster.resume(world.tokens[0], -1))
        await world.called("undo hotel")
        await cluster.crash()
        world.fail = lambda name: None
        world.gate.set()
        with pytest.raises(Denied):
            await case.result(Book, key)
        await resumed
        assert world.names == ["hotel", "car", "undo car", "undo hotel", "undo hotel"]
        assert all(len(keys) == 1 for keys in world.keys.values())


async def test_a_deadline_cancels_a_flow() -> None:
    async with hosted() as (cluster, world):
        caller = cluster._caller  # pyright: ignore[reportPrivateUsage]
        deadline = cluster.clock.now_ns() // MS + 60_000
        envelope = Envelope(*(1, "tell", Raw(b'{"type":"book"}'), "k"), deadline=deadline)
        body = encode_envelope(envelope)
        await caller.session.commands.publish(Address("case", "c"), body)
        await cluster.quiet()
        await cluster.advance(59)
        assert world.names == ["hotel", "car"]
        await cluster.advance(1)
        with pytest.raises(RpcClientError, match="its deadline has passed"):
            await cluster.at(Case, "c").result(Book, "k")
        assert world.names == ["hotel", "car", "undo car", "undo hotel"]


async def test_a_deadline_holds_also_where_the_first_turn_was_interrupted() -> None:
    async with hosted() as (cluster, world):
        world.gate = asyncio.Event()
        deadline = cluster.clock.now_ns() // MS + 60_000
        envelope = Envelope(*(1, "tell", Raw(b'{"type":"book"}'), "k"), deadline=deadline)
        broker: Any = vars(cluster)["_broker"]
        plain: Session = broker.session("plain")
        await plain.commands.publish(Address("case", "c"), encode_envelope(envelope))
        await world.called("hotel")
        await cluster.crash()
        world.gate.set()
        await world.called("car")
        await cluster.advance(59)
        with pytest.raises(Suspended):
            await cluster.at(Case, "c").result(Book, "k", timeout=0.1)
        await cluster.advance(1)
        with pytest.raises(RpcClientError, match="its deadline has passed"):
            await cluster.at(Case, "c").result(Book, "k")


# -- what it emits ------------------------------------------------------------------------------
async def test_what_is_emitted_behind_a_step_is_in_the_state_that_others_see() -> None:
    """The turn had stored its beginning, and was taken for one that had come to nothing new."""
    world = World()

    async def opens(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await flow.sleep("a night", DAY)
        await flow.step("act").run(world.act, "x", "y")
        await flow.emit(Noted("behind"))
        await flow.sleep("a day", DAY)
        return command.accept(",".join(flow.state.notes))

    async with memory(Entity(Case(), decide, evolve, flows=[opens])) as cluster:
        case = cluster.at(Case, "c")
        await case.tell(Open(), key="k")
        await cluster.advance(DAY + timedelta(seconds=1))
        assert await case.query(Read()) == ("behind",)
        assert await case.ask(Note("note")) == 2
        await cluster.crash()
        assert await case.query(Read()) == ("behind", "note")
        await cluster.advance(DAY)
        assert await case.result(Open, "k") == "behind,note"


# -- code that is wrong -------------------------------------------------------------------------
async def test_code_that_was_changed_parks_the_flow_and_the_old_code_heals_it() -> None:
    world = World()

    async def other(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await flow.step("another").run(world.act, "x", "y")
        return command.accept("")

    case = case_of(world)
    async with memory(case) as cluster:
        await suspended(cluster)
        changed = Entity(Case(), decide, evolve, flows=[other])
        vars(cluster)["_entities"] = (changed,)
        await cluster.crash()
        await cluster.resume(world.tokens[0], 5)
        with pytest.raises(RpcClientError, match=r"flow is parked: .*step 'another' is new"):
            await cluster.at(Case, "c").ask(Open(), key="k", timeout=5)
        assert await cluster.at(Case, "c").ask(Note("others go on")) == 2
        assert ("act", "x") not in world.calls


def test_step_failed_is_one() -> None:
    assert str(StepFailed("pay", "why")) == "step 'pay': why"


def test_any() -> None:
    assert Any is not None


async def test_what_came_while_a_turn_was_parked_midway_is_not_waited_for_again() -> None:
    world, broken = World(), [True]

    async def asks(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        answer = flow.deferred("answer", int)
        await flow.step("send").run(world.send, answer.token)
        if broken:
            raise ValueError("a mistake")
        return command.accept(f"{await answer}")

    hasty = Settings(defect_retry=Retry(attempts=1))
    async with memory(Entity(Case(), decide, evolve, flows=[asks]), settings=hasty) as cluster:
        with pytest.raises(RpcClientError, match=r"the flow is parked: .*a mistake"):
            await cluster.at(Case, "c").ask(Open(), key="k", timeout=5)
        await cluster.resume(world.tokens[0], 5)
        broken.clear()
        await publish(cluster, b'{"type":"$retry","flow":"k"}')
        assert await cluster.at(Case, "c").result(Open, "k", timeout=5) == "5"
