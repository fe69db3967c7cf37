"""The ring: who watches whom, and what answers and silence say. Pure.

Members stand in a ring by their names, and each pings the next two. So every death is noticed by
two, and what it costs grows with the members, not with their square. "Nobody listens there" is the
server's word that a process is gone; silence for a while means that it is frozen or cut off, if
whoever pinged can hear itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

SUCCESSORS = 2
"""How many members each watches: one watcher may die together with whom it watches."""


class Health(Enum):
    """What is known of a watched member."""

    WELL = "well"
    SILENT = "silent"  # too long: frozen, or cut off
    DEAD = "dead"  # nobody listens on its subject


def successors(own: str, members: Sequence[str]) -> list[str]:
    """Whom a member watches."""
    ring = sorted({*members, own})
    at = ring.index(own)
    return (ring[at + 1 :] + ring[:at])[:SUCCESSORS]


def health(*, nobody: int, silent_s: float, frozen_after_s: float) -> Health:
    """The verdict after `nobody` pings in a row that nobody listened to, and so long a silence.

    One such ping may come in the moment in which a connection is made anew.
    """
    if nobody >= NOBODY_PINGS:
        return Health.DEAD
    return Health.SILENT if silent_s >= frozen_after_s else Health.WELL


NOBODY_PINGS = 2
"""Pings in a row that nobody listens to until a member counts as dead."""
