"""The members bucket: a key-value bucket that other NATS clients can read too.

Values are read from the leader, and written on the condition of their revision. A removal really
removes (a purge of the subject), so that a removed key is like one that never was; a marker that
another tool left is treated as no value.
"""

from __future__ import annotations

import re

from ..port import ENTRIES, Appended, Entry, Incompatible, NoAck, Refused, Unreachable, WrongLast
from ..subjects import Subjects
from .api import RawMessage, Response, call, lookup
from .connection import Connection, Publish
from .direct import MARKERS, OPERATION, TTL, Record, latest
from .errors import NO_STREAM, append_answer
from .log import EXPECTED
from .messages import headers_block
from .storing import answered

_KEY = re.compile(r"[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]+)*")

OVERDUE_S = 15
"""How long after its time a value is surely overdue, in seconds, by the timestamps of two values,
which may be of two servers."""


def is_overdue(record: Record, now_ns: int) -> bool:
    """Whether the server should have removed a value. One that was killed may give back values
    whose time was up long before, for most of a minute (measured with 2.15.1)."""
    if record.ttl_s is None:
        return False
    return now_ns - record.time_ns > (record.ttl_s + OVERDUE_S) * 1_000_000_000


class JetStreamMembers:
    """`port.Members` on JetStream."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._bucket = subjects.members_bucket
        self._stream = f"KV_{self._bucket}"

    async def get(self, key: str) -> Entry | None:
        """From the leader. Raises Unreachable."""
        found = await self._last(key)
        if found is None or _is_marker(found):
            return None
        return Entry(found.data, found.seq)

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        expected: int | None = None,
        ttl_s: int | None = None,
    ) -> int | None:
        """The new revision, or None if `expected` (0: no value) isn't the last revision.

        Raises Unreachable.
        """
        headers: dict[str, str] = {} if ttl_s is None else {TTL: f"{ttl_s}s"}
        revision = await self._put(key, value, headers, expected)
        if revision is None and expected == 0:
            found = await self._last(key)
            if found is not None and _is_marker(found):
                return await self._put(key, value, headers, found.seq)
        return revision

    async def delete(self, key: str, *, upto: int | None = None) -> None:
        """Remove a value, unless its revision is beyond `upto`. Raises Unreachable."""
        body: dict[str, object] = {"filter": self._subject(key)}
        if upto is not None:
            body["seq"] = upto + 1  # below which all goes
        try:
            await call(
                self._connection,
                f"STREAM.PURGE.{self._stream}",
                body,
                Response,
                accept=(NO_STREAM,),
            )
        except Incompatible as error:
            raise Unreachable(str(error)) from None

    async def entries(self, head: str) -> dict[str, Entry]:
        """The values of all keys `head.TOKEN`, from any replica. Raises Unreachable."""
        subject = self._subject(f"{head}.x").removesuffix("x")
        found = await latest(self._connection, self._stream, f"{subject}*", ENTRIES)
        now_ns = max((record.time_ns for record in found), default=0)
        return {
            f"{head}.{record.token}": Entry(record.data, record.sequence)
            for record in found
            if not record.removed and not is_overdue(record, now_ns)
        }

    async def _last(self, key: str) -> RawMessage | None:
        query = {"last_by_subj": self._subject(key)}
        return await lookup(self._connection, self._stream, query)

    async def _put(
        self, key: str, value: bytes, headers: dict[str, str], expected: int | None
    ) -> int | None:
        if expected is not None:
            headers = {**headers, EXPECTED: str(expected)}
        publish = Publish(self._subject(key), value, headers_block(headers))
        result = await answered(self._connection, publish)
        if isinstance(result, (Refused, NoAck)):
            raise Unreachable(f"{key}: {result.why}")
        answer = append_answer(
            result.data, stream=self._stream, no_responders=result.no_responders
        )
        match answer:
            case Appended(sequence):
                return sequence
            case WrongLast():
                return None
            case Refused(code, why):
                raise Unreachable(f"{key}: {why} ({code})")
            case _:
                raise Unreachable(f"{key}: {answer.why}")

    def _subject(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise ValueError(f"not a key of the members bucket: {key[:80]!r}")
        return f"$KV.{self._bucket}.{key}"


def _is_marker(message: RawMessage) -> bool:
    return (message.headers() or {}).get(OPERATION) in MARKERS
