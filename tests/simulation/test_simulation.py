"""Seeds that once failed, fresh seeds, planted bugs, and that a seed is one history.

`make test` runs 600 fresh seeds more by the command line (run.py), in all cores; here a few, so
that a plain `pytest` says something too. `PERDURE_SEEDS=N` runs that many.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import SystemRandom

import pytest

from .planted import PLANTED, caught, planted
from .run import replay_line
from .simulate import Verdict, simulate

ROOT = Path(__file__).resolve().parents[2]

SEEDS = int(os.environ.get("PERDURE_SEEDS") or (100 if os.environ.get("CI") else 40))
"""Fresh seeds in this file."""

ONCE_FAILED = (1, 5, 62, 81, 90, 231, 343, 372, 404, 590, 603, 693, 846, 984, 1236, 2062)
CLUSTERS_FAILED = (201907, 202116, 1795951502, 400003992, 400007915)
"""Seeds under which a promise was broken once. The code has moved on, so each is another history
now; they are kept since what is cheap to run again should be."""

FLOWS = (147225626, *range(1, 9))
"""Seeds with flows beside the rest. Under the first, a question for the result of a turn that
nobody had kept the runner from everything else."""
CLUSTERS_FLOWS = (930000086,)
"""The same with several runners: questions for results that never came kept a query away."""

WITHIN = 1_000
"""Seeds within which a planted bug must be caught."""

LIKELY = {
    "a_conflict_drops_without_ending_the_term": 15,
    "a_keyless_ask_has_no_name": 12,
    "a_refused_batch_goes_alone_at_any_sequence": 3,
    "a_refused_batch_is_published_again": 775,
    "a_refused_batch_is_taken_for_stored": 3,
    "a_shorter_log_is_gone_on_with": 14,
    "a_snapshot_is_not_hashed": 249,
    "a_snapshot_is_trusted": 11,
    "an_unknown_batch_is_taken_for_stored": 11,
    "appends_at_any_sequence": 8,
    "decides_again_in_another_order": 60,
    "decides_while_its_append_is_out": 214,
    "everybody_owns_everything": 26,
    "only_the_first_of_a_batch_has_a_condition": 3,
    "the_dead_are_not_noticed": 24,
    "verdicts_from_stale_memory": 193,
    "watermark_by_sequence_alone": 17,
    "what_does_not_fit_a_batch_is_forgotten": 15,
}
"""The seed that caught it when this was written: the first to try, so that no time is spent on
those before. Where the code has moved on it is one of many, and the others follow."""


def check(verdict: Verdict) -> None:
    """Fails with the line that shows the seed again."""
    assert not verdict.violations, f"{verdict.violations[:3]}\n{replay_line(verdict.seed)}"
    assert verdict.commands >= 200
    assert verdict.faults >= 20


def check_flows(seed: int, runners: int = 1) -> None:
    """The same, with flows beside the rest."""
    verdict = simulate(seed, runners=runners, flows=True)
    again = replay_line(seed, runners=runners, flows=True)
    assert not verdict.violations, f"{verdict.violations[:3]}\n{again}"
    assert verdict.faults >= 20


@pytest.mark.parametrize("seed", ONCE_FAILED)
def test_seeds_that_once_failed(seed: int) -> None:
    check(simulate(seed))


@pytest.mark.parametrize("seed", CLUSTERS_FAILED)
def test_seeds_that_once_failed_with_several_runners(seed: int) -> None:
    check(simulate(seed, runners=3))


@pytest.mark.parametrize("seed", FLOWS)
def test_seeds_with_flows(seed: int) -> None:
    check_flows(seed)


@pytest.mark.parametrize("seed", CLUSTERS_FLOWS)
def test_seeds_with_flows_and_several_runners(seed: int) -> None:
    check_flows(seed, runners=3)


@pytest.mark.timeout(60 + 2 * SEEDS)
def test_fresh_seeds_with_flows() -> None:
    first = SystemRandom().randrange(10**6, 10**9)
    for seed in range(first, first + SEEDS // 4):
        check_flows(seed)


@pytest.mark.timeout(60 + SEEDS)
def test_fresh_seeds() -> None:
    first = SystemRandom().randrange(10**6, 10**9)
    for seed in range(first, first + SEEDS):
        check(simulate(seed))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught(name: str) -> None:
    with planted(name):
        seeds = (LIKELY.get(name, 0), *range(WITHIN - 1))
        assert any(caught(simulate(seed).violations) for seed in seeds)


def test_a_trace_changes_nothing() -> None:
    silent, told = simulate(3), simulate(3, trace=True)
    assert told.fingerprint == silent.fingerprint
    assert silent.lines == []
    assert any("LOG" in line for line in told.lines)


def test_one_seed_is_one_history_in_every_process() -> None:
    """Whatever the order of hashes: two processes with different ones tell the same trace."""
    traces = [_trace(hash_seed) for hash_seed in ("1", "2")]
    assert traces[0] == traces[1]
    assert len(traces[0].splitlines()) > 500


def _trace(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.simulation.run", "--seed", "11", "--trace"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout
