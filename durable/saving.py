"""Saving: when an activation's fold is stored as a snapshot, and in which order its parts are.

Part of an activation (durable/activation.py); `after_commit` is called once a commit is in the
log. New pages of the ledger go out before the head that lists them, so that a head never lists
what isn't there; what no head lists any more is blanked after the one that leaves it out. Each
page is written once, so a command's part in it is constant, however much is remembered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from . import snapshot
from .defect import described
from .folded import Folded

if TYPE_CHECKING:
    from .activation import Activation

logger: logging.Logger = logging.getLogger("perdure.activation")


LAST_BYTES = 8 * 1024**2
"""Last snapshots of entities that left memory which one runner has on their way at once: some
thousands of small ones. Beyond it entities leave without, which costs time alone."""


class Saving:
    """Stores the snapshots of one activation, one at a time."""

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        self._task: asyncio.Task[None] | None = None

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What it has in the background."""
        return [] if self._task is None else [self._task]

    def after_commit(self, folded: Folded) -> None:
        """Store a snapshot if it is time, and say what the ledger had no room for."""
        if evicted := folded.ledger.take_evicted():
            self._tell_evicted(folded, evicted)
        self.if_due(folded)

    def if_due(self, folded: Folded) -> None:
        """Store a snapshot if it is time; after a long recovery, too: none should be repeated."""
        if self._task is None and snapshot.due(folded, self._activation.host.settings):
            self._task = asyncio.get_running_loop().create_task(self._save(folded))

    def on_leaving(self, folded: Folded) -> Coroutine[Any, Any, None] | None:
        """What stores a last snapshot while the entity leaves memory, if that is worth it.

        It is one message, without new pages: the entity may be read again at any time.
        """
        activation, pages = self._activation, folded.ledger.sealed
        host = activation.host
        if host.load.leaving >= LAST_BYTES or not snapshot.due_on_leaving(folded):
            return None
        if pages is not None and pages.unstored():
            return None
        try:
            body = snapshot.encode(host.entity, activation.address, folded)
        except Exception as error:  # user code; the log stays the truth
            activation.log("snapshot.failed", level=logging.WARNING, why=described(error))
            return None
        if len(body) > snapshot.PART_BYTES:
            return None
        host.load.leaving += len(body)
        return self._store_last(body)

    async def _store_last(self, body: bytes) -> None:
        activation = self._activation
        host = activation.host
        try:
            stored = await snapshot.put(host.session.snapshots, activation.address, body)
        finally:
            host.load.leaving -= len(body)
        activation.log("snapshot.stored" if stored else "snapshot.not_stored")

    def _tell_evicted(self, folded: Folded, evicted: int) -> None:
        """Keys that left the ledger before their time: counted, and told once an entity."""
        activation = self._activation
        activation.host.load.evicted_early += evicted
        if folded.ledger.evicted_early == evicted:
            keys = activation.host.settings.dedup_keys
            why = f"more than dedup_keys ({keys}) within dedup_window: the oldest are forgotten"
            activation.log("ledger.evicted_early", level=logging.WARNING, why=why)

    async def _save(self, folded: Folded) -> None:
        activation = self._activation
        try:
            folded.tail_commits = folded.tail_bytes = 0  # also if it fails: not again at once
            stored = await self._store(folded)
            activation.log("snapshot.stored" if stored else "snapshot.not_stored")
        except Exception:  # the state can't be encoded: user code; the log stays the truth
            logger.exception(
                "no snapshot of %s",
                activation.address,
                extra={"action": "snapshot.failed", "address": str(activation.address)},
            )
        finally:
            self._task = None

    async def _store(self, folded: Folded) -> bool:
        """Whether all of it was confirmed. What is stored is the fold as it is now."""
        host, address = self._activation.host, self._activation.address
        snapshots, pages = host.session.snapshots, folded.ledger.sealed
        new = [] if pages is None else pages.unstored()
        old = [] if pages is None else list(pages.doomed)
        body = snapshot.encode(host.entity, address, folded)
        folded.snapshot_bytes = len(body)
        for part, data in new:
            if not await snapshots.put(address, data, part=part):
                return False
            assert pages is not None
            pages.stored(part)
        if not await snapshot.put(snapshots, address, body):
            return False
        for part in old:
            if not await snapshots.put(address, b"", part=part):
                break  # it stays doomed, until the next time
            if pages is not None and part in pages.doomed:
                pages.doomed.remove(part)
        return True
