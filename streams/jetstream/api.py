"""The JetStream API: what is asked of the server, and its answers as typed records.

Only the fields that perdure reads are named; the server may add others.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from ..commit import MARK, Stored
from ..port import Incompatible, Unreachable
from .connection import Connection
from .errors import (
    FORBIDDEN_DELETE,
    NO_MESSAGE,
    NO_SEQUENCE,
    NO_STREAM,
    Problem,
    api_error,
    no_jetstream,
)
from .reader import headers_of

TIMEOUT_S = 5.0
"""For one request to the API, in seconds; on three replicas a creation may take one."""

LOOKUP_TRIES_S = (0.5, 1.0, 1.5, 2.0)
"""For one look-up, one try after another, in seconds; all together as long as TIMEOUT_S. While a
stream has no leader, nobody hears what is asked of it, and a new one comes at any moment: who
waited for the whole time would notice it up to five seconds later than others."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Response(msgspec.Struct, frozen=True):
    """Any answer."""

    error: Problem | None = None


class StreamInfo(Response, frozen=True):
    """A stream."""

    config: dict[str, Any] = {}
    ts: str = ""  # the server's time


class StreamNames(Response, frozen=True):
    """One page of names."""

    total: int = 0
    streams: list[str] | None = None


class StreamState(msgspec.Struct, frozen=True):
    """What a stream holds."""

    subjects: dict[str, int] | None = None  # messages by subject, where a filter was given


class StreamContents(Response, frozen=True):
    """What a stream holds, by subject."""

    state: StreamState = StreamState()


class Sequences(msgspec.Struct, frozen=True):
    """How far a consumer is."""

    consumer_seq: int = 0
    stream_seq: int = 0


class Cluster(msgspec.Struct, frozen=True):
    """Where something lives in a cluster."""

    replicas: list[Any] = []


class ConsumerConfig(msgspec.Struct, frozen=True):
    """What perdure reads of a consumer's configuration."""

    metadata: dict[str, str] = {}


class ConsumerResponse(Response, frozen=True):
    """A consumer."""

    name: str = ""
    config: ConsumerConfig = ConsumerConfig()
    delivered: Sequences = Sequences()
    num_pending: int = 0
    cluster: Cluster | None = None


class ConsumerNames(Response, frozen=True):
    """One page of the names of consumers."""

    total: int = 0
    consumers: list[str] = []


class RawMessage(msgspec.Struct, frozen=True):
    """A stored message."""

    seq: int
    time: str
    subject: str
    data: bytes = b""
    hdrs: str = ""

    def headers(self) -> dict[str, str] | None:
        """Its headers."""
        return headers_of(b64decode(self.hdrs)) if self.hdrs else None

    def stored(self) -> Stored:
        """As a message of a log."""
        mark = (self.headers() or {}).get(MARK)
        return Stored(self.seq, parse_time(self.time), self.data, mark)


class MessageResponse(Response, frozen=True):
    """The answer to a look-up of one message."""

    message: RawMessage | None = None


R = TypeVar("R", bound=Response)


async def call(
    connection: Connection,
    subject: str,
    body: object,
    kind: type[R],
    *,
    accept: tuple[int, ...] = (),
    timeout_s: float = TIMEOUT_S,
) -> R:
    """One request, by what follows the API's prefix. Errors with a code in `accept` are returned,
    all others raised.

    Raises Unreachable, Incompatible, Taken.
    """
    data = b"" if body is None else msgspec.json.encode(body)
    subject = f"{connection.api}{subject}"
    answer = await connection.request(subject, data, timeout_s=timeout_s)
    if answer.no_responders:
        if await connection.ends():
            raise Unreachable("the server stops")
        advice = no_jetstream(connection.api_prefix)
        raise Incompatible(f"nobody answers {subject}: no JetStream here. {advice}")
    try:
        response = msgspec.json.decode(answer.data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreachable(f"{subject}: not an answer of JetStream: {error}") from None
    if response.error is not None and response.error.err_code not in accept:
        what = subject.removeprefix(connection.api)
        raise api_error(what, response.error, connection.api_prefix)
    return response


async def lookup(connection: Connection, stream: str, query: dict[str, Any]) -> RawMessage | None:
    """One message, from the stream's leader. Raises Unreachable."""
    loop, (*first, last) = asyncio.get_running_loop(), LOOKUP_TRIES_S
    for timeout_s in first:
        began = loop.time()
        try:
            return await _lookup(connection, stream, query, timeout_s)
        except Unreachable:
            if loop.time() - began < timeout_s / 2:  # that wasn't silence
                raise
    return await _lookup(connection, stream, query, last)


async def _lookup(
    connection: Connection, stream: str, query: dict[str, Any], timeout_s: float
) -> RawMessage | None:
    try:
        found = await call(
            connection,
            f"STREAM.MSG.GET.{stream}",
            query,
            MessageResponse,
            accept=(NO_MESSAGE, NO_STREAM),
            timeout_s=timeout_s,
        )
    except Incompatible as error:
        raise Unreachable(str(error)) from None
    return found.message


async def delete_message(connection: Connection, stream: str, sequence: int) -> bool:
    """Delete one message; False if it isn't there.

    The server has one code for a sequence beyond the end and for a stream whose messages can't be
    deleted: only its text tells them apart. Raises Unreachable, and Incompatible only where the
    stream lets nobody delete.
    """
    path, body = f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True}
    try:
        answer = await call(connection, path, body, Response, accept=(*NO_SEQUENCE, NO_STREAM))
    except Incompatible as error:  # nobody answers, for now
        raise Unreachable(str(error)) from None
    if answer.error is not None and FORBIDDEN_DELETE in answer.error.description:
        raise Incompatible(f"{stream}: its messages can't be deleted: {answer.error}")
    return answer.error is None


# -- the server's texts -----------------------------------------------------------------------
async def count(connection: Connection, stream: str, subject: str) -> int:
    """How many messages a stream has on one subject. Raises Unreachable."""
    try:
        found = await call(
            connection,
            f"STREAM.INFO.{stream}",
            {"subjects_filter": subject},
            StreamContents,
            accept=(NO_STREAM,),
        )
    except Incompatible as error:
        raise Unreachable(str(error)) from None
    return (found.state.subjects or {}).get(subject, 0)


def parse_time(text: str) -> int:
    """Unix nanoseconds of an RFC 3339 time as the server writes it. Raises ValueError."""
    whole, _, rest = text.partition(".")
    digits, zone = rest[:-1], rest[-1:]
    if not rest:
        whole, zone = text[:-1], text[-1:]
    if zone != "Z" or not (digits.isdigit() or not digits):
        raise ValueError(f"not a time of the server: {text[:40]!r}")
    moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
    return int((moment - _EPOCH).total_seconds()) * 1_000_000_000 + int(digits[:9].ljust(9, "0"))
