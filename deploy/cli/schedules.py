"""`perdure schedules`: what comes by itself, and what was told for later."""

from __future__ import annotations

from ...entities.later import TIME
from ...entities.schedule import parsed
from ...entities.suspension import Suspension
from .options import NO_OPTIONS, Common
from .output import stamp
from .suspended import Kind, list_type

COLUMNS = ("DUE", "ENTITY", "COMMAND", "SCHEDULE", "KEY")


def schedules(
    type: str, /, *, prefix: str = "", limit: int | None = None, common: Common = NO_OPTIONS
) -> int:
    """List the commands of a type that wait for their time.

    Those that were told for later, and the next one of each schedule that the code declares; its
    key says which definition of the schedule it is of. To take one back, cancel it: a schedule's
    next one comes all the same.

    For instance:

    * `perdure schedules account`
    * `perdure schedules account --json | jq -r .due`
    * `perdure flows cancel account a-1 gift-3`

    Parameters
    ----------
    type
        The entity type: `account`.
    prefix
        Only of entities whose ids begin with it.
    limit
        Stop after that many.
    """
    return list_type(type, prefix, limit, common, LATER)


def is_later(flow: Suspension) -> bool:
    """Whether it waits for its time, and nothing else."""
    return flow.parked is None and flow.waits_for == (TIME,)


def cells(flow: Suspension) -> tuple[str, ...]:
    """A command for people, as COLUMNS."""
    found = parsed(flow.key)
    return (
        "-" if flow.due is None else stamp(flow.due),
        flow.address,
        flow.command or "?",
        "-" if found is None else found[0],
        flow.key,
    )


LATER = Kind("command", "commands for later", is_later, COLUMNS, cells)
