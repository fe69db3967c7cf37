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
from ..entities.record import Armed
from ..entities.tagged import to_wire
from ..streams.asks import raw
from ..streams.codec import Undecodable, decode, payload_hash, raw_hash
from ..streams.commands import cause_of
from ..streams.commit import At, Damaged, Dead, Outcome, unseal
from ..streams.port import Delivery, Unreachable
from .host import Host
from .plan import DEAD_BYTES, kept
from .timers import arm_burial, has_burial
from .waker import BURIAL, TimerFired

if TYPE_CHECKING:
    from .activation import Activation
    from .folded import Folded

logger: logging.Logger = logging.getLogger("perdure.deadletter")

COPIED = 16
"""Verdicts on one entity's flows, at most, that aren't copied again by a burial that came late."""
LOOKED_AT = 500
"""Messages of the log, at most, among which a flow's verdict is looked for: it is the next one
after its burial was armed, unless others wrote meanwhile."""


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


async def copy_flow(
    activation: Activation,
    sequence: int,
    final: Outcome,
    command: Raw | UnsetType,
    *,
    tries: int = 2,
) -> bool:
    """Copy a flow's dead letter, recorded at that sequence, with the command that began it if
    there is room for it; whether that is stored. Then it needs no burial any more."""
    copy = msgspec.structs.replace(final, command=command)
    if isinstance(command, Raw) and len(msgspec.json.encode(copy)) > activation.host.most_bytes:
        copy = msgspec.structs.replace(final, command=UNSET)
    if not await activation.execution.copy_dead(copy, tries=tries):
        return False
    activation.flows.copied = (*activation.flows.copied, sequence)[-COPIED:]
    if has_burial(final):
        # Not awaited: many at once keep the server from arming others, and the entity is held.
        activation.host.forgetting.add(activation.address, final.name, [Armed(BURIAL, 0)])
    return True


async def bury_flow(activation: Activation, folded: Folded, fired: TimerFired) -> bool:
    """See that a flow's dead letter has its copy, now or when the timer of its burial fires again;
    whether that is settled. Whoever brought it to its end ended before the copy was made."""
    try:
        found = await _verdict(activation, folded, fired)
    except Unreachable:
        await activation.pause()
        return False
    except Damaged as error:
        activation.quarantine(str(error))
        return False
    if not activation.live:
        return False
    if found is not None and found[0] not in activation.flows.copied:
        return await _copied_or_armed(activation, fired, *found)
    return True


async def _copied_or_armed(
    activation: Activation, fired: TimerFired, sequence: int, since_ms: int, outcome: Outcome
) -> bool:
    """Copy that verdict, recorded at `since_ms`, or set its timer anew; whether either is done."""
    host, address = activation.host, activation.address
    command = _checked(host, fired.command, outcome)
    copied = await copy_flow(activation, sequence, outcome, command, tries=1)
    if not copied and activation.live:
        armed = await arm_burial(
            host, address, fired.flow, fired.after, command, since_ms=since_ms
        )
        if not armed:
            await activation.pause()
            return False
    return activation.live


def _checked(host: Host, command: Raw | UnsetType, outcome: Outcome) -> Raw | UnsetType:
    """The command, if it is what began the flow: anybody can say that a timer has fired."""
    if not isinstance(command, Raw):
        return UNSET
    entity, limit = host.entity, host.settings.max_payload_bytes
    try:
        given = decode(entity.messages, bytes(command), limit=limit, what=entity.name)
        return command if payload_hash(given) == outcome.payload_hash else UNSET
    except Undecodable:
        return UNSET
    except Exception:  # user types may do anything; the letter is copied without it
        logger.exception("a command can't be compared", extra={"action": "deadletter.strange"})
        return UNSET


async def _verdict(
    activation: Activation, folded: Folded, fired: TimerFired
) -> tuple[int, int, Outcome] | None:
    """The dead letter that a burial was armed for, after its sequence and when it was recorded, in
    Unix ms by the server: in one of the commits that came next, if at all. Raises Unreachable,
    Damaged."""
    read = 0
    log, address = activation.host.session.log, activation.address
    async for stored in log.read(address, after=fired.after, upto=folded.sequence):
        commit = unseal(stored)
        if commit is not None:
            for outcome in commit.outcomes:
                if outcome.name == fired.flow and has_burial(outcome):
                    return stored.sequence, stored.time_ns // 1_000_000, outcome
        read += 1
        if read == LOOKED_AT:
            break
    return None
