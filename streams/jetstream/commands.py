"""The command streams on JetStream: publishing tells, and one consumer a shard."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

from ...entities.address import Address
from ...entities.duration import seconds
from ...entities.entropy import Entropy
from ...entities.settings import Settings
from ..commands import parse_term
from ..port import (
    ConsumerInfo,
    Delivery,
    Forbidden,
    Incompatible,
    NoAck,
    NoStream,
    Outdated,
    PublishAnswer,
    Refused,
    Unreachable,
)
from ..subjects import Sharding, Subjects, escape
from ..topology import halted_by
from .api import (
    ConsumerNames,
    ConsumerResponse,
    RawMessage,
    Response,
    StreamInfo,
    call,
    delete_message,
    lookup,
    parse_time,
)
from .connection import ACK_TIMEOUT_S, Connection, Publish
from .consumer import NONCE, OWNER, JetStreamConsumer, described
from .errors import (
    NO_CONSUMER,
    NO_STREAM,
)
from .errors import publish_answer as answer_of
from .messages import headers_block
from .pull import info
from .scan import bounds
from .storing import answered
from .topology import sharding

ELECTION_S = 8.0
"""How long a new consumer may take to have a leader, in seconds, beyond the time for a request:
servers wait for 4 to 9 seconds until they choose one in the place of another that is gone."""
ASK_S = 2.0
"""How long it may take to say whether one is there, until that is asked again, in seconds."""
AT_ONCE = 64
"""Consumers that are asked for at once, where many are."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class JetStreamCommands:
    """`port.Commands` on JetStream."""

    def __init__(
        self, connection: Connection, subjects: Subjects, settings: Settings, entropy: Entropy
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._entropy = entropy
        self._ack_wait_ns = int(seconds(settings.ack_wait) * 1_000_000_000)

    async def publish(
        self, address: Address, data: bytes, headers: Mapping[str, str] | None = None
    ) -> PublishAnswer:
        """Store a tell."""
        subject = self._subjects.to(address.entity, escape(address.id))
        result = await answered(self._connection, Publish(subject, data, headers_block(headers)))
        if isinstance(result, (Refused, NoAck)):
            return result
        stream = self._subjects.command_stream(address.entity)
        if result.no_responders:
            return await self._nobody(address.entity)
        return answer_of(result.data, stream=stream)

    async def consumers(self, entity: str, of: Callable[[str], bool] = bool) -> list[ConsumerInfo]:
        """All consumers of the type's command stream, or `of` these names. Raises Unreachable.

        Not by the server's list: it asks all of a stream's consumers, those of other shards too,
        and waits 4 s for each that has no leader, as many have where a server is gone.
        """
        stream = self._subjects.command_stream(entity)
        names = [name for name in await self._names(stream) if of(name)]
        found: list[ConsumerInfo] = []
        for begin in range(0, len(names), AT_ONCE):
            some = (self._described(stream, name) for name in names[begin : begin + AT_ONCE])
            found += [one for one in await asyncio.gather(*some) if one is not None]
        return found

    async def _names(self, stream: str) -> list[str]:
        names: list[str] = []
        while True:
            page = await self._call(
                f"CONSUMER.NAMES.{stream}", {"offset": len(names)}, ConsumerNames, NO_STREAM
            )
            names += page.consumers
            if not page.consumers or len(names) >= page.total:
                return names

    async def _described(self, stream: str, name: str) -> ConsumerInfo | None:
        try:
            found = await info(self._connection, stream, name, ASK_S)
        except Incompatible as error:
            raise Unreachable(str(error)) from None
        return None if found is None else described(found)

    async def create(
        self,
        entity: str,
        shard: int,
        name: str,
        *,
        owner: str,
        on_delivery: Callable[[Delivery], None],
        on_lost: Callable[[str], None],
    ) -> JetStreamConsumer:
        """A new consumer of one shard, with no credit yet. Never takes over an existing one.

        Raises Taken, Outdated, Unreachable, and ValueError for a name that isn't letters, digits,
        _ and -.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a consumer's name: {name[:80]!r}")
        stream = self._subjects.command_stream(entity)
        cut = await self._sharding(entity)
        term = parse_term(name)
        if term is not None and term.generation != cut.generation:
            raise Outdated(f"{name}: {entity} is of generation {cut.generation} now")
        if not 0 <= shard < cut.shards:
            raise ValueError(f"no shard {shard}: {entity} has {cut.shards}")
        subject = self._subjects.command(entity, cut.generation, shard, "*")
        consumer = JetStreamConsumer(self._connection, stream, name, on_delivery, on_lost)
        await consumer.pull.open(self._connection.pull_inbox())
        body = {
            "stream_name": stream,
            "action": "create",
            "config": {
                "name": name,
                "durable_name": name,
                "deliver_policy": "all",
                "ack_policy": "explicit",
                "ack_wait": self._ack_wait_ns,
                "max_deliver": -1,
                "max_ack_pending": -1,  # else one slow entity stops its whole shard
                "filter_subject": subject,
                "metadata": {OWNER: owner, NONCE: self._entropy.token(8)},
            },
        }
        try:
            await self._make(consumer, f"CONSUMER.CREATE.{stream}.{name}.{subject}", body)
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    async def _make(self, consumer: JetStreamConsumer, path: str, body: dict[str, Any]) -> None:
        """Have it made. Raises Taken, Unreachable."""
        try:
            await self._call(path, body, ConsumerResponse)
        except Unreachable:
            if not await self._came_to_be(consumer, body["stream_name"]):
                raise

    async def _came_to_be(self, consumer: JetStreamConsumer, stream: str) -> bool:
        """Whether a consumer is there, though nobody said that it was made.

        Its first leader says so. Where one of three servers is gone, that one may have been to
        lead, and the others choose another within seconds; who asks for a new consumer then begins
        that anew. A consumer without a leader answers nothing; that there is none is told at once.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + ELECTION_S
        while not consumer.pull.over:
            began = loop.time()
            try:
                return await info(self._connection, stream, consumer.name, ASK_S) is not None
            except (Unreachable, Incompatible):
                silent = loop.time() - began > ASK_S / 2
                if not silent or loop.time() > until:
                    return False
        return False

    async def delete(self, entity: str, name: str) -> None:
        """Delete a consumer; it may be gone already. Raises Unreachable."""
        path = f"CONSUMER.DELETE.{self._subjects.command_stream(entity)}.{name}"
        await self._call(path, None, Response, NO_CONSUMER, NO_STREAM)

    async def by_sequence(self, entity: str, sequence: int) -> Delivery | None:
        """A stored tell again (its `handle` and `consumer` are empty). Raises Unreachable."""
        stream = self._subjects.command_stream(entity)
        found = await lookup(self._connection, stream, {"seq": sequence}) if sequence > 0 else None
        return None if found is None else _undelivered(found)

    async def oldest(self, entity: str, *, after: int) -> Delivery | None:
        """The first stored tell beyond a sequence, of any token. Raises Unreachable."""
        # A filter of everything isn't looked up in the server's index of subjects.
        query = {"seq": after + 1, "next_by_subj": ">"}
        found = await lookup(self._connection, self._subjects.command_stream(entity), query)
        return None if found is None else _undelivered(found)

    async def count(self, entity: str) -> int:
        """How many tells are stored, whoever holds them. Raises Unreachable."""
        try:
            found = await bounds(self._connection, self._subjects.command_stream(entity))
        except Incompatible as error:
            raise Unreachable(str(error)) from None
        return 0 if found is None else found.messages

    async def remove(self, entity: str, sequence: int) -> None:
        """Delete a stored tell; it may be gone already. Raises Unreachable, Incompatible."""
        await delete_message(self._connection, self._subjects.command_stream(entity), sequence)

    async def _nobody(self, entity: str) -> PublishAnswer:
        """Nobody took a tell: there is no stream, it is halted, or has no leader for seconds."""
        stream = self._subjects.command_stream(entity)
        try:
            found = await call(
                self._connection,
                f"STREAM.INFO.{stream}",
                None,
                StreamInfo,
                accept=(NO_STREAM,),
                timeout_s=ACK_TIMEOUT_S,
            )
        except (Incompatible, Forbidden):
            return NoStream()  # a caller's account may have no JetStream of its own
        except Unreachable as error:
            return NoAck(str(error))  # nobody leads the cluster either
        if found.error is not None or halted_by(self._subjects, entity, found.config) is not None:
            return NoStream()
        return NoAck(f"{stream} has no leader")

    async def _sharding(self, entity: str) -> Sharding:
        try:
            cut = await sharding(self._connection, self._subjects, entity)
        except Incompatible as error:
            raise Unreachable(str(error)) from None
        if cut is None:
            raise Unreachable(f"there is no command stream of {entity} yet")
        return cut

    async def _call(self, path: str, body: object, kind: Any, *accept: int) -> Any:
        try:
            return await call(self._connection, path, body, kind, accept=accept)
        except Incompatible as error:
            raise Unreachable(str(error)) from None


def _undelivered(found: RawMessage) -> Delivery:
    """A stored tell, as no consumer's delivery."""
    token = found.subject.rpartition(".")[2]
    time_ns = parse_time(found.time)
    return Delivery("", 0, found.seq, time_ns, token, found.data, found.headers(), "")
