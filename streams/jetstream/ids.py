"""The registry of ids on JetStream: parts of pages, rolled up by a header.

Reads come from any replica, in batches; where a replica has nothing more, the leader is asked, so
that a listing never ends early in silence.
"""

from __future__ import annotations

from ..commit import Stored
from ..port import IDS_BYTES, Incompatible, NoAck, NoStream, PublishAnswer, Refused, Unreachable
from ..subjects import Subjects
from .api import StreamContents, call, lookup
from .connection import Connection, Publish
from .direct import batch
from .errors import NO_STREAM, publish_answer
from .messages import headers_block
from .storing import answered

ROLLUP = "Nats-Rollup"
LOGGED_TIMEOUT_S = 30.0
"""For a page of 100,000 subjects, in seconds: a busy server was measured to take 3."""


class JetStreamIds:
    """`port.Ids` on JetStream."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects

    async def add(self, entity: str, page: str, data: bytes, *, whole: bool) -> PublishAnswer:
        """Store a message of a page; a whole one replaces all of that page in the same step."""
        subject = self._subjects.ids(entity, page)
        headers = headers_block({ROLLUP: "sub"} if whole else None)
        result = await answered(self._connection, Publish(subject, data, headers))
        if isinstance(result, (Refused, NoAck)):
            return result
        if result.no_responders:
            return NoStream()
        return publish_answer(result.data, stream=self._subjects.ids_stream(entity))

    async def last(self, entity: str) -> int:
        """The newest message's sequence, from the leader; 0 if there is none."""
        query = {"last_by_subj": self._subjects.ids(entity, "*")}
        found = await lookup(self._connection, self._subjects.ids_stream(entity), query)
        return 0 if found is None else found.seq

    async def read(self, entity: str, *, after: int, upto: int) -> list[Stored]:
        """The first messages with `after` < sequence <= `upto`, in order."""
        stream, subject = self._subjects.ids_stream(entity), self._subjects.ids(entity, "*")
        found = await batch(self._connection, stream, subject, after=after, bytes=IDS_BYTES)
        if not found:  # a stale replica, or none
            query = {"seq": after + 1, "next_by_subj": subject}
            message = await lookup(self._connection, stream, query)
            found = [] if message is None else [message.stored()]
        return [stored for stored in found if stored.sequence <= upto]

    async def logged(self, entity: str, *, skip: int) -> list[str]:
        """Escaped ids that have a log, sorted, after the first `skip`; empty: no more."""
        subject = self._subjects.log(entity, "*")
        query = {"subjects_filter": subject, "offset": skip}
        path = f"STREAM.INFO.{self._subjects.log_stream(entity)}"
        try:
            found = await call(
                self._connection,
                path,
                query,
                StreamContents,
                accept=(NO_STREAM,),
                timeout_s=LOGGED_TIMEOUT_S,
            )
        except Incompatible as error:
            raise Unreachable(str(error)) from None
        return sorted(name.rpartition(".")[2] for name in found.state.subjects or {})
