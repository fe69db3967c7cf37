"""What to do with the commands that wait: a pure decision, no I/O, no clock of its own.

`make_plan` walks the queue in order. It answers from the ledger what has an outcome already,
decides the rest one after another, evolving after each, and stops where the order demands it:
before a repeat of something undecided, a defect, a suspect, or the size limit. What it returns is
data; the activation commits it, and only then does anything change.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import Enum
from typing import Any

from msgspec import UNSET, Raw, Struct

from ..entities.address import Address
from ..entities.clock import to_datetime
from ..entities.context import Context
from ..entities.decision import Decision
from ..entities.entity import Entity
from ..entities.errors import (
    ClusterError,
    MailboxFull,
    MalformedMessage,
    RpcClientError,
    SendTimeout,
    SerializationError,
    with_details,
)
from ..entities.later import TIME
from ..entities.tagged import to_wire
from ..streams.asks import raw
from ..streams.chain import link, shown
from ..streams.commit import Dead, Outcome
from .defect import ENDS, described
from .folded import Folded, evolve_all
from .item import Item
from .ledger import Seen
from .pages import Absent
from .waker import TimerFired, Waker, may_be_waker

OUTCOME_BYTES = 512
"""What an outcome adds to its payload in a commit: names, hashes, JSON syntax. Generous."""

DEAD_BYTES = 16 * 1024
"""The same for a dead letter, with its error and what callers may add. Generous."""


OPEN_FLOWS = 1_000
"""Flows of one entity that are open at a time, commands for later among them: all of them are in
its memory and in its snapshot, so more is for entities of their own."""

CROWDED = MailboxFull(
    capacity=OPEN_FLOWS,
    cause=f"{OPEN_FLOWS} flows of this entity are open",
    may_have_taken_effect=False,
)


class Standing(Enum):
    """What the ledger and the watermark say of a command."""

    NEW = "new"
    RECORDED = "recorded"  # it has an outcome
    REUSED = "reused"  # its key has an outcome, of another payload
    PROCESSED = "processed"  # below the watermark: it took effect, its record is forgotten
    TOO_OLD = "too old"  # its made key may have been forgotten: not executed
    REWOUND = "rewound"  # new, and the command stream gave its sequence out a second time
    OPEN = "open"  # it began a flow that has no outcome yet


class Limits(Struct, frozen=True):
    """Bounds of one commit."""

    outcomes: int
    bytes: int  # soft: an outcome alone may be larger
    max_bytes: int  # hard: the server refuses more


class Plan(Struct, eq=False):
    """What to do next. Items in the order of the queue; at most one of the last three is set."""

    recorded: list[tuple[Item, Seen]] = []
    processed: list[Item] = []
    refused: list[tuple[Item, ClusterError]] = []
    taken: list[Item] = []
    outcomes: list[Outcome] = []
    rewound: list[Item] = []
    state: Any = None  # after the outcomes
    events: int = 0
    size: int = 0  # of the outcomes, in bytes
    suspect: Item | None = None
    defect: tuple[Item, BaseException] | None = None
    absent: Absent | None = None  # the ledger can't tell before these parts are read
    flow: Item | None = None  # it begins a flow, wakes one, or repeats what did
    held: list[Item] = []  # what comes while a flow has the entity for itself

    @property
    def handled(self) -> int:
        """How many commands it answers, by whatever verdict."""
        verdicts = len(self.recorded) + len(self.processed) + len(self.refused)
        return verdicts + len(self.outcomes)

    def add(self, item: Item, outcome: Outcome, size: int) -> None:
        """One more outcome."""
        self.taken.append(item)
        self.outcomes.append(outcome)
        self.size += size


def is_plain(plan: Plan) -> bool:
    """Whether a commit is all that there is to do, of outcomes that need nothing but an answer."""
    if not plan.outcomes or plan.suspect is not None:
        return False
    if plan.recorded or plan.processed or plan.refused or plan.rewound:
        return False
    for item, outcome in zip(plan.taken, plan.outcomes, strict=True):
        if outcome.dead is not None or item.marked:
            return False
    return True


class Unencodable(Exception):
    """A reply, failure or event that isn't what its type says, or is too large."""


