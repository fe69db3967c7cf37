"""The checker of histories: right ones pass, each planted lie is found and told apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import permutations

import pytest
from msgspec.structs import replace

from .invented import Invention
from .linear import Call, Recorded, Result, Seen, Way, check, kinds, outcome

SEEDS = 300


def call(client: str, way: Way, begin: int, end: int, op: int = 0, **more: object) -> Call:
    key = f"k-{op}" if op else None
    made = Call(client, "a", way, begin, end, "ok", op, key)
    return replace(made, **more)


def log_of(*ops: int, told: Iterable[int] = ()) -> list[Recorded]:
    """The log of those ops in that order; `told` are tells, stored in the order of the log."""
    log, state = list[Recorded](), Seen()
    for place, op in enumerate(ops, 1):
        seen = outcome(state, op)
        state = state if seen.declined else seen
        log.append(Recorded(op, f"k-{op}", seen, (1, place, place) if op in told else None))
    return log


ONE, TWO, THREE = (r.seen for r in log_of(1, 2, 3))


def sound() -> tuple[list[Call], list[Recorded]]:
    """An ask, a tell, a read of both, a repetition, an unknown one, and a refusal."""
    calls = [
        call("A", "ask", 10, 20, 1, seen=ONE),
        call("B", "tell", 30, 40, 2),
        call("A", "result", 50, 60, 2, seen=TWO),
        call("A", "fresh", 70, 80, seen=TWO),
        call("C", "query", 72, 78, seen=ONE),  # not fresh: it may be old
        call("B", "ask", 90, 99, 1, seen=ONE),  # the same key again
        call("C", "ask", 100, 110, 3, result="unknown"),
        call("D", "fresh", 105, 115, seen=TWO),  # the unknown one came later
        call("A", "ask", 120, 130, 5, result="none", error="MailboxFull"),
    ]
    return calls, log_of(1, 2, 3, told=(2,))


def found(calls: list[Call], log: list[Recorded]) -> set[str]:
    return kinds(check(calls, {"a": log}))


def test_what_is_sound_passes() -> None:
    calls, log = sound()
    assert check(calls, {"a": log}) == []
    assert check(calls, {"a": log[:2]}) == [], "the unknown one needn't be there"
    assert check([], {}) == []


Lie = Callable[[list[Call], list[Recorded]], object]


def planted(number: int, **change: object) -> Lie:
    """One call is another one."""

    def plant(calls: list[Call], _log: list[Recorded]) -> None:
        calls[number] = replace(calls[number], **change)

    return plant


def more(*added: Call) -> Lie:
    return lambda calls, _log: calls.extend(added)


def logged(*ops: int, told: Iterable[int] = (2,)) -> Lie:
    """The log is another one."""

    def plant(calls: list[Call], log: list[Recorded]) -> None:
        log[:] = log_of(*ops, told=told)
        seen = {r.op: r.seen for r in log}
        for n, c in enumerate(calls):  # answers as this log has them: only the times betray it
            if c.way in ("ask", "result") and c.seen is not None and c.op in seen:
                calls[n] = replace(c, seen=seen[c.op])

    return plant


def lose_a_tell(calls: list[Call], log: list[Recorded]) -> None:
    calls[:] = [calls[0], calls[1], calls[6]]
    log[:] = log_of(1, 3)


def double(_calls: list[Call], log: list[Recorded]) -> None:
    log.append(Recorded(1, "k-1", outcome(THREE, 1)))


def misplace(_calls: list[Call], log: list[Recorded]) -> None:
    log[2] = replace(log[2], place=(1, 1, 1))
    log[1] = replace(log[1], place=(1, 9, 9))


def rename(_calls: list[Call], log: list[Recorded]) -> None:
    log[1] = replace(log[1], name="k-9")


def misreckon(_calls: list[Call], log: list[Recorded]) -> None:
    log[2] = replace(log[2], seen=Seen(3, 7))


def tells(calls: list[Call], log: list[Recorded]) -> None:
    """Two tells of two clients, one acknowledged before the other was sent."""
    calls[:] = [call("A", "tell", 10, 20, 1), call("B", "tell", 30, 40, 2)]
    log[:] = log_of(2, 1)
    log[0], log[1] = (replace(r, place=(1, n, n)) for n, r in enumerate(log, 1))


def one_client(calls: list[Call], log: list[Recorded]) -> None:
    """A tell, then an ask of the same client, which overtook it."""
    log[:] = log_of(2, 1, told=(1,))
    calls[:] = [call("A", "tell", 10, 20, 1), call("A", "ask", 30, 40, 2, seen=log[0].seen)]


def old_for_its_client(calls: list[Call], _log: list[Recorded]) -> None:
    calls.append(call("A", "query", 140, 150, seen=ONE))


def another_entity(calls: list[Call], _log: list[Recorded]) -> None:
    calls[6] = replace(calls[6], entity="b")


LIES: dict[str, tuple[Lie, str]] = {
    "a lost write": (logged(2, 3), "lost"),
    "a lost tell": (lose_a_tell, "lost"),
    "a doubled write": (double, "doubled"),
    "an ask that comes before one that was over": (logged(3, 1, 2), "order"),
    "an ask that shows itself too early": (planted(0, begin=62, end=65), "order"),
    "a result that was told before the op began": (planted(2, begin=22, end=25), "order"),
    "a stale fresh read": (planted(3, seen=ONE), "stale read"),
    "a fresh read of nothing": (planted(3, seen=Seen()), "stale read"),
    "a fresh read from the future": (planted(3, seen=THREE), "read from the future"),
    "a read from the future": (planted(4, seen=THREE), "read from the future"),
    "reads that go back": (
        more(
            call("D", "fresh", 116, 117, seen=THREE),
            call("C", "fresh", 118, 119, seen=TWO),
        ),
        "reads go back",
    ),
    "a read behind its client": (old_for_its_client, "behind its client"),
    "a state that never was": (planted(3, seen=Seen(2, 7)), "never was"),
    "another cached state that never was": (planted(4, seen=Seen(1, 7)), "never was"),
    "a list that is longer than the log": (planted(4, seen=Seen(9, 9)), "never was"),
    "another reply to a repetition": (planted(5, seen=TWO), "another reply"),
    "another reply than the log has": (planted(2, seen=THREE), "another reply"),
    "an effect of what had none": (planted(6, result="none"), "took effect"),
    "an op that nobody sent": (logged(1, 2, 3, 4), "out of nowhere"),
    "an op that went to another entity": (another_entity, "out of nowhere"),
    "another key": (rename, "another key"),
    "a wrong reckoning": (misreckon, "wrong outcome"),
    "tells out of the stream's order": (misplace, "tell order"),
    "a tell before one acknowledged earlier": (tells, "tell order"),
    "an ask that overtakes its client's tell": (one_client, "client order"),
}


@pytest.mark.parametrize(("lie", "kind"), LIES.values(), ids=LIES.keys())
def test_a_planted_violation_is_found(lie: Lie, kind: str) -> None:
    calls, log = sound()
    lie(calls, log)
    assert kind in found(calls, log), found(calls, log)


@pytest.mark.parametrize(
    "lie", ["a stale fresh read", "reads that go back", "a lost tell", "another key"]
)
def test_nothing_else_is_found(lie: str) -> None:
    calls, log = sound()
    plant, kind = LIES[lie]
    plant(calls, log)
    assert found(calls, log) == {kind}


def test_a_refused_op_may_be_read_around() -> None:
    """It leaves the list alone, so a read before and one after it are the same."""
    state = outcome(Seen(), 1)
    op = next(op for op in range(2, 9) if outcome(state, op).declined)
    log = log_of(1, op)
    calls = [
        call("A", "ask", 10, 20, 1, seen=ONE),
        call("B", "fresh", 30, 31, seen=ONE),
        call("A", "ask", 32, 40, op, seen=log[1].seen),
        call("B", "fresh", 41, 42, seen=ONE),
    ]
    assert found(calls, log) == set()


def test_invented_histories_pass() -> None:
    for seed in range(SEEDS):
        made = Invention(seed)
        assert check(made.calls, made.logs) == [], f"seed {seed}"


def test_invented_histories_have_everything() -> None:
    made = [Invention(seed) for seed in range(20)]
    calls = [c for m in made for c in m.calls]
    results: set[Result] = {c.result for c in calls}
    assert results == {"ok", "unknown"}
    assert {c.way for c in calls} == {"ask", "tell", "result", "query", "fresh"}
    logged = {r.op for r in made[0].logs["e-0"]} | {r.op for r in made[0].logs["e-1"]}
    unknown = {c.op for c in made[0].calls if c.result == "unknown"}
    assert unknown & logged, "none of unknown outcome came"
    assert unknown - logged, "all of unknown outcome came"


@pytest.mark.parametrize("seed", range(5))
def test_a_lie_in_a_long_history_is_found(seed: int) -> None:
    """An op comes later than it did, and all answers follow: only real time betrays it."""
    made, rng = Invention(seed, calls=2000), random.Random(seed)
    entity = "e-0"
    log = made.logs[entity]
    heard = {c.op for c in made.calls if c.entity == entity and c.way == "ask" and c.seen}
    moved = rng.choice([n for n, r in enumerate(log[:-50]) if r.op in heard and r.place is None])
    ops = [r.op for r in log]
    ops.insert(moved + 40, ops.pop(moved))  # as if it had come much later
    forged = {r.op: r for r in log_of(*ops)}
    made.logs[entity] = [
        replace(forged[op], name=next(r.name for r in log if r.op == op)) for op in ops
    ]
    calls = [
        replace(c, seen=forged[c.op].seen) if c.op and c.seen and c.entity == entity else c
        for c in made.calls
    ]
    assert "order" in kinds(check(calls, made.logs))


def test_small_histories_are_judged_as_by_trying_every_order() -> None:
    """Of random times: linearizable if and only if some order of all fits."""
    rng, verdicts = random.Random(1), {True: 0, False: 0}
    for _ in range(3000):
        log = log_of(*rng.sample(range(1, 9), rng.randint(1, 4)))
        spans = [_span(rng) for _ in log]
        calls = [call(f"A{n}", "ask", *spans[n], r.op, seen=r.seen) for n, r in enumerate(log)]
        longest = max(r.seen.n for r in log)
        states = {0: Seen()} | {r.seen.n: r.seen for r in log if not r.seen.declined}
        for n in range(rng.randint(0, 3)):
            length = rng.choice([k for k in range(longest + 1) if k in states])
            seen = replace(states[length], declined=False)
            calls.append(call(f"R{n}", "fresh", *_span(rng), seen=seen))
        possible = _possible(calls, [r.op for r in log])
        assert (check(calls, {"a": log}) == []) is possible, (calls, log)
        verdicts[possible] += 1
    assert min(verdicts.values()) > 500, verdicts


def _span(rng: random.Random) -> tuple[int, int]:
    begin = rng.randrange(12)
    return begin, begin + rng.randrange(1, 12)


def _possible(calls: list[Call], logged: list[int]) -> bool:
    """Whether an order of all calls has the log's order, respects real time, and reads right."""
    return any(_fits(order, logged) for order in permutations(calls))


def _fits(order: tuple[Call, ...], logged: list[int]) -> bool:
    if [c.op for c in order if c.op] != logged:
        return False
    if any(b.end < a.begin for n, a in enumerate(order) for b in order[n + 1 :]):
        return False
    state = Seen()
    for c in order:
        assert c.seen is not None
        if c.op:
            state = state if c.seen.declined else c.seen
        elif (c.seen.n, c.seen.digest) != (state.n, state.digest):
            return False
    return True
