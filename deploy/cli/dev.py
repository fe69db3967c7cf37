"""`perdure dev`: a server and a runner in one terminal, and a new runner when the code changes.

The server lives as long as the command. The runner is a process of its own (`devrunner.py`); when
a file of APP changes, a new one loads the code, the old one is drained, and the new one hosts.
What arrives between them waits: tells in their stream, asks at their callers, who repeat them.
Drained by an operator, the runner stays away until a file changes; a new one would undo it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ...entities.duration import seconds
from ..logs import Level, configure
from ..process import run_until_signalled
from ..server import EmbeddedServer
from ..watch import Watch
from .devchild import DevChild
from .devrunner import Given
from .options import Common
from .output import Output
from .trouble import Failed, UsageError

DEFAULT_PORT = 4222
"""nats-server's own, so that the other commands find it without an option."""

LAST_PORT = 65_535

LOOK_S = 0.25
"""How often files are looked at, in seconds. A change counts when a look finds no further one:
editors and version control write several files one after another."""

UNASKED = "the runner ended by itself with code {}"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DevOptions:
    """Options of `perdure dev`."""

    port: int = DEFAULT_PORT
    """The server's port on 127.0.0.1; 0 takes a free one."""

    store: Path = Path(".perdure")
    """The folder of the server's store. It stays: the next `dev` goes on from it."""

    namespace: str | None = None
    """The namespace, for several systems on one server."""

    json: Annotated[bool, Parameter(negative="")] = False
    """One JSON value a line on standard output."""

    log_level: Level = "warning"
    """What to log, from this level on, on standard error."""

    log_json: Annotated[bool, Parameter(negative="")] = False
    """Log in JSON, one object a line."""


def dev(app: str, /, *, options: DevOptions | None = None) -> int:
    """Run a NATS server and a runner here, for developing.

    The server keeps its store in a folder and writes every message to the disk before it
    acknowledges it, so nothing is lost between two runs. When a file of APP or another `*.py`
    beside it changes, a new runner takes over with the changed code; one with a mistake is told,
    and the old runner goes on. Ctrl-C drains the runner, then stops both; twice, at once.

    For instance:

    * `perdure dev bank.py`
    * `perdure dev bank --port 4333 --store /tmp/bank`

    Parameters
    ----------
    app
        A module (`bank`), one entity of it (`bank:account`) or a file (`bank.py`).
    """
    options = options or DevOptions()
    if not 0 <= options.port <= LAST_PORT:
        raise UsageError(f"no port {options.port}", f"give one from 1 to {LAST_PORT}, or 0")
    configure(options.log_level, json=options.log_json)
    return run_until_signalled(Development(app, options).run())


class Development:
    """One `perdure dev`, from its start to its end."""

    def __init__(self, app: str, options: DevOptions) -> None:
        self._options = options
        self._given = Given(
            app, 0, options.namespace, options.json, options.log_level, options.log_json
        )
        common = Common(namespace=options.namespace, json=options.json)
        self._output: Output = common.output()
        self._drain_s = seconds(common.settings().drain_timeout)
        self._watch = Watch()
        self._runner: DevChild | None = None

    async def run(self) -> int:
        """Until a signal, or until the server ends by itself. The code of a first load that fails.

        Raises Failed, and what the server's start raises.
        """
        options = self._options
        async with self._starting() as runner:
            loaded = await runner.loaded()
            if not loaded.ok:
                return await runner.ended
            self._look_after(loaded.files, loaded.folders)
            async with EmbeddedServer(options.store, port=options.port, tied=True) as server:
                try:
                    self._runner = runner
                    if not await runner.host(server.url):
                        return await runner.ended
                    code = await self._until_it_ends(server)
                finally:  # before the server: it drains into it
                    if self._runner is not None:
                        await self._runner.end(self._drain_s)
        raise Failed(
            f"nats-server ended by itself with code {code}",
            f"see its log: {server.log_file}",
        )

    @asynccontextmanager
    async def _starting(self) -> AsyncGenerator[DevChild]:
        """A new runner; ended on leaving, if it didn't become the one that hosts."""
        runner = await DevChild.with_app(self._given)
        try:
            yield runner
        finally:
            if runner is not self._runner:
                await runner.end(self._drain_s)

    async def _until_it_ends(self, server: EmbeddedServer) -> int:
        """Look after server, runner and files, until the server ends; its exit code."""
        ended = asyncio.ensure_future(server.wait())
        try:
            while not ended.done():
                changed = await self._changes(ended)
                if changed and not ended.done():
                    await self._replace(server.url, tuple(changed))
            return await ended
        finally:
            ended.cancel()

    async def _changes(self, ended: asyncio.Future[int]) -> list[str]:
        """The names of the files of the next change; none if something else happened."""
        changed: set[Path] = set()
        while not ended.done():
            runner = self._runner
            waits = {ended} if runner is None else {ended, runner.ended}
            await asyncio.wait(waits, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            if runner is not None and runner.ended.done():
                self._runner = None
                code = await runner.end(0.0)
                self._tell("the runner was drained" if code == 0 else UNASKED.format(code))
            more = self._watch.changed()
            changed.update(more)
            if changed and not more:
                return sorted(file.name for file in changed)
        return []

    async def _replace(self, url: str, changed: tuple[str, ...]) -> None:
        """A new runner in place of the old one, if the code can be loaded."""
        async with self._starting() as runner:
            loaded = await runner.loaded()
            self._look_after(loaded.files, loaded.folders)
            if not loaded.ok:
                self._tell("the changed code isn't used")
                return
            old, self._runner = self._runner, None
            if old is not None:
                await old.end(self._drain_s)
            if await runner.host(url, changed):
                self._runner = runner
            else:
                self._tell("the changed code can't be hosted")

    def _look_after(self, files: tuple[str, ...], folders: tuple[str, ...]) -> None:
        self._watch.add(map(Path, files), map(Path, folders))

    def _tell(self, what: str) -> None:
        goes_on = "there is no runner" if self._runner is None else "the old runner goes on"
        self._output.note(f"{what}: {goes_on}, until a file changes")
