"""EntityStatus: what an entity is doing, as its owner tells it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec


class EntityStatus(msgspec.Struct, frozen=True):
    """What an entity is doing, when that changed last, and its version."""

    status: Literal["idle", "processing", "suspended", "complete", "failed"]
    """`complete` and `failed` tell of the entity's newest flow."""
    updated_at: datetime
    """The time of the newest commit, by its runner's clock."""
    version: int
    """The entity's number of events."""
