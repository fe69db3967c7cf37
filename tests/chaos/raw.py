"""The raw client beside perdure: nats-py publishes to a stream of its own and waits for acks.

Its gap is the server's share of an outage: the longest time in which nothing was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Any, Self

from nats.aio.client import Client
from nats.errors import Error
from nats.js.errors import Error as JetStreamError

STREAM = "RAW"
LOOPS = 8
"""Publishers, each with one message on its way."""
PAUSE_S = 0.02
ACK_S = 0.25
"""How long one waits until it publishes again: as long as perdure's client waits at first."""


class RawPublishers:
    """Some loops of publishes on one connection."""

    def __init__(self, urls: list[str], replicas: int) -> None:
        self.acks: list[int] = []  # when each came, CLOCK_MONOTONIC, ns
        self._urls, self._replicas = urls, replicas
        self._client = Client()
        self._stopping = False
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        client: Any = self._client  # its annotations are partly missing, and partly wrong
        await client.connect(
            self._urls, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=_quiet
        )
        js = client.jetstream()
        await js.add_stream(name=STREAM, subjects=["raw.*"], num_replicas=self._replicas)
        self._loops = [asyncio.create_task(self._publish(js, n)) for n in range(LOOPS)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping = True  # a cancellation can be lost in nats-py, beside an answer
        await asyncio.gather(*self._loops)
        await self._client.close()

    async def _publish(self, js: Any, number: int) -> None:
        while not self._stopping:
            with contextlib.suppress(Error, JetStreamError, TimeoutError, OSError):
                await js.publish(f"raw.{number}", b"x" * 200, timeout=ACK_S)
                self.acks.append(time.monotonic_ns())
            await asyncio.sleep(PAUSE_S)


async def _quiet(_error: Exception) -> None:
    """What fails is seen by its publisher."""
