"""Later: a command whose time hasn't come is a flow that waits for it, and then has its turn."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from .address import Address
from .clock import of_ms
from .context import Context
from .decision import Decision
from .entity import Entity
from .flowrun import FlowRun, Handler
from .record import Armed, Fired
from .schedule import GRACE_MS
from .story import FlowCancelled
from .waits import Wait

TIME = "(time)"
"""The timer of a command that was told for later: no code can name one so."""


class Until(Wait[None]):
    """A moment."""

    def __init__(self, run: FlowRun[Any, Any], due_ms: int) -> None:
        super().__init__(run, f"timer {TIME}")
        self._due_ms = due_ms

    @property
    def on(self) -> tuple[str, ...]:
        """Itself."""
        return (self.what,)

    def place(self) -> int | None:
        """Where it came."""
        return self.run.story.place(Fired, TIME)

    def value(self) -> None:
        """Nothing."""

    def prepare(self) -> None:
        """Set its timer."""
        self.run.story.add(Armed(TIME, self._due_ms))


def later(entity: Entity[Any, Any], address: Address, key: str, due_ms: int) -> Handler:
    """What handles a command at its time, Unix milliseconds: the entity's own handler, then."""

    async def handle(run: FlowRun[Any, Any], command: Any) -> Decision[Any]:
        await Until(run, due_ms)
        _check_occurrence(entity, address, key, run.effects.now_ms())
        handler = entity.flow_of.get(command.__struct_config__.tag)
        if handler is not None:
            return await handler(run, command)
        now = of_ms(run.effects.now_ms())
        return entity.decide(run.state, command, Context(address, run.version, now, key))

    return handle


def _check_occurrence(entity: Entity[Any, Any], address: Address, key: str, now_ms: int) -> None:
    """Raises FlowCancelled for a schedule's command that isn't to be done."""
    found = entity.occurrence(key)
    if found is None:
        return
    schedule, due_ms = found
    if schedule is None or schedule.id != address.id:
        raise FlowCancelled("no schedule is declared like this any more")
    if schedule.missed == "skip" and now_ms - due_ms > GRACE_MS:
        late = timedelta(milliseconds=now_ms - due_ms)
        raise FlowCancelled(f"its time was missed by {late}")
