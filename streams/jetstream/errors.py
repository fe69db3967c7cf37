"""What the server's refusals mean: its codes, mapped once, at the border.

A code says more than its text, with one exception: 10077 is any limit of a stream, and only the
text tells whether it was the one of a subject. `Lost` is no answer at all: whether the message
was stored is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ...entities.settings import JETSTREAM_API
from ..port import (
    AppendAnswer,
    Appended,
    Full,
    Incompatible,
    NoAck,
    PublishAnswer,
    Refused,
    Taken,
    Unreachable,
    WrongLast,
)

MINIMUM = (2, 15, 1)
"""The oldest server: earlier ones refuse valid conditions (10071) and lose scheduled messages."""

NO_RESPONDERS = 503
UNAVAILABLE = 503
"""The `code` of an error that the server itself calls temporary: there is no leader yet."""
NO_CONSUMER = 10014
NO_MESSAGE = 10037
NO_SEQUENCE = (10043, 10057)
"""To delete what isn't there: below the last sequence, and beyond it."""
FORBIDDEN_DELETE = "not permitted"
"""In the text of the second, where the stream's messages can't be deleted."""
TOO_LARGE = 10054
NAME_IN_USE = 10058
NO_STREAM = 10059
OVERLAP = 10065
WRONG_LAST = (10071, 10164)
FULL = 10077
TAKEN = (10013, 10099, 10100, 10105, 10148)
NOT_ENABLED = (10039, 10076)
CONFIGURATION = (10005, 10023, 10028, 10047, 10052, 10074)
"""Refused for what the stream or the server is set to; asking again won't help."""


class Problem(msgspec.Struct, frozen=True):
    """An error as the server says it."""

    code: int = 0
    err_code: int = 0
    description: str = ""

    def __str__(self) -> str:
        return f"{self.description or 'no reason given'} ({self.err_code or self.code})"


class PubAck(msgspec.Struct, frozen=True):
    """The answer to a publish."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: Problem | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer: not in time, or the connection ended."""

    why: str


@dataclass(frozen=True, slots=True)
class Denied:
    """Nobody got it: this login has no permission for the subject."""

    why: str


class TooLarge(ValueError):
    """More bytes than the server takes; it would end the connection for good."""


_acks = msgspec.json.Decoder(PubAck)


def append_answer(data: bytes, *, stream: str, no_responders: bool) -> AppendAnswer:
    """What the log's answer means."""
    if no_responders:
        return Refused(NO_RESPONDERS, f"{stream} doesn't exist, or has no leader")
    ack = _decode(data)
    if ack is None or (ack.error is None and ack.stream != stream):
        return NoAck(f"not an answer of {stream}: {data[:100]!r}")
    if ack.error is not None:
        if ack.error.err_code in WRONG_LAST:
            return WrongLast()
        return Refused(ack.error.err_code, ack.error.description)
    return Appended(ack.seq)


def publish_answer(data: bytes, *, stream: str) -> PublishAnswer:
    """What the answer of a work queue or a register means."""
    ack = _decode(data)
    if ack is None or (ack.error is None and ack.stream != stream):
        return NoAck(f"not an answer of {stream}: {data[:100]!r}")
    if ack.error is not None:
        if ack.error.err_code == FULL and "per subject" in ack.error.description:
            return Full()
        return Refused(ack.error.err_code, ack.error.description)
    if ack.duplicate:
        return Refused(0, "swallowed as a duplicate: Nats-Msg-Id is not a key here")
    return Appended(ack.seq)


def _decode(data: bytes) -> PubAck | None:
    try:
        return _acks.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class ApiError(Unreachable):
    """The server answered, and refuses: it isn't silent, and will hardly do it later."""


def api_error(what: str, problem: Problem, api_prefix: str = JETSTREAM_API) -> Exception:
    """The exception for an error of the JetStream API, which was asked by that prefix."""
    text = f"{what}: {problem}"
    if problem.err_code in NOT_ENABLED:
        return Incompatible(f"{text}. {no_jetstream(api_prefix)}")
    if problem.err_code in TAKEN:
        return Taken(text)
    if problem.err_code == OVERLAP:
        return Incompatible(
            f"{text}. Another stream takes perdure's subjects: delete it, or choose another "
            "namespace for perdure"
        )
    if problem.err_code in CONFIGURATION:
        return Incompatible(
            f"{text}. Check the settings `replicas` and `command_stream_bytes` against the "
            "server's size and limits"
        )
    return Unreachable(text) if problem.code == UNAVAILABLE else ApiError(text)


ENABLE = (
    "JetStream is what perdure stores everything in: enable it on the server (`jetstream {}` in "
    "its configuration) and for the account"
)


def no_jetstream(api_prefix: str) -> str:
    """What to do where there is none, or nobody answers what begins with that prefix."""
    if api_prefix == JETSTREAM_API:
        return f"{ENABLE}. If another account has the streams, set `api_prefix`"
    return (
        f"Correct the setting `api_prefix`, which is {api_prefix}: this login's account imports "
        f"that from the one that has the streams, or should. {ENABLE}"
    )


def check_version(version: str) -> None:
    """Refuse a server older than MINIMUM. Raises Incompatible, naming both versions."""
    numbers, _, suffix = version.partition("+")[0].partition("-")
    try:
        parts = tuple(int(part) for part in numbers.split("."))
    except ValueError:
        raise Incompatible(f"the server's version {version!r} can't be read") from None
    if parts < MINIMUM or (parts == MINIMUM and suffix):
        needed = ".".join(map(str, MINIMUM))
        raise Incompatible(
            f"nats-server is {version}, perdure needs {needed} or newer: upgrade the server"
        )
