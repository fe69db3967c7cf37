"""A server, a runner in a process of its own, a plain client: what every hostile test needs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats.errors

from perdure.deploy.server import EmbeddedServer

from .client import PATIENCE_S, Plain, plain

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "hostile"
QUICK = {"defect_retry": {"attempts": 2, "base": 0.001, "factor": 1.0}}
"""Settings under which a defect is retried once, at once."""

TROUBLE = ("activation.failed", "shard.failed", "snapshot.failed", "log.error", "log.critical")
"""Actions of a runner that nothing which a caller sends may bring about."""


async def program(module: str, *arguments: str, **env: str) -> asyncio.subprocess.Process:
    """Start a module of the tests in a process of its own."""
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONSAFEPATH": "", "PYTHONPATH": path, **env},
        stdout=asyncio.subprocess.PIPE,
    )


class Host:
    """The runner's process. It can be started again; what it did is in `actions`."""

    def __init__(self, url: str, folder: Path, env: dict[str, str], settings: Any) -> None:
        self.starts = 0
        self.exits: list[int] = []
        self._arguments = (url, NAMESPACE, str(folder / "actions"), json.dumps(settings))
        self._file = folder / "actions"
        self._env = env
        self.process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self, **env: str) -> None:
        self._env = {**self._env, **env}
        self.process = await program("tests.hostile.host", *self._arguments, **self._env)
        self.starts += 1

    async def stop(self) -> None:
        """Drain and leave. Asserts that it does so in peace."""
        self._leave_alone()
        if self.process is not None and self.process.returncode is None:
            os.kill(self.process.pid, signal.SIGTERM)
            assert await asyncio.wait_for(self.process.wait(), PATIENCE_S) == 0

    async def kill(self) -> None:
        """The end of a test that failed."""
        self._leave_alone()
        if self.process is not None and self.process.returncode is None:
            os.kill(self.process.pid, signal.SIGKILL)
            await self.process.wait()

    def _leave_alone(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()

    def supervise(self) -> None:
        """Start it again whenever it ends, as a supervisor would."""
        self._keeper = asyncio.get_running_loop().create_task(self._supervise())

    async def _supervise(self) -> None:
        while True:
            assert self.process is not None
            self.exits.append(await self.process.wait())
            await self.start()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def actions(self, *names: str) -> list[str]:
        """What it did, one line each; of these names only, if any are given."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        return [line for line in lines if not names or line.startswith(names)]


@dataclass
class World:
    """What a test talks to."""

    server: EmbeddedServer
    host: Host
    client: Plain
    folder: Path

    async def ready(self) -> str:
        """Wait until a runner answers; its id."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                info = f"{NAMESPACE}.info.victim"
                try:
                    answer = await self.client.nc.request(info, b"", timeout=1)
                except nats.errors.Error:  # nobody is there yet
                    await asyncio.sleep(0.02)
                else:
                    return str(json.loads(answer.data)["runner"])

    async def stop_server(self) -> None:
        """Stop the server; the client ends before it."""
        await self.client.nc.close()
        await self.server.stop()

    async def start_server(self) -> None:
        """Start it again, with a new client."""
        await self.server.start()
        self.client = await plain(self.server.url, NAMESPACE)


@asynccontextmanager
async def world(
    folder: Path, *, env: dict[str, str] | None = None, serving: bool = True, **settings: Any
) -> AsyncGenerator[World]:
    """A server of its own and, if `serving`, a runner on it; both end in peace."""
    async with EmbeddedServer(folder / "nats", fsync=False) as server:  # makes the folder, too
        settings = {"shards": 4, "drain_timeout": 3.0, **QUICK, **settings}
        host = Host(server.url, folder, env or {}, settings)
        made = World(server, host, await plain(server.url, NAMESPACE), folder)
        try:
            if serving:
                await host.start()
                await made.ready()
            yield made
            await host.stop()
        finally:
            await host.kill()
            await made.client.nc.close()
