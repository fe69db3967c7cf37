"""Dead letters: tells whose id can't be an entity's, and copies that are owed to operators.

Every other verdict than the first is an outcome in the entity's log (durable/plan.py), with a copy
in `PERDURE_DEAD`. Where no log can take it that is the record itself. Either is stored before what
brought it about is acknowledged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..entities.errors import ClusterError, MalformedMessage
from ..entities.tagged import to_wire
from ..streams.asks import raw
from ..streams.codec import raw_hash
from ..streams.commands import cause_of
from ..streams.commit import At, Damaged, Dead, Outcome
from ..streams.port import Delivery, Unreachable
from .host import Host
from .pages import Absent
from .paging import load
from .plan import DEAD_BYTES, kept
from .recorded import find_recorded
from .timers import arm, burial

if TYPE_CHECKING:
    from .activation import Activation
    from .waker import TimerFired

logger: logging.Logger = logging.getLogger("perdure.deadletter")


def told(dead: Dead) -> str:
    """A verdict in words: its reason, and the error that the caller gets."""
    error = ClusterError.decode(bytes(dead.error))
    return f"dead letter: {dead.reason}: {error.tag}: {error.cause}"


async def bury_unaddressed(host: Host, delivery: Delivery, at: At, why: str) -> bool:
    """Record a tell with an impossible id; whether the server confirmed it."""
    hash = raw_hash(delivery.data)
    error = MalformedMessage(cause=why, may_have_taken_effect=False)
    room = host.most_bytes - DEAD_BYTES
    outcome = Outcome(
        name=cause_of(at, hash),
        payload_hash=hash,
        at=at,
        dead=Dead("malformed", raw(to_wire(error)), raw=kept(delivery.data, room)),
    )
    data = msgspec.json.encode(outcome)
    stored = await host.session.dead.put_raw(host.entity.name, delivery.token, data)
    if stored:
        host.counts.answered("tell", "dead", "malformed")
    logger.error(
        "a tell with an impossible id: %s",
        why,
        extra={"action": "command.dead" if stored else "deadletter.not_copied"},
    )
    return stored


async def bury_flow(activation: Activation, fired: TimerFired) -> bool:
    """See that the dead letter of a flow that is over has its copy, now or when the timer of its
    burial fires again; whether that is settled."""
    if await _is_buried(activation, fired.flow, fired.command):
        return activation.live
    if not activation.live:
        return False
    host, address = activation.host, activation.address
    again = burial(host.server_ms())
    if await arm(host, address, fired.flow, again, fired.command):
        return activation.live
    await activation.pause()
    return False


async def _is_buried(activation: Activation, key: str, command: Raw | UnsetType) -> bool:
    """Whether the dead letter of a flow that is over has its copy, or needs none.

    Whoever brought it to its end may have ended before the copy was made. So where the timer of
    its burial isn't forgotten it is copied again, with the command, which the verdict hasn't.
    """
    folded = activation.folded
    if folded is None or key in folded.flows:
        return folded is not None
    while True:
        try:
            seen = folded.ledger.find(key)
            break
        except Absent as absent:
            if not await load(activation, folded, absent):
                return False
    if seen is None:  # it is forgotten, and so is its verdict
        return True
    log, address = activation.host.session.log, activation.address
    try:
        found = await find_recorded(log, address, seen.sequence, lambda o: o.name == key)
    except (Unreachable, Damaged):
        return False
    if found is None or found.outcome.dead is None:
        return True
    outcome = found.outcome
    if outcome.command is UNSET:
        outcome = msgspec.structs.replace(outcome, command=command)
    return await activation.execution.copy_dead(outcome)
