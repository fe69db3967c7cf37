"""The log on JetStream: conditional appends, and reads that are complete.

An append's condition is an exact sequence on an exact subject, checked by the stream's leader in
the same step in which it stores. Reads come from any replica, in batches; what is missing there
is asked of the leader, one by one, so that a read never ends early in silence.
"""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from ...entities.address import Address
from ...entities.entropy import Entropy
from ..commit import MARK, Sealed, Stored
from ..port import Append, AppendAnswer, NoAck, Refused, Unreachable
from ..subjects import Subjects, escape
from .api import count, lookup
from .connection import Connection, Publish
from .direct import batch, one
from .errors import TOO_LARGE, TooLarge, append_answer
from .follow import follow
from .replies import Result
from .storing import told

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
BATCH_ID = "Nats-Batch-Id"
BATCH_SEQUENCE = "Nats-Batch-Sequence"
BATCH_COMMIT = "Nats-Batch-Commit"
BATCH_ID_BYTES = 12
"""Of a batch's id: two with the same one would be taken for one."""


class JetStreamLog:
    """`port.Log` on JetStream."""

    def __init__(self, connection: Connection, subjects: Subjects, entropy: Entropy) -> None:
        self._connection = connection
        self._subjects = subjects
        self._entropy = entropy

    def append(self, address: Address, commit: Sealed, *, expected: int) -> Future[AppendAnswer]:
        """Store a commit if the entity's last sequence is exactly `expected` (0: it has none)."""
        publish = self._publish(Append(address, commit, expected), "")
        return self._append(address.entity, publish)

    def append_batch(self, appends: Sequence[Append]) -> Future[AppendAnswer]:
        """Store some commits of different entities, all or none: an atomic batch (ADR-50)."""
        batch = self._entropy.token(BATCH_ID_BYTES)
        entity = appends[0].address.entity
        publishes: list[Publish] = []
        for number, append in enumerate(appends, 1):
            more = f"{BATCH_ID}: {batch}\r\n{BATCH_SEQUENCE}: {number}\r\n"
            if number == len(appends):
                more += f"{BATCH_COMMIT}: 1\r\n"
            publishes.append(self._publish(append, more))
        return self._append(entity, *publishes)

    def _publish(self, append: Append, more: str) -> Publish:
        """Its headers are written here rather than by `headers_block`, in a fourth of the time:
        numbers and hashes, which end no line."""
        address, commit = append.address, append.commit
        subject = self._subjects.log(address.entity, escape(address.id))
        condition = f"{EXPECTED}: {append.expected}\r\n{MARK}: {commit.mark}\r\n"
        headers = f"NATS/1.0\r\n{condition}{more}\r\n".encode()
        return Publish(subject, commit.data, headers)

    def _append(self, entity: str, *publishes: Publish) -> Future[AppendAnswer]:
        read = partial(_meant, self._subjects.log_stream(entity))
        try:
            return self._connection.publish(*publishes, read=read)
        except TooLarge as error:
            refused: Future[AppendAnswer] = get_running_loop().create_future()
            refused.set_result(Refused(TOO_LARGE, str(error)))
            return refused

    async def last(self, address: Address) -> Stored | None:
        """The entity's last message, from the leader. Raises Unreachable."""
        subject = self._subjects.log(address.entity, escape(address.id))
        return await self._ask(address.entity, {"last_by_subj": subject})

    async def count(self, address: Address) -> int:
        """How many messages the entity has, readable or not. Raises Unreachable."""
        subject = self._subjects.log(address.entity, escape(address.id))
        return await count(self._connection, self._subjects.log_stream(address.entity), subject)

    async def by_sequence(self, entity: str, sequence: int) -> Stored | None:
        """One message of the type's log; messages never change. Raises Unreachable."""
        if sequence < 1:
            return None
        stream = self._subjects.log_stream(entity)
        found = await one(self._connection, stream, {"seq": sequence})
        return found if found is not None else await self._ask(entity, {"seq": sequence})

    async def read(self, address: Address, *, after: int, upto: int) -> AsyncIterator[Stored]:
        """The entity's messages with `after` < sequence <= `upto`, in order, all of them.

        Raises Unreachable, also if the leader has nothing at `upto`.
        """
        subject = self._subjects.log(address.entity, escape(address.id))
        stream = self._subjects.log_stream(address.entity)
        while after < upto:
            found = await batch(self._connection, stream, subject, after=after)
            if not found:  # a stale replica, or none
                query = {"seq": after + 1, "next_by_subj": subject}
                message = await self._ask(address.entity, query)
                found = [] if message is None else [message]
            wanted = [stored for stored in found if stored.sequence <= upto]
            if not wanted:
                raise Unreachable(f"the log of {address} has no sequence {upto}")
            for stored in wanted:
                yield stored
            after = wanted[-1].sequence

    def follow(self, address: Address, *, after: int) -> AsyncIterator[Stored]:
        """The entity's messages beyond the sequence `after`, then live ones, without a gap."""
        subject = self._subjects.log(address.entity, escape(address.id))
        stream = self._subjects.log_stream(address.entity)
        return follow(self._connection, stream, subject, after, self._entropy)

    async def _ask(self, entity: str, query: dict[str, Any]) -> Stored | None:
        message = await lookup(self._connection, self._subjects.log_stream(entity), query)
        return None if message is None else message.stored()


def _meant(stream: str, result: Result) -> AppendAnswer:
    """What the stream's acknowledgement, or the lack of one, means."""
    answer = told(result)
    if isinstance(answer, (Refused, NoAck)):
        return answer
    return append_answer(answer.data, stream=stream, no_responders=answer.no_responders)
