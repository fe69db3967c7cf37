"""perdure beside the raw nats-py client, on nats-servers of its own, on this machine.

Each scenario is a closed loop: N clients, each of which sends its next command to one of 1,000
accounts when its last one has been answered. Server, runner and caller are processes of their own.
perdure and two raw baselines (conditional appends of as many bytes, singly, and many in one atomic
batch) carry it in turn, slice by slice, on the same server, so the ratio of a round holds even
where other programs disturb the figures. docs/performance.md says more.

    make bench                                    everything: about five minutes
    make bench SECONDS=2 ONLY=ask ON=always       one scenario, longer slices
    make bench ARGS='--variant ask_via=stream'    a setting beside the default, in the same run
    make bench ARGS='--beside ../other'           another checkout's code, in the same run

Exit codes: 0 measured, 1 something failed or a command got no outcome, 2 wrong usage, 130 stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console

from perdure.deploy.process import run_until_signalled

from .machine import load, machine, revision
from .measure import Found, Plan, measure
from .options import parse, plan_of
from .report import show
from .results import Results
from .verdict import FAILED, STOPPED

WIDTH = 112
"""Columns of the tables beside the contenders' names, also where the output is no terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; the exit code."""
    options = parse(__doc__, arguments)
    plan = plan_of(options)
    for folder in (plan.store, plan.profiles):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    return run_until_signalled(run(plan, options))


async def run(plan: Plan, options: argparse.Namespace) -> int:
    """Measure and report, also what there is when it is stopped; the exit code."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    found, before, code = Found(), load(), 0

    def progress(text: str) -> None:
        errors.print(text)
        if options.json is not None and found.rows:  # in case that this process is killed
            options.json.write_bytes(results(plan, found, before).json())

    try:
        await measure(plan, found, progress)
    except FAILED as error:
        errors.print(f"{type(error).__name__}: {error}")
        code = 1
    except asyncio.CancelledError:
        errors.print("stopped")
        code = STOPPED
    if not found.rows:
        return code
    width = WIDTH + max(len(row.contender) for row in found.rows)
    show(results(plan, found, before), Console(width=width, highlight=False))
    lost = sum(row.errors for row in found.rows)
    progress(f"{lost} commands got no outcome" if lost else "every command got its outcome")
    return code or int(lost > 0)


def results(plan: Plan, found: Found, load_before: float) -> Results:
    """What was found until now, and where."""
    return Results(
        datetime.now(UTC).isoformat(timespec="seconds"),
        revision(),
        machine(load_before),
        plan.seconds,
        plan.rounds,
        {name: str(value) for name, value in plan.variants[0].settings.items()},
        found.sizes,
        found.rows,
    )


if __name__ == "__main__":
    sys.exit(main())
