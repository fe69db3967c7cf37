"""The checker, on evidence made by hand: what is right passes, and each lie is told apart."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from .checker import Limits, kinds, violations
from .evidence import Accepted, Call, Evidence, Logged
from .model import read_log

LIMITS = Limits(
    defect_attempts=4, poison_marks=4, made_window_s=30.0, made_keys=20, ask_timeout_s=3.0
)


def outcome(name: str, uid: int, n: int, total: int, mix: int, **more: Any) -> dict[str, Any]:
    """An add of 5 that was accepted."""
    return {
        "name": name,
        "command": {"type": "add", "uid": uid, "amount": 5},
        "events": [{"type": "put", "uid": uid, "amount": 5}],
        "reply": {"type": "receipt", "uid": uid, "n": n, "total": total, "mix": mix},
        **more,
    }


def log_of(*commits: list[dict[str, Any]]) -> list[Logged]:
    """A log with a sound chain."""
    messages: list[Logged] = []
    previous, version = "", 0
    for sequence, outcomes in enumerate(commits, 1):
        version += sum(len(o.get("events", ())) for o in outcomes)
        commit = {"prev": previous, "version": version, "time": f"2026-09-21T14:13:{sequence:02}Z"}
        data = json.dumps({**commit, "outcomes": outcomes}).encode()
        previous = blake2b(data, digest_size=16).hexdigest()
        messages.append(Logged(sequence, sequence * 10, data, previous))
    return messages


FIRST = outcome("k1", 1, 1, 5, 12, at=[1, 1, 5])
SECOND = outcome("k2", 3, 2, 10, 398)


def sound() -> Evidence:
    """Two commands, one told and one asked, and everything as promised."""
    return Evidence(
        calls=[
            Call("C1", "tell", "a", 1, "add", "k1", begin=1, end=2, told="k1"),
            Call("C1", "ask", "a", 3, "add", "k2", begin=3, end=4, reply=SECOND["reply"]),
        ],
        logs={"a": log_of([FIRST], [SECOND])},
        accepted=[Accepted("a", 1, 5, 1, "k1")],
    )


def test_what_is_right_passes() -> None:
    assert violations(sound(), LIMITS) == []
    assert read_log("a", sound().logs["a"]).account.numbers() == (2, 10, 398)


def _another_state(e: Evidence) -> None:
    e.logs["a"] = log_of([FIRST], [outcome("k2", 3, 2, 99, 398)])


def _twice(e: Evidence) -> None:
    e.logs["a"] = log_of([FIRST], [SECOND], [outcome("k3", 3, 3, 15, 12364)])


def _same_name(e: Evidence) -> None:
    e.logs["a"] = log_of([FIRST], [SECOND], [outcome("k1", 9, 3, 15, 12406)])


def _forked(e: Evidence) -> None:
    e.logs["a"] = [log_of([FIRST])[0], *log_of([SECOND])]


def _flipped(e: Evidence) -> None:
    first, second = e.logs["a"]
    changed = second.data.replace(b'"mix": 398', b'"mix": 399')
    e.logs["a"] = [first, Logged(2, 20, changed, second.mark)]


def _lost(e: Evidence) -> None:
    e.accepted.append(Accepted("a", 2, 6, 7, None))


def _unacked(e: Evidence) -> None:
    e.waiting["a"] = [1]


def _never_written(e: Evidence) -> None:
    e.calls.append(Call("C2", "ask", "a", 8, "add", None, 5, 6, reply={"n": 1}))


def _other_reply(e: Evidence) -> None:
    e.calls[1].reply = {**SECOND["reply"], "n": 3}


def _dishonest(e: Evidence) -> None:
    e.calls[1].reply, e.calls[1].error, e.calls[1].may = None, "MailboxFull", False


def _untagged(e: Evidence) -> None:
    e.calls.append(Call("C1", "query", "a", 0, "look", None, 5, 6, untagged="KeyError('x')"))


def _out_of_order(e: Evidence) -> None:
    second = outcome("k2", 3, 2, 10, 398, at=[1, 3, 4])
    e.logs["a"] = log_of([FIRST], [second])


def _overtaken(e: Evidence) -> None:
    e.calls[0].begin, e.calls[0].end, e.calls[1].begin, e.calls[1].end = 3, 4, 1, 2


def _unjust(e: Evidence) -> None:
    buried = {"name": "@1", "command": {"type": "add", "uid": 9}, "at": [1, 9, 9]}
    e.logs["a"] = log_of([FIRST], [SECOND], [{**buried, "dead": {"reason": "poison"}}])
    e.dead_copies = [("a", b'{"name":"@1"}')]


def _without_copy(e: Evidence) -> None:
    _unjust(e)
    e.dead_copies = []


def _stale(e: Evidence) -> None:
    old = {**FIRST["reply"], "uid": 4}
    e.calls.append(Call("C1", "query", "a", 4, "look", None, 5, 6, reply=old))


def _never_was(e: Evidence) -> None:
    shown = {"n": 2, "total": 11, "mix": 398}
    e.calls.append(Call("C1", "query", "a", 4, "look", None, 5, 6, reply=shown))


def _wrong_past(e: Evidence) -> None:
    shown = {"n": 1, "total": 10, "mix": 12}
    e.calls.append(Call("C1", "state", "a", 0, "look", None, 5, 6, version=1, reply=shown))


def _missed(e: Evidence) -> None:
    e.watched["a"] = [(2, 3)]


def _silent(e: Evidence) -> None:
    e.calls.append(Call("C1", "ask", "a", 8, "add", None, 5, 6, error="SendTimeout", calm=True))


def _endless(e: Evidence) -> None:
    e.calls[0].lasted_s = 3.2


def _unjust_refusal(e: Evidence) -> None:
    e.calls.append(Call("C1", "ask", "a", 8, "add", "k8", 5, 6, error="MalformedMessage"))


def _misplaced(e: Evidence) -> None:
    e.told = [b'{"reply":{"uid":3},"seq":1,"version":2}']


def _torn(e: Evidence) -> Evidence:
    """The same, after the log lost its second commit."""
    lost = e.logs["a"].pop()
    e.torn["a"] = [lost]
    return e


def test_what_was_lost_with_a_logs_tail_binds_nobody() -> None:
    assert violations(_torn(sound()), LIMITS) == []
    refused = sound()
    _dishonest(refused)
    refused.torn["a"] = log_of([SECOND])  # refused on what was lost, then delivered again
    assert violations(refused, LIMITS) == []
    refused.torn["a"] = log_of([outcome("k2", 9, 1, 5, 0)])  # since another one had its key
    assert violations(refused, LIMITS) == []
    refused.torn = {}
    assert kinds(violations(refused, LIMITS)) == ["dishonest error"]
    evidence = sound()
    del evidence.logs["a"][1]
    assert kinds(violations(evidence, LIMITS)) == ["answered, not in the log"]


def test_a_copy_takes_effect_where_its_first_outcome_was_lost() -> None:
    again = outcome("k1", 1, 2, 10, 0, at=[1, 2, 4])
    first = outcome("k2", 3, 1, 5, 12, at=[1, 3, 6])
    evidence = Evidence(logs={"a": log_of([first], [again])}, torn={"a": log_of([FIRST])})
    assert "tells out of order" not in kinds(violations(evidence, LIMITS))
    evidence.torn = {}
    assert "tells out of order" in kinds(violations(evidence, LIMITS))


def test_a_verdict_that_was_forgotten_before_its_copy_was_stored_has_none() -> None:
    buried = {"name": "m-1", "command": {"type": "sour", "uid": 9}, "at": [1, 1, 5]}
    sour = {**buried, "birth": 1, "dead": {"reason": "defect"}}
    evidence = Evidence(logs={"a": log_of([sour])}, processed={("a", "m-1")})
    assert violations(evidence, LIMITS) == []
    evidence.processed = {("b", "m-1"), ("a", "m-2")}
    assert kinds(violations(evidence, LIMITS)) == ["no copy of a dead letter"]
    del sour["birth"]
    evidence = Evidence(logs={"a": log_of([sour])}, processed={("a", "m-1")})
    assert kinds(violations(evidence, LIMITS)) == ["no copy of a dead letter"]


def _nowhere(e: Evidence) -> None:
    e.calls.append(Call("C1", "query", "a", 4, "look", None, 5, 6))
    e.told = [b'{"reply":{"uid":4},"seq":3,"version":2}']


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (_another_state, "decided on another state"),
        (_twice, "executed twice"),
        (_same_name, "name not unique"),
        (_forked, "chain broken"),
        (_flipped, "hash differs"),
        (_lost, "accepted, lost"),
        (_unacked, "never acknowledged"),
        (_never_written, "answered, not in the log"),
        (_other_reply, "another reply than recorded"),
        (_dishonest, "dishonest error"),
        (_untagged, "untagged error"),
        (_out_of_order, "tells out of order"),
        (_overtaken, "client order"),
        (_unjust, "unjust dead letter"),
        (_without_copy, "no copy of a dead letter"),
        (_stale, "stale query"),
        (_never_was, "a state that never was"),
        (_wrong_past, "wrong state of the past"),
        (_missed, "watched another log"),
        (_silent, "no answer when healthy"),
        (_unjust_refusal, "unjust refusal"),
        (_endless, "outlived its time"),
        (_misplaced, "another place than recorded"),
        (_nowhere, "a place that isn't there"),
    ],
)
def test_each_lie_is_told_apart(lie: Callable[[Evidence], None], kind: str) -> None:
    evidence = sound()
    lie(evidence)
    assert kind in kinds(violations(evidence, LIMITS))


def test_a_made_key_is_too_old_once_newer_ones_took_its_room() -> None:
    """By time it isn't: only what was forgotten can make the refusal just."""
    named = [f"m-{n}" for n in range(21)]
    made = [
        [outcome(key, n, n + 1, 5 * (n + 1), 0, birth=1000 + n)] for n, key in enumerate(named)
    ]
    dead: dict[str, Any] = {"reason": "too_old", "error": {}}
    late: dict[str, Any] = {
        "name": "m-late",
        "command": {"type": "add", "uid": 99},
        "dead": dead,
        "at": [1, 1, 5],
    }

    def unjust(birth: int) -> bool:
        evidence = Evidence(logs={"a": log_of(*made, [late])}, births={99: birth})
        return "unjust dead letter" in kinds(violations(evidence, LIMITS))

    assert not unjust(1000)
    assert unjust(1001)


