"""`perdure run`: a runner on a server that is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from ..logs import Level, configure
from ..process import run_until_signalled
from .app import AnyEntity, load_app
from .hosting import announce, hosting
from .options import NO_OPTIONS, Common


def run(
    app: str,
    /,
    *,
    log_level: Level = "info",
    log_json: Annotated[bool, Parameter(negative="")] = False,
    common: Common = NO_OPTIONS,
) -> int:
    """Host the entities of APP until SIGTERM, Ctrl-C or `perdure drain`, then drain.

    Any number of runners may host the same types: they share the shards, and those that stay take
    over when one is gone.

    For instance:

    * `perdure run bank`
    * `perdure run bank:account --url nats://nats.example:4222`

    Parameters
    ----------
    app
        A module (`bank`), one entity of it (`bank:account`) or a file (`bank.py`).
    log_level
        What to log, from this level on, on standard error.
    log_json
        Log in JSON, one object a line.
    """
    configure(log_level, json=log_json)
    return run_until_signalled(_run(app, load_app(app), common))


async def _run(app: str, entities: Sequence[AnyEntity], common: Common) -> int:
    settings = common.settings()
    async with hosting(entities, settings, ends=True) as cluster:
        announce(common.output(), entities, settings, how=f"perdure run {app}")
        await cluster.drained.wait()
    return 0
