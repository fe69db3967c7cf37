"""A process of a benchmark, from outside: its life, its orders, its processor time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")

START_S = 30.0
"""How long a process may take until it is ready."""
STOP_S = 12.0
"""How long it may take to end by itself: longer than a runner's `drain_timeout`."""
ROOT = Path(__file__).resolve().parents[1]


class ChildFailed(RuntimeError):
    """A process ended too early, or said nothing in time; what it said is above."""


class Child:
    """One `python -m benchmarks.<module>`, in a session of its own: Ctrl-C is the parent's."""

    def __init__(self, module: str, process: Process) -> None:
        self.module = module
        self._process = process

    @classmethod
    async def start(cls, module: str, spec: object, folder: Path, source: Path | None) -> Child:
        """Start it and wait until it is ready; `source` is another checkout's perdure to use.

        Its folder is `folder`, so that no `perdure.toml` is found by chance.
        """
        path = [str(ROOT)] if source is None else [str(source / "src"), str(ROOT)]
        known = os.environ.get("PYTHONPATH")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"benchmarks.{module}",
            msgspec.json.encode(spec),
            stdin=PIPE,
            stdout=PIPE,
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([*path, *([known] if known else [])]),
            },
            start_new_session=True,
        )
        child = cls(module, process)
        try:
            await child._line(START_S)
        except BaseException:
            await child.stop()
            raise
        return child

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    async def order(self, what: object, answer: type[T], timeout_s: float) -> T:
        """Give an order and wait for its answer. Raises ChildFailed."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(what) + b"\n")
        return msgspec.json.decode(await self._line(timeout_s), type=answer)

    async def _line(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
        except TimeoutError:
            raise ChildFailed(f"{self.module} said nothing for {timeout_s:g} s") from None
        if not line:
            raise ChildFailed(f"{self.module} ended")
        return line

    async def stop(self) -> None:
        """Let it end by itself; kill it if that takes too long."""
        process = self._process
        if process.returncode is None and process.stdin is not None:
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                await self.kill()

    async def kill(self) -> None:
        """kill -9."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def child(module: str, spec: object, folder: Path) -> AsyncGenerator[Child]:
    """A process while it runs, on this checkout's perdure."""
    started = await Child.start(module, spec, folder, None)
    try:
        yield started
    finally:
        await started.stop()


def cpu_s(pids: list[int]) -> float | None:
    """The processor time of some processes so far; None where the system doesn't tell (no /proc).

    In steps of 10 ms a process, so a slice should take a second rather than less.
    """
    if not Path("/proc/self/stat").exists():
        return None
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime, stime
    return ticks / os.sysconf("SC_CLK_TCK")
