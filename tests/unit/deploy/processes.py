"""Looking at processes as the system sees them; Linux only."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ...support.server import PATIENCE_S


def children(pid: int, program: str) -> list[int]:
    """The processes that this one has made and that run such a program."""
    found = _read(pid, f"task/{pid}/children").split()
    return [int(child) for child in found if program in _read(child, "cmdline")]


def argument(pid: int) -> str:
    """The last argument that a process was started with."""
    return _read(pid, "cmdline").rstrip("\0").rpartition("\0")[2]


def variable(pid: int, name: str) -> str | None:
    """What an environment variable was when the process began."""
    pairs = (entry.partition("=") for entry in _read(pid, "environ").split("\0"))
    return next((value for key, _, value in pairs if key == name), None)


def lives(pid: int) -> bool:
    """Whether the process is there, and not only waits to be buried."""
    status = _read(pid, "stat").rpartition(")")[2].split()
    return bool(status) and status[0] not in "ZX"


async def gone(*pids: int) -> None:
    """Wait until all of them ended."""
    async with asyncio.timeout(PATIENCE_S):
        while any(map(lives, pids)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def _read(pid: int | str, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
