"""What callers felt, computed from calls made by hand."""

from __future__ import annotations

from .linear import Call, Result, Way
from .report import Incident, commands, felt, lines, longest_gap_ms, within

MS = 1_000_000


def call(client: str, entity: str, since: int, end: int, result: Result = "ok") -> Call:
    error = "" if result == "ok" else "RunnerUnavailable"
    way: Way = "tell" if client == "T" else "ask"
    return Call(
        *(client, entity, way, since * MS, end * MS, result),
        since=since * MS,
        error=error,
    )


CALLS = [
    call("A", "mine", 100, 110),  # before
    call("A", "mine", 990, 1500, "unknown"),  # on its way when it happened, tried twice
    call("A", "mine", 990, 1890),
    call("T", "mine", 1100, 2100),
    call("B", "other", 1200, 1230),
    call("C", "mine", 3000, 9000),  # after
]
KILL = Incident("kill", "runner-1", 1000 * MS, 2500 * MS, frozenset({0}))


def shard(entity: str) -> int:
    return 0 if entity == "mine" else 1


def test_tries_are_one_command() -> None:
    made = {(c.entity, c.begin // MS): c for c in commands(CALLS)}
    assert len(made) == 5
    assert made["mine", 990].took_ms == 900
    assert made["mine", 990].errors == ("RunnerUnavailable",)


def test_the_worst_of_an_incident() -> None:
    found = felt(KILL, commands(CALLS), shard, 1000 * MS)
    assert (found.commands, found.shards) == (3, 1)
    assert found.worst_ask_ms == 900
    assert found.worst_command_ms == 1000
    assert found.worst_elsewhere_ms == 30
    assert found.worst_before_ms == 10
    assert found.errors == {"RunnerUnavailable": 1}
    assert found.errors_elsewhere == {}


def test_a_command_without_an_outcome_took_for_ever() -> None:
    found = felt(KILL, commands(CALLS[:2]), shard, 1000 * MS)
    assert within([found.worst_ask_ms], 1e9) == 0
    assert "never" in lines([found])


def test_nothing_measured_keeps_no_limit() -> None:
    assert within([None, 3.0, 10.0], 10.0) == 1


def test_the_longest_gap() -> None:
    moments = [5 * MS, 10 * MS, 70 * MS, 90 * MS, 400 * MS]
    assert longest_gap_ms(moments, 0, 100 * MS) == 60
    assert longest_gap_ms(moments, 0, 300 * MS) == 210
    assert longest_gap_ms([], 0, 50 * MS) == 50
