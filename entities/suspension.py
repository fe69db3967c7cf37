"""Suspension: a flow that has begun and not ended, as its entity's owner tells it."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Suspension(msgspec.Struct, frozen=True, kw_only=True):
    """One flow that waits, or is parked."""

    address: str = ""
    """Its entity's, as `type/id`."""
    command: str
    """The tag of the command that began it."""
    key: str
    """That command's key, which names the flow."""
    waits_for: tuple[str, ...]
    """What for, by the names that the flow's code gives; empty while it runs."""
    since: datetime
    """When it began."""
    due: datetime | None = None
    """When the first of its timers fires, if it has set any."""
    parked: str | None = None
    """Why it can't go on before its code is mended."""
