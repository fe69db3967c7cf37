"""Routes: how each entity type is cut into shards, and how far its runners' clock is from ours.

Asked of the type's runners by `info`, once a type, again when an answer says that it changed, and
now and then beside a call, since clocks are set while programs run. Many calls may need the same
route at once: one question serves them all. What was learnt once is kept when nobody answers any
more, since a type that had runners will have them again.
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
REFRESH_S = 300.0
"""When a route is asked for again though nothing is wrong. Clocks drift apart by 30 ms meanwhile;
one that was set makes keys look older or younger than they are, at worst for so long."""
DOUBT_S = 1.0
"""How often a refusal that a wrong clock may explain makes calls ask again: most are the caller's
own mistake, and a loop of those must not become a loop of questions."""


class NobodyThere(Exception):
    """No runner hosts the type right now."""


@dataclass(frozen=True, slots=True)
class Route:
    """How a type's messages are addressed."""

    sharding: Sharding
    offset_ms: int  # the runners' clock minus ours


@dataclass(slots=True)
class _Known:
    """What was learnt of one type; times are the loop's, in seconds."""

    route: Route
    asked_at: float
    doubted: bool = False
    doubted_at: float = float("-inf")


class Routes:
    """The routes that one client knows."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Task[Route]] = {}

    def __repr__(self) -> str:
        return f"Routes({', '.join(sorted(self._known))})"

    def known(self, entity: str) -> Route | None:
        """What was learnt last."""
        known = self._known.get(entity)
        return None if known is None else known.route

    def doubt(self, entity: str) -> None:
        """A runner refused what a wrong clock may explain: ask anew before the next call."""
        known, now = self._known.get(entity), asyncio.get_running_loop().time()
        if known is not None and now >= known.doubted_at + DOUBT_S:
            known.doubted, known.doubted_at = True, now

    def current(self, entity: str, now: float) -> Route | None:
        """What was learnt last, unless it is to be asked anew before a call; if that was long ago,
        it is asked anew in the background. `now` is the loop's time."""
        known = self._known.get(entity)
        if known is None or known.doubted:
            return None
        if now >= known.asked_at + REFRESH_S:
            self._question(entity)
        return known.route

    async def ask(self, entity: str, *, timeout_s: float) -> Route:
        """Ask anew, together with all who ask at the same time.

        Raises NobodyThere; Unreachable if there was no answer in time; Undecodable.
        """
        task = self._question(entity)
        done, _ = await asyncio.wait((task,), timeout=timeout_s)
        if not done or task.cancelled():
            raise Unreachable("no answer to info")
        return task.result()

    def close(self) -> None:
        """Ask no more."""
        for task in self._asking.values():
            task.cancel()

    def _question(self, entity: str) -> asyncio.Task[Route]:
        """The question under way, or a new one."""
        task = self._asking.get(entity)
        if task is None:
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._fetch(entity))
            self._asking[entity] = task
            task.add_done_callback(lambda done: self._asked(entity, done))
            if (known := self._known.get(entity)) is not None:
                known.asked_at = loop.time()
        return task

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
        now = asyncio.get_running_loop().time()
        known = self._known.setdefault(entity, _Known(route, now))
        known.route, known.asked_at = route, now
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
        if (known := self._known.get(entity)) is not None:
            known.doubted = False  # there is nobody better to ask
        if not done.cancelled():
            done.exception()  # whoever waited has it; if nobody did, asyncio would complain
