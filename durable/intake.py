"""Intake: from bytes that came in to a command that may wait, or a refusal.

Every limit that protects a runner from bad input is applied here, before anything is decoded or
queued: size, id, key, nesting, reply subject. Pure but for the loop's clock; the shard acts on
what comes back.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw

from ..entities.errors import ClusterError, EntityNotAssignedToRunner, MalformedMessage
from ..entities.key import is_key
from ..entities.schedule import parsed
from ..streams.asks import NULL, Envelope, open_body
from ..streams.chain import DEPTH, Chain, depth, is_chain
from ..streams.codec import TEXT_CHARS, Undecodable, decode, digest, payload_hash, raw_hash
from ..streams.commands import cause_of
from ..streams.commit import At
from ..streams.port import Delivery, Message
from ..streams.topology import LATEST_MS
from .defect import described
from .host import Host
from .item import Asker, Item
from .reads import Read
from .waker import is_waker, tag_of, waker_of

logger: logging.Logger = logging.getLogger("perdure.intake")

REQUEST_CHARS = 128
"""The longest request id that is kept; a longer one is cut, since it only serves logs."""

TRACE_CHARS = 256
"""The longest traceparent that is kept (W3C's has 55 characters)."""

EARLY_PART = 0.5
"""How far in the future a made key may be born, in parts of `made_window`: callers correct their
clocks by the runners', whose own may differ by a third of it."""


TAG_CHARS = 60
"""How much of an unknown command's name is told back."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that can't become a command, and the one to be told, if any."""

    asker: Asker | None
    error: ClusterError
    key: str | None = None


Arrival: TypeAlias = Item | Read | Refusal


def take_ask(host: Host, message: Message, now: float) -> Arrival:
    """What an ask is: a command, a read, or refused."""
    asker: Asker | None = None
    try:
        envelope = open_body(message.data, message.headers, limit=host.settings.max_payload_bytes)
        plain = message.data[:1] != b"["
        asker = Asker(message.reply, _cut(envelope.request, REQUEST_CHARS), plain)
        if envelope.kind == "tell":
            raise Undecodable("a tell is published to the command subject, not asked")
        _check_key(envelope.key)
        if envelope.birth is not None:
            _check_birth(host, envelope.birth)
        if envelope.kind != "ask":
            if envelope.kind == "result" and envelope.key is None:
                raise Undecodable("result: without a key")
            kind, payload, size = envelope.kind, _payload(host, envelope), len(message.data)
            if kind == "result":  # only its hash is needed from here on
                size -= len(bytes(envelope.payload))
                envelope = msgspec.structs.replace(envelope, payload=NULL)
            return Read(kind, asker, envelope, None, payload, now, size)
        command = _command(host, envelope)
        if envelope.at is not None:
            raise Undecodable("only a tell can be for later")
        writes = _writes(host, command)
        hash = payload_hash(command) if writes else ""
    except Undecodable as error:
        asker = asker or Asker(message.reply, plain=True)
        return Refusal(asker, _malformed(error))
    except Exception as error:  # user types may do anything: no message may end a subscription
        logger.exception("an ask can't be taken", extra={"action": "intake.failed"})
        asker = asker or Asker(message.reply, plain=True)
        return Refusal(asker, _malformed(Undecodable(described(error))))
    if not writes:
        envelope = msgspec.structs.replace(envelope, payload=NULL)
        return Read("query", asker, envelope, command, since=now, size=len(message.data))
    if envelope.key is None and not message.reply:
        nameless = Undecodable("an ask without a key and a reply subject has no name")
        return Refusal(None, _malformed(nameless))
    moves = _is_flow(host, command)
    return Item(
        way="ask",
        name=envelope.key or _bare_name(message.reply, moves=moves),
        payload_hash=hash,
        raw=envelope.payload,
        command=command,
        key=envelope.key,
        birth=envelope.birth if envelope.key else None,
        deadline=envelope.deadline,
        after=envelope.after,
        moves=moves,
        request=asker.request,
        trace=_cut(envelope.trace, TRACE_CHARS),
        askers=[asker] if message.reply else [],
        since=now,
        size=len(message.data),  # all of it: the payload is a part of it, not a copy
    )


def bad_id(taken: Arrival, error: ValueError) -> Refusal:
    """The refusal of a message whose subject holds no id of ours."""
    return Refusal(_asker(taken), MalformedMessage(cause=str(error), may_have_taken_effect=False))


def elsewhere(taken: Arrival, runner: str, why: str) -> Refusal:
    """The refusal of an ask that this runner isn't the one to take."""
    if isinstance(taken, Refusal):
        return taken
    writes = isinstance(taken, Item)
    error = EntityNotAssignedToRunner(runner=runner, cause=why, may_have_taken_effect=writes)
    key = taken.key if isinstance(taken, Item) else taken.envelope.key
    return Refusal(_asker(taken), error, key)


def _asker(taken: Arrival) -> Asker | None:
    if isinstance(taken, Item):
        return taken.askers[0] if taken.askers else None
    return taken.asker


def take_tell(host: Host, delivery: Delivery, generation: int, now: float) -> Item:
    """The command of a tell. One that can't be decoded becomes an item too: a dead letter."""
    at = At(generation, delivery.sequence, delivery.time_ns)
    problem: str | None = None
    command: Any = None
    envelope = Envelope(1, "tell", NULL)
    try:
        envelope = open_body(
            delivery.data, delivery.headers, limit=host.settings.max_payload_bytes
        )
        if delivery.data[:1] == b"[" and envelope.kind != "tell":
            raise Undecodable(f"{envelope.kind} is asked, not published")
        _check_key(envelope.key)
        if envelope.birth is not None:
            _check_birth(host, envelope.birth)
        command = _command(host, envelope)
        if not _writes(host, command):
            raise Undecodable("a query is asked, not published")
        _check_later(host, envelope.at)
        if envelope.chain:
            _check_chain(envelope.chain)
        raw, hash = envelope.payload, payload_hash(command)
    except Undecodable as error:
        problem = str(error)
        raw, hash = Raw(delivery.data), raw_hash(delivery.data)
    except Exception as error:  # user types may do anything: no tell may be skipped
        logger.exception("a tell can't be taken", extra={"action": "intake.failed"})
        problem = described(error)
        raw, hash = Raw(delivery.data), raw_hash(delivery.data)
    cause = cause_of(at, hash)
    key = envelope.key if envelope.key and is_key(envelope.key) else None
    request = _cut(envelope.request, REQUEST_CHARS)
    askers = [Asker(envelope.reply_to, request, told=True)] if envelope.reply_to else []
    waits = (envelope.at or 0) > at.time_ns // 1_000_000 or parsed(key or "") is not None
    later = envelope.at if waits else None
    return Item(
        way="tell",
        name=key or cause,
        payload_hash=hash,
        raw=raw,
        command=command,
        key=key,
        cause=cause,
        at=at,
        birth=envelope.birth if key and problem is None else None,
        deadline=envelope.deadline,
        later=later,
        chain=envelope.chain,
        moves=problem is None and (later is not None or _is_flow(host, command)),
        request=request,
        trace=_cut(envelope.trace, TRACE_CHARS),
        askers=askers,
        handle=delivery.handle,
        consumer=delivery.consumer,
        since=now,
        problem=problem,
        size=len(delivery.data),
    )


def _command(host: Host, envelope: Envelope) -> Any:
    """The command or query of a payload. Raises Undecodable, which says what there is instead."""
    limit, entity, data = host.settings.max_payload_bytes, host.entity, bytes(envelope.payload)
    if is_waker(data) and (waker := waker_of(data, limit)) is not None:
        return waker
    try:
        return decode(entity.messages, data, limit=limit, what=entity.name)
    except Undecodable:
        tag = tag_of(data, limit)
        if tag is None or tag in entity.contracts:
            raise
    takes = f"{entity.name} takes: {', '.join(entity.contracts)}"
    raise Undecodable(f"no command {tag[:TAG_CHARS]!r}; {takes}"[:TEXT_CHARS])


def _writes(host: Host, command: Any) -> bool:
    contract = host.entity.contracts.get(command.__struct_config__.tag)
    return contract is None or contract.writes  # a waker has none


def _bare_name(reply: str, *, moves: bool) -> str:
    """What names an ask without a key: its reply subject; that of a flow's is made a key, since
    its owner stores it as a tell."""
    return f"r-{digest(reply.encode())}" if moves else reply


def _is_flow(host: Host, command: Any) -> bool:
    """Whether it begins a flow, or wakes one."""
    tag: str = command.__struct_config__.tag
    return tag.startswith("$") or tag in host.entity.flow_of


def _payload(host: Host, envelope: Envelope) -> str | None:
    """The hash of the command whose result is asked for, where the caller says it."""
    if envelope.kind != "result" or bytes(envelope.payload) == b"null":
        return None
    command = _command(host, envelope)
    if not _writes(host, command):
        raise Undecodable("result: a query has none")
    return payload_hash(command)


def _check_key(key: str | None) -> None:
    if key is not None and not is_key(key):
        raise Undecodable("the idempotency key isn't 1 to 255 of A-Za-z0-9:_-")


def _check_birth(host: Host, birth: int) -> None:
    """Refuse a key from the future: once forgotten, it would forbid all keys made before then."""
    if not 0 <= birth <= host.now_ms() + host.ledger_limits.made_window_ms * EARLY_PART:
        raise Undecodable("the key's birth isn't a time that can be: is the caller's clock right?")


def _check_later(host: Host, at: int | None) -> None:
    """Refuse what can't be waited for, rather than do it at once."""
    if at is None:
        return
    if not host.settings.timers:
        raise Undecodable("its runner takes no part in timers (the setting `timers`)")
    if at > LATEST_MS:
        raise Undecodable("a command is told for 2261 at the latest")


def _check_chain(chain: Chain) -> None:
    if not is_chain(chain):
        raise Undecodable("what waits for it isn't told as it should be")
    if depth(chain) > DEPTH:
        raise Undecodable(f"over {DEPTH} flows wait for one another: {' → '.join(chain)}")


def _cut(text: str | None, length: int) -> str | None:
    if text is None or (len(text) <= length and text.isprintable()):
        return text
    return "".join(c for c in text[:length] if c.isprintable())


def _malformed(error: Undecodable) -> MalformedMessage:
    return MalformedMessage(cause=str(error), may_have_taken_effect=False)
