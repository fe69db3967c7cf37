"""Folds: every event of an entity folded with the app's code, and its snapshot held against that.

The log is the truth, a snapshot a cache; so at the commit with which a snapshot ends, the fold
must be exactly what the snapshot says: state, version, watermark and ledger. A runner only looks
whether the log holds that commit; here the rest is looked at too.

Pure but for reading snapshots. Whoever reads the log feeds it, many entities at once or one alone;
a snapshot must be read before the log's end is looked up, so that the log has what it ends with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ..durable.folded import Folded, fold
from ..durable.ledger import Ledger, LedgerLimits
from ..durable.snapshot import OtherCode, Unusable
from ..durable.snapshot import decode as decode_snapshot
from ..durable.snapshot import get as get_snapshot
from ..entities.address import Address
from ..entities.entity import Entity
from ..streams.commit import Damaged, Stored, unseal
from ..streams.port import Session
from ..streams.subjects import Subjects, escape
from .fault import Fault, Kind, restore


class Folds:
    """Folds the entities of one type; the counts are of all of them."""

    def __init__(self, session: Session, entity: Entity[Any, Any], limits: LedgerLimits) -> None:
        self.folded: int = 0
        self.snapshots: int = 0
        self.ignored: int = 0
        self.entity: Entity[Any, Any] = entity
        self.limits: LedgerLimits = limits
        self.subjects: Subjects = session.subjects
        self._session = session

    def __repr__(self) -> str:
        return f"Folds({self.entity.name}: {self.folded} folded, {self.snapshots} snapshots)"

    async def begin(self, id: str) -> Folding:
        """A fold of an entity that has seen nothing yet but the snapshot. Raises Unreachable."""
        address = Address(self.entity.name, id)
        try:
            body = await get_snapshot(self._session.snapshots, address)
            if body is None:
                return Folding(self, address)
            kept = decode_snapshot(self.entity, address, body, self.limits)
        except OtherCode:
            self.ignored += 1
            return Folding(self, address)
        except Unusable as error:
            return Folding(self, address, unusable=str(error))
        self.snapshots += 1
        return Folding(self, address, kept, size=len(body))


class Folding:
    """One entity, folded from its first message on."""

    def __init__(
        self,
        folds: Folds,
        address: Address,
        kept: Folded | None = None,
        *,
        size: int = 0,
        unusable: str = "",
    ) -> None:
        self.size: int = size
        """Of the snapshot, in bytes: about what the entity takes in memory."""
        self._folds, self._address = folds, address
        self._kept, self._unusable = kept, unusable
        self._folded = Folded(folds.entity.fresh(), Ledger(folds.limits))
        self._last = 0
        self._broken = False

    def __repr__(self) -> str:
        return f"Folding({self._address} at sequence {self._last})"

    def take(self, stored: Stored) -> Iterator[Fault]:
        """The entity's next message."""
        self._last = stored.sequence
        if self._broken:
            return
        try:
            commit = unseal(stored)
            if commit is None:
                return
            mark, size = stored.mark or "", len(stored.data)
            fold(self._folds.entity, self._folded, commit, mark, size, stored.sequence)
        except Damaged as error:
            self._broken = True
            yield self._fold_fault(str(error))
            return
        kept = self._kept
        if kept is not None and kept.commit_sequence == stored.sequence:
            self._kept = None
            found = differences(kept, self._folded)
            if found:
                what = f"its snapshot differs from the fold in {' and '.join(found)}"
                yield self._snapshot_fault(what)

    def end(self) -> Iterator[Fault]:
        """The log's end."""
        kept = self._kept
        if self._unusable:
            yield self._snapshot_fault(f"its snapshot is unusable: {self._unusable}")
        elif kept is not None and kept.commit_sequence > self._last:
            what = f"its snapshot ends with sequence {kept.commit_sequence}, the log with"
            yield self._snapshot_fault(f"{what} {self._last}")
        elif kept is not None and not self._broken:
            what = f"its snapshot ends with sequence {kept.commit_sequence}, no commit of it"
            yield self._snapshot_fault(what)
        self._folds.folded += not self._broken

    def _snapshot_fault(self, what: str) -> Fault:
        subjects, entity = self._folds.subjects, self._address.entity
        stream = subjects.snapshot_stream(entity)
        subject = subjects.snapshot(entity, escape(self._address.id))
        step = f"delete it, it is only a cache: nats stream purge {stream} --subject {subject}"
        return self._fault("snapshot", what, step)

    def _fold_fault(self, what: str) -> Fault:
        stream = self._folds.subjects.log_stream(self._address.entity)
        step = f"name the --app that wrote it, or {restore(stream)}"
        return self._fault("fold", f"can't be folded: {what}", step)

    def _fault(self, kind: Kind, what: str, step: str) -> Fault:
        return Fault(fault=kind, address=str(self._address), seq=self._last, what=what, next=step)


def differences(kept: Folded, folded: Folded) -> list[str]:
    """In what a snapshot differs from the fold at its commit."""
    found = {
        "its commit": kept.hash == folded.hash,
        "its version": kept.version == folded.version,
        "its state": _same(kept.state, folded.state),
        "its time": kept.time == folded.time,
        "its watermark": kept.watermark == folded.watermark,
        "its ledger (with the dedup settings here)": kept.ledger.pack() == folded.ledger.pack(),
    }
    return [what for what, equal in found.items() if not equal]


def _same(kept: Any, folded: Any) -> bool:
    """Equal, or at least written down alike: NaN equals nothing."""
    return bool(kept == folded) or msgspec.json.encode(kept) == msgspec.json.encode(folded)
