"""Twice as many asks as there is capacity for: refused at once, and what is accepted is served.

A command takes a millisecond here, as a handler's does, so that it is the runner which is at its
limit and not the process that asks. `PERDURE_OVERLOAD` is the length in seconds; 10 is its long
form.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .harness import NAMESPACE, World, program, world

SECONDS = float(os.environ.get("PERDURE_OVERLOAD", "5"))
MS = 1
CALLERS = 64
WAIT_S = 0.25
"""How much may wait in the runner, in seconds of its capacity."""
GOODPUT = 0.6
"""What must be left of the capacity, beside all the refusals."""
LATE = 0.01
"""How many of the refusals may take longer than 0.1 s: none does on a machine that nobody else
uses, where the slowest took 0.05 s; but a processor may be taken away for longer than that."""
TRIES = 3
"""For the same reason, all tries must have failed."""


async def load(w: World, **plan: float) -> dict[str, Any]:
    process = await program(
        "tests.hostile.load", w.server.url, NAMESPACE, json.dumps({**plan, "ms": MS})
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    report: dict[str, Any] = json.loads(output)
    return report


async def overloaded(folder: Path) -> list[str]:
    """What was wrong with one run."""
    quiet = {"PERDURE_HOST_QUIET": "1"}
    async with world(folder / "measured", env=quiet) as w:
        capacity = (await load(w, callers=CALLERS, seconds=3))["per_second"]
    limit = int(capacity * WAIT_S)
    async with world(folder / "overloaded", env=quiet, runner_capacity=limit) as w:
        report = await load(w, rate=2 * capacity, seconds=SECONDS)
        lines = w.host.actions()
    print(f"\ncapacity {capacity}/s, at most {limit} wait; under twice as many:", report)
    wrong = {
        "the load was behind its rate": report["late"] > SECONDS,
        "no overload": report["refusals"] < capacity * SECONDS / 4,
        "late refusals": report["refused_late"] > LATE * report["refusals"],
        "other errors": report["errors"] != {},
        "dropped in the client": report["log"] != [],
        "dropped in the runner": any("can't send" in line or "lost" in line for line in lines),
        "less done": report["replies"] < GOODPUT * capacity * SECONDS,
    }
    return [what for what, is_so in wrong.items() if is_so]


async def test_twice_the_capacity_is_refused_at_once(tmp_path: Path) -> None:
    wrong = ["never tried"]
    for number in range(TRIES):
        wrong = await overloaded(tmp_path / str(number))
        if not wrong:
            break
        print("not so:", ", ".join(wrong))
    assert wrong == []
