"""Where a benchmark runs: what a reader must know before comparing with another one's figures."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

from perdure.deploy.server import find_server

from .process import ROOT
from .results import Machine


def machine(load_before: float) -> Machine:
    """This machine, and how busy it was before and is now. Raises ServerMissing."""
    return Machine(
        platform.system(),
        _processor(),
        _cores(),
        platform.python_version(),
        _server_version(),
        importlib.metadata.version("nats-py"),
        round(load_before, 2),
        load(),
    )


@cache
def _server_version() -> str:
    shown = subprocess.run(
        [find_server(), "--version"], capture_output=True, text=True, check=True
    )
    return shown.stdout.strip().rpartition(" ")[2].lstrip("v")


def load() -> float:
    """The load average of the last minute; 0 where the system doesn't tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


@cache
def revision() -> str:
    """The commit that is measured, with a + if files differ from it; "unknown" without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()
