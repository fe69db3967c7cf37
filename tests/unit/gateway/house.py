"""A gateway on a real socket, over a client of its own, with a runner on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from perdure import Cluster, Entity, connect
from perdure.deploy.gateway.app import Gateway
from perdure.deploy.gateway.limits import Limits
from perdure.deploy.gateway.serving import listen, serve_gateway
from perdure.deploy.server import EmbeddedServer

from ...support.server import settings_for
from .till import till


@dataclass
class House:
    """The gateway, whom it calls by, and who calls it."""

    gateway: Gateway
    cluster: Cluster
    http: httpx.AsyncClient
    at: str
    serving: asyncio.Task[None]

    async def stop(self) -> None:
        """As SIGTERM does."""
        self.serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.serving


@asynccontextmanager
async def house(
    server: EmbeddedServer,
    namespace: str,
    limits: Limits | None = None,
    *,
    hosted: bool = True,
    require_key: bool = False,
    root: str = "",
    entities: Sequence[Entity[Any, Any]] = (till,),
) -> AsyncGenerator[House]:
    settings = settings_for(server, namespace, shards=1)
    async with contextlib.AsyncExitStack() as stack:
        if hosted:
            await stack.enter_async_context(connect(serving=entities, settings=settings))
        cluster = await stack.enter_async_context(connect(settings=settings))
        gateway = Gateway(cluster, entities, limits, require_key=require_key, root=root)
        sock = listen("127.0.0.1", 0)
        at = f"http://127.0.0.1:{sock.getsockname()[1]}"
        ready = asyncio.Event()
        serving = asyncio.create_task(serve_gateway(gateway, sock, ready.set))
        await ready.wait()
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=at, timeout=20.0, trust_env=False)
        )
        made = House(gateway, cluster, http, at, serving)
        stack.push_async_callback(made.stop)
        yield made


def deaf(port: int, request: bytes) -> socket.socket:
    """A client that reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(request)
    return client
