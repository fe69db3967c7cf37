"""`perdure run`: a runner on a server that is there, or several, each a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from ..logs import Level, configure
from ..process import run_until_signalled
from .app import AnyEntity, load_app
from .hosting import announce, hosting
from .operating import with_server
from .options import NO_OPTIONS, Common
from .worker import Given
from .workers import Workers, how_many, supervise


def run(
    app: str,
    /,
    *,
    workers: Workers = 1,
    health_port: int | None = None,
    log_level: Level = "info",
    log_json: Annotated[bool, Parameter(negative="")] = False,
    common: Common = NO_OPTIONS,
) -> int:
    """Host the entities of APP until SIGTERM, Ctrl-C or `perdure drain`, then drain.

    Any number of runners may host the same types: they share the shards, and those that stay take
    over when one is gone. `--workers 4` starts four processes that do so, and starts one again
    that ends, unless `perdure drain` ended it. SIGTERM or Ctrl-C drains all of them; given twice,
    they are killed.

    For instance:

    * `perdure run bank`
    * `perdure run bank:account --url nats://nats.example:4222`
    * `perdure run bank --workers auto`
    * `perdure run bank --health-port 9464 & curl -s localhost:9464/readyz`

    Parameters
    ----------
    app
        A module (`bank`), one entity of it (`bank:account`) or a file (`bank.py`).
    workers
        How many processes, up to 64; `auto`: one for each core that this process may use, whatever
        share of them a container is given. With 1 there is only this process.
    health_port
        Answer `/livez`, `/readyz` and `/metrics` by HTTP on this port; with --workers each worker
        has one of its own, from this one on. 0: nowhere. Default: the setting health_port.
    log_level
        What to log, from this level on, on standard error.
    log_json
        Log in JSON, one object a line. Workers have their number in `worker`, from 0 on.
    """
    count = how_many(workers)
    configure(log_level, json=log_json)
    entities = load_app(app)
    if count == 1:
        return run_until_signalled(_run(app, entities, common, health_port))
    settings = with_server(common.settings(health_port=health_port))
    given = Given(app, 0, common.url, common.namespace, log_level, log_json)

    def ready() -> None:
        how = f"perdure run {app}, {count} workers,"
        announce(common.output(), entities, settings, how=how)

    return supervise(given, count, settings, on_ready=ready)


async def _run(
    app: str, entities: Sequence[AnyEntity], common: Common, health_port: int | None
) -> int:
    settings = common.settings(health_port=health_port)
    async with hosting(entities, settings, ends=True, health=True) as cluster:
        announce(common.output(), entities, settings, how=f"perdure run {app}")
        await cluster.drained.wait()
    return 0