def standing(folded: Folded, item: Item) -> tuple[Standing, Seen | None]:
    """What the entity's record says of a command. The ledger is asked first. Raises Absent."""
    if folded.flows and (flow := folded.flows.get(item.name)) is not None:
        same = flow.payload_hash == item.payload_hash
        return (Standing.OPEN if same else Standing.REUSED), None
    if item.cause is not None and (found := folded.ledger.find(item.cause)) is not None:
        return Standing.RECORDED, found
    if item.key is not None or item.way == "ask":
        found = folded.ledger.find(item.name)
        if found is not None and found.payload == bytes.fromhex(item.payload_hash):
            return Standing.RECORDED, found
        if found is not None and not _below(folded, item):
            return Standing.REUSED, found
    if _below(folded, item):
        return Standing.PROCESSED, None
    # In a rewound stream, too: this copy's outcome may have been forgotten.
    if item.birth is not None and folded.ledger.too_old(item.birth):
        return Standing.TOO_OLD, None
    if item.at is not None and item.at.sequence <= folded.watermark.sequence:
        return Standing.REWOUND, None
    return Standing.NEW, None


def _below(folded: Folded, item: Item) -> bool:
    """Whether a tell is at or below the watermark, by sequence and by time."""
    at, mark = item.at, folded.watermark
    return at is not None and at.sequence <= mark.sequence and at.time_ns <= mark.time_ns


