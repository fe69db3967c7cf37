"""Messages that nobody should send, and what each gets: by ask an error, by tell a dead letter."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

MALFORMED = "MalformedMessage"
DEFECT = "RpcClientError"
UNENCODABLE = "SerializationError"
LIMIT = 512 * 1024
"""Of a payload, in bytes."""
ADD = b'{"type":"add","n":1}'


@dataclass(frozen=True)
class Case:
    """One bad message."""

    name: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict[str, str])
    error: str = MALFORMED
    reason: str = "malformed"
    may: bool = False  # by ask: whether another owner may have executed it


def envelope(*fields: object) -> bytes:
    """An envelope of any fields."""
    return json.dumps(fields).encode()


def misbehave(how: str, error: str, reason: str) -> Case:
    """A message that is right, to a handler that isn't."""
    body = json.dumps({"type": "misbehave", "how": how}).encode()
    return Case(f"decide: {how}", body, {}, error, reason)


UNDECODABLE = [
    Case("nothing", b""),
    Case("no JSON", b"not json"),
    Case("no UTF-8", b"\xff\xfe\xfd"),
    Case("no UTF-8 in a text", b'{"type":"write","text":"\xff"}'),
    Case("cut off", ADD[:-1]),
    Case("more behind it", ADD + ADD),
    Case("a byte order mark", b"\xef\xbb\xbf" + ADD),
    Case("null", b"null"),
    Case("a number", b"17"),
    Case("a text", b'"add"'),
    Case("an empty list", b"[]"),
    Case("a list behind a space", b' [1,"ask",{"type":"add","n":1}]'),
    Case("an empty object", b"{}"),
    Case("half a character", b'{"type":"write","text":"\\ud800"}'),
    Case("a bomb of lists", b"[" * 100_000),
    Case("a bomb of objects", b'{"type":' * 20_000),
    Case("a bomb in a field", b'{"type":"write","deep":' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
    Case("a smaller bomb in a field", b'{"type":"write","deep":' + b"[" * 900 + b"]" * 900 + b"}"),
    Case("over the limit", b'{"type":"write","text":"' + b"x" * LIMIT + b'"}'),
    Case("garbage of a whole message", b"\x00" * 1_000_000),
]

MISTAKEN = [
    Case("an unknown tag", b'{"type":"rob","n":1}'),
    Case("a huge tag", b'{"type":"' + b"x" * 400_000 + b'"}'),
    Case("an event's tag", b'{"type":"added","n":1}'),
    Case("no tag", b'{"n":1}'),
    Case("a tag that is a number", b'{"type":1,"n":1}'),
    Case("two tags", b'{"type":"add","type":"write","n":1}'),
    Case("a missing field", b'{"type":"add"}'),
    Case("another field", b'{"type":"add","n":1,"more":1}'),
    Case("a field with a huge name", b'{"type":"add","n":1,"' + b"x" * 400_000 + b'":1}'),
    Case("a text for a number", b'{"type":"add","n":"1"}'),
    Case("a fraction for a number", b'{"type":"add","n":1.5}'),
    Case("null for a number", b'{"type":"add","n":null}'),
    Case("a number of 5,000 digits", b'{"type":"add","n":' + b"7" * 5_000 + b"}"),
    Case("a number beyond all floats", b'{"type":"write","ratio":1e999}'),
    Case("no date", b'{"type":"write","at":"2026-13-45T99:00:00Z"}'),
    Case("what its class refuses", b'{"type":"write","note":{"name":"nobody"}}'),
]

ENVELOPES = [
    Case("a newer envelope", envelope(2, "ask", {"type": "add", "n": 1})),
    Case("half an envelope", envelope(1, "ask")),
    Case("an unknown kind", envelope(1, "drop", None)),
    Case("a result without a key", envelope(1, "result", None)),
    Case("a key with a space", envelope(1, "ask", None, "a b")),
    Case("an empty key", envelope(1, "ask", {"type": "add", "n": 1}, "")),
    Case("a key of another kind", envelope(1, "ask", {"type": "add", "n": 1}, 17)),
    Case("a key with a line", envelope(1, "ask", {"type": "add", "n": 1}, "k\r\nX: y")),
    Case("a birth in the future", envelope(1, "tell", {"type": "add", "n": 1}, "k", 10**15)),
    Case("a birth of 70 bits", envelope(1, "ask", {"type": "add", "n": 1}, "k", 2**70)),
    Case("a birth before all time", envelope(1, "ask", {"type": "add", "n": 1}, "k", -1)),
    Case("a deadline in words", envelope(1, "ask", {}, "k", None, None, None, "soon")),
]

HEADERS = [
    Case("key: a space", ADD, {"Idempotency-Key": "a b"}),
    Case("key: a dot", ADD, {"Idempotency-Key": "a.b"}),
    Case("key: no ASCII", ADD, {"Idempotency-Key": "schlüssel"}),
    Case("key: 256 characters", ADD, {"Idempotency-Key": "k" * 256}),
    Case("key: 10 KB", ADD, {"Idempotency-Key": "k" * 10_240}),
    Case("deadline: a word", ADD, {"Perdure-Deadline": "tomorrow"}),
    Case("deadline: other digits", ADD, {"Perdure-Deadline": "١٧٦٤"}),
    Case("deadline: too many digits", ADD, {"Perdure-Deadline": "9" * 16}),
    Case("deadline: negative", ADD, {"Perdure-Deadline": "-1"}),
    Case("deadline: over", ADD, {"Perdure-Deadline": "1"}, "SendTimeout", "expired", True),
    Case("the server's own key", ADD, {"Nats-Msg-Id": "x"}),
]

HANDLERS = [
    misbehave("raise", DEFECT, "defect"),
    misbehave("recurse", DEFECT, "defect"),
    misbehave("none", DEFECT, "defect"),
    misbehave("bomb", DEFECT, "defect"),  # `evolve` raises on its event
    misbehave("reply", UNENCODABLE, "unencodable"),
    misbehave("reply type", UNENCODABLE, "unencodable"),
    misbehave("reply surrogate", UNENCODABLE, "unencodable"),
    misbehave("failure", UNENCODABLE, "unencodable"),
    misbehave("event", UNENCODABLE, "unencodable"),
    misbehave("event surrogate", UNENCODABLE, "unencodable"),
    misbehave("large", UNENCODABLE, "too_large"),
]

CASES = [*UNDECODABLE, *MISTAKEN, *ENVELOPES, *HEADERS, *HANDLERS]
