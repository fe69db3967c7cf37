"""The NATS servers of a chaos test: one, or three in a cluster on this machine.

Everybody knows the addresses of all of them, so that one can be killed. Questions to JetStream go
by a connection of the test's own, made anew for each: it must not depend on who was killed.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.errors import Error

from perdure.deploy.server import EmbeddedServer

READY_S = 40.0
"""How long a cluster may take until it takes streams, or a stream until all its replicas are."""
API_S = 2.0
POLL_S = 0.05


class ApiError(RuntimeError):
    """JetStream refused, or nobody answered."""


async def until(condition: Callable[[], Awaitable[bool]], limit_s: float, what: str) -> float:
    """Wait until it holds, asking again and again; how long it took. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not await condition():
        if loop.time() - began > limit_s:
            raise TimeoutError(f"{what} didn't come within {limit_s:g} s")
        await asyncio.sleep(POLL_S)
    return loop.time() - began


class Servers:
    """Those that a test may kill."""

    def __init__(self, servers: dict[str, EmbeddedServer]) -> None:
        self._servers = servers

    @property
    def urls(self) -> list[str]:
        """Where clients connect."""
        return [server.url for server in self._servers.values()]

    @property
    def url(self) -> str:
        """The same, as a setting."""
        return ",".join(self.urls)

    @property
    def alive(self) -> list[str]:
        """Where clients can connect now."""
        return [server.url for server in self._servers.values() if server.running]

    @property
    def all(self) -> list[EmbeddedServer]:
        """Each of them."""
        return list(self._servers.values())

    def server(self, name: str) -> EmbeddedServer:
        """One of them."""
        return self._servers[name]

    async def api(self, path: str, request: object = None) -> dict[str, Any]:
        """Ask JetStream. Raises ApiError."""
        client = Client()
        try:
            await client.connect(self.alive, allow_reconnect=False, connect_timeout=2)
            data = b"" if request is None else json.dumps(request).encode()
            message = await client.request(f"$JS.API.{path}", data, timeout=API_S)
        except (Error, OSError, TimeoutError) as error:
            raise ApiError(f"{path}: {error!r}") from error
        finally:
            await client.close()
        answer: dict[str, Any] = json.loads(message.data)
        if "error" in answer:
            raise ApiError(f"{path}: {answer['error']}")
        return answer

    async def leader(self, stream: str) -> str | None:
        """The server that leads a stream; None while there is none, or nobody tells."""
        try:
            info = await self.api(f"STREAM.INFO.{stream}")
        except ApiError:
            return None
        return info["cluster"].get("leader") or None

    async def lead(self, stream: str, name: str) -> None:
        """Move a stream's leader to that server."""

        async def leads() -> bool:
            leader = await self.leader(stream)
            if leader is not None and leader != name:
                placement = {"placement": {"preferred": name}}
                await self.api(f"STREAM.LEADER.STEPDOWN.{stream}", placement)
            return leader == name

        await until(leads, READY_S, f"{name} as leader of {stream}")

    async def leaders(self) -> dict[str, str | None]:
        """Who leads which stream."""
        names = (await self.api("STREAM.NAMES"))["streams"]
        return {name: await self.leader(name) for name in names}

    async def current(self) -> bool:
        """Whether each replica of each stream has what its leader has."""
        try:
            names = (await self.api("STREAM.NAMES"))["streams"]
            infos = [await self.api(f"STREAM.INFO.{name}") for name in names]
        except ApiError:
            return False
        return all(_complete(info["cluster"]) for info in infos)

    async def usable(self) -> bool:
        """Whether streams can be made: a cluster needs a leader first."""
        config = {"name": "PROBE", "subjects": ["probe"], "num_replicas": len(self._servers)}
        try:
            await self.api("STREAM.CREATE.PROBE", config)
            await self.api("STREAM.DELETE.PROBE")
        except ApiError:
            return False
        return True


@asynccontextmanager
async def running(folder: Path, count: int, *, fsync: bool) -> AsyncGenerator[Servers]:
    """That many servers, ended on leaving."""
    async with AsyncExitStack() as stack:
        ports = free_ports(count)
        servers: dict[str, EmbeddedServer] = {}
        for number in range(count):
            name = f"chaos-{number}"
            extra = _clustered(name, ports[number], ports) if count > 1 else ""
            server = EmbeddedServer(folder / name, fsync=fsync, extra=extra, tied=True)
            stack.push_async_callback(server.kill)
            await server.start()
            servers[name] = server
        made = Servers(servers)
        await until(made.usable, READY_S, "JetStream")
        yield made


def _complete(cluster: Mapping[str, Any]) -> bool:
    replicas: list[Mapping[str, Any]] = cluster.get("replicas", [])
    return bool(cluster.get("leader")) and all(replica["current"] for replica in replicas)


def _clustered(name: str, port: int, ports: list[int]) -> str:
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    return (
        f'server_name: "{name}"\n'
        f"cluster {{\n  name: chaos\n  listen: 127.0.0.1:{port}\n  routes: [{routes}]\n}}"
    )


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
