"""The server of a rehearsal: it holds a whole backup for a while, so nobody else gets in."""

from __future__ import annotations

import asyncio
import stat
import tempfile
from pathlib import Path

import pytest

from perdure.deploy.cli.restore import rehearsal_server

from ...support.server import PATIENCE_S
from .commands import plain_client


def listed(folder: Path) -> dict[str, tuple[int, str]]:
    """The folders there: their modes, and the servers' configurations in them."""
    return {
        path.name: (stat.S_IMODE(path.stat().st_mode), (path / "server.conf").read_text())
        for path in folder.iterdir()
    }


async def told(url: str, login: bytes) -> bytes:
    """All that the server says to who connects like that, up to its end."""
    host, _, port = url.removeprefix("nats://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"CONNECT " + login + b"\r\nPING\r\n")
    async with asyncio.timeout(PATIENCE_S):
        heard = await reader.read()
    writer.close()
    await writer.wait_closed()
    return heard


async def test_nobody_else_can_look_at_a_rehearsal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with rehearsal_server() as (url, token):
        ((mode, configuration),) = listed(tmp_path).values()
        assert mode == 0o700
        assert token in configuration
        for login in (b"{}", b'{"auth_token": "another"}'):
            assert b"-ERR 'Authorization Violation'" in await told(url, login)
        client = await plain_client(url, token=token)
        await client.close()
    assert listed(tmp_path) == {}
