"""Every check on every backend."""

from __future__ import annotations

import pytest

from .backend import Check
from .catalogue import ALL
from .memory import MemoryBackend


@pytest.mark.parametrize("check", ALL, ids=lambda check: check.__name__)
async def test_memory(check: Check) -> None:
    backend = MemoryBackend()
    try:
        await check(backend)
    finally:
        await backend.close()
