"""One small run of everything, with a real server: figures come out, nothing fails, all ends."""

from __future__ import annotations

import signal
import subprocess
from itertools import product
from pathlib import Path

import msgspec
import pytest
from benchmarks.cold import ACTIVATION, AGAIN, DIRECT_GET, FIRST
from benchmarks.options import parse, plan_of
from benchmarks.process import ROOT
from benchmarks.results import PERDURE, RAW, RAW_BATCHED, Results, recorded

from ...support.lines import read_line
from .runs import ENVIRONMENT, LIMIT_S, command, finished, left_behind

COLD = (FIRST, AGAIN, ACTIVATION, DIRECT_GET)


def test_a_small_run(tmp_path: Path) -> None:
    file, store = tmp_path / "results.json", tmp_path / "store"
    small = ("--on", "default", "--clients", "1", "--seconds", "0.1", "--rounds", "1")
    chosen = ("--only", "ask,tell,hot,cold", *small, "--json", file, "--store", store)
    done = finished("benchmarks", *chosen)
    assert done.returncode == 0, done.stderr
    results = msgspec.json.decode(file.read_bytes(), type=Results)
    found = {(row.kind, row.contender) for row in results.rows}
    assert found == {
        *product(("ask", "tell"), (PERDURE, RAW, RAW_BATCHED)),
        *product(("hot",), (PERDURE, RAW)),
        *product(("cold, 20 commits", "cold, 120 commits"), COLD),
    }
    for row in results.rows:
        assert row.errors == 0
        assert row.median(recorded) > 0 or row.contender == ACTIVATION
        assert row.contender in done.stdout
    assert min(msgspec.structs.astuple(results.sizes["default"])) > 0
    assert list(store.iterdir()) == []
    assert list(left_behind(tmp_path)) == []


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    endless = ("--only", "ask", "--on", "default", "--seconds", "60", "--store", tmp_path)
    with subprocess.Popen(
        command("benchmarks", *endless),
        cwd=ROOT,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert read_line(process, process.stderr) == "default: starting\n"
            assert read_line(process, process.stderr).startswith(
                "default: ask"
            )  # all processes are there
            assert len(list(left_behind(tmp_path))) > 7
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT_S) == 130
        finally:
            process.kill()
    assert list(left_behind(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--only", "asks", "asks: not one of ask, stream"),
        ("--on", "disk", "disk: not one of always"),
        ("--seconds", "0", "--seconds"),
        ("--clients", "1,x", "--clients"),
        ("--rounds", "0", "--rounds"),
        ("--set", "shards", "NAME=VALUE"),
        ("--set", "unheard=1", "'unheard' isn't a setting"),
        ("--variant", "shards=many", "shards"),
    ],
)
def test_wrong_usage(
    option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(None, [option, value])
    assert said in capsys.readouterr().err


def test_a_profile_without_a_profiler_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        parse(None, ["--profile", str(tmp_path)])
    assert "error: there is no py-spy on PATH: pip install py-spy\n" in capsys.readouterr().err


def test_settings_of_variants() -> None:
    given = ("--set", "shards=4", "--variant", "askers=3,shards=8", "--beside", "/elsewhere/old")
    usual, other, old = plan_of(parse(None, given)).variants
    assert usual.settings == {"shards": "4"}
    assert (other.name, other.settings) == (
        "perdure askers=3,shards=8",
        {"shards": "8", "askers": "3"},
    )
    assert (old.name, old.settings) == ("perdure of old", {"shards": "4"})
