"""`perdure dev`: a server and a runner in one terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..logs import Level, configure
from ..process import run_until_signalled
from ..server import EmbeddedServer
from .app import AnyEntity, load_app
from .hosting import announce, hosting
from .options import Common
from .trouble import Failed, UsageError

DEFAULT_PORT = 4222
"""nats-server's own, so that the other commands find it without an option."""

LAST_PORT = 65_535


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
    acknowledges it, so nothing is lost between two runs. Ctrl-C drains the runner, then stops
    both.

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
    entities = load_app(app)
    return run_until_signalled(_dev(app, entities, options))


async def _dev(app: str, entities: Sequence[AnyEntity], options: DevOptions) -> int:
    common = Common(namespace=options.namespace, json=options.json)
    output = common.output()
    async with EmbeddedServer(options.store, port=options.port) as server:
        settings = common.settings(url=server.url)
        async with hosting(entities, settings, ends=False):
            announce(output, entities, settings, how=f"perdure dev {app}")
            output.line("Ctrl-C drains the runner and stops both.")
            code = await asyncio.shield(server.wait())
    raise Failed(
        f"nats-server ended by itself with code {code}", f"see its log: {server.log_file}"
    )
