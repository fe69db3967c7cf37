"""The plan: verdicts by ledger and watermark, and where a commit must end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from perdure import Command, Decision, Entity, Event, Failure, State
from perdure.durable.folded import Folded, milliseconds
from perdure.durable.item import Item
from perdure.durable.ledger import Ledger, LedgerLimits, Seen
from perdure.durable.openflow import OpenFlow
from perdure.durable.plan import Limits, Plan, Standing, make_plan, standing
from perdure.durable.waker import Cancel
from perdure.entities.address import Address
from perdure.entities.record import Began, Record, Waits
from perdure.streams.codec import payload_hash
from perdure.streams.commands import cause_of
from perdure.streams.commit import At

from .case import Case, World, case_of

A1 = Address("counter", "c-1")
LIMITS = Limits(outcomes=4, bytes=100_000, max_bytes=200_000)


class Counter(State):
    n: int = 0


class TooMuch(Failure):
    n: int


class Add(Command[Counter, int, TooMuch]):
    n: int


class Odd(Command[Counter, int]):
    how: str


class Added(Event):
    n: int
    why: str = ""


class Stray(Event):
    pass


def decide(state: Counter, command: Add | Odd) -> Decision[Added]:
    match command:
        case Add(n) if n > 100:
            return command.reject(TooMuch(n))
        case Add(n):
            return command.accept(state.n + n, Added(n))
        case Odd("raises"):
            raise ZeroDivisionError("decide")
        case Odd("evolve raises"):
            return command.accept(1, Added(-1))
        case Odd("wrong reply"):
            return command.accept("text")  # type: ignore[arg-type]  # pyright: ignore
        case Odd("stray event"):
            return command.accept(1, Stray())  # type: ignore[arg-type]  # pyright: ignore
        case Odd("bad event"):
            return command.accept(1, Added("x"))  # type: ignore[arg-type]  # pyright: ignore
        case Odd("no decision"):
            return 5  # type: ignore[return-value]  # pyright: ignore
        case Odd("large"):
            return command.accept(1, Added(1, "x" * 300_000))
        case Odd():
            return command.accept(0, Added(1, "x" * 60_000))


def evolve(state: Counter, event: Added) -> Counter:
    if event.n < 0:
        raise ValueError("evolve")
    return state.replace(n=state.n + event.n)


counter = Entity(Counter(), decide, evolve)


def folded(**changes: Any) -> Folded:
    ledger = Ledger(LedgerLimits(10_000, 100, 1000, 100))
    if "time" in changes:
        ledger.prune(log_time_ms=milliseconds(changes["time"]), watermark_ms=0)
    return Folded(Counter(), ledger, **changes)


def item(command: Any, name: str = "k", **changes: Any) -> Item:
    raw = Raw(msgspec.json.encode(command))
    return Item("ask", name, payload_hash(command), raw, command, key=name, **changes)


def tell(command: Any, sequence: int, key: str | None = None, **changes: Any) -> Item:
    at = At(1, sequence, sequence * 1_000_000)
    hash = payload_hash(command)
    cause = cause_of(at, hash)
    raw = Raw(msgspec.json.encode(command))
    return Item("tell", key or cause, hash, raw, command, key=key, cause=cause, at=at, **changes)


def plan(*items: Item, on: Folded | None = None, limits: Limits = LIMITS) -> Plan:
    now = 10**18
    return make_plan(counter, A1, on or folded(), list(items), limits=limits, now_ns=now)


def test_commands_are_decided_one_after_another_each_on_the_state_before() -> None:
    got = plan(item(Add(1), "a"), item(Add(500), "b"), item(Add(2), "c"))
    assert [bytes(o.reply) if isinstance(o.reply, Raw) else None for o in got.outcomes] == [
        b"1",
        None,
        b"3",
    ]
    assert bytes(got.outcomes[1].failure) == b'{"type":"too_much","n":500}'  # type: ignore[arg-type]
    assert (got.state, got.events) == (Counter(3), 2)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (item(Add(1), "known"), Standing.RECORDED),
        (item(Add(2), "known"), Standing.REUSED),
        (item(Add(1), "new"), Standing.NEW),
        (tell(Add(1), 20), Standing.NEW),
        (tell(Add(1), 20, key="known"), Standing.RECORDED),
        (tell(Add(1), 10), Standing.PROCESSED),
        (tell(Add(1), 9), Standing.PROCESSED),
        (tell(Add(1), 9, key="unknown"), Standing.PROCESSED),
        (item(Add(1), "made", birth=1000), Standing.TOO_OLD),
        (item(Add(1), "made", birth=99_500), Standing.NEW),
    ],
)
def test_standing(one: Item, expected: Standing) -> None:
    on = folded(watermark=At(1, 10, 10_000_000), time=datetime.fromtimestamp(100, UTC))
    on.ledger.add("known", Seen(3, bytes.fromhex(payload_hash(Add(1))), -1, 5), "")
    assert standing(on, one)[0] is expected


def test_a_lower_sequence_with_a_newer_time_means_a_rewound_stream_and_is_executed() -> None:
    on = folded(watermark=At(1, 10, 10_000_000))
    late = tell(Add(1), 9)
    late.at = At(1, 9, 99_000_000)
    got = plan(late, on=on)
    assert got.rewound == [late] == got.taken


@pytest.mark.parametrize(("birth", "expected"), [(1000, "TOO_OLD"), (99_500, "REWOUND")])
def test_a_made_key_in_a_rewound_stream_may_be_forgotten_as_well(
    birth: int, expected: str
) -> None:
    on = folded(watermark=At(1, 10, 10_000_000), time=datetime.fromtimestamp(100, UTC))
    late = tell(Add(1), 9, key="made", birth=birth)
    late.at = At(1, 9, 99_000_000_000)
    assert standing(on, late)[0] is Standing[expected]
    assert bool(plan(late, on=on).outcomes[0].dead) == (expected == "TOO_OLD")


def test_a_tell_recorded_by_its_cause_is_found_though_its_key_is_anothers() -> None:
    on = folded()
    one = tell(Add(1), 5, key="k")
    on.ledger.add("k", Seen(2, bytes(16), -1, 5), "")
    assert standing(on, one)[0] is Standing.REUSED
    on.ledger.add(one.cause or "", Seen(4, bytes(16), -1, 5), "")
    found = standing(on, one)
    assert found[0] is Standing.RECORDED
    assert found[1] is not None
    assert found[1].sequence == 4


def test_a_repeat_of_something_undecided_waits() -> None:
    got = plan(item(Add(1), "a"), item(Add(1), "a"), item(Add(1), "b"))
    assert [i.name for i in got.taken] == ["a"]


def test_what_is_recorded_is_answered_first_and_ends_a_commit_otherwise() -> None:
    on = folded()
    on.ledger.add("old", Seen(3, bytes.fromhex(payload_hash(Add(1))), -1, 5), "")
    got = plan(item(Add(1), "old"), item(Add(1), "a"), item(Add(1), "old"), on=on)
    assert [i.name for i, _ in got.recorded] == ["old"]
    assert [i.name for i in got.taken] == ["a"]


def test_a_defect_stops_before_itself_and_is_alone_then() -> None:
    first = plan(item(Add(1), "a"), item(Odd("raises"), "b"), item(Add(1), "c"))
    assert [i.name for i in first.taken] == ["a"]
    assert first.defect is None
    alone = plan(item(Odd("raises"), "b"), item(Add(1), "c"))
    assert not alone.taken
    assert alone.defect is not None
    assert isinstance(alone.defect[1], ZeroDivisionError)


def test_evolve_that_raises_is_a_defect_and_nothing_is_taken() -> None:
    got = plan(item(Odd("evolve raises")))
    assert not got.outcomes
    assert got.defect is not None
    assert isinstance(got.defect[1], ValueError)


@pytest.mark.parametrize(
    "how", ["wrong reply", "stray event", "bad event", "no decision", "large"]
)
def test_what_cant_be_stored_is_refused_by_ask_and_dead_by_tell(how: str) -> None:
    asked = plan(item(Odd(how)))
    assert [e.tag for _, e in asked.refused] == ["SerializationError"]
    assert not asked.refused[0][1].may_have_taken_effect
    told = plan(tell(Odd(how), 5, key="k"))
    (outcome,) = told.outcomes
    assert outcome.dead is not None
    assert outcome.dead.reason == ("too_large" if how == "large" else "unencodable")
    assert outcome.name == "k"
    assert told.state == Counter()


def test_a_commit_ends_before_the_limit_of_bytes_or_of_outcomes() -> None:
    big = [item(Odd("big"), f"k{n}") for n in range(3)]
    assert len(plan(*big).taken) == 1
    assert len(plan(*(item(Add(1), f"k{n}") for n in range(9))).taken) == LIMITS.outcomes


def test_a_suspect_runs_alone() -> None:
    suspect = tell(Add(1), 2, suspect=True)
    first = plan(tell(Add(1), 1), suspect, tell(Add(1), 3))
    assert len(first.taken) == 1
    assert first.suspect is None
    alone = plan(suspect, tell(Add(1), 3))
    assert alone.suspect is suspect
    assert not alone.taken


def test_a_tell_that_cant_be_decoded_is_a_dead_letter_named_by_its_cause() -> None:
    bad = tell(Add(1), 5, key="k")
    bad.command, bad.raw, bad.problem = None, Raw(b"\xff"), "not JSON"
    got = plan(bad, tell(Add(2), 6))
    assert len(got.outcomes) == 2
    dead = got.outcomes[0].dead
    assert dead is not None
    assert (dead.reason, dead.key, dead.raw) == ("malformed", "k", b"\xff")
    assert got.outcomes[0].name == bad.cause
    assert got.state == Counter(2)


def test_a_deadline_that_passed_is_not_executed() -> None:
    asked = plan(item(Add(1), deadline=1))
    assert [e.tag for _, e in asked.refused] == ["SendTimeout"]
    told = plan(tell(Add(1), 5, deadline=1))
    assert told.outcomes[0].dead is not None
    assert told.outcomes[0].dead.reason == "expired"


def test_a_refusal_ends_a_commit_and_a_dead_letter_does_not() -> None:
    on = folded()
    on.ledger.add("used", Seen(3, bytes(16), -1, 5), "")
    got = plan(item(Add(1), "a"), item(Add(1), "used"), on=on)
    assert [i.name for i in got.taken] == ["a"]
    assert not got.refused
    told = plan(tell(Add(1), 5, key="used"), tell(Add(1), 6), on=on)
    assert [o.dead.reason if o.dead else None for o in told.outcomes] == ["malformed", None]


def test_a_plan_ends_before_a_body_that_is_not_in_memory() -> None:
    on = folded()
    on.ledger.add("old", Seen(3, bytes.fromhex(payload_hash(Add(1))), -1, 5), "")
    got = plan(tell(Add(1), 1, key="old"), tell(Add(1), 2, evicted=True), item(Add(1)), on=on)
    assert len(got.recorded) == 1
    assert not got.taken


def test_a_suspect_waker_of_an_exclusive_flow_is_marked_before_it_is_tried() -> None:
    case = case_of(World())
    records: list[Record] = [Began(0), Waits(("deferred answer",), exclusive=True)]
    flow = OpenFlow("k", "", Raw(b"{}"), None, 0, records)
    held = Folded(Case(), Ledger(LedgerLimits(10_000, 100, 1000, 100)), flows={"k": flow})
    waker = tell(Cancel("k"), 1, "c", moves=True)

    def planned() -> Plan:
        return make_plan(case, A1, held, [waker], limits=LIMITS, now_ns=10**18)

    assert (planned().flow, planned().suspect) == (waker, None)
    waker.suspect = True
    assert (planned().flow, planned().suspect) == (None, waker)
