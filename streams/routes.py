"""Routes: how each entity type is cut into shards, and how far its runners' clock is from ours.

Asked of the type's runners by `info`, once a type, and again when an answer says that it changed.
Many calls may need the same route at once: one question serves them all. What was learnt once is
kept when nobody answers any more, since a type that had runners will have them again.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from .asks import decode_info
from .codec import Undecodable
from .port import Session, Unreachable
from .subjects import Sharding

logger: logging.Logger = logging.getLogger("perdure.client")

INFO_TIMEOUT_S = 2.0
"""How long one `info` may take: a thousand times its usual time, and short beside any call's."""
AGAIN_TIMEOUT_S = 0.25
"""How long to wait for a newer route where an older one is known: that one may still be right."""


class NobodyThere(Exception):
    """No runner hosts the type right now."""


@dataclass(frozen=True, slots=True)
class Route:
    """How a type's messages are addressed."""

    sharding: Sharding
    offset_ms: int  # the runners' clock minus ours


class Routes:
    """The routes that one client knows."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[str, Route] = {}
        self._asking: dict[str, asyncio.Task[Route]] = {}

    def __repr__(self) -> str:
        return f"Routes({', '.join(sorted(self._known))})"

    def known(self, entity: str) -> Route | None:
        """What was learnt last."""
        return self._known.get(entity)

    async def ask(self, entity: str, *, timeout_s: float) -> Route:
        """Ask anew, together with all who ask at the same time.

        Raises NobodyThere; Unreachable if there was no answer in time; Undecodable.
        """
        task = self._asking.get(entity)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch(entity))
            self._asking[entity] = task
            task.add_done_callback(lambda done: self._asked(entity, done))
        done, _ = await asyncio.wait((task,), timeout=timeout_s)
        if not done or task.cancelled():
            raise Unreachable("no answer to info")
        return task.result()

    def close(self) -> None:
        """Ask no more."""
        for task in self._asking.values():
            task.cancel()

    async def _fetch(self, entity: str) -> Route:
        session = self._session
        before_ns = session.clock.now_ns()
        subject = session.subjects.info(entity)
        message = await session.asks.request(subject, b"", timeout_s=INFO_TIMEOUT_S)
        if message.no_responders:
            raise NobodyThere(entity)
        middle_ms = (before_ns + session.clock.now_ns()) // 2_000_000
        info = decode_info(message.data)
        if info.entity != entity or info.shards < 1:
            raise Undecodable(f"info: {info.shards} shards of {info.entity[:60]!r}")
        route = Route(Sharding(info.generation, info.shards), info.time - middle_ms)
        self._known[entity] = route
        logger.debug(
            "learnt how %s is cut: generation %d, %d shards, clock %+d ms",
            entity,
            info.generation,
            info.shards,
            route.offset_ms,
            extra={"action": "route.learnt", "entity": entity},
        )
        return route

    def _asked(self, entity: str, done: asyncio.Task[Route]) -> None:
        self._asking.pop(entity, None)
        if not done.cancelled():
            done.exception()  # whoever waited has it; if nobody did, asyncio would complain
