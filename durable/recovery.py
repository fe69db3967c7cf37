"""Recovery: from a cold entity to its fold, by as few requests as possible.

The phase before `Running` (durable/activation.py). The leader's last message and the snapshot are
asked for at once; if the snapshot ends with exactly that message, nothing more is read, else one
read begins with the commit that the snapshot ends with, which proves it, and goes on with what
came since. Nothing less proves it: a commit that names the snapshot's last one as the one before
it may be a copy of another that does. The leader is asked every time, so that a cold entity never
starts from a stale read; where it knows no message, whether there is one that can't be read. So an
entity costs two requests, three if it is new or its log has a tail, and one more for each 500
commits of that.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ..entities.address import Address
from ..entities.entity import Entity
from ..streams.commit import Damaged, Stored, unseal
from ..streams.port import Session
from . import snapshot
from .folded import Folded, fold
from .ledger import Ledger, LedgerLimits

logger: logging.Logger = logging.getLogger("perdure.recovery")


async def recover(
    session: Session,
    entity: Entity[Any, Any],
    address: Address,
    limits: LedgerLimits,
    *,
    from_start: bool = False,
) -> Folded:
    """The entity's fold up to the leader's last message; `from_start` uses no snapshot.

    Raises Unreachable (try again), Damaged (the log can't be folded: quarantine).
    """
    if from_start:
        last, kept = await session.log.last(address), None
    else:
        last, kept = await _both(session, entity, address, limits)
    if last is None and await session.log.count(address):
        last = await session.log.last(address)  # or its first message came just now
        if last is None:
            raise Damaged("its last message can't be read")
    if last is None:
        if kept is not None:
            _ignored(address, "newer than the log, which is empty")
        return Folded(entity.fresh(), Ledger(limits))
    if kept is not None:
        folded = await _from_snapshot(session, entity, address, kept, last)
        if folded is not None:
            folded.ledger.take_evicted()  # nobody is told again
            return folded
    folded = Folded(entity.fresh(), Ledger(limits))
    await _fold_tail(session, entity, address, folded, last)
    folded.ledger.take_evicted()
    return folded


async def _both(
    session: Session, entity: Entity[Any, Any], address: Address, limits: LedgerLimits
) -> tuple[Stored | None, Folded | None]:
    """The leader's last message and the snapshot, asked for at once, by one task more."""
    asking = asyncio.get_running_loop().create_task(_snapshot(session, entity, address, limits))
    try:
        last = await session.log.last(address)
    except BaseException:
        asking.cancel()
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise
    return last, await asking


async def _snapshot(
    session: Session, entity: Entity[Any, Any], address: Address, limits: LedgerLimits
) -> Folded | None:
    try:
        body = await snapshot.get(session.snapshots, address)
        return None if body is None else snapshot.decode(entity, address, body, limits)
    except snapshot.Unusable as error:
        _ignored(address, str(error))
        return None


async def _from_snapshot(
    session: Session, entity: Entity[Any, Any], address: Address, kept: Folded, last: Stored
) -> Folded | None:
    """The fold that starts from a snapshot; None if the log doesn't hold its last commit."""
    if kept.commit_sequence > last.sequence:
        _ignored(address, "newer than the log")
        return None
    try:
        if kept.commit_sequence == last.sequence:
            _check_end(kept, last)
        else:
            await _fold_tail(session, entity, address, kept, last)
    except Damaged as error:
        _ignored(address, str(error))
        return None  # the fold from the start decides
    _log("snapshot.loaded", logging.DEBUG, address, f"at sequence {kept.commit_sequence}")
    return kept


def _check_end(kept: Folded, stored: Stored) -> None:
    """That this message is the commit that a snapshot ends with, of a format that is known.
    Raises Damaged."""
    same = (stored.sequence, stored.mark) == (kept.commit_sequence, kept.hash)
    if not same or unseal(stored) is None:
        raise Damaged("the log holds another commit in its place")


async def _fold_tail(
    session: Session, entity: Entity[Any, Any], address: Address, folded: Folded, last: Stored
) -> None:
    """Fold what isn't folded yet; the read begins with the last commit that is, to prove it."""
    proven = folded.commit_sequence == 0
    after = max(0, folded.commit_sequence - 1)
    async for stored in session.log.read(address, after=after, upto=last.sequence):
        if not proven:
            _check_end(folded, stored)
            proven = True
        if stored.sequence <= folded.sequence:
            continue
        commit = unseal(stored)
        if commit is None:
            folded.pass_by(stored)
            _log("log.foreign", logging.WARNING, address, f"at sequence {stored.sequence}")
            continue
        assert stored.mark is not None
        fold(entity, folded, commit, stored.mark, len(stored.data), stored.sequence)
    if folded.sequence != last.sequence:
        raise Damaged(f"the log ends at {folded.sequence}, its last message is {last.sequence}")


def _ignored(address: Address, why: str) -> None:
    _log("snapshot.ignored", logging.WARNING, address, why)


def _log(action: str, level: int, address: Address, what: str) -> None:
    logger.log(
        level,
        "%s: %s %s",
        action,
        address,
        what,
        extra={"action": action, "address": str(address)},
    )
