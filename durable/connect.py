"""`connect` and `serve`: the two ways into perdure, for callers and for hosts.

`connect` gives a client, and hosts entities beside it where asked. `serve` hosts until it is told
to stop. Both pick the backend by the URL: `nats://…`, `tls://…`, `ws://…`, or `memory:` (private
to this call) and `memory:NAME` (shared in the process), which need no server.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from ..entities.entity import Entity
from ..entities.settings import JETSTREAM_API, Settings
from ..entities.snowflake import MACHINES, use_machine
from ..streams.client import Cluster
from ..streams.connect import open_session
from ..streams.port import Incompatible
from .runner import Runner


@asynccontextmanager
async def connect(
    url: str | None = None,
    *,
    serving: Sequence[Entity[Any, Any]] = (),
    settings: Settings | None = None,
) -> AsyncGenerator[Cluster]:
    """A connection to a cluster; `serving=[account]` hosts these entities here, too.

    `url` and `settings` default to what `Settings.load()` finds. On leaving, the runner drains:
    it finishes what it has, within `Settings.drain_timeout`.

    Raises RpcClientError when nothing answers at the URL, `Incompatible` when the server or a
    stream isn't what perdure needs.
    """
    async with opened(url, serving=serving, settings=settings) as cluster:
        yield cluster


@asynccontextmanager
async def opened(
    url: str | None = None,
    *,
    serving: Sequence[Entity[Any, Any]] = (),
    settings: Settings | None = None,
    on_runner: Callable[[Runner], None] | None = None,
) -> AsyncGenerator[Cluster]:
    """`connect`, for who looks after the process: `on_runner` is told of the runner before it
    starts, and may look at it until all is over."""
    settings = _settings(url, settings)
    if serving and settings.api_prefix != JETSTREAM_API:
        what = f"api_prefix: {settings.api_prefix!r}: a runner acknowledges tells and times, which"
        raise Incompatible(
            f"{what} no such prefix changes; give it a login in the streams' account"
        )
    session = await open_session(settings, name="perdure")
    cluster = Cluster(session, settings)
    try:
        if settings.machine_id is not None:
            use_machine(settings.machine_id)
        elif not serving:
            use_machine(int(session.entropy.uniform(0, MACHINES - 1)))
        if not serving:
            yield cluster
            return
        runner = Runner(session, serving, settings, drained=cluster.drained)
        cluster.runner_id = runner.id
        if on_runner is not None:
            on_runner(runner)
        try:
            await runner.start()
            if runner.membership.own.machine is not None:
                use_machine(runner.membership.own.machine)
            cluster.declare = runner.singletons.declare
            cluster.hosting = frozenset(entity.name for entity in serving)
            yield cluster
        finally:
            await runner.drain()
    finally:
        await cluster.close()


async def serve(
    *entities: Entity[Any, Any], url: str | None = None, settings: Settings | None = None
) -> None:
    """Host entities until cancelled, told to by `perdure drain`, or SIGTERM or SIGINT; then drain.

    Raises what `connect` raises.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stopped.set)
    try:
        async with connect(url, serving=entities, settings=settings) as cluster:
            waits = [loop.create_task(event.wait()) for event in (stopped, cluster.drained)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waits:
                    task.cancel()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _settings(url: str | None, settings: Settings | None) -> Settings:
    if settings is None:
        return Settings.load() if url is None else Settings.load(url=url)
    return settings if url is None else msgspec.structs.replace(settings, url=url)
