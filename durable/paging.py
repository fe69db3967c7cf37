"""Paging: reads the parts of a ledger that a look-up asked for, before it is tried again.

Called by the worker of an activation where a plan, or a question for a result, met `Absent`
(durable/pages.py). A part that is missing or another one's makes the snapshot worthless: the log
is folded from its start, which makes all pages anew.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..entities.address import Address
from ..streams.port import Snapshots, Unreachable
from .folded import Folded
from .pages import Absent

if TYPE_CHECKING:
    from .activation import Activation

AT_ONCE = 8
"""Parts of one entity that are read at a time: 1 MB on its way, and few round trips."""

TRIES = 2
"""Reads of a part that isn't there: any replica may answer, and one may be behind."""


async def load(activation: Activation, folded: Folded, absent: Absent) -> bool:
    """Have in memory what the look-up needs: whether it may be tried again on that fold.

    If not, the worker has to look around: the entity is cold again, or the backend away.
    """
    pages, host = folded.ledger.sealed, activation.host
    assert pages is not None
    activation.log("ledger.paged", why=str(absent))
    for at in range(0, len(absent.parts), AT_ONCE):
        parts = absent.parts[at : at + AT_ONCE]
        reads = (_read(host.session.snapshots, activation.address, part) for part in parts)
        async with host.load.recoveries:
            found = await asyncio.gather(*reads, return_exceptions=True)
        if not activation.live or activation.folded is not folded:
            return False
        for part, data in zip(parts, found, strict=True):
            if isinstance(data, Unreachable):
                await activation.pause()
                return False
            if isinstance(data, BaseException):
                raise data
            if not pages.put(part, data):
                activation.refold(f"part {part} of the ledger is missing or another one's")
                return False
    return True


async def _read(snapshots: Snapshots, address: Address, part: str) -> bytes | None:
    for _ in range(TRIES - 1):
        data = await snapshots.get(address, part=part)
        if data is not None:
            return data
    return await snapshots.get(address, part=part)
