"""Notices: what the shards of one type have to say together, so that 16 of them are one line.

Whoever reads a runner's log wants to know whether it has its types, not each term of each shard;
those are told at DEBUG. Changed when a shard has something else to say to people.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

logger: logging.Logger = logging.getLogger("perdure.runner")


class Notices:
    """What is told of one type's shards in this runner."""

    def __init__(self, entity: str, runner: str, shards: int) -> None:
        self._entity, self._runner, self._shards = entity, runner, shards
        self._assigned: frozenset[int] | None = None  # this runner's by the members' view
        self._holding: set[int] = set()
        self._told = True  # that all which are assigned are held
        self._quarrel = False  # somebody took one of them
        self._outdated = False
        self._lacked = ""  # the label that no runner has

    def __repr__(self) -> str:
        return f"Notices({self._entity}: holds {len(self._holding)} of {self._shards} shards)"

    def assigned(self, shards: Iterable[int]) -> None:
        """These are this runner's from now on."""
        mine = frozenset(shards)
        if mine == self._assigned:
            return
        before, self._assigned = self._assigned, mine
        self._told = False
        if before is not None or not mine:
            logger.info(
                "runner %s is to own %d of %d shards of %s now, before %d",
                self._runner,
                len(mine),
                self._shards,
                self._entity,
                len(before or ()),
                extra={"action": "shards.assigned", "entity": self._entity},
            )
        self._tell()

    def lacked(self, label: str) -> None:
        """Nobody may own the type's shards for want of this label; empty: somebody may. Told when
        it begins."""
        if label and label != self._lacked:
            logger.warning(
                "no runner that hosts %s has the label %r: nobody owns its shards, its tells wait",
                self._entity,
                label,
                extra={"action": "shards.no_label", "entity": self._entity},
            )
        self._lacked = label

    def taken(self, shard: int) -> None:
        """A term of a shard began. Told when none is missing any more."""
        self._holding.add(shard)
        self._tell()

    def ended(self, shard: int) -> None:
        """A shard's term ended."""
        self._holding.discard(shard)
        self._told = False

    def lost(self, shard: int) -> None:
        """Another runner has a shard that is ours. Told once, until all of them are held."""
        level = logging.DEBUG if self._quarrel else logging.WARNING
        logger.log(
            level,
            "another runner took shard %d of %s from runner %s",
            shard,
            self._entity,
            self._runner,
            extra={"action": "shard.lost", "entity": self._entity},
        )
        self._quarrel = True

    def outdated(self, why: str) -> None:
        """The type was cut anew while this runner couldn't be asked. Told once."""
        if not self._outdated:
            logger.error(
                "%s was resized while runner %s was cut off: it hosts it no more, restart it (%s)",
                self._entity,
                self._runner,
                why,
                extra={"action": "shards.outdated", "entity": self._entity},
            )
        self._outdated = self._quarrel = True

    def _tell(self) -> None:
        if self._told or not self._assigned or not self._assigned <= self._holding:
            return
        logger.info(
            "runner %s holds %d of %d shards of %s",
            self._runner,
            len(self._assigned),
            self._shards,
            self._entity,
            extra={"action": "shards.taken", "entity": self._entity},
        )
        self._told, self._quarrel = True, False
