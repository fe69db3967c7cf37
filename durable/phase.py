"""Phases of an activation: what is known of its entity right now.

`Cold` (nothing in memory) goes to `Running` by recovery, or to `Quarantined` when the log can't be
folded. A conflict, or a fold that is older than the leader's log, sends `Running` back to `Cold`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .folded import Folded
from .item import Item


@dataclass(frozen=True, slots=True)
class Cold:
    """Nothing in memory yet."""


@dataclass(slots=True)
class Running:
    """The entity is in memory."""

    folded: Folded


@dataclass(slots=True)
class Quarantined:
    """The log can't be folded."""

    why: str
    until: float  # loop time, seconds
    parked: list[Item]  # tells that stay un-acked


Phase: TypeAlias = Cold | Running | Quarantined
