"""One small run of everything, with a real server: figures come out, nothing fails, all ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from benchmarks.process import ROOT
from benchmarks.results import RAW, RAW_BATCHED, Results, recorded

LIMIT_S = 150
CONTENDERS = {"perdure", RAW, RAW_BATCHED}
SMALL = ("--on", "default", "--clients", "2", "--seconds", "0.1", "--rounds", "1")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks", *map(str, arguments)]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def left_behind(folder: Path) -> Iterator[str]:
    """Processes that work in a folder, or have it in their arguments."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where, said = os.readlink(process / "cwd"), (process / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if where.startswith(str(folder)) or str(folder).encode() in said:
            yield said.replace(b"\0", b" ").decode(errors="replace")


def test_a_small_run(tmp_path: Path) -> None:
    file, store = tmp_path / "results.json", tmp_path / "store"
    done = subprocess.run(
        command("--only", "ask,stream,tell,hot", *SMALL, "--json", file, "--store", store),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = msgspec.json.decode(file.read_bytes(), type=Results)
    found = {(row.kind, row.contender) for row in results.rows}
    assert found == {
        *((kind, name) for kind in ("ask", "stream", "tell") for name in CONTENDERS),
        *(("hot", name) for name in ("perdure", RAW)),
    }
    for row in results.rows:
        assert row.errors == 0
        assert row.median(recorded) > 0
        assert row.cpu_ms is None or row.cpu_ms > 0
        assert row.contender in done.stdout
    assert min(msgspec.structs.astuple(results.sizes["default"])) > 0
    assert list(store.iterdir()) == []
    assert list(left_behind(tmp_path)) == []


def test_a_cold_entity(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    done = subprocess.run(
        command("--only", "cold", *SMALL, "--json", file, "--store", tmp_path / "store"),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = msgspec.json.decode(file.read_bytes(), type=Results)
    names = {"first ask", "second ask", "activation", "raw direct get"}
    assert {row.contender for row in results.rows} == names
    assert len(results.rows) == 2 * len(names)
    assert sum(row.errors for row in results.rows) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        command("--only", "ask", "--on", "default", "--seconds", "60", "--store", tmp_path),
        cwd=ROOT,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "default: starting\n"
        assert process.stderr.readline().startswith("default: ask")  # all processes are there
        assert len(list(left_behind(tmp_path))) > 7
        process.send_signal(number)
        assert process.wait(LIMIT_S) == 130
    finally:
        process.kill()
    assert list(left_behind(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [("--only", "asks"), ("--on", "disk"), ("--seconds", "0"), ("--clients", "1,x"), ("-s", "a")],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 2
    assert arguments[0] in done.stderr
