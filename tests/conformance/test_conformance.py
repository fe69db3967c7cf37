"""Every check on every backend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from perdure.deploy.server import EmbeddedServer

from .backend import Check
from .catalogue import ALL, ALONE
from .jetstream import JetStreamBackend
from .memory import MemoryBackend

SHARED = [check for check in ALL if check not in ALONE]


def named(check: Check) -> str:
    return check.__name__


@pytest.mark.parametrize("check", ALL, ids=named)
async def test_memory(check: Check) -> None:
    backend = MemoryBackend()
    try:
        await check(backend)
    finally:
        await backend.close()


@pytest.mark.parametrize("check", SHARED, ids=named)
async def test_jetstream(check: Check, nats_server: EmbeddedServer, namespace: str) -> None:
    await _on_jetstream(check, nats_server, namespace)


@pytest.mark.parametrize("check", ALONE, ids=named)
async def test_jetstream_restarted(
    check: Check, own_server: Callable[..., Awaitable[EmbeddedServer]], namespace: str
) -> None:
    await _on_jetstream(check, await own_server(), namespace)


async def _on_jetstream(check: Check, server: EmbeddedServer, namespace: str) -> None:
    backend = JetStreamBackend(server, namespace)
    try:
        await check(backend)
    finally:
        await backend.close()
