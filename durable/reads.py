"""Reads: queries and control messages, answered by the owner without writing anything.

They don't queue behind commands: the fold is always that of a commit in the log. A caller who saw
a later commit than the owner has, or who wants it fresh, makes the owner ask the leader first.
"""

from __future__ import annotations

from asyncio import TimerHandle
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from ..entities.address import Address
from ..entities.clock import of_ms
from ..entities.context import Context
from ..entities.entity import Entity
from ..entities.errors import (
    ClusterError,
    MalformedMessage,
    RpcClientError,
    SerializationError,
)
from ..entities.suspension import Suspension
from ..streams.asks import Answer, Envelope, encode_answer, raw
from ..streams.codec import Undecodable, decode
from ..streams.commit import Commit, Damaged, unseal
from ..streams.port import Session
from ..streams.topology import LATEST_MS
from .defect import ENDS, described
from .folded import Folded, evolve_all, fold
from .item import Asker
from .ledger import Ledger, LedgerLimits
from .openflow import OpenFlow, names_of
from .plan import Unencodable, as_decision
from .timers import Timing
from .waker import tag_of


@dataclass(slots=True, eq=False)
class Read:
    """One question about an entity."""

    kind: Literal["query", "result", "status", "state", "flows"]
    asker: Asker
    envelope: Envelope
    message: Any = None  # of a query, decoded
    payload: str | None = None  # of a result: the hash of the command that it must be of
    since: float = 0.0  # loop time, seconds
    size: int = 0  # bytes that it keeps, for the bounds
    checked: bool = False  # the leader confirmed that nothing newer is there
    timer: TimerHandle | None = None  # ends its wait: it holds the entity's memory until then
    suspended: bool = False  # told that its flow waits: it holds nothing up, and may be forgotten


class Past(msgspec.Struct, forbid_unknown_fields=True):
    """Which state is wanted: at a version, or at a time; neither: the newest."""

    version: Annotated[int, Meta(ge=0)] | None = None
    time: Annotated[datetime, Meta(tz=True)] | None = None


_pasts = msgspec.json.Decoder(Past | None)


def past_of(envelope: Envelope) -> Past:
    """What a `state` message asks for. Raises Undecodable."""
    past: Past | None = decode(_pasts, bytes(envelope.payload), limit=4096, what="state")
    return past or Past()


def answer_query(
    entity: Entity[Any, Any], address: Address, folded: Folded, read: Read, now: datetime
) -> bytes | ClusterError:
    """The answer to a query from a fold: pure. A defect in `decide` is an error at once."""
    contract = entity.contracts[read.message.__struct_config__.tag]
    try:
        context = Context(address, folded.version, now, None)
        returned: Any = entity.decide(folded.state, read.message, context)
    except ENDS:
        raise
    except BaseException as error:  # user code; nobody cancels in here
        return RpcClientError(
            cause=f"defect: {described(error)}", may_have_taken_effect=False, advice="fix"
        )
    try:
        decision = as_decision(returned)
        if decision.events or decision.failure is not None:
            raise Unencodable(f"{contract.tag}: a query is answered by query.answer(...)")
        reply = raw(decision.reply)
        contract.reply_decoder.decode(reply)
    except (Unencodable, TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        return SerializationError(cause=described(error), may_have_taken_effect=False)
    return encode_answer(Answer(reply=reply, seq=folded.sequence, version=folded.version))


def answer_status(folded: Folded, *, busy: bool, runner: str) -> bytes:
    """The entity's status."""
    waits = "suspended" if folded.flows else "idle"
    body = {
        "status": "processing" if busy else waits,
        "updated_at": folded.time,
        "version": folded.version,
        "runner": runner,
    }
    return encode_answer(Answer(reply=raw(body), seq=folded.sequence, version=folded.version))


def answer_flows(folded: Folded) -> bytes:
    """The flows that have begun and not ended."""
    flows = [_suspension(flow) for flow in folded.flows.values()]
    return encode_answer(Answer(reply=raw(flows), seq=folded.sequence, version=folded.version))


def _suspension(flow: OpenFlow) -> Suspension:
    due_ms = min((armed.due_ms for armed in Timing(flow.records).pending.values()), default=None)
    data = bytes(flow.command)
    return Suspension(
        command=tag_of(data, len(data)) or "",
        key=flow.name,
        waits_for=names_of(flow),
        since=of_ms(flow.since_ms),
        due=None if due_ms is None else of_ms(min(due_ms, LATEST_MS)),
        parked=flow.parked,
    )


def answer_state(folded: Folded) -> bytes | ClusterError:
    """The entity's state."""
    try:
        state = Raw(msgspec.json.encode(folded.state))
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        return SerializationError(cause=f"state: {described(error)}", may_have_taken_effect=False)
    return encode_answer(Answer(reply=state, seq=folded.sequence, version=folded.version))


async def fold_past(
    session: Session,
    entity: Entity[Any, Any],
    address: Address,
    past: Past,
    limits: LedgerLimits,
    upto: int,
) -> bytes | ClusterError:
    """The state at a version or a time: the fold of the events up to it. Raises Unreachable."""
    folded = Folded(entity.fresh(), Ledger(limits))
    try:
        async for stored in session.log.read(address, after=0, upto=upto):
            commit = unseal(stored)
            if commit is None:
                continue
            if past.time is not None and commit.time > past.time:
                break
            if past.version is not None and commit.version >= past.version:
                _fold_part(entity, folded, commit, past.version)
                break
            assert stored.mark is not None
            fold(entity, folded, commit, stored.mark, len(stored.data), stored.sequence)
    except Damaged as error:
        return SerializationError(cause=str(error))
    if past.version is not None and past.version > folded.version:
        why = f"version {past.version} isn't there yet: the newest is {folded.version}"
        return MalformedMessage(cause=why, may_have_taken_effect=False)
    return answer_state(folded)


def _fold_part(entity: Entity[Any, Any], folded: Folded, commit: Commit, version: int) -> None:
    """Fold the events of a commit up to a version. Raises Damaged."""
    raws = [event for outcome in commit.outcomes for event in outcome.events]
    try:
        events = [entity.log.decode(event) for event in raws[: version - folded.version]]
        folded.state = evolve_all(entity, folded.state, events)
    except Exception as error:  # user code, or an event that today's code doesn't know
        raise Damaged(described(error)) from error
    folded.version += len(events)
    folded.time = commit.time


def undecodable(error: Undecodable) -> MalformedMessage:
    """A control message that can't be read."""
    return MalformedMessage(cause=str(error), may_have_taken_effect=False)
