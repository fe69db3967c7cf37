"""What is said between caller and owner: envelopes in, answers out.

A plain client sends the command's JSON (`{"type": "withdraw", "cents": 5}`) with optional headers.
The Python client sends an envelope, a JSON array in the body, since headers halve the throughput
of nats-py. The first byte tells them apart. Tells use the same two forms (`streams/commands.py`).

An answer is one JSON object: `{"reply": …}`, `{"failure": {"type": …}}` or
`{"error": {"type": "MailboxFull", …}}`; `seq` and `version` say which commit it comes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from .codec import Undecodable, decode

KEY_HEADER = "Idempotency-Key"
REPLY_TO_HEADER = "Perdure-Reply-To"
DEADLINE_HEADER = "Perdure-Deadline"
"""Unix time in milliseconds; a command that nobody took by then is not executed."""
AT_HEADER = "Perdure-At"
"""Unix time in milliseconds; a tell that isn't done before."""
TRACE_HEADER = "traceparent"
FORBIDDEN_HEADER = "Nats-Msg-Id"
"""Not a key: the server swallows the same id on another entity."""

ENVELOPE_BYTES = 4096
"""What an envelope may add to its payload: ids, a key, subjects, a trace."""

Kind: TypeAlias = Literal["ask", "tell", "result", "status", "state", "flows"]


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A command or a control message, and what belongs to it. Fields are never reordered."""

    v: int  # 1
    kind: Kind
    payload: Raw  # the command's JSON; for `state` {"version": n} or {"time": …}; else null
    key: str | None = None
    birth: int | None = None  # Unix ms in the runners' time: the client made the key for repeats
    request: str | None = None  # the request id, for errors, logs and traces
    reply_to: str | None = None  # of a tell
    deadline: int | None = None  # Unix ms in the runners' time
    after: int | None = None  # stream sequence of this client's last tell to it: the owner waits
    seen: int | None = None  # the last log sequence that the caller knows of
    fresh: bool = False  # of a query: ask the leader
    trace: str | None = None  # W3C traceparent
    at: int | None = None  # of a tell: Unix ms by the server's clock, before which it isn't done
    chain: tuple[str, ...] = ()  # of a flow's tell: the flows that wait for it (streams/chain.py)


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What comes back. Exactly one of reply, failure and error is set."""

    reply: Raw | UnsetType = UNSET
    failure: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    seq: int | None = None  # of the commit, or of the log that a query saw
    version: int | None = None


class TypeInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer on `perdure.info.<type>`."""

    entity: str
    generation: int
    shards: int
    runner: str
    time: int  # the runner's clock, Unix ms: callers with a wrong clock correct themselves
    schemas: Raw | UnsetType = UNSET  # JSON Schemas: {"commands": {tag: {...}}, "events": {...}}


NULL = Raw(b"null")

REPLY_CHARS = 512
"""The longest reply subject that is answered to."""

_REPLY = re.compile(r"[^\s*>.\x00-\x20\x7f]+(?:\.[^\s*>.\x00-\x20\x7f]+)*")

_envelopes = msgspec.json.Decoder(Envelope)
_answers = msgspec.json.Decoder(Answer)
_infos = msgspec.json.Decoder(TypeInfo)
_encoder = msgspec.json.Encoder()
_NO_TIMES = b",null,[]]"
"""The end of an envelope without `at` and `chain`."""


def encode_envelope(envelope: Envelope) -> bytes:
    """The body of an enveloped ask or tell. What came with later releases and is seldom used is
    left out at its end."""
    data = _encoder.encode(envelope)
    return data[: -len(_NO_TIMES)] + b"]" if data.endswith(_NO_TIMES) else data


def open_body(
    data: bytes,
    headers: Mapping[str, str] | None,
    *,
    limit: int,
    beside: int = ENVELOPE_BYTES,
) -> Envelope:
    """The envelope of a body of either form. `limit` bounds the payload, `beside` what an envelope
    has besides. Raises Undecodable."""
    if data[:1] == b"[":
        envelope: Envelope = decode(_envelopes, data, limit=limit + beside, what="the envelope")
        if envelope.v != 1:
            raise Undecodable(f"the envelope: format {envelope.v}, this runner knows 1")
        size = len(envelope.payload)
        if size > limit:
            raise Undecodable(f"the payload: over {limit} bytes")
        if len(data) - size > beside:
            raise Undecodable(f"the envelope: over {beside} bytes beside its payload")
        return envelope
    if len(data) > limit:
        raise Undecodable(f"the payload: {len(data)} bytes, allowed are {limit}")
    headers = headers or {}
    if FORBIDDEN_HEADER in headers:
        raise Undecodable(f"{FORBIDDEN_HEADER} is not a key here: use {KEY_HEADER}")
    return Envelope(
        1,
        "ask",
        Raw(data),
        key=headers.get(KEY_HEADER),
        reply_to=_bounded(headers.get(REPLY_TO_HEADER)),
        deadline=_milliseconds(headers, DEADLINE_HEADER),
        trace=_bounded(headers.get(TRACE_HEADER)),
        at=_milliseconds(headers, AT_HEADER),
    )


def _bounded(text: str | None) -> str | None:
    """A header's text, cut: whoever uses it takes far less, and it is kept as long as it waits."""
    return None if text is None else text[:ENVELOPE_BYTES]


def _milliseconds(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Undecodable(f"{name}: not a Unix time in milliseconds")
    return int(text)


def encode_answer(answer: Answer) -> bytes:
    """The body of an answer."""
    return _encoder.encode(answer)


def decode_answer(data: bytes) -> Answer:
    """An answer. Raises Undecodable."""
    answer: Answer = decode(_answers, data, limit=1 << 30, what="the answer")
    missing = (answer.reply is UNSET) + (answer.failure is UNSET) + (answer.error is UNSET)
    if missing != 2:
        raise Undecodable("the answer: not exactly one of reply, failure and error")
    return answer


def encode_info(info: TypeInfo) -> bytes:
    """The body of an answer to `info`."""
    return _encoder.encode(info)


def decode_info(data: bytes) -> TypeInfo:
    """An answer to `info`. Raises Undecodable."""
    info: TypeInfo = decode(_infos, data, limit=1 << 30, what="the answer to info")
    return info


def reply_allowed(reply: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a runner may publish to a caller's reply subject.

    A reply subject is a weapon: without this rule a caller who may only ask has the runner's
    answer stored in a log. Only subjects below the allowed prefixes, and never a wildcard.
    """
    if len(reply) > REPLY_CHARS or not reply.startswith(_dotted(prefixes)):
        return False
    if reply.isprintable():  # nearly all: the same rule without a pattern, in a tenth of the time
        odd = " " in reply or "*" in reply or ">" in reply or ".." in reply
        return not (odd or reply[-1] == ".")
    return _REPLY.fullmatch(reply) is not None


@lru_cache(maxsize=16)
def _dotted(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{prefix}." for prefix in prefixes)


def raw(value: Any) -> Raw:
    """A value as raw JSON."""
    return Raw(_encoder.encode(value))
