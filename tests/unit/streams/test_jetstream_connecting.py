"""Connecting for the first time: to one of several servers, with log-ins, by web, or in vain."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure.deploy.server import EmbeddedServer
from perdure.entities.address import Address
from perdure.entities.settings import Settings
from perdure.streams.commit import Sealed
from perdure.streams.jetstream.session import open_session
from perdure.streams.port import Appended, Incompatible, NoAck, Unreachable

from ...support.server import nats_session, settings_for, until

Start = Callable[..., Awaitable[EmbeddedServer]]

ADDRESS = Address("account", "a-1")


def commit(text: str) -> Sealed:
    return Sealed(text, text.encode(), "mark")


def only(tasks: set[asyncio.Task[Any]]) -> list[str]:
    return [task.get_name() for task in tasks if task is not asyncio.current_task()]


async def test_no_server_is_told(namespace: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"nats://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unreachable, match=r"can't connect to nats://\*\*\*@") as caught:
            await open_session(Settings(url=url, namespace=namespace), name="t")
    assert "secret" not in str(caught.value)
    assert "Connect call failed" in str(caught.value)


async def test_one_of_several_servers_is_enough(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"nats://127.0.0.1:{taken.getsockname()[1]}"
        url = f"{nobody},{nats_server.url}"
        settings = settings_for(nats_server, namespace, url=url)
        session = await open_session(settings, name="t")
    assert session.connected
    await session.close()


async def test_servers_of_a_cluster_find_each_other(own_server: Start, namespace: str) -> None:
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        routes = [f"nats://127.0.0.1:{s.getsockname()[1]}" for s in (first, second)]
    servers: list[EmbeddedServer] = []
    for route in routes:
        listen = route.removeprefix("nats://")
        cluster = f'cluster {{ name: c, listen: "{listen}", routes: {json.dumps(routes)} }}'
        extra = f"server_name: n{len(servers)}\n{cluster}"
        servers.append(await own_server(extra=extra))
    await routed(servers[0])
    async with nats_session(servers[0], namespace) as session:
        assert session.connected
        await servers[0].kill()
        other = str(servers[1].port)
        await until(lambda: session.connected and other in repr(session))
        assert (await session.asks.request("x", b"", timeout_s=5)).no_responders


async def routed(server: EmbeddedServer) -> None:
    """Until a server greets with the addresses of two."""
    async with asyncio.timeout(20):
        while True:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            greeting = json.loads((await reader.readline()).removeprefix(b"INFO "))
            writer.close()
            if len(greeting.get("connect_urls", ())) == 2:
                return


async def test_an_old_server_is_refused(
    nats_server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.streams.jetstream.errors.MINIMUM", (99, 0, 0))
    with pytest.raises(Incompatible, match=r"nats-server is 2\.\d+\.\d+, perdure needs 99\.0\.0"):
        await open_session(settings_for(nats_server, namespace), name="t")


LOGIN = "authorization { user: me, password: secret }"
TOKEN = "authorization { token: secret }"


@pytest.mark.parametrize(
    ("extra", "login", "wrong"),
    [
        (LOGIN, {"user": "me", "password": "secret"}, {"user": "me", "password": "x"}),
        (TOKEN, {"token": "secret"}, {"token": "x"}),
        (LOGIN, {"user": "me", "password": "secret"}, {}),
    ],
)
async def test_logging_in(
    own_server: Start, namespace: str, extra: str, login: dict[str, str], wrong: dict[str, str]
) -> None:
    server = await own_server(extra=extra)
    async with nats_session(server, namespace, **login) as session:
        await session.provision("account")
        await server.restart(kill=True)
        await until(lambda: session.connected)
        assert await session.log.append(ADDRESS, commit("1"), expected=0) == Appended(1)
    with pytest.raises(Unreachable, match=r"(?i)authorization violation"):
        await open_session(settings_for(server, namespace, **wrong), name="t")


async def test_logging_in_by_url(own_server: Start, namespace: str) -> None:
    server = await own_server(extra=LOGIN)
    url = server.url.replace("//", "//me:secret@")
    async with nats_session(server, namespace, url=url) as session:
        await session.provision("account")
        assert "secret" not in repr(session)
        assert server.url.removeprefix("nats://") in repr(session)


@pytest.mark.filterwarnings("ignore:parameter 'timeout':DeprecationWarning")  # nats-py's
async def test_web_sockets(own_server: Start, namespace: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    web = f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}'
    server = await own_server(extra=web)
    before = only(asyncio.all_tasks())
    async with nats_session(server, namespace, url=f"ws://127.0.0.1:{port}") as session:
        await session.provision("account")
        assert await session.log.append(ADDRESS, commit("1"), expected=0) == Appended(1)
        large = commit("x" * 900_000)
        assert await session.log.append(ADDRESS, large, expected=1) == Appended(2)
        await server.kill()
        await until(lambda: not session.connected)
        assert isinstance(await session.log.append(ADDRESS, commit("3"), expected=2), NoAck)
        await server.start()
        await until(lambda: session.connected)
        assert await session.log.append(ADDRESS, commit("3"), expected=2) == Appended(3)
        read = [s.sequence async for s in session.log.read(ADDRESS, after=0, upto=3)]
        assert read == [1, 2, 3]
    await asyncio.sleep(0)
    assert only(asyncio.all_tasks()) == before
