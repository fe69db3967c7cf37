"""`perdure suspended`: the flows of a type that have begun and not ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from ...entities.errors import SerializationError
from ...entities.suspension import Suspension
from ...streams.caller import Caller
from ...streams.suspended import open_flows
from .advice import next_step
from .calling import connected, type_of
from .chronicle import shortened
from .flowlog import named
from .hint import require_type
from .operating import with_server
from .options import NO_OPTIONS, Common
from .output import Output, counted, stamp
from .trouble import FAILED, SUCCESS, UsageError, one_line

COLUMNS = ("ENTITY", "COMMAND", "KEY", "WAITS FOR", "SINCE", "NEXT TIMER", "PARKED")
PAGE = 500
"""Rows of a table that are kept to be set in columns."""


def suspended(
    type: str,
    /,
    *,
    prefix: str = "",
    parked: Annotated[bool, Parameter(negative="")] = False,
    limit: int | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """List the flows of a type that are open: what each waits for, since when, its next timer.

    They are found by their timers, and then the owners of their entities are asked: so it needs
    runners, and takes a while for many. Tells for later are listed, too: they wait for their time.
    An entity whose log can't be folded is told, the others are listed all the same, and it exits
    with 1.

    For instance:

    * `perdure suspended account`
    * `perdure suspended account --parked`
    * `perdure suspended account --prefix customer- --json | jq -r .key`

    Parameters
    ----------
    type
        The entity type: `account`.
    prefix
        Only of entities whose ids begin with it.
    parked
        Only those that can't go on by themselves: their code fails, or fits no more.
    limit
        Stop after that many.
    """
    return list_type(type, prefix, limit, common, PARKED if parked else OPEN)


@dataclass(frozen=True, slots=True)
class Kind:
    """Which flows are listed, and how."""

    one: str
    """What one is called."""
    all: str
    wanted: Callable[[Suspension], bool]
    columns: tuple[str, ...]
    cells: Callable[[Suspension], tuple[str, ...]]
    """One for people, as the columns."""


def list_type(type: str, prefix: str, limit: int | None, common: Common, kind: Kind) -> int:
    """List those of a type; the exit code. Raises UsageError."""
    type_of(type)
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}", "give a number from 1 on")
    settings, output = with_server(common.settings()), common.output()

    async def work(caller: Caller) -> int:
        rows, code, more = Rows(output, kind), SUCCESS, False
        async with aclosing(open_flows(caller, type, prefix)) as found:
            async for flow in found:
                if isinstance(flow, SerializationError):
                    output.cluster_error(flow, next_step(flow))
                    code = FAILED
                elif not kind.wanted(flow):
                    pass
                elif rows.count == limit:
                    more = True
                    break
                else:
                    rows.add(flow)
        rows.end()
        if more:
            output.note(f"{counted(rows.count, kind.one)}, and more: give another --limit")
        elif not rows.count and code == SUCCESS:
            await require_type(caller, type)
            output.note(f"no {kind.all} of {type}")
        return code

    return connected(settings, work)


class Rows:
    """Prints flows as they come: for people in tables of some hundred rows."""

    def __init__(self, output: Output, kind: Kind) -> None:
        self.count: int = 0
        """How many there were."""
        self._output, self._kind = output, kind
        self._page: list[tuple[str, ...]] = []

    def add(self, flow: Suspension) -> None:
        """The next one."""
        self.count += 1
        if self._output.json:
            self._output.result(flow)
            return
        self._page.append(self._kind.cells(flow))
        if len(self._page) == PAGE:
            self.end()

    def end(self) -> None:
        """There are no more."""
        if self._page:
            self._output.table(self._kind.columns, self._page)
            self._page.clear()


def cells(flow: Suspension) -> tuple[str, ...]:
    """A flow for people, as COLUMNS."""
    return (
        flow.address,
        flow.command or "?",
        flow.key,
        ", ".join(map(named, flow.waits_for)) or "-",
        stamp(flow.since),
        "-" if flow.due is None else stamp(flow.due),
        "-" if flow.parked is None else shortened(one_line(flow.parked)),
    )


OPEN = Kind("flow", "open flows", lambda flow: True, COLUMNS, cells)
PARKED = Kind("flow", "parked flows", lambda flow: flow.parked is not None, COLUMNS, cells)
