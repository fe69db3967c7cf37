"""The processes of a chaos test: runners and clients, each ended by its own id, whatever happens.

Of a runner is known what it logs; nothing reaches into it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from perdure.deploy.tied import tie

from .client import Progress, Spec
from .linear import Call
from .servers import until

ROOT = Path(__file__).resolve().parents[2]
START_S = 40.0
"""How long a process may take until it is ready, on a busy machine."""
DRAIN_S = 20.0
"""How long a runner may take to drain: twice `drain_timeout`."""
TRAP_S = 1.0
"""How long a runner may take to step into its trap: as long as its shards may see no command."""
STOPPED_S = 10.0
"""How long one that is in it may take to stop."""
STOP_S = 60.0
"""How long clients may take for their last calls."""

_TERM = re.compile(r"term g\d+-s(\d+)-t\d+-\S+ begins")
_LOST = re.compile(r"another runner took shard (\d+) of")


class Process:
    """One process, from outside."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.trap = folder / f"{name}.trap"
        self.outside = folder / "outside"  # what steps of flows did: the same for all
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"<{self.name} {self.pid}>"

    async def spawn(
        self, arguments: list[str], settings: Mapping[str, object], *, stdin: int = DEVNULL
    ) -> None:
        """Start it; it ends at the latest with this process."""
        ours = {name: v for name, v in os.environ.items() if not name.startswith("PERDURE_")}
        given = {f"PERDURE_{name.upper()}": str(value) for name, value in settings.items()}
        given |= {"CHAOS_TRAP": str(self.trap), "CHAOS_OUTSIDE": str(self.outside)}
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, *arguments),
                cwd=ROOT,
                env={**ours, **given, "PYTHONSAFEPATH": "", "PYTHONPATH": path},
                stdin=stdin,
                stdout=PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=tie(signal.SIGKILL),
            )

    @property
    def process(self) -> asyncio.subprocess.Process:
        """Since it was started."""
        assert self._process is not None, f"{self.name} wasn't started"
        return self._process

    @property
    def pid(self) -> int | None:
        """Its id, if it was started."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs, or is frozen."""
        return self._process is not None and self._process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        if self.alive:
            self.process.send_signal(number)

    async def line(self, limit_s: float) -> bytes:
        """What it says next. Raises AssertionError if it ended or says nothing."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), limit_s)
        assert line, f"{self.name} ended: {self.log.read_text()[-2000:]}"
        return line

    async def kill(self) -> None:
        """kill -9; also of a frozen one."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.kill()


class Runner(Process):
    """`python -m tests.chaos.member`, or another module that hosts."""

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: Mapping[str, object],
        module: str = "tests.chaos.member",
    ) -> None:
        super().__init__(name, folder)
        self._settings, self._module = settings, module
        self.frozen = False
        self.id = ""

    async def start(self) -> None:
        """Start it and wait until it hosts."""
        await self.spawn(["-m", self._module], self._settings)
        self.id = json.loads(await self.line(START_S))["runner"]

    def freeze(self) -> None:
        """SIGSTOP, at whatever it does."""
        self.frozen = True
        self.signal(signal.SIGSTOP)

    async def freeze_deciding(self) -> bool:
        """The same between a decision and its append; False if it had none to make within TRAP_S,
        and was stopped at something else."""
        self.frozen = True
        self.trap.touch()
        with contextlib.suppress(TimeoutError):
            await until(self._stopped, TRAP_S, "a decision")
        try:
            self.trap.unlink()
        except FileNotFoundError:  # it has it, so it stops by itself
            await until(self._stopped, STOPPED_S, f"the end of {self}'s movements")
            return True
        self.signal(signal.SIGSTOP)
        return False

    async def _stopped(self) -> bool:
        return _state(self.pid) == "T"

    def thaw(self) -> None:
        """SIGCONT."""
        self.frozen = False
        self.signal(signal.SIGCONT)

    async def drain(self) -> int:
        """SIGTERM, and wait for its end; its exit code."""
        self.signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), DRAIN_S)

    def records(self) -> list[dict[str, Any]]:
        """What it logged; a last line may be torn by a kill."""
        found: list[dict[str, Any]] = []
        for line in self.log.read_bytes().splitlines():
            try:
                found.append(msgspec.json.decode(line))
            except msgspec.DecodeError:
                continue
        return found

    def terms(self) -> list[tuple[datetime, int]]:
        """When it began a term of which shard."""
        return self._told("term.begin", _TERM)

    def losses(self) -> list[tuple[datetime, int]]:
        """When it let go which shard, since another runner had taken it."""
        return self._told("shard.lost", _LOST)

    def _told(self, action: str, text: re.Pattern[str]) -> list[tuple[datetime, int]]:
        found: list[tuple[datetime, int]] = []
        for record in self.records():
            if record.get("action") == action:
                match = text.match(record["message"])
                assert match is not None, record
                found.append((datetime.fromisoformat(record["time"]), int(match[1])))
        return found


class Clients(Process):
    """`python -m tests.chaos.client`: some clients in one process, who record what they see."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        super().__init__(spec.name, folder)
        self.progress = Progress()
        self._history = folder / f"{spec.name}.calls"
        self._spec = msgspec.structs.replace(spec, file=str(self._history))
        self._listening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and wait until its clients are at work."""
        spec = msgspec.json.encode(self._spec).decode()
        await self.spawn(["-m", "tests.chaos.client", spec], {}, stdin=PIPE)
        self._hear(await self.line(START_S))
        self._listening = asyncio.create_task(self._listen())

    def _hear(self, line: bytes) -> None:
        self.progress = msgspec.json.decode(line, type=Progress)

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self._hear(line)

    async def stop(self) -> list[Call]:
        """Let each client end what it has begun; what they saw."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = await asyncio.wait_for(self.process.wait(), STOP_S)
        assert code == 0, f"{self.name} failed: {self.log.read_text()[-4000:]}"
        if self._listening is not None:
            await self._listening
        return msgspec.msgpack.decode(self._history.read_bytes(), type=list[Call])


def _state(pid: int | None) -> str:
    """A process's state by the kernel's word, one letter: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
