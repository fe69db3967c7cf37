"""Benchmarks in processes of their own, and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.process import ROOT

LIMIT_S = 150
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}


def command(module: str, *arguments: str | Path) -> list[str]:
    """What starts one: `benchmarks`, or a module of it."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def finished(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """One that came to its end, whatever that was."""
    return subprocess.run(
        command(module, *arguments),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def left_behind(folder: Path) -> Iterator[str]:
    """Processes that work in a folder, or have it in their arguments."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where, said = os.readlink(process / "cwd"), (process / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if where.startswith(str(folder)) or str(folder).encode() in said:
            yield said.replace(b"\0", b" ").decode(errors="replace")
