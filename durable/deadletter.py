"""Dead letters that no log can take: tells whose id can't be an entity's.

Every other verdict is an outcome in the entity's log (durable/plan.py), with a copy for operators.
Here `PERDURE_DEAD` is the record itself: it is stored before the tell is acknowledged.
"""

from __future__ import annotations

import logging

import msgspec

from ..entities.errors import ClusterError, MalformedMessage
from ..entities.tagged import to_wire
from ..streams.asks import raw
from ..streams.codec import raw_hash
from ..streams.commands import cause_of
from ..streams.commit import At, Dead, Outcome
from ..streams.port import Delivery
from .host import Host
from .plan import DEAD_BYTES, kept

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
