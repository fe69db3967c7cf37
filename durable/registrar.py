"""The registrar: an entity's id is in the registry before its first commit is in the log.

Armed first: an activation that is about to publish the first commit of an entity waits here until
the id is registered. So an id that has a log is never missing from a listing; if the process ends
in between, one is listed that has none yet. Those that come while a registration is on its way
share the next one, so many first commits at once cost one acknowledged message, and one alone
costs one more.

The registry isn't the truth, and must not hold up an entity for good. If it refuses, or isn't
heard of for PATIENCE_S, the commit goes on without it: the id is owed, it is tried again in the
background, and nobody waits until that succeeded. What is still owed when the process ends is
reported; `perdure entities TYPE --rebuild` registers it from the log.

On any trouble a new page is begun (streams/registration.py), so that nothing that may still be on
its way can take an id out of the registry; all that it can do is to list one twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from itertools import islice

from ..entities.address import Address
from ..streams.port import Appended, NoAck, PublishAnswer, Session
from ..streams.registration import Page

logger: logging.Logger = logging.getLogger("perdure.registrar")

TOGETHER = 500
"""Ids in one message: 128 KB of the longest ones, escaped as JSON at most 750 KB."""
ESCAPED = 6
"""Bytes that JSON takes for a character at most."""
PATIENCE_S = 10.0
"""Until commits go on without the registry, in seconds: longer than a stream takes to get a new
leader (4 to 8), shorter than an ask waits (30)."""
REFUSALS = 3
"""So often it may refuse before that: asking again won't help then."""
RETRY_S = 0.05
RETRY_MAX_S = 2.0
"""Between tries while somebody waits; doubling."""
OWED_S = 5.0
"""Between tries while nobody waits any more, in seconds."""
OWED = 100_000
"""Ids that are owed, at most: 10 MB and more. Those beyond are left to a rebuild."""
KNOWN = 4096
"""Ids registered lately: a first commit that has to be tried again doesn't list its id twice."""


class Registrar:
    """Registers the ids of one entity type for one runner."""

    def __init__(self, session: Session, entity: str, runner: str) -> None:
        self._session, self._entity, self._runner = session, entity, runner
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._owed: dict[str, None] = {}
        self._known: dict[str, None] = {}  # oldest first
        self._left_out = 0  # ids that found no room among the owed
        self._pages = 0
        self._page = self._next_page()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return (
            f"Registrar({self._entity}, {len(self._waiting)} waiting, {len(self._owed)} owed, "
            f"page {self._page.name})"
        )

    @property
    def owed(self) -> int:
        """Ids that have a log and aren't in the registry yet, as far as this runner knows."""
        return len(self._owed) + self._left_out

    async def register(self, address: Address) -> None:
        """Return when the id is registered, or has to be owed. Never raises."""
        id = address.id
        if id in self._known or id in self._owed:
            return
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._run())
        if self._owed:  # it is out of order; don't wait for it
            self._owe([id])
            return
        waiting = self._waiting.get(id)
        if waiting is None:
            waiting = self._waiting[id] = loop.create_future()
        await asyncio.shield(waiting)  # others may wait for the same

    async def close(self) -> None:
        """End; what is still owed is reported."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.owed:
            logger.error(
                "%d ids of %s have a log and aren't registered: perdure entities %s --rebuild",
                self.owed,
                self._entity,
                self._entity,
                extra={"action": "ids.missing"},
            )

    async def _run(self) -> None:
        """As long as there is something to register."""
        try:
            while self._waiting or self._owed:
                if self._waiting:
                    await self._register_waiting()
                elif not await self._register_owed():
                    await asyncio.sleep(OWED_S)
        except Exception:  # a bug of ours must not hold up commits
            logger.exception(
                "the registrar of %s failed", self._entity, extra={"action": "ids.failed"}
            )
            self._owe(list(self._waiting))
        finally:
            self._task = None
            for waiting in self._waiting.values():  # if it was closed, nobody commits any more
                if not waiting.done():
                    waiting.set_result(None)
            self._waiting.clear()

    async def _register_waiting(self) -> None:
        batch = fitting(self._waiting, self._session.max_payload)
        if not await self._register(batch):
            batch = list(self._waiting)
            self._owe(batch)
        for id in batch:
            waiting = self._waiting.pop(id)
            if not waiting.done():
                waiting.set_result(None)

    async def _register(self, batch: list[str]) -> bool:
        """Try until it is stored, or it is hopeless."""
        loop = asyncio.get_running_loop()
        began, refusals, tries = loop.time(), 0, 0
        while True:
            answer = await self._add(batch)
            if isinstance(answer, Appended):
                return True
            refusals += not isinstance(answer, NoAck)
            tries += 1
            delay_s = min(RETRY_MAX_S, RETRY_S * 2.0 ** min(tries - 1, 10))
            if refusals >= REFUSALS or loop.time() + delay_s - began > PATIENCE_S:
                self._report(answer)
                return False
            await asyncio.sleep(delay_s * self._session.entropy.uniform(0.5, 1.0))

    async def _register_owed(self) -> bool:
        """Try once for some of those that are owed."""
        batch = fitting(self._owed, self._session.max_payload)
        if not isinstance(await self._add(batch), Appended):
            return False
        for id in batch:
            del self._owed[id]
        if not self._owed:
            logger.info(
                "the registry of %s is there again",
                self._entity,
                extra={"action": "ids.again"},
            )
        return True

    async def _add(self, batch: list[str]) -> PublishAnswer:
        """One message. After anything but a confirmation the page isn't used any more."""
        if self._page.full:
            self._page = self._next_page()
        page = self._page
        data, whole = page.next(batch)
        answer = await self._session.ids.add(self._entity, page.name, data, whole=whole)
        if not isinstance(answer, Appended):
            self._page = self._next_page()
            return answer
        self._known.update(dict.fromkeys(batch))
        for id in list(islice(self._known, max(0, len(self._known) - KNOWN))):
            del self._known[id]
        return answer

    def _next_page(self) -> Page:
        self._pages += 1
        return Page(f"{self._runner}-{self._pages}")

    def _owe(self, ids: list[str]) -> None:
        room = ids[: max(0, OWED - len(self._owed))]
        self._owed.update(dict.fromkeys(room))
        self._left_out += len(ids) - len(room)

    def _report(self, answer: PublishAnswer) -> None:
        logger.error(
            "the registry of %s takes nothing, commits go on without it: %s",
            self._entity,
            answer,
            extra={"action": "ids.owed"},
        )


def fitting(ids: Iterable[str], max_payload: int) -> list[str]:
    """The first of some ids: so many as certainly fit into one message, but one at least."""
    room, batch = max_payload // 2, list[str]()
    for id in islice(ids, TOGETHER):
        room -= ESCAPED * len(id) + 3
        if batch and room < 0:
            break
        batch.append(id)
    return batch
