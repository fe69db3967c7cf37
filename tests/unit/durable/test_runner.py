"""The whole path on the memory backend: both ways in, repeats, defects, quarantine."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from perdure import Command, Context, Decision, Entity, Event, Failure, Query, Retry, State
from perdure.durable import reading
from perdure.entities.address import Address
from perdure.entities.clock import SystemClock
from perdure.streams.commit import seal
from perdure.streams.port import Appended, Full

from .world import world

QUICK = Retry(attempts=3, base=0.001, factor=1.0)


class Counter(State):
    n: int = 0


class TooMuch(Failure):
    n: int


class Add(Command[Counter, int, TooMuch]):
    n: int


class Break(Command[Counter, None]):
    how: str


class Now(Command[Counter, str]):
    pass


class Total(Query[Counter, int]):
    raises: bool = False


class Added(Event):
    n: int


CALLS: list[int] = []


class Silent(Exception):
    """One whose text can't be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def decide(
    state: Counter, command: Add | Break | Now | Total, context: Context
) -> Decision[Added]:
    match command:
        case Total(raises=True):
            raise ValueError("a query's defect")
        case Total():
            return command.answer(state.n)
        case Add(n) if n > 100:
            return command.reject(TooMuch(n))
        case Add(n):
            CALLS.append(n)
            return command.accept(state.n + n, Added(n))
        case Break("silent"):
            raise Silent
        case Break("cancelled"):
            raise asyncio.CancelledError
        case Break("evolve"):
            return command.accept(None, Added(-1))
        case Break("sometimes"):
            CALLS.append(0)
            if len(CALLS) % 2:
                raise ValueError("the first time")
            return command.accept(None)
        case Break(how):
            raise ValueError(how)
        case Now():
            return command.accept(f"{context.address} {context.version} {context.key}")


def evolve(state: Counter, event: Added) -> Counter:
    if event.n < 0:
        raise ValueError("a negative event")
    return state.replace(n=state.n + event.n)


counter = Entity(Counter(), decide, evolve)


class Listing(State):
    kept: list[str] = []  # noqa: RUF012 (msgspec copies it)


class Keep(Command[Listing, int]):
    what: str


class Kept(Event):
    what: str


def decide_listing(state: Listing, command: Keep) -> Decision[Kept]:
    return command.accept(len(state.kept), Kept(command.what))


def evolve_listing(state: Listing, event: Kept) -> Listing:
    state.kept.append(event.what)  # in place: nobody else may see it
    return state


listing = Entity(Listing(), decide_listing, evolve_listing)


def add(n: int = 1) -> dict[str, Any]:
    return {"type": "add", "n": n}


@pytest.fixture(autouse=True)
def fresh_calls() -> None:
    CALLS.clear()


async def test_reply_failure_and_query() -> None:
    async with world(counter) as w:
        assert (await w.ask("c", add(5)))["reply"] == 5
        assert (await w.ask("c", add(500)))["failure"] == {"type": "too_much", "n": 500}
        assert (await w.ask("c", {"type": "total"}))["reply"] == 5
        assert [c.version for c in await w.commits("c")] == [1, 1]


async def test_a_key_has_one_outcome_by_both_ways() -> None:
    async with world(counter) as w:
        first = await w.ask("c", add(5), key="k")
        await w.tell("c", add(5), key="k")
        await w.quiet()
        assert await w.ask("c", add(5), key="k") == first
        assert CALLS == [5]
        assert len(await w.commits("c")) == 1


async def test_a_key_with_another_payload_is_refused_and_a_tell_of_it_is_a_dead_letter() -> None:
    async with world(counter) as w:
        await w.ask("c", add(5), key="k")
        error = (await w.ask("c", add(6), key="k"))["error"]
        assert (error["type"], error["may_have_taken_effect"]) == ("MalformedMessage", False)
        assert len(await w.commits("c")) == 1
        await w.tell("c", add(7), key="k")
        await w.quiet()
        (dead,) = w.broker.dead_letters()
        assert msgspec.json.decode(dead.data)["dead"]["key"] == "k"
        assert (await w.ask("c", add(5), key="k"))["reply"] == 5


async def test_the_context_says_address_version_and_key() -> None:
    async with world(counter) as w:
        await w.ask("c", add(5))
        assert (await w.ask("c", {"type": "now"}, key="k"))["reply"] == "counter/c 1 k"


