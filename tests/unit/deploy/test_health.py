"""`/livez`, `/readyz` and `/metrics` of real runners on real servers, and of a stuck loop."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.error
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from perdure.deploy import health
from perdure.deploy.cli.hosting import hosting
from perdure.deploy.cli.trouble import UsageError
from perdure.deploy.cli.workers import port_of
from perdure.deploy.health import CONNECTIONS, Health, serving
from perdure.deploy.readiness import CHECKS, Check, canary_limit_s, checks
from perdure.deploy.server import EmbeddedServer
from perdure.deploy.watchdog import Watchdog
from perdure.entities.settings import Settings

from ...support.server import PATIENCE_S, settings_for
from ..durable.case import Case, Walk, World, case_of
from .commands import Shell
from .counter import Add, Counter, counter
from .probing import free_ports, get, probe, until_probe
from .told import told, told_type

OwnServer = Callable[..., Awaitable[EmbeddedServer]]


async def test_a_runner_is_ready_until_it_drains_and_lives_on(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    port = free_ports(1)
    settings = settings_for(nats_server, namespace, health_port=port)
    shell = Shell(tmp_path, PERDURE_URL=nats_server.url, PERDURE_NAMESPACE=namespace)
    async with hosting([counter], settings, ends=False, health=True) as cluster:
        await cluster.at(Counter, "a").ask(Add(1))
        ready = await until_probe(port, "/readyz", lambda got: got.status == 200, PATIENCE_S)
        assert ready.failed == {}
        assert [name in ready.text for name in CHECKS] == [True] * len(CHECKS)
        assert (await probe(port, "/livez?verbose")).status == 200
        assert (await probe(port, "/else")).status == 404
        assert 'type="counter"' in (await probe(port, "/metrics")).text
        opened = await probe(port, "/metrics", Accept="application/openmetrics-text")
        assert opened.text.endswith("# EOF\n")
        assert cluster.runner_id is not None
        told = await asyncio.to_thread(shell.type, "drain", cluster.runner_id, "--no-wait")
        assert told.code == 0
        drains = await until_probe(port, "/readyz", lambda got: got.status == 503, PATIENCE_S)
        assert drains.failed == {"not_draining": "it drains"}
        assert (await probe(port, "/livez")).status == 200
        assert "perdure_draining 1.0" in (await probe(port, "/metrics")).text


async def test_it_answers_until_its_drain_is_over(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    port, world = free_ports(1), World()
    world.gate = asyncio.Event()
    settings = settings_for(nats_server, namespace, health_port=port)
    async with AsyncExitStack() as stack:
        hosts = hosting([case_of(world)], settings, ends=False, health=True)
        cluster = await stack.enter_async_context(hosts)
        await cluster.at(Case, "c").tell(Walk(1), key="k")
        await world.called("0")  # a step is in hand, for which a drain waits
        leaves = asyncio.create_task(stack.pop_all().aclose())
        drains = await until_probe(port, "/readyz", lambda got: got.status == 503, PATIENCE_S)
        assert drains.failed == {"not_draining": "it drains"}
        assert (await probe(port, "/livez")).status == 200
        assert not leaves.done()
        world.gate.set()
        await leaves
    with pytest.raises(urllib.error.URLError):
        get(port, "/livez")


async def test_it_is_not_ready_within_seconds_when_the_server_is_gone(
    own_server: OwnServer,
) -> None:
    server, port = await own_server(), free_ports(1)
    settings = settings_for(server, "p", health_port=port, drain_timeout=0.1)
    async with hosting([counter], settings, ends=False, health=True):
        assert (await probe(port, "/readyz")).failed == {}
        await server.kill()
        gone = await until_probe(port, "/readyz", lambda got: got.status == 503, 5.0)
        assert gone.failed["connected"] == "no connection to a server"
        assert (await probe(port, "/livez")).status == 200
        await until_probe(port, "/metrics", lambda got: "\nperdure_connected 0.0" in got.text, 5.0)


async def test_a_port_that_is_taken_is_told(nats_server: EmbeddedServer, namespace: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given: dict[str, Any] = {"health_port": port, "health_host": "127.0.0.1"}
        settings = settings_for(nats_server, namespace, **given)
        with pytest.raises(UsageError, match=f"health_port {port} on 127.0.0.1: .*in use"):
            async with hosting([counter], settings, ends=False, health=True):
                pass


# -- without a runner ---------------------------------------------------------------------------
async def test_a_stuck_loop_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOK_S", 0.1)
    monkeypatch.setattr(health, "DEAD_S", 0.3)
    with Watchdog(ends=False, tick_s=0.02, stuck_ticks=10**9) as watchdog:
        async with serving(Health(Settings(), watchdog), "127.0.0.1", 0) as port:
            starting = await probe(port, "/readyz")
            assert starting.failed == {"hosting": "it hasn't connected yet"}
            assert "perdure_ready 0.0" in (await probe(port, "/metrics")).text
            # From here on this very function holds the loop.
            assert get(port, "/livez").status == 200
            assert get(port, "/readyz").failed == {
                "loop": "the event loop didn't answer within 0.1 s"
            }
            assert get(port, "/metrics").status == 503
            for _ in range(int(PATIENCE_S / 0.05)):
                if get(port, "/livez").status == 503:
                    break
                threading.Event().wait(0.05)
            assert "gave no sign of life" in get(port, "/livez").failed["loop"]
            await until_probe(port, "/livez", lambda got: got.status == 200, PATIENCE_S)


async def test_without_the_extra_the_probes_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def finds_nothing(name: str) -> None:
        assert name == "prometheus_client"

    monkeypatch.setattr(health, "find_spec", finds_nothing)
    with Watchdog(ends=False) as watchdog:
        async with serving(Health(Settings(), watchdog), "127.0.0.1", 0) as port:
            assert (await probe(port, "/livez")).status == 200
            lacks = await probe(port, "/metrics")
            assert lacks.status == 501
            assert "pip install 'perdure[metrics]'" in lacks.text


def exchange(port: int, sent: bytes) -> bytes:
    """What comes back for these bytes, until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(sent)
        found = b""
        while part := connection.recv(65_536):
            found += part
        return found


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /livez HTTP/1.1\r\n\r\n", b" 501 "),
        (b"GET " + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b" 414 "),
        (b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b" 431 "),
        (b"GET //[ HTTP/1.1\r\n\r\n", b" 404 "),
        (b"\x16\x03\x01\x00 not http\r\n\r\n", b"400 "),
        (b"HEAD /livez HTTP/1.1\r\n\r\n", b" 200 "),
    ],
)
async def test_bad_requests_are_harmless(sent: bytes, status: bytes) -> None:
    with Watchdog(ends=False) as watchdog:
        async with serving(Health(Settings(), watchdog), "127.0.0.1", 0) as port:
            assert status in await asyncio.to_thread(exchange, port, sent)
            assert (await probe(port, "/livez")).status == 200


