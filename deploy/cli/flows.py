"""`perdure flows list | show | retry | cancel`: flows, what happened in them, and their repair."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from ...entities.address import Address
from ...entities.suspension import Suspension
from ...streams.caller import Caller
from ...streams.commit import Damaged
from ...streams.resuming import cancelling, retrying
from ...streams.suspended import flows_of
from .advice import quoted
from .calling import address_of, connected
from .chronicle import damaged
from .flowlog import FlowLog, line_of
from .hint import require_type
from .options import NO_OPTIONS, Common
from .output import Output
from .standing import Standing, find, flow_key_of, standing, standing_of, wake
from .suspended import OPEN, PARKED, Rows, list_type
from .trouble import FAILED, SUCCESS, Failed, UsageError

HELP = """
Look at flows, let parked ones go on, and cancel those that nobody wants any more.

A flow that can't go on is parked, and nothing of it is lost: its code fails each time, or was
changed where the flow had passed. Mend the code, deploy it, and let it go on:

* `perdure flows list account --parked`
* `perdure flows show account a-1 order-17`
* `perdure flows retry account a-1 order-17`
* `perdure flows cancel account a-1 order-17`

`perdure resume` gives one the value that it waits for.
"""

UNDONE = "nothing was undone"
"""In what is told of a flow that was cancelled and couldn't be run to undo its steps."""

flows: App = App(name="flows", help=HELP, help_format="markdown")