async def test_a_tells_reply_goes_to_its_subject_once() -> None:
    async with world(counter) as w:
        got: list[bytes] = []
        box = w.caller.asks.inbox(lambda message: got.append(message.data))
        await w.tell("c", add(5), key="k", reply_to=box.subject("x"))
        await w.until(lambda: len(got) == 1)
        assert msgspec.json.decode(got[0])["reply"] == 5


@pytest.mark.parametrize("reply", ["perdure.log.counter.victim", "$JS.API.x", "x"])
async def test_a_reply_subject_elsewhere_gets_nothing(reply: str) -> None:
    async with world(counter) as w:
        await w.tell("c", add(5), reply_to=reply)
        await w.quiet()
        subject = w.caller.subjects.ask("counter", "c")
        w.caller.asks.send(subject, msgspec.json.encode(add(7)), reply=reply)
        assert (await w.ask("c", {"type": "total"}))["reply"] == 5  # not executed: it had no name
        assert await w.commits("victim") == []


async def test_a_defect_is_retried_then_refused_or_buried_and_the_next_goes_on() -> None:
    async with world(counter, defect_retry=QUICK) as w:
        error = (await w.ask("c", {"type": "break", "how": "always"}))["error"]
        assert (error["type"], error["may_have_taken_effect"]) == ("RpcClientError", False)
        assert "always" in error["cause"]
        await w.tell("c", {"type": "break", "how": "evolve"}, key="bad")
        await w.tell("c", add(3))
        await w.quiet()
        (dead,) = w.broker.dead_letters()
        assert msgspec.json.decode(dead.data)["dead"]["reason"] == "defect"
        assert (await w.ask("c", {"type": "total"}))["reply"] == 3
        again = await w.ask("c", {"type": "break", "how": "evolve"}, key="bad")
        assert again["error"]["type"] == "RpcClientError"  # the recorded verdict


async def test_a_defect_is_logged_once_in_full_and_its_dead_letter_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(counter, defect_retry=QUICK) as w:
        await w.tell("a", {"type": "break", "how": "raise"}, key="k-1")
        await w.quiet()
    defects = [r for r in caplog.records if getattr(r, "action", "") == "handler.defect"]
    assert [r.exc_info is not None for r in defects] == [True, False, False]
    (dead,) = (r for r in caplog.records if getattr(r, "action", "") == "command.dead")
    assert "counter/a k-1: dead letter: defect: RpcClientError: defect: " in dead.getMessage()
    assert defects[-1].getMessage().endswith(dead.getMessage().rpartition("defect: ")[2])


async def test_shards_are_told_by_type_and_a_loss_once(caplog: pytest.LogCaptureFixture) -> None:
    def told(*actions: str) -> list[str]:
        return [r.getMessage() for r in caplog.records if getattr(r, "action", "") in actions]

    with caplog.at_level(logging.INFO, "perdure"):
        async with world(counter, runners=2, shards=4) as w:
            first, second = (runner.id for runner, _ in w.runners)
            await w.until(lambda: len(told("shards.taken")) == 3)
            holds = [f"runner {id} holds 2 of 4 shards of counter" for id in (first, second)]
            assert sorted(told("shards.taken", "shards.assigned")) == sorted(
                [
                    f"runner {first} holds 4 of 4 shards of counter",
                    f"runner {first} is to own 2 of 4 shards of counter now, before 4",
                    *holds,
                ]
            )
            assert told("shard.lost") == []
            caplog.clear()
            for info in await w.caller.commands.consumers(counter.name):
                if info.owner == first:
                    await w.caller.commands.delete(counter.name, info.name)
            await w.until(lambda: bool(told("shards.taken")))
            assert told("shards.taken") == holds[:1]
            (lost,) = told("shard.lost")
            assert lost.startswith("another runner took shard ")
            assert lost.endswith(f" of counter from runner {first}")


async def test_an_ask_that_may_not_be_answered_says_what_would_allow_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(counter) as w:
        subject = w.caller.subjects.ask("counter", "a")
        w.caller.asks.send(subject, b'{"type": "add", "n": 1}', reply="elsewhere.1")
        await w.until(lambda: "reply subject" in caplog.text)
        assert await w.commits("a") == []
    (record,) = (r for r in caplog.records if getattr(r, "action", "") == "reply.forbidden")
    assert record.getMessage() == (
        "an ask of counter/a was not executed: the reply subject 'elsewhere.1' isn't below "
        "_INBOX.…, _R_.…, perdure.reply.… (setting: reply_prefixes)"
    )


