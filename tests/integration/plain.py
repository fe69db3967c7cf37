"""A plain client: nothing but nats-py, as a program that never heard of perdure would use it."""

from __future__ import annotations

from typing import Any

import nats


async def plain(url: str) -> Any:
    """A connection. `Any`, since nats-py's own types are partly unknown to strict checkers."""
    module: Any = nats
    return await module.connect(url)
