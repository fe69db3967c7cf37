"""Real servers for tests.

`nats_server` is one server for the whole run, for tests that leave it alone: give each test a
namespace of its own (`namespace`), and nothing of one reaches another. `own_server` makes
servers for tests that kill, freeze or configure them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sized
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import pytest
import pytest_asyncio

from perdure.deploy.server import EmbeddedServer
from perdure.entities.settings import Settings
from perdure.streams.port import Session, Unreachable

if TYPE_CHECKING:
    from perdure.streams.jetstream.session import JetStreamSession

PATIENCE_S = 20.0
"""How long a test waits for what must come."""

_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServer]:
    """One server for all; never stopped in between. Without fsync: nobody pulls the plug here."""
    async with EmbeddedServer(tmp_path_factory.mktemp("nats"), fsync=False) as server:
        yield server


@pytest_asyncio.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[EmbeddedServer]]]:
    """Starts servers that belong to this test alone; they end with it."""
    servers: list[EmbeddedServer] = []

    async def start(**options: Any) -> EmbeddedServer:
        options.setdefault("fsync", False)
        folder = options.pop("folder", tmp_path / f"nats-{len(servers)}")
        server = EmbeddedServer(folder, **options)
        servers.append(server)
        await server.start()
        return server

    yield start
    for server in servers:
        await server.kill()


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test of this run uses."""
    return fresh_namespace()


def fresh_namespace() -> str:
    """A namespace that nobody else of this run uses."""
    return f"t{next(_numbers)}"


def settings_for(server: EmbeddedServer, namespace: str, **changes: Any) -> Settings:
    """Settings of a small, quick test on that server.

    The server reserves the size of each command stream: that of many tests must fit on its disk.
    """
    given: dict[str, Any] = {"url": server.url, "namespace": namespace}
    given |= {"shards": 4, "command_stream_bytes": 2**24}
    return Settings(**{**given, **changes})


async def until(condition: Callable[[], bool], what: str = "it") -> None:
    """Wait until something has come about; fails after PATIENCE_S."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_S
    while not condition():
        assert loop.time() < end, f"{what} never came"
        await asyncio.sleep(0.005)


async def until_count(things: Sized, count: int) -> None:
    """Wait until there are that many; fails if there are more."""
    await until(lambda: len(things) >= count, f"{count} of {type(things).__name__}")
    assert len(things) == count


async def plain_client(server: EmbeddedServer) -> Any:
    """A nats-py client without perdure; untyped, as nats-py is in part."""
    connect: Any = vars(nats)["connect"]
    return await connect(server.url)


async def freeze(server: EmbeddedServer, session: Session) -> None:
    """Freeze the server, and see that it is: the signal takes a while to reach all its threads."""
    server.pause()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await session.asks.request("nobody.listens", b"", timeout_s=0.05)
            except Unreachable as error:
                assert "no answer" in str(error)  # noqa: PT017
                return


@asynccontextmanager
async def nats_session(
    server: EmbeddedServer, namespace: str, *, name: str = "test", **changes: Any
) -> AsyncGenerator[JetStreamSession]:
    """A session on that server, closed at the end."""
    from perdure.streams.jetstream.session import open_session

    session = await open_session(settings_for(server, namespace, **changes), name=name)
    try:
        yield session
    finally:
        await session.close()