async def test_a_defect_that_passes_is_no_error() -> None:
    async with world(counter, defect_retry=QUICK) as w:
        assert (await w.ask("c", {"type": "break", "how": "sometimes"}))["reply"] is None


async def test_a_querys_defect_is_an_error_at_once() -> None:
    async with world(counter) as w:
        error = (await w.ask("c", {"type": "total", "raises": True}))["error"]
        assert (error["type"], error["may_have_taken_effect"]) == ("RpcClientError", False)
        assert error["advice"] == "fix"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b'{"type":"nope"}',
        b'{"type":"add"}',
        b'{"type":"add","n":"x"}',
        b'{"type":"add","n":1,"more":2}',
        b"[" * 5000,
        b'[1,"ask"]',
        b'[9,"ask",{"type":"add","n":1}]',
        b'[1,"tell",{"type":"add","n":1}]',
        b'[1,"result",null]',
        b'[1,"ask",{"type":"add","n":1},"a b"]',
        b'{"type":"add","n":1,"x":"' + b"y" * 600_000 + b'"}',
    ],
)
async def test_bad_asks_get_a_tagged_error_and_leave_nothing(body: bytes) -> None:
    async with world(counter) as w:
        error = (await w.ask("c", body))["error"]
        assert (error["type"], error["may_have_taken_effect"]) == ("MalformedMessage", False)
        assert await w.commits("c") == []


async def test_bad_tells_are_dead_letters_and_their_neighbours_go_on() -> None:
    async with world(counter) as w:
        for body in (b"\xff", b'{"type":"nope"}', b'{"type":"total"}', b"[" * 5000):
            await w.tell("c", body, key="k")
        await w.tell("c", add(4), key="k")
        await w.quiet()
        assert len(w.broker.dead_letters()) == 4
        assert (await w.ask("c", add(4), key="k"))["reply"] == 4


async def test_an_id_in_another_spelling_is_refused_on_both_ways() -> None:
    async with world(counter) as w:
        error = (await w.ask("=63", add(1)))["error"]
        assert error["type"] == "MalformedMessage"
        data = msgspec.json.encode(add(1))
        w.caller.asks.send("perdure.to.counter.=63", data)
        await w.until(lambda: len(w.broker.dead_letters()) == 1)
        await w.quiet()
        assert await w.commits("c") == []


async def test_everything_is_remembered_over_restart_eviction_and_lost_snapshots() -> None:
    async with world(counter, snapshot_min_commits=2, snapshot_max_commits=5) as w:
        replies = [(await w.ask("c", add(1), key=f"k{n}")) for n in range(20)]
        before = len(await w.commits("c"))
        w.runners[0][0].passivate_all()
        assert [await w.ask("c", add(1), key=f"k{n}") for n in range(20)] == replies
        await w.runners.pop()[0].drain()
        w.broker.drop_snapshots()
        await w.start()
        assert [await w.ask("c", add(1), key=f"k{n}") for n in range(20)] == replies
        assert len(await w.commits("c")) == before


@pytest.mark.parametrize("form", ["json", "msgpack"])
async def test_both_notations_of_a_commit_are_folded_and_repeated(form: str) -> None:
    async with world(counter, commit_format=form) as w:
        first = [await w.ask("c", add(n), key=f"k{n}") for n in range(5)]
        stored = await w.caller.log.last(Address("counter", "c"))
        assert stored is not None
        assert (stored.data[:1] == b"{") is (form == "json")
        w.runners[0][0].passivate_all()
        assert [await w.ask("c", add(n), key=f"k{n}") for n in range(5)] == first
        assert len(await w.commits("c")) == 5


async def test_the_101st_waiting_tell_is_refused_and_neighbours_are_served() -> None:
    async with world(counter, runners=0) as w:
        await w.start()
        await w.runners.pop()[0].drain()
        answers = [await w.tell("c", add(1)) for _ in range(101)]
        assert [type(a) for a in answers] == [Appended] * 100 + [Full]
        assert isinstance(await w.tell("d", add(1)), Appended)
        await w.start()
        await w.quiet()
        assert (await w.ask("c", {"type": "total"}))["reply"] == 100