def test_a_made_key_that_may_be_forgotten_must_not_be_executed() -> None:
    """By the log on which it was decided: its only commit is of 14:13:01, the window is 30 s."""
    born_ms = int(datetime(2026, 9, 21, 14, 12, 31, tzinfo=UTC).timestamp()) * 1000

    def too_late(birth: int) -> bool:
        late = outcome("m-late", 99, 2, 10, 398, birth=birth)
        evidence = Evidence(logs={"a": log_of([FIRST], [late])})
        return "executed too late" in kinds(violations(evidence, LIMITS))

    assert too_late(born_ms - 1)
    assert not too_late(born_ms)  # however late it was stored


def test_what_fails_inside_and_what_grows_is_told() -> None:
    evidence = Evidence(uncaught=["x"], unbounded=["y"], unanswered=["z"], killed={1: 99})
    assert len(violations(evidence, LIMITS)) == 4


def test_the_checker_imports_nothing_of_what_it_checks() -> None:
    """import-linter holds the same; this fails in a plain pytest, too."""
    for name in ("checker", "evidence", "model", "notation"):
        tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert {a.name.split(".")[0] for a in node.names} <= sys.stdlib_module_names
            if isinstance(node, ast.ImportFrom):
                own = node.level == 1 and node.module in ("evidence", "model", "notation")
                assert own or (node.module or "").split(".")[0] in sys.stdlib_module_names