@flows.command(name="list", usage="Usage: perdure flows list TYPE [ID] [OPTIONS]")
def list_flows(
    type: str,
    id: str | None = None,
    /,
    *,
    prefix: str = "",
    parked: Annotated[bool, Parameter(negative="")] = False,
    limit: int | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """List the open flows of one entity, or of a type as `perdure suspended` does.

    For instance:

    * `perdure flows list account a-1`
    * `perdure flows list account --parked`

    Parameters
    ----------
    type
        The entity type: `account`.
    id
        The entity's id: `a-1`. Without it, those of all.
    prefix
        Without an id: only of entities whose ids begin with it.
    parked
        Only those that can't go on by themselves.
    limit
        Without an id: stop after that many.
    """
    if id is None:
        return list_type(type, prefix, limit, common, PARKED if parked else OPEN)
    address = address_of(type, id)
    if prefix or limit is not None:
        raise UsageError("--prefix or --limit with an ID", "leave them out, or the ID")
    settings, output = common.settings(), common.output()

    async def work(caller: Caller) -> int:
        rows = Rows(output, OPEN)
        for flow in await flows_of(caller, address):
            if flow.parked is not None or not parked:
                rows.add(flow)
        rows.end()
        if not rows.count:
            output.note(f"no {'parked' if parked else 'open'} flows of {address}")
        return SUCCESS

    return connected(settings, work)


@flows.command
def show(type: str, id: str, key: str, /, *, common: Common = NO_OPTIONS) -> int:
    """Show what happened in a flow, in order, from its entity's log; also of one that has ended.

    It needs no runner. Events, steps' results and values are shown, tokens never are. Times are
    those of the commits that recorded it.

    For instance:

    * `perdure flows show account a-1 order-17`
    * `perdure flows show account a-1 order-17 --json | jq 'select(.what == "ran")'`

    Parameters
    ----------
    type
        The entity type: `account`.
    id
        The entity's id: `a-1`.
    key
        The flow's key, which is that of the command that began it: `perdure suspended` tells it.
    """
    address, name = address_of(type, id), flow_key_of(key)
    settings, output = common.settings(), common.output()

    async def work(caller: Caller) -> int:
        log, last = FlowLog(name), await caller.session.log.last(address)
        if last is not None:
            try:
                async for stored in caller.session.log.read(address, after=0, upto=last.sequence):
                    for happening in log.read(stored):
                        output.result(happening, line_of(happening))
            except Damaged as error:
                raise damaged(address, error) from None
        if not log.found:
            await require_type(caller, type)
            raise _not_there(address, name, plain=log.plain)
        return SUCCESS

    return connected(settings, work)


def _not_there(address: Address, key: str, *, plain: bool) -> Failed:
    where = f"{address.entity} {quoted(address.id)}"
    if plain:
        what = f"{key} of {address} is no flow: its command had its outcome at once, in one commit"
        return Failed(what, f"perdure history {where}, or perdure result {where} {quoted(key)}")
    what = f"{address} has no flow {key}, and never had"
    return Failed(what, f"perdure flows list {where}, or perdure history {where}")


@flows.command
def retry(
    type: str,
    id: str,
    key: str,
    /,
    *,
    timeout: float | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """Let a parked flow go on, and tell what came of it.

    Deploy code that fits first: `perdure flows list` says why it is parked. A flow that is parked
    again, is refused or breaks exits with 1.

    For instance:

    * `perdure flows retry account a-1 order-17`

    Parameters
    ----------
    type
        The entity type: `account`.
    id
        The entity's id: `a-1`.
    key
        The flow's key.
    timeout
        Seconds to wait for each answer.
    """
    address, name = address_of(type, id), flow_key_of(key)
    settings, output = common.settings(timeout=timeout), common.output()

    async def work(caller: Caller) -> int:
        flow = await _found(caller, address, name)
        if flow.parked is None:
            raise Failed(
                f"flow {name} of {address} isn't parked: it {standing_of(flow)}",
                f"nothing is to be done; perdure flows show {_where(address, name)}",
            )
        await wake(caller, address, name, retrying(name))
        now = await standing(caller, address, name)
        if now.parked is not None:
            raise Failed(
                f"flow {name} of {address} is parked again: {now.parked}",
                "mend that, deploy it, then the same again",
            )
        return _told(output, now)

    return connected(settings, work)


@flows.command
def cancel(
    type: str,
    id: str,
    key: str,
    /,
    *,
    timeout: float | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """End a flow where it waits, or a tell for later; what its steps did is undone, newest first.

    Who waits for its outcome gets RpcClientError. One that is parked is cancelled, too: if its
    code can't be run to undo its steps it ends as it is, which is told, and exits with 1.

    For instance:

    * `perdure flows cancel account a-1 order-17`

    Parameters
    ----------
    type
        The entity type: `account`.
    id
        The entity's id: `a-1`.
    key
        The flow's key.
    timeout
        Seconds to wait for each answer.
    """
    address, name = address_of(type, id), flow_key_of(key)
    settings, output = common.settings(timeout=timeout), common.output()

    async def work(caller: Caller) -> int:
        await _found(caller, address, name)
        await wake(caller, address, name, cancelling(name))
        now = await standing(caller, address, name)
        if now.status != "ended":
            raise Failed(
                f"flow {name} of {address} goes on: it {now}",
                f"see what happened: perdure flows show {_where(address, name)}",
            )
        if UNDONE in (now.cancelled or ""):
            raise Failed(
                f"flow {name} of {address} {now}",
                f"undo by hand what its steps did: perdure flows show {_where(address, name)}",
            )
        _told(output, now)
        return SUCCESS

    return connected(settings, work)


def _told(output: Output, now: Standing) -> int:
    """Print how a flow is now; the exit code, as of a command that is asked."""
    output.result(now, f"flow {now.key} of {now.address} {now}")
    given = (now.failure, now.error, now.cancelled)
    return FAILED if now.status == "ended" and any(given) else SUCCESS


async def _found(caller: Caller, address: Address, key: str) -> Suspension:
    """The open flow of that key. Raises Failed if there is none, and ClusterErrors."""
    flow = await find(caller, address, key)
    if flow is None:
        raise Failed(
            f"{address} has no open flow {key}: it has ended, or never began",
            f"perdure flows show {_where(address, key)}",
        )
    return flow


def _where(address: Address, key: str) -> str:
    return f"{address.entity} {quoted(address.id)} {quoted(key)}"