async def test_asks_beyond_the_mailbox_are_refused_at_once() -> None:
    async with world(counter, mailbox_capacity=5, defect_retry=Retry(attempts=2, base=0.3)) as w:
        slow = asyncio.create_task(w.ask("c", {"type": "break", "how": "always"}))
        await asyncio.sleep(0)
        answers = await asyncio.gather(*(w.ask("c", add(1)) for _ in range(8)), slow)
        refused = [a for a in answers if a.get("error", {}).get("type") == "MailboxFull"]
        assert len(refused) == 4
        assert all(a["error"]["may_have_taken_effect"] for a in refused)
        assert (await w.ask("c", {"type": "total"}))["reply"] == 4


async def test_a_full_runner_takes_only_what_is_attached_to_something_that_waits() -> None:
    slow = Retry(attempts=2, base=0.3)
    async with world(counter, runner_capacity=1, defect_retry=slow) as w:
        broken = {"type": "break", "how": "always"}
        first = asyncio.create_task(w.ask("c", broken, key="k"))
        await w.until(lambda: w.runners[0][0].statistics().asks == 1)
        other = await w.ask("c", add(1), key="k")  # the same key, but another command
        again = await w.ask("c", broken, key="k")
        assert other["error"]["type"] == "MailboxFull"
        assert again["error"]["type"] == "AlreadyProcessingMessage"
        assert w.runners[0][0].statistics().asks == 1
        assert (await first)["error"]["type"] == "RpcClientError"


async def test_a_version_that_memory_lacks_is_asked_of_the_leader() -> None:
    async with world(counter) as w:
        await w.ask("c", add(1))
        written = (await w.commits("c"))[-1]
        stored = await w.caller.log.last(Address("counter", "c"))
        assert stored is not None
        assert stored.mark is not None
        another = msgspec.structs.replace(written, id="another", prev=stored.mark, version=2)
        named = msgspec.structs.replace(written.outcomes[0], name="another's")
        sealed = seal(msgspec.structs.replace(another, outcomes=(named,)))
        answer = await w.caller.log.append(
            Address("counter", "c"), sealed, expected=stored.sequence
        )
        assert isinstance(answer, Appended)
        assert (await w.ask("c", [1, "state", {"version": 2}]))["reply"]["n"] == 2


async def test_two_runners_share_and_who_stays_has_all() -> None:
    """And no tell is lost or doubled, whoever goes meanwhile."""
    async with world(counter, runners=2) as w:
        (first, _), (second, _) = w.runners
        await w.until(lambda: first.statistics().terms == second.statistics().terms == 1)
        assert first.statistics().shards == second.statistics().shards == 1
        ids = [f"c{n}" for n in range(20)]
        for id in ids:
            assert (await w.ask(id, add(1)))["reply"] == 1
        going, rounds = asyncio.create_task(second.drain()), 0
        while not going.done():
            rounds += 1
            assert {type(await w.tell(id, add(1))) for id in ids} == {Appended}
            await asyncio.sleep(0.01)
        await going
        await w.until(lambda: first.statistics().terms == 2)
        assert second.statistics().terms == second.statistics().shards == 0
        await w.quiet()
        for id in ids:
            assert (await w.ask(id, {"type": "total"}))["reply"] == 1 + rounds
            outcomes = [o.name for commit in await w.commits(id) for o in commit.outcomes]
            assert len(outcomes) == len(set(outcomes)) == 1 + rounds


async def test_status_state_and_result_by_control_message() -> None:
    async with world(counter) as w:
        for n in range(3):
            await w.ask("c", add(n + 1), key=f"k{n}")
        status = (await w.ask("c", [1, "status", None]))["reply"]
        assert (status["status"], status["version"]) == ("idle", 3)
        assert (await w.ask("c", [1, "state", None]))["reply"]["n"] == 6
        assert (await w.ask("c", [1, "state", {"version": 2}]))["reply"]["n"] == 3
        error = (await w.ask("c", [1, "state", {"version": 9}]))["error"]
        assert error["type"] == "MalformedMessage"
        assert (await w.ask("c", [1, "result", None, "k1"]))["reply"] == 3
        later = asyncio.create_task(w.ask("c", [1, "result", None, "later"]))
        await asyncio.sleep(0)
        await w.tell("c", add(10), key="later")
        assert (await later)["reply"] == 16


@pytest.mark.parametrize("how", ["silent", "cancelled", "\ud800"])
async def test_a_defect_of_any_kind_is_buried_and_its_neighbours_go_on(how: str) -> None:
    async with world(counter, defect_retry=QUICK) as w:
        body = b'{"type":"break","how":"%s"}' % (b"\\ud800" if how == "\ud800" else how.encode())
        await w.tell("c", body)
        await w.tell("c", add(1))
        await w.quiet()
        assert (await w.ask("c", {"type": "total"}))["reply"] == 1
        assert len(w.broker.dead_letters()) == 1
        assert w.runners[0][0].statistics().terms == 2


