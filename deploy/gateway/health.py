"""Health: whether the process lives, and whether calls get through.

Ready means that an owner of some entity type answered just now: connection, permissions and
runners in one. It is asked as anybody asks, for the status of an entity that nobody has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from ...entities.errors import ClusterError
from ...streams.client import Cluster
from .limits import Limits
from .problems import answer
from .served import Served

PROBE = "-readyz-"
"""The id of that entity: asking for its status writes nothing."""


class Health:
    """The two probes."""

    def __init__(
        self,
        cluster: Cluster,
        types: Mapping[str, Served],
        limits: Limits,
        draining: asyncio.Event,
    ) -> None:
        self._cluster, self._types, self._limits = cluster, types, limits
        self._draining = draining
        self._asking: asyncio.Task[str] | None = None
        self._asked_at = 0.0

    async def live(self, request: Request) -> Response:
        """The event loop turns."""
        return answer(200, {"live": True})

    async def ready(self, request: Request) -> Response:
        """Calls get through, or 503 with the reason."""
        why = "draining" if self._draining.is_set() else await self._why_not()
        if not why:
            return answer(200, {"ready": True})
        return answer(503, {"ready": False, "why": why}, {"Retry-After": "1"})

    async def _why_not(self) -> str:
        """One look for all who ask meanwhile and soon after."""
        loop = asyncio.get_running_loop()
        asking = self._asking
        if asking is None or (
            asking.done() and loop.time() - self._asked_at > self._limits.ready_every_s
        ):
            asking = self._asking = loop.create_task(self._look())
            self._asked_at = loop.time()
        return await asyncio.shield(asking)

    async def _look(self) -> str:
        loop = asyncio.get_running_loop()
        looks = [loop.create_task(self._ask(served)) for served in self._types.values()]
        try:
            why = ""
            for look in asyncio.as_completed(looks):
                why = await look
                if not why:
                    return ""
            return why
        finally:
            for look in looks:
                look.cancel()
            await asyncio.gather(*looks, return_exceptions=True)

    async def _ask(self, served: Served) -> str:
        try:
            async with asyncio.timeout(self._limits.ready_s):
                await self._cluster.at(served.state, PROBE).status()
        except ClusterError as error:
            return error.tag
        except TimeoutError:
            return "no owner answered in time"
        return ""

    async def close(self) -> None:
        """End a look that goes on."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
