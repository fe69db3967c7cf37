"""Profiles of the runner and the caller under one load, by py-spy, and what they spent time in.

A function's share is the part of the samples in which the process ran that had it on the stack; so
shares don't add up, and a function's callers have at least its own. By itself it has the part in
which it was innermost: for `run` the event loop and whatever else isn't Python. py-spy looks every
5 ms, so a share below a percent means little.
"""

from __future__ import annotations

import asyncio
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from pathlib import Path

import msgspec

from .contenders import Contender
from .orders import Load
from .process import ROOT

RATE_HZ = 200
MARGIN_S = 2.0
"""The load lasts so much longer, since py-spy takes a while to start."""
SHOWN = 40


class NoProfiler(RuntimeError):
    """There is no py-spy: `pip install py-spy` brings it; it may need the right to trace."""


def profiler() -> str:
    """The program. Raises NoProfiler."""
    found = shutil.which("py-spy")
    if found is None:
        raise NoProfiler("there is no py-spy on PATH: pip install py-spy")
    return found


async def profile(contender: Contender, load: Load, seconds: float, name: str, to: Path) -> None:
    """Write `<name>-<runner|caller>.txt` (shares) and `.folded` (stacks) into a folder."""
    stacks = {part: to / f"{name}-{part}.folded" for part in ("runner", "caller")}
    pids = {"runner": contender.worker.pid, "caller": contender.caller.pid}
    longer = msgspec.structs.replace(load, seconds=seconds + MARGIN_S)
    async with asyncio.TaskGroup() as group:
        group.create_task(contender.slice(longer))
        for part, file in stacks.items():
            group.create_task(_record(pids[part], seconds, file))
    for file in stacks.values():
        file.with_suffix(".txt").write_text(table(file.read_text()))


async def _record(pid: int, seconds: float, file: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        profiler(),
        *("record", "--pid", str(pid), "--duration", f"{max(1, round(seconds))}"),
        *("--rate", str(RATE_HZ), "--format", "raw", "--output", file),
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
    )
    _, said = await process.communicate()
    if process.returncode:
        raise NoProfiler(f"py-spy: {said.decode(errors='replace').strip()}")


def table(folded: str) -> str:
    """The functions with the largest shares, a line each: with callees, by itself, its name."""
    lines = ["  all   self"]
    for function, share, alone in shares(folded)[:SHOWN]:
        lines.append(f"{100 * share:5.1f}  {100 * alone:5.1f} %  {function}")
    return "\n".join(lines) + "\n"


def shares(folded: str) -> list[tuple[str, float, float]]:
    """Each function's share with what it called and by itself, the largest first.

    From stacks as flame graphs take them: `outermost;…;innermost count`.
    """
    inclusive: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        functions = [_function(frame) for frame in stack.split(";")]
        alone[functions[-1]] += int(count)
        for function in set(functions):
            inclusive[function] += int(count)
    total = max(1, sum(alone.values()))
    return [(f, count / total, alone[f] / total) for f, count in inclusive.most_common()]


def _function(frame: str) -> str:
    """`name (file)` of `name (path/file.py:line)`, the path from the package on."""
    name, _, place = frame.partition(" (")
    path = place.rpartition(":")[0] or place.rstrip(")")
    for root in (f"{ROOT}/", "site-packages/", "lib/python"):
        path = path.rpartition(root)[2]
    return f"{name} ({path.removeprefix('src/perdure/')})" if path else name