async def test_a_commit_that_is_larger_than_it_seemed_is_a_dead_letter() -> None:
    async with world(counter) as w:
        trace = "\u0001" * 250
        body = [
            1,
            "tell",
            {"type": "now"},
            "k" * 250,
            None,
            "r",
            None,
            None,
            None,
            None,
            False,
            trace,
        ]
        await w.tell("c", body)
        await w.tell("c", add(1))
        await w.quiet()
        assert (await w.ask("c", {"type": "total"}))["reply"] == 1


async def test_fresh_queries_do_not_starve_commands() -> None:
    async with world(counter) as w:
        asking = True

        async def ask_on() -> None:
            while asking:
                envelope = [1, "ask", {"type": "total"}, *[None] * 7, True]
                await w.ask("c", envelope)

        loops = [asyncio.create_task(ask_on()) for _ in range(8)]
        for n in range(10):
            assert (await w.ask("c", add(1)))["reply"] == n + 1
        asking = False
        await asyncio.gather(*loops)


async def test_of_two_that_start_together_one_owns() -> None:
    async with world(counter, runners=0) as w:
        await asyncio.gather(w.start(), w.start())
        runners = [runner for runner, _ in w.runners]
        await w.until(lambda: sum(r.statistics().shards for r in runners) == 2)
        await w.until(lambda: sum(r.statistics().terms for r in runners) == 2)
        assert (await w.ask("c", add(1)))["reply"] == 1


async def test_drain_does_not_wait_for_whoever_waits_for_a_result() -> None:
    async with world(counter, drain_timeout=60) as w:
        waiting = asyncio.create_task(w.ask("c", [1, "result", None, "never"]))
        await w.until(lambda: w.runners[0][0].busy)
        await asyncio.wait_for(w.runners.pop()[0].drain(), 5)
        assert (await waiting)["error"]["type"] == "EntityNotAssignedToRunner"


async def test_questions_for_results_that_never_come_keep_no_query_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "READS", 2)
    fresh = [1, "ask", {"type": "total"}, *[None] * 7, True]
    async with world(counter) as w:
        never = [asyncio.create_task(w.ask("c", [1, "result", None, f"k-{n}"])) for n in range(2)]
        await w.until(lambda: w.runners[0][0].busy)
        error = (await w.ask("c", [1, "result", None, "k-2"]))["error"]
        assert (error["type"], error["capacity"]) == ("MailboxFull", 2)
        assert (await w.ask("c", fresh))["reply"] == 0
        for n in range(2):
            assert (await w.ask("c", add(1), key=f"k-{n}"))["reply"] == n + 1
        assert [(await each)["reply"] for each in never] == [1, 2]


async def test_the_result_of_a_refused_tell_is_its_verdict_and_its_key_stays_free() -> None:
    async with world(counter, snapshot_min_commits=1, snapshot_max_commits=1) as w:
        early = asyncio.create_task(w.ask("c", [1, "result", None, "k"]))
        await asyncio.sleep(0)
        await w.tell("c", b'{"type":"nope"}', key="k")
        await w.quiet()
        for error in (
            (await early)["error"],
            (await w.ask("c", [1, "result", None, "k"]))["error"],
        ):
            assert (error["type"], error["address"]) == ("MalformedMessage", "counter/c")
            assert error["key"] == "k"
        assert (await w.ask("c", add(4), key="k"))["reply"] == 4
        assert (await w.ask("c", [1, "result", None, "k"]))["reply"] == 4


async def test_a_question_for_a_result_ends_at_its_deadline() -> None:
    async with world(counter) as w:
        began = asyncio.get_running_loop().time()
        deadline = SystemClock().now_ns() // 1_000_000 + 200
        body = [1, "result", None, "never", None, None, None, deadline]
        error = (await w.ask("c", body))["error"]
        assert error["type"] == "SendTimeout"
        assert 0.15 < asyncio.get_running_loop().time() - began < 3


async def test_entities_share_no_state() -> None:
    async with world(listing) as w:
        await w.ask("a", {"type": "keep", "what": "x"})
        assert (await w.ask("b", [1, "state", None]))["reply"]["kept"] == []
