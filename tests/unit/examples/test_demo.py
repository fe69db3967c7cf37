"""The demo: fed in memory, and as a user runs it, on a server of its own."""

import asyncio
import gzip
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import demo
import pytest
from aircraft import Logbook, aircraft
from feed import Fed, feed, logbooks
from records import plan_of
from report import Totals

from perdure import connect

from .conftest import FLIGHTS
from .test_records import HAND, HEADER, MONTH, WHOLE

BOOKS = {"N1": Logbook(4, 2, 1, 1, 2800), "unknown": Logbook(1, 0, 1, 0, 0)}
BOOKS["N2"] = Logbook(1, 1, 0, 0, 187)


async def test_feeding_twice_gives_the_same_logbooks() -> None:
    plan = plan_of(HAND)
    async with connect("memory:", serving=[aircraft]) as cluster:
        for _ in range(2):
            fed, rows = Fed(), itertools.count()
            await feed(cluster, plan, fed, rows.__next__)
            assert (fed, next(rows)) == (Fed(rows=6, commands=9, refused=0), 6)
            assert await logbooks(cluster, plan) == BOOKS


async def test_a_command_that_the_aircraft_refuses_is_counted() -> None:
    plan = plan_of(HAND)
    ((_, arrive),) = plan.aircraft["N2"]
    plan.aircraft["N2"] = [(arrive,)]
    fed = Fed()
    async with connect("memory:", serving=[aircraft]) as cluster:
        await feed(cluster, plan, fed, lambda: None)
    assert fed == Fed(rows=6, commands=8, refused=1)


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(FLIGHTS / "demo.py"), *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60)


@pytest.fixture
def hand(tmp_path: Path) -> Path:
    file = tmp_path / "hand.csv"
    file.write_text("\n".join([*HAND, WHOLE]))
    return file


def reported(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_the_second_run_changes_nothing(hand: Path, tmp_path: Path) -> None:
    one, two = (reported(run("--data", hand, "--store", tmp_path, "--json")) for _ in range(2))
    assert (one["rows"], one["repeated_rows"], one["commands"], one["refused"]) == (6, 1, 9, 0)
    assert 3 <= one["new_commits"] == one["commits"] <= 9
    assert (two["new_commits"], two["commits"]) == (0, one["commits"])
    for report in (one, two):
        assert report["differences"] == []
        assert report["most_miles"] == {"N1": 2800, "N2": 187}
        assert report["aircraft"] == 3
    said = run("--data", hand, "--store", tmp_path).stdout
    assert "0 new commits" in said
    assert "3 aircraft, 6 flights, 3 arrived, 2 cancelled, 1 open, 2,987 miles: equal" in said


def test_totals_that_differ_end_with_1(
    hand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = demo.count(hand)
    counted["N1"]["miles"] += 1

    def miscounted(_: Path) -> Totals:
        return counted

    monkeypatch.setattr(demo, "count", miscounted)
    assert demo.main(["--data", str(hand), "--store", str(tmp_path)]) == 1
    assert "N1 miles: 2800, in the file 2801" in capsys.readouterr().out


def test_another_file_has_another_store(hand: Path, tmp_path: Path) -> None:
    first = demo.store(tmp_path, hand)
    hand.write_text("\n".join([HEADER, WHOLE]))
    assert demo.store(tmp_path, hand) != first
    assert first.name.startswith("hand-")


@pytest.mark.parametrize("content", ["a,b\n1,2", f"{HEADER}\n{WHOLE},more"])
def test_a_bad_file_ends_with_2_and_a_line(content: str, hand: Path, tmp_path: Path) -> None:
    hand.write_text(content)
    done = run("--data", hand, "--store", tmp_path / "store")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert f"{hand}: line " in done.stderr
    assert not (tmp_path / "store").exists()


def test_no_such_file_ends_with_2(tmp_path: Path) -> None:
    assert "No such file" in run("--data", tmp_path / "none.csv").stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    some = tmp_path / "some.csv"
    with gzip.open(MONTH, "rt") as month:
        some.write_text("".join(itertools.islice(month, 1_501)))
    options = ("--data", some, "--store", tmp_path, "--json")
    with subprocess.Popen(command(*options), stderr=subprocess.PIPE, text=True) as running:
        try:
            wait_until(lambda: commits_in(demo.store(tmp_path, some)) >= 200)
            running.send_signal(number)
            _, said = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130, said
    assert re.search(r"^stopped after [1-9][0-9,]* rows; run it again, it goes on$", said, re.M)
    report = reported(run(*options))
    assert report["rows"] == 1_500
    assert 0 < report["new_commits"] <= report["commits"] - 200
    assert report["differences"] == []


def commits_in(store: Path) -> int:
    ports = [file.read_text() for file in store.glob("run/*.ports")]
    if not any(ports):
        return 0
    (url,) = json.loads(ports[0])["nats"]
    return asyncio.run(demo.log_of(url))[0]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_help_teaches() -> None:
    said = run("--help").stdout
    for word in ("--data", "--store", "--json", "again", "Ctrl-C", "Exit codes"):
        assert word in said
