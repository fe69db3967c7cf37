"""Waiting for what nobody announces, such as an empty stream: ask again and again, for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

POLL_S = 0.01


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float, what: str) -> None:
    """Until it holds. Raises TimeoutError that says what didn't come."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while not await condition():
        if loop.time() >= end:
            raise TimeoutError(f"{what} didn't come within {timeout_s:g} s")
        await asyncio.sleep(POLL_S)
