"""The nats-server of a benchmark, or three of them in a cluster on this machine.

All clients connect to the first server, and of a cluster the streams' leaders are moved there:
else chance would give one contender a way through two servers and another one through one.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from nats.aio.client import Client
from nats.errors import Error

from perdure.deploy.server import EmbeddedServer

from .raw_link import api
from .scenarios import Environment
from .waiting import until

LEADER_S = 30.0
"""How long a new cluster may take until it takes streams, and a leader to move."""


class Servers:
    """What runs, and a connection of the benchmark's own, for looking."""

    def __init__(self, servers: list[EmbeddedServer], client: Client) -> None:
        self.client = client
        self._servers = servers

    @property
    def url(self) -> str:
        """Where everybody connects."""
        return self._servers[0].url

    @property
    def pids(self) -> list[int]:
        """Their processes."""
        return [server.pid for server in self._servers if server.pid is not None]

    async def lead(self) -> None:
        """Move every stream's leader to the first server."""
        if len(self._servers) == 1:
            return
        for name in (await api(self.client, "STREAM.NAMES"))["streams"]:
            await until(partial(self._leads, name), LEADER_S, f"a leader of {name}")

    async def _leads(self, stream: str) -> bool:
        info = await api(self.client, f"STREAM.INFO.{stream}")
        leader = info["cluster"].get("leader")
        if leader == _name(0):
            return True
        if leader:
            request = {"placement": {"preferred": _name(0)}}
            await api(self.client, f"STREAM.LEADER.STEPDOWN.{stream}", request)
        return False


@asynccontextmanager
async def running(environment: Environment, folder: Path) -> AsyncGenerator[Servers]:
    """The servers of an environment, ended and their store left behind on leaving."""
    async with AsyncExitStack() as stack:
        routes = free_ports(environment.replicas) if environment.replicas > 1 else []
        servers: list[EmbeddedServer] = []
        for number in range(environment.replicas):
            extra = _cluster(number, routes) if routes else ""
            store = folder / f"server-{number}"
            server = EmbeddedServer(store, fsync=environment.fsync, extra=extra)
            servers.append(await stack.enter_async_context(server))
        client = Client()
        await client.connect(servers[0].url)
        stack.push_async_callback(client.close)
        await until(lambda: _usable(client, len(servers)), LEADER_S, "JetStream")
        yield Servers(servers, client)


async def _usable(client: Client, replicas: int) -> bool:
    """Whether streams can be made: a cluster needs a leader first."""
    name = "BENCHMARK_PROBE"
    config = {"name": name, "subjects": ["benchmark.probe"], "num_replicas": replicas}
    try:
        await api(client, f"STREAM.CREATE.{name}", config)
        await api(client, f"STREAM.DELETE.{name}")
    except (Error, TimeoutError, RuntimeError):
        return False
    return True


def _cluster(number: int, routes: list[int]) -> str:
    urls = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    return (
        f'server_name: "{_name(number)}"\n'
        f"cluster {{\n  name: benchmark\n  listen: 127.0.0.1:{routes[number]}\n"
        f"  routes: [{urls}]\n}}"
    )


def _name(number: int) -> str:
    return f"benchmark-{number}"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, for routes, which have to be known before a start."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