async def test_connections_and_their_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONNECTION_S", 0.5)
    with Watchdog(ends=False) as watchdog:
        async with serving(Health(Settings(), watchdog), None, 0) as port:
            at = ("127.0.0.1", port)
            idle = [socket.create_connection(at, timeout=PATIENCE_S) for _ in range(CONNECTIONS)]
            for connection in idle:
                connection.sendall(b"GET /livez HTTP/1.1\r\n")  # and nothing more
            assert await asyncio.to_thread(_turned_away, at)
            closed = [await asyncio.to_thread(_rest, connection) for connection in idle]
            assert len(closed) == CONNECTIONS
            await until_probe(port, "/livez", lambda got: got.status == 200, PATIENCE_S)


def _turned_away(at: tuple[str, int]) -> bool:
    """Whether one more connection is closed without a word."""
    with socket.create_connection(at, timeout=PATIENCE_S) as connection:
        try:
            return connection.recv(1) == b""
        except ConnectionResetError:
            return True


def _rest(connection: socket.socket) -> bytes:
    """What comes until the other side closes, though a byte is sent now and then."""
    with connection:
        try:
            connection.sendall(b"a: b\r\n")
            return connection.recv(65_536)
        except (BrokenPipeError, ConnectionResetError):
            return b""


# -- pure ---------------------------------------------------------------------------------------
def failed(*, hosting: bool = True, connected: bool = True, **changes: Any) -> dict[str, str]:
    stats = told("r", *changes.pop("types", ()), **{"leaving": False, "renewed_s": 1.0, **changes})
    found = checks(stats, hosting=hosting, connected=connected, limit_s=canary_limit_s(3.0))
    assert [check.name for check in found] == list(CHECKS)
    return {check.name: check.why for check in found if not check.ok}


def test_each_check() -> None:
    assert failed(types=(told_type(0, 1), told_type())) == {}  # it stands by for the second
    assert failed(connected=False) == {"connected": "no connection to a server"}
    assert failed(hosting=False) == {"hosting": "it is starting, or has stopped"}
    assert failed(leaving=True) == {"not_draining": "it drains"}
    assert failed(renewed_s=None) == {"write_canary": "its heartbeat was never stored"}
    assert failed(renewed_s=8.0) == {}
    late = "its heartbeat was last stored 8.1 s ago, the limit is 8 s"
    assert failed(renewed_s=8.1) == {"write_canary": late}
    less = told_type(0, 1, assigned=3)
    assert failed(types=(less,))["shards"] == "counter: it has 2 of the 3 shards that are its own"
    outdated = told_type(outdated=True)
    assert "restart it" in failed(types=(outdated,))["shards"]
    nobody = checks(None, hosting=False, connected=False, limit_s=8.0)
    assert nobody[1] == Check("hosting", False, "it hasn't connected yet")


def test_ports_of_workers() -> None:
    assert [port_of(0, n, 2) for n in range(2)] == [0, 0]
    assert [port_of(9_000, n, 2) for n in range(2)] == [9_000, 9_001]
    assert port_of(65_534, 1, 2) == 65_535
    with pytest.raises(UsageError, match="the last port is 65535"):
        port_of(65_535, 0, 2)
