"""Users of a real server that has exactly what `perdure permissions` prints."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from perdure.deploy.grants import variable
from perdure.deploy.server import EmbeddedServer
from perdure.entities.settings import Settings

from .commands import Shell

nkeys: Any = importlib.import_module("nkeys")  # it has no types


def new_key(kind: str = "USER") -> Any:
    """A fresh NKEY; untyped, as the package is."""
    return nkeys.from_seed(
        bytearray(nkeys.encode_seed(os.urandom(32), vars(nkeys)[f"PREFIX_BYTE_{kind}"]))
    )


class Keys:
    """An NKEY for each user: the seed in a file, the public key in the server's environment."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, names: Iterable[str]) -> None:
        self._folder = folder
        self._names = list(names)
        for name in self._names:
            key = new_key()
            self._file(name).write_bytes(bytes(key.seed))
            patch.setenv(variable(name, "nkey"), key.public_key.decode())

    def change(self, name: str) -> str:
        """Another key in the same file; the public one of it."""
        key = new_key()
        self._file(name).write_bytes(bytes(key.seed))
        return str(key.public_key.decode())

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.nk"

    def settings(self, server: EmbeddedServer, name: str, **changes: Any) -> Settings:
        """Settings of a perdure program that logs in as that user."""
        given: dict[str, Any] = {
            "url": server.url,
            "nkey_seed": str(self._file(name)),
            "shards": 4,
        }
        given = {**given, "command_stream_bytes": 2**24, **changes}
        return Settings(**given)

    async def client(self, server: EmbeddedServer, name: str, **options: Any) -> Plain:
        """A client of nats-py's own that logs in as that user."""
        plain = Plain()
        seed = str(self._file(name))
        await plain.nc.connect(
            server.url,
            nkeys_seed=seed,
            error_cb=plain.on_error,
            max_reconnect_attempts=0,
            **options,
        )
        return plain


class Plain:
    """A plain client, and what the server refused it."""

    def __init__(self) -> None:
        self.nc: Any = Client()
        self.refused: list[str] = []

    async def on_error(self, error: Exception) -> None:
        """What the server said, as nats-py tells it."""
        self.refused.append(str(error).lower())

    async def said(self) -> list[str]:
        """All that was refused since the last look; the server has seen all that was sent."""
        for _ in range(2):  # nats-py writes the first ping ahead of what its buffer holds
            await self.nc.flush()
        told, self.refused = self.refused, []
        return told


def printed(folder: Path, *arguments: str) -> str:
    """What the command prints."""
    ran = Shell(folder).type("permissions", *arguments)
    assert (ran.code, ran.err) == (0, ""), ran
    return ran.out
