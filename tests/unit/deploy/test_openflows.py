"""Which timers follow from a log: pure."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from msgspec import Raw

from perdure.deploy.openflows import OpenFlows
from perdure.durable.timers import LISTED_MS
from perdure.entities.record import Answered, Armed, Asked, Began, Fired, Ran, Record, Waits
from perdure.streams.asks import NULL
from perdure.streams.commit import GENESIS, Commit, FlowPart, Outcome, seal
from perdure.streams.jetstream.direct import Record as Message

NOW_MS = 1_000
HASH = "00" * 16
ASKED = Asked("room", "hotel", "h", Raw(b'{"type":"take"}'))


def message(
    *records: Record, key: str = "k", parked: str | None = None, **more: object
) -> Message:
    """A commit with what happened in a flow."""
    given = {"name": key, "payload_hash": HASH, "flow": FlowPart(key, records, parked), **more}
    outcome = Outcome(**given)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    commit = Commit(
        v=1,
        id="i",
        prev=GENESIS,
        version=0,
        runner="r",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        outcomes=(outcome,),
    )
    sealed = seal(commit)
    return Message(1, 0, "perdure.log.trip.t-1", sealed.data, sealed.mark)


def timers(*messages: Message) -> list[tuple[str, int]]:
    """Names and times of the timers of a log."""
    flows = OpenFlows("trip")
    for one in messages:
        flows.take(one)
    found = list(flows.timers(NOW_MS))
    assert len({timer.name for timer in found}) == len(found)
    assert all(str(timer.address) == "trip/t-1" for timer in found)
    data = [msgspec.json.decode(timer.data) for timer in found]
    assert [one["due_ms"] for one in data] == [timer.due_ms for timer in found]
    return sorted((one["timer"], timer.due_ms) for one, timer in zip(data, found, strict=True))


def test_what_a_flow_waits_for_is_armed() -> None:
    began = message(Began(0), Armed("think", 5_000), Armed("deadline", 9_000), Waits(("timer",)))
    assert timers(began) == [("deadline", 9_000), ("think", 5_000)]
    fired = message(Fired("think"), Began(0), Waits(("timer",)))
    assert timers(began, fired) == [("deadline", 9_000)]


def test_a_question_is_asked_again_at_once() -> None:
    asked = message(Began(0), ASKED, Waits(("ask room",)))
    assert [due for _, due in timers(asked)] == [NOW_MS]
    answered = message(Answered("room", NULL), Began(0), Waits(("x",)))
    assert timers(asked, answered) == [("(open)", NOW_MS + LISTED_MS)]


def test_one_that_waits_for_no_time_can_be_found() -> None:
    assert timers(message(Began(0), Waits(("deferred",)))) == [("(open)", NOW_MS + LISTED_MS)]
    waits = message(Began(0), Armed("think", 5_000), Waits(("timer",)))
    parked = message(parked="its code fails")
    assert timers(waits, parked) == [("(open)", NOW_MS + LISTED_MS), ("think", 5_000)]


def test_one_that_runs_is_woken() -> None:
    assert timers(message(Began(0), Ran("first"))) == [("(open)", NOW_MS)]


def test_one_that_ended_has_none() -> None:
    began = message(Began(0), Armed("think", 5_000), Waits(("timer",)))
    assert timers(began, message(Fired("think"), reply=NULL)) == []
    other = message(Began(0), Armed("nap", 7_000), Waits(("timer",)), key="k-2")
    assert timers(began, other, message(reply=NULL)) == [("nap", 7_000)]


def test_what_is_no_commit_says_nothing() -> None:
    foreign = Message(1, 0, "perdure.log.trip.t-1", b"hello", None)
    damaged = Message(1, 0, "perdure.log.trip.t-1", b"{}", HASH)
    assert timers(foreign, damaged) == []
