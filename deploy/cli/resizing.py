"""`perdure shards resize`: into how many shards a type is cut."""

from __future__ import annotations

from ...durable.resizing import InUse, LeftHalted, resize
from ...streams.caller import Caller
from ...streams.port import Forbidden, Incompatible, Unreachable
from ...streams.subjects import Sharding
from .advice import HOST
from .calling import connected, type_of
from .hint import require_type
from .operating import with_server
from .options import NO_OPTIONS, Common
from .output import Output
from .trouble import SUCCESS, Failed, UsageError

ALLOWED = "by a login that may update streams: perdure permissions --role runner --create"
CREATOR = f"the same {ALLOWED}"
LEAST, MOST = 1, 1_024
"""Shards that a type may have: as the setting `shards`."""


def resize_type(type: str, number: int, /, *, common: Common = NO_OPTIONS) -> int:
    """Cut a type into another number of shards, while nobody hosts it.

    A shard is the unit in which runners own entities: one consumer of the command stream, and one
    owner. 16 are enough for most; more let more runners share a type, and each costs the server a
    little, also when nothing happens.

    It is refused, and nothing changes, while a runner hosts the type or a tell waits for it. So
    stop its callers or let them wait, wait until `perdure stats` shows no tells, stop its runners,
    resize, and start the runners again. Nothing is copied and nothing forgotten: logs, keys with
    their outcomes and snapshots stay, and callers that are still connected find the new owners by
    themselves. For about half a second nobody takes tells, and clients repeat them.

    If it is interrupted, the type may be left halted: runners refuse to start, and say so. The
    same again ends it; the number that the type has leaves it as it was.

    For instance:

    * `perdure shards resize account 32`
    * `perdure shards resize account 32 --json`

    Parameters
    ----------
    type
        The entity type: `account`.
    number
        How many shards it gets, 1 to 1024.
    """
    type_of(type)
    if not LEAST <= number <= MOST:
        raise UsageError(f"{number} shards", f"give a number from {LEAST} to {MOST}")
    settings, output = with_server(common.settings()), common.output()

    async def work(caller: Caller) -> int:
        await require_type(caller, type)
        try:
            before, after = await resize(caller.session, type, number)
        except InUse as used:
            raise Failed(f"{used}; it stays as it is", used.next_step) from None
        except LeftHalted as error:
            step = f"perdure shards resize {type} {error.sharding.shards} leaves it as it was"
            raise Failed(f"{type} may be halted: {error}", f"{step}, {ALLOWED}") from None
        except Forbidden as error:
            raise Failed(str(error), CREATOR) from None
        except Unreachable as error:
            again = f"the same again: perdure shards resize {type} {number}"
            raise Failed(f"it may be done, or {type} be halted: {error}", again) from None
        except Incompatible as error:
            raise Failed(str(error), "perdure check tells all that doesn't fit") from None
        return show(output, type, before, after)

    return connected(settings, work)


def show(output: Output, entity: str, before: Sharding, after: Sharding) -> int:
    """What came of it."""
    value = {"type": entity, "before": before, "after": after}
    if before == after:
        output.result(value, f"{entity} has {after.shards} shards as before, and takes tells")
        return SUCCESS
    cut = f"{before.shards} → {after.shards} shards, generation {after.generation}"
    output.result(value, f"{entity}: {cut}")
    output.note(f"its runners can be started now ({HOST}), best with shards = {after.shards}")
    return SUCCESS