def make_plan(
    entity: Entity[Any, Any],
    address: Address,
    folded: Folded,
    queue: Iterable[Item],
    *,
    limits: Limits,
    now_ns: int,
) -> Plan:
    """What to do with the front of the queue. Changes nothing but the plan."""
    if folded.flows and folded.exclusive is not None:
        return _held(address, folded, queue, limits, now_ms=now_ns // 1_000_000)
    plan = Plan(state=folded.state)
    names: set[str] = set()
    now = to_datetime(now_ns) if entity.with_context else None
    now_ms = now_ns // 1_000_000
    for item in queue:
        if item.evicted:  # its body is not there to be decided on, or buried
            break
        pending = bool(plan.outcomes)
        try:
            verdict, found = standing(folded, item)
        except Absent as absent:
            plan.absent = None if pending else absent
            break
        crowded = _crowds(folded, item, verdict)
        if not crowded and drives(item, verdict, now_ms=now_ms):
            plan.flow = None if pending or item.suspect else item
            plan.suspect = item if item.suspect and not pending else None
            break
        if verdict in (Standing.RECORDED, Standing.PROCESSED) or item.name in names:
            if pending:
                break
            if found is not None:
                plan.recorded.append((item, found))
            else:
                plan.processed.append(item)
            continue
        if item.suspect:
            if not pending:
                plan.suspect = item
            break
        if verdict is Standing.REWOUND:
            plan.rewound.append(item)
        most = min(limits.bytes, limits.max_bytes)
        room = most - plan.size if pending else limits.max_bytes
        refusal = refuse(item, verdict, now_ms=now_ms)
        if refusal is None and crowded:
            refusal = "crowded", CROWDED
        if refusal is not None:
            reason, error = refusal
            named = reason == "expired"
            took = _refuse(plan, address, item, reason, error, limits, named=named, room=room)
        else:
            took = _take(plan, entity, address, folded, item, limits, now=now, room=room)
        if not took:
            break
        if plan.taken and plan.taken[-1] is item:
            names.add(item.name)
        if len(plan.outcomes) >= limits.outcomes:
            break
    return plan


def _held(
    address: Address, folded: Folded, queue: Iterable[Item], limits: Limits, *, now_ms: int
) -> Plan:
    """The same while a flow has the entity for itself: only what wakes a flow is taken, out of its
    turn. All else is held: asks are refused, tells wait. But what that very flow waits for would
    wait for ever."""
    plan = Plan(state=folded.state)
    flow = folded.exclusive
    own = "" if flow is None else link(address, flow.name)
    for item in queue:
        if item.evicted:  # it may be what wakes one: its body is read first
            break
        try:
            verdict, found = standing(folded, item)
        except Absent as absent:
            plan.absent = absent
            break
        if found is not None and verdict is Standing.RECORDED:
            plan.recorded.append((item, found))
        elif verdict is Standing.PROCESSED:
            plan.processed.append(item)
        elif drives(item, verdict, now_ms=now_ms) and (_wakes(item) or verdict is Standing.OPEN):
            plan.flow = None if item.suspect else item
            plan.suspect = item if item.suspect else None
            break
        elif own in item.chain:
            item.overtakes = True
            error = MalformedMessage(
                cause=f"a call cycle: {shown(item.chain, address)}, whose flow waits for this",
                may_have_taken_effect=False,
            )
            alone = Plan(state=folded.state)
            room = limits.max_bytes
            _refuse(alone, address, item, "cycle", error, limits, named=True, room=room)
            return alone
        else:
            plan.held.append(item)
    return plan


def _crowds(folded: Folded, item: Item, verdict: Standing) -> bool:
    """Whether it would begin one more flow than an entity may have."""
    if not item.moves or len(folded.flows) < OPEN_FLOWS:
        return False
    return verdict in (Standing.NEW, Standing.REWOUND) and not isinstance(item.command, Waker)


def _wakes(item: Item) -> bool:
    """Whether it lets a flow go on: not the time of a command that was told for later, which is
    one like those that wait."""
    timed = isinstance(item.command, TimerFired) and item.command.timer == TIME
    return isinstance(item.command, Waker) and not timed


def drives(item: Item, verdict: Standing, *, now_ms: int) -> bool:
    """Whether a command is a flow's business: it begins one, wakes one, or repeats what did."""
    if verdict is Standing.OPEN:
        return item.problem is None
    if not item.moves or verdict not in (Standing.NEW, Standing.REWOUND):
        return False
    return refuse(item, verdict, now_ms=now_ms) is None


def _take(
    plan: Plan,
    entity: Entity[Any, Any],
    address: Address,
    folded: Folded,
    item: Item,
    limits: Limits,
    *,
    now: datetime | None,
    room: int,
) -> bool:
    """Put one command into the plan; False if the plan ends before it."""
    pending = bool(plan.outcomes)
    context: Context | None = None
    if now is not None:
        now = now if item.at is None else to_datetime(item.at.time_ns)
        context = Context(address, folded.version + plan.events, now, item.key)
    try:
        decision = entity.decide(plan.state, item.command, context)
        outcome, events = encode(entity, item, decision)
        state = evolve_all(entity, plan.state, events)
    except Unencodable as error:
        if pending:
            return False
        return _refuse(
            plan,
            address,
            item,
            "unencodable",
            SerializationError(cause=str(error)[:1000], may_have_taken_effect=False),
            limits,
            named=True,
            room=room,
        )
    except ENDS:
        raise
    except BaseException as error:  # user code; nobody cancels in here
        if not pending:
            plan.defect = (item, error)
        return False
    size = _size(outcome)
    if size > room:
        if pending:
            return False
        return _refuse(
            plan,
            address,
            item,
            "too_large",
            SerializationError(
                cause=f"its outcome has {size} bytes, a message holds {room}",
                may_have_taken_effect=False,
            ),
            limits,
            named=True,
            room=room,
        )
    plan.add(item, outcome, size)
    plan.state = state
    plan.events += len(events)
    return True


def refuse(item: Item, verdict: Standing, *, now_ms: int) -> tuple[str, ClusterError] | None:
    """The verdict on a command that must not be executed: reason and error; else None."""
    if verdict is Standing.REUSED:
        return "malformed", MalformedMessage(
            cause="this key was used before, with another payload", may_have_taken_effect=False
        )
    if verdict is Standing.TOO_OLD:
        return "too_old", SendTimeout(
            cause="a copy too old to tell whether it took effect", may_have_taken_effect=True
        )
    if item.problem is not None:
        return "malformed", MalformedMessage(cause=item.problem, may_have_taken_effect=False)
    if item.deadline is not None and item.deadline < now_ms:
        return "expired", SendTimeout(
            cause="its deadline passed before its turn",
            may_have_taken_effect=item.way == "ask",  # another owner may have a copy
        )
    return None


def _refuse(
    plan: Plan,
    address: Address,
    item: Item,
    reason: str,
    error: ClusterError,
    limits: Limits,
    *,
    named: bool,
    room: int,
) -> bool:
    """An ask is refused; a tell gets a dead letter, an outcome like any other."""
    if item.way == "ask":
        if plan.outcomes:
            return False
        plan.refused.append((item, error))
        return True
    error = with_details(error, address=str(address))
    outcome = dead_letter(item, reason, error, named=named, max_bytes=limits.max_bytes)
    size = _size(outcome)
    if plan.outcomes and size > room:
        return False
    plan.add(item, outcome, size)
    return True


def dead_letter(
    item: Item, reason: str, error: ClusterError, *, named: bool, max_bytes: int
) -> Outcome:
    """The verdict on a tell. `named`: it uses up the key; else it is named by its cause.

    It always fits into a message, else nothing could ever take its tell out of the way.
    """
    room = max_bytes - DEAD_BYTES
    waker = may_be_waker(item)  # its token is nobody's business
    undecodable = waker or item.problem is not None or len(bytes(item.raw)) > room
    return Outcome(
        name=item.name if named else item.cause or item.name,
        payload_hash=item.payload_hash,
        at=item.place,
        birth=item.birth if named else None,
        command=UNSET if undecodable else item.raw,
        dead=Dead(
            reason,
            raw(to_wire(with_details(error, key=item.key, request_id=item.request))),
            key=None if named else item.key,
            raw=kept(bytes(item.raw), room) if undecodable and not waker else None,
        ),
        request=item.request,
        trace=item.trace,
    )


def kept(payload: bytes, room: int) -> bytes:
    """What of a payload is kept so that its base64 has at most `room` bytes."""
    return payload[: max(0, room // 4 * 3)]


def defect_error(error: BaseException) -> RpcClientError:
    """What a caller hears of a defect in user code, after its retries."""
    return RpcClientError(
        cause=f"defect: {described(error)}", may_have_taken_effect=False, advice="fix"
    )


def as_decision(decision: Any) -> Decision[Any]:
    """What `decide` returned, if it is a decision. Raises Unencodable."""
    if not isinstance(decision, Decision):
        raise Unencodable(f"the handler returned {type(decision).__name__}, not a Decision")
    return decision  # pyright: ignore[reportUnknownVariableType] (of unknown events)


def encode(entity: Entity[Any, Any], item: Item, decision: Any) -> tuple[Outcome, list[Any]]:
    """A decision as an outcome, and its events as everybody will read them.

    What is encoded is decoded again at once: an event that could not be read back would
    quarantine the entity, and a reply would fail its caller. Raises Unencodable.
    """
    contract = entity.contracts[item.command.__struct_config__.tag]
    decision = as_decision(decision)
    events: list[Any] = []
    raws: list[Raw] = []
    try:
        for event in decision.events:
            if type(event) not in entity.events:
                raise Unencodable(f"evolve doesn't take {type(event).__name__}")
            made = raw(event)
            raws.append(made)
            events.append(entity.log.decode(made))
        reply: Any = UNSET
        failure: Any = UNSET
        if decision.failure is not None:
            if type(decision.failure) not in contract.failures:
                raise Unencodable(f"undeclared failure {type(decision.failure).__name__}")
            failure = raw(to_wire(decision.failure))
            contract.failure_decoder.decode(failure)
        else:
            reply = raw(decision.reply)
            contract.reply_decoder.decode(reply)
    except Unencodable:
        raise
    except Exception as error:  # msgspec raises many kinds; user types may raise their own
        raise Unencodable(f"{contract.tag}: {described(error)}") from None
    return (
        Outcome(
            name=item.name,
            payload_hash=item.payload_hash,
            at=item.at,
            birth=item.birth,
            command=item.raw,
            events=tuple(raws),
            reply=reply,
            failure=failure,
            request=item.request,
            trace=item.trace,
        ),
        events,
    )


def _size(outcome: Outcome) -> int:
    size = OUTCOME_BYTES
    for part in (outcome.command, outcome.reply, outcome.failure):
        if part is not UNSET:
            size += len(part)
    for event in outcome.events:
        size += len(event)
    if outcome.dead is not None:
        size += len(outcome.dead.error) + len(outcome.dead.raw or b"") * 4 // 3
    return size
