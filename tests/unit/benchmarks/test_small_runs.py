"""The benchmarks of ids, of the ledger and of recovery: one small run of each, in seconds.

They print JSON and have no targets: what is held is that they run, count right and leave nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks import flows

from .runs import finished, left_behind


def figures_of(module: str, *arguments: str | Path) -> dict[str, Any]:
    """What a run of it prints."""
    done = finished(f"benchmarks.{module}", *arguments)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_ids(tmp_path: Path) -> None:
    small = ("--ids", "300", "--runners", "4", "--publishers", "2", "--base-s", "0.2")
    found = figures_of("ids", *small, "--rounds", "1", "--store", tmp_path)
    assert found["ids"] > 300
    assert len(found["rounds"]) == 1
    assert found["base_rate"] > 0
    assert found["during_p99_ms"] >= found["during_p50_ms"] > 0
    assert found["register_p50_ms"] > 0
    assert list(tmp_path.iterdir()) == []
    assert list(left_behind(tmp_path)) == []


def test_a_cluster(tmp_path: Path) -> None:
    """Targets may be missed by so short a run; each part has to come to its end."""
    told = tmp_path / "told.json"
    store = tmp_path / "store"
    short = ("--idle-s", "1", "--rounds", "1", "--slice-s", "0.5", "--commands", "50")
    done = finished("benchmarks.cluster", *short, "--store", store, "--json", told)
    assert done.returncode in (0, 1), done.stderr
    found = {figure["name"]: figure for figure in json.loads(told.read_bytes())}
    assert found["one worker, 5 ms a command"]["value"] > 10
    assert found["  times one, median of rounds"]["least"] == 1.6
    assert found["100 commands a second: to the handler's start, p50"]["value"] > 0
    for environment in ("r1", "r3"):
        assert found[f"{environment}: idle runner of 64 shards"]["most"] == 1.0
        assert found[f"{environment}: idle runner of 64 shards"]["value"] >= 0
    assert "idle, r3" in done.stderr
    assert list(store.iterdir()) == []
    assert list(left_behind(tmp_path)) == []


def test_flows(tmp_path: Path) -> None:
    """So short a run says nothing of processor time; what is stored is counted exactly."""
    told = tmp_path / "told.json"
    store = tmp_path / "store"
    short = ("--commands", "30", "--clients", "8", "--rounds", "1", "--slice-s", "0.1")
    given = (*short, "--on", "default", "--store", store, "--json", told)
    done = finished("benchmarks.flows", *given)
    assert done.returncode in (0, 1), done.stderr
    assert told.exists(), done.stderr
    found: dict[tuple[str, str], dict[str, Any]] = {}
    head = ""
    for figure in json.loads(told.read_bytes()):
        name = figure["name"]
        head = head if name.startswith("  ") else name
        found[head, name.strip()] = figure

    def made(kind: str) -> list[float]:
        names = ("commits", "tells stored", "messages of timers")
        return [found[f"default: {kind}, CPU", name]["value"] for name in names]

    assert found["default: a flow without waits, CPU", "commits"]["value"] == 1
    assert found["default: a flow without waits, CPU", "commits"]["most"] == 1
    assert (
        found["default: a flow without waits, CPU", "times a plain tell, median of rounds"]["most"]
        == 1.5
    )
    assert made("a step") == [2, 1, 0]
    assert made("a sleep") == [2, 2, 2]  # a timer, and its firing
    assert made("an ask of another entity") == [3, 3, 1]
    assert made("a deferred, resumed") == made("the same, exclusive") == [2, 2, 1]
    assert found["default: a deferred, resumed, CPU", "commits"]["most"] == 3
    for clients in (1, 64, 256):
        name = f"default: plain tells, {clients} clients"
        assert found[name, "deferreds, suspended and resumed"]["value"] > 0
    assert list(store.iterdir()) == []
    assert list(left_behind(tmp_path)) == []


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--only", "waits", "invalid choice: 'waits'"),
        ("--on", "r3-always", "invalid choice: 'r3-always'"),
        ("--commands", "0", "--commands"),
        ("--slice-s", "0", "--slice-s: a number of seconds"),
    ],
)
def test_wrong_usage_of_flows(
    option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        flows.parse([option, value])
    assert said in capsys.readouterr().err


def test_the_ledger() -> None:
    found = figures_of("ledger", "--keys", "10000")  # fewer write no snapshot
    assert found["keys"] == 10_000
    assert found["snapshot_writes"] > 0
    assert found["cold_reads"] > 0
    assert found["stored_bytes_a_key"] > 0
    assert found["repeat_ms"] > 0


def test_recovery() -> None:
    found = figures_of("recovery", "--entities", "2")
    assert {"new", "one commit", "a snapshot and five commits"} <= set(found)
    for one in found.values():
        assert one["requests"] >= 1
        assert one["cold_p50_ms"] > 0
