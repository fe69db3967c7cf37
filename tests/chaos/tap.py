"""What runners try to append, whether the log takes it or not: a plain subscriber hears it, too.

The log of a runner can't tell: one that was taken for dead doesn't wait for the server's word.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nats.aio.client import Client


@dataclass(frozen=True)
class Attempt:
    """One commit on its way to the log."""

    heard: datetime
    entity: str
    runner: str
    commit: str  # its id


@asynccontextmanager
async def tapped(url: str, subject: str) -> AsyncGenerator[list[Attempt]]:
    """All attempts to append to the log with these subjects, as they come."""
    client: Any = Client()  # its annotations are partly missing
    found: list[Attempt] = []

    async def hear(message: Any) -> None:
        commit = json.loads(message.data)
        entity = message.subject.rpartition(".")[2]
        found.append(Attempt(datetime.now(UTC), entity, commit["runner"], commit["id"]))

    await client.connect(url)
    try:
        await client.subscribe(subject, cb=hear)
        await client.flush()
        yield found
    finally:
        await client.close()
