"""Notices: what the shards of one type have to say together, so that 16 of them are one line.

Whoever reads a runner's log wants to know whether it has its types, not each term of each shard;
those are told at DEBUG. Changed when a shard has something else to say to people.
"""

from __future__ import annotations

import logging

logger: logging.Logger = logging.getLogger("perdure.runner")


class Notices:
    """What is told of one type's shards in this runner."""

    def __init__(self, entity: str, runner: str, shards: int) -> None:
        self._entity, self._runner, self._shards = entity, runner, shards
        self._holding: set[int] = set()
        self._taken = 0  # since it was last told
        self._before = False  # it held all of them before
        self._standing_by = False
        self._outdated = False

    def __repr__(self) -> str:
        return f"Notices({self._entity}: holds {len(self._holding)} of {self._shards} shards)"

    def taken(self, shard: int) -> None:
        """A term of a shard began. Told when none is missing any more."""
        self._holding.add(shard)
        self._taken += 1
        if len(self._holding) < self._shards:
            return
        again = " again" if self._before else ""
        logger.info(
            "runner %s took %d of %d shards of %s%s",
            self._runner,
            min(self._taken, self._shards),
            self._shards,
            self._entity,
            again,
            extra={"action": "shards.taken", "entity": self._entity},
        )
        self._taken, self._before, self._standing_by = 0, True, False

    def ended(self, shard: int) -> None:
        """A shard's term ended."""
        self._holding.discard(shard)

    def lost(self, shard: int) -> None:
        """Another runner has a shard. Told once, until this one has all of them again."""
        level = logging.DEBUG if self._standing_by else logging.WARNING
        logger.log(
            level,
            "another runner took the shards of %s: standing by (shard %d)",
            self._entity,
            shard,
            extra={"action": "shard.lost", "entity": self._entity},
        )
        self._standing_by = True

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
        self._outdated = self._standing_by = True
