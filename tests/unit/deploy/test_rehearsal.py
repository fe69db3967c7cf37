"""The server of a rehearsal: it holds a whole backup for a while, so nobody else gets in."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest
from nats.errors import Error

from perdure.deploy.cli.restore import rehearsal_server

from .commands import plain_client


def listed(folder: Path) -> dict[str, tuple[int, str]]:
    """The folders there: their modes, and the servers' configurations in them."""
    return {
        path.name: (stat.S_IMODE(path.stat().st_mode), (path / "server.conf").read_text())
        for path in folder.iterdir()
    }


async def test_nobody_else_can_look_at_a_rehearsal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with rehearsal_server() as (url, token):
        ((mode, configuration),) = listed(tmp_path).values()
        assert mode == 0o700
        assert token in configuration
        for options in ({}, {"token": "another"}):
            with pytest.raises(Error, match=r"(?i)authorization"):
                await plain_client(url, allow_reconnect=False, **options)
        client = await plain_client(url, token=token)
        await client.close()
    assert listed(tmp_path) == {}
