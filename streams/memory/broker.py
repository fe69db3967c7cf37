"""The broker: what a nats-server with JetStream is to the other backend, in this process.

Every operation happens at once, in one step; only answers and messages travel (`connection.py`).
It has no faults of its own: who wants some wraps a session. What it refuses, and in which order,
is what nats-server was measured to do; the conformance suite holds it to that.

It lives on one thread. Sessions of several loops may come one after another; one whose loop was
closed counts as gone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...entities.address import Address
from ...entities.clock import Clock
from ...entities.entropy import Entropy
from ...entities.settings import Settings
from ..commit import MARK
from ..port import Appended, Halted, Incompatible, NoStream, PublishAnswer, Refused
from ..subjects import Sharding, Subjects, escape
from .connection import Connection
from .core import Core, check_subject
from .ids import IdStore
from .logs import LogStore
from .queue import FULL_CODE, Limits, Queue, headers_size
from .registers import Registers
from .session import MemorySession
from .timers import Timers

MAX_PAYLOAD = 1024 * 1024
"""A message's bytes, headers included: nats-server's default."""
TOO_LARGE = Refused(10054, "message size exceeds maximum allowed")


@dataclass(frozen=True, slots=True)
class Dead:
    """A dead letter's copy, as it is stored."""

    entity: str
    token: str
    """The escaped id, or `=` where there is none."""
    data: bytes


class Streams:
    """What one namespace stores."""

    def __init__(self, subjects: Subjects, now_ns: Callable[[], int]) -> None:
        self.subjects = subjects
        self.queues: dict[str, Queue] = {}
        self.logs: dict[str, LogStore] = {}
        self.snapshots: dict[str, bytes] = {}  # by subject
        self.ids: dict[str, IdStore] = {}
        self.dead: list[Dead] = []
        self.members: Registers = Registers(now_ns)
        self.timers: Timers = Timers(now_ns)


class MemoryBroker:
    """A server in memory. All its state is lost with it."""

    def __init__(
        self, clock: Clock, settings: Settings | None = None, *, max_payload: int = MAX_PAYLOAD
    ) -> None:
        self.clock = clock
        self.settings: Settings = settings or Settings()
        self.max_payload = max_payload
        self.core: Core = Core()
        self._streams: dict[str, Streams] = {}
        self._sessions = 0

    def __repr__(self) -> str:
        parts = [
            f"{space}/{entity}: {len(log)} commits, {len(streams.queues[entity])} tells"
            for space, streams in self._streams.items()
            for entity, log in streams.logs.items()
        ]
        return f"<MemoryBroker listeners={len(self.core)} {'; '.join(parts) or 'empty'}>"

    def session(
        self,
        name: str | None = None,
        *,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        settings: Settings | None = None,
    ) -> MemorySession:
        """A new connection. Clock and settings are the broker's where none are given."""
        self._sessions += 1
        return MemorySession(
            self,
            name or f"memory-{self._sessions}",
            clock=clock or self.clock,
            entropy=entropy,
            settings=settings or self.settings,
        )

    # -- what sessions use ------------------------------------------------------------------------
    def streams(self, namespace: str) -> Streams:
        """All that a namespace stores; empty at first."""
        streams = self._streams.get(namespace)
        if streams is None:
            streams = Streams(Subjects(namespace), self.clock.now_ns)
            self._streams[namespace] = streams
        return streams

    def provision(self, settings: Settings, entity: str) -> Sharding:
        """Create a type's streams unless they are there; how the type is cut. Raises Halted."""
        streams = self.streams(settings.namespace)
        if entity not in streams.queues:
            limits = Limits(settings.mailbox_capacity, settings.command_stream_bytes)
            sharding = Sharding(1, settings.shards)
            streams.queues[entity] = Queue(sharding, limits, self.clock.now_ns)
            streams.logs[entity] = LogStore()
            streams.ids[entity] = IdStore()
        return self.sharding(streams, entity)

    def sharding(self, streams: Streams, entity: str) -> Sharding:
        """How a type with streams is cut. Raises Halted."""
        queue = streams.queues[entity]
        if queue.halted_by is not None:
            raise Halted(entity, queue.sharding)
        return queue.sharding

    def halt(self, streams: Streams, entity: str, token: str) -> Sharding:
        """Let a type take no tells; how it is cut. Raises Incompatible."""
        queue = streams.queues.get(entity)
        if queue is None:
            raise Incompatible(f"nothing of {entity} was ever hosted here")
        queue.halt(token)
        return queue.sharding

    def recut(self, streams: Streams, entity: str, sharding: Sharding, token: str) -> None:
        """Cut a halted type. Raises Incompatible."""
        queue = streams.queues.get(entity)
        if queue is None or queue.halted_by != token:
            raise Incompatible(f"{entity} was halted by somebody else, or set going again")
        queue.recut(sharding)

    def tell(
        self, streams: Streams, entity: str, token: str, data: bytes, headers: Headers
    ) -> PublishAnswer:
        """Store a tell."""
        queue = streams.queues.get(entity)
        if queue is None or queue.halted_by is not None:
            return NoStream()
        if len(data) + headers_size(headers) > self.max_payload:
            return TOO_LARGE
        sharding = queue.sharding
        shard = sharding.shard(token)
        subject = streams.subjects.command(entity, sharding.generation, shard, token)
        return queue.publish(token, data, headers, len(subject))

    def publish(
        self, sender: Connection | None, subject: str, data: bytes, reply: str, headers: Headers
    ) -> None:
        """A core publish: to all who listen, and into the stream that has the subject.

        As on a server, a stream's acknowledgement goes to whatever `reply` says, be it a log.
        """
        check_subject(subject, wildcards=False)
        if reply:
            check_subject(reply, wildcards=False)
        heard = self.core.deliver(subject, data, reply, headers)
        answer = self._capture(subject, data, headers)
        if isinstance(answer, NoStream):
            if reply and not heard and sender is not None:
                self.core.no_responders(sender, reply)
        elif reply:
            self.publish(None, reply, _puback(subject, answer), "", None)

    def _capture(self, subject: str, data: bytes, headers: Headers) -> PublishAnswer:
        """Store what was published to a stream's subject."""
        namespace, *rest = subject.split(".")
        streams = self._streams.get(namespace)
        if streams is None or len(rest) < 3:
            return NoStream()
        kind, entity, token, *more = rest
        if kind == "to" and not more:
            return self.tell(streams, entity, token, data, headers)
        if kind == "log" and not more and entity in streams.logs:
            mark = (headers or {}).get(MARK)
            now = self.clock.now_ns()
            answer = streams.logs[entity].append(token, data, mark, now, expected=None)
            return answer if isinstance(answer, Appended) else Refused(0, "never")
        if kind == "snap" and len(more) <= 1 and entity in streams.logs:
            streams.snapshots[subject] = data
            return Appended(0)
        if kind == "ids" and not more and entity in streams.ids:
            return streams.ids[entity].add(token, data, self.clock.now_ns(), whole=False)
        if kind == "dead" and not more:
            streams.dead.append(Dead(entity, token, data))
            return Appended(len(streams.dead))
        return NoStream()

    # -- for tests --------------------------------------------------------------------------------
    def next_due_ms(self) -> int | None:
        """When the next timer of any namespace is due, Unix milliseconds."""
        due = [s.timers.next_due_ms for s in self._streams.values()]
        return min((d for d in due if d is not None), default=None)

    def fire(self) -> None:
        """Give out the timers that are due by the clock."""
        for streams in self._streams.values():
            streams.timers.fire()

    def rewind(self, entity: str, keep_sequence: int, *, namespace: str | None = None) -> None:
        """A type's command stream loses all tells beyond a sequence, and gives it out again.

        As after a restart with an older copy of its files: the consumers stay, set back with it,
        and every session that pulls is told that its consumer is lost ("reconnected").
        """
        for attached in self._of(namespace).queues[entity].rewind(keep_sequence):
            attached.connection.post(attached.lost, "reconnected")

    def tamper(
        self, address: Address, sequence: int, data: bytes, *, namespace: str | None = None
    ) -> None:
        """Change the bytes of a stored commit, not its mark: a flipped bit on a disk."""
        log = self._of(namespace).logs[address.entity]
        log.tamper(escape(address.id), sequence, data)

    def publish_foreign(self, subject: str, data: bytes) -> None:
        """A publish by somebody who isn't perdure, to any subject, a log's for instance."""
        self.publish(None, subject, data, "", None)

    def drop_snapshots(self, *, namespace: str | None = None) -> None:
        """Delete all snapshots; nothing but speed may depend on them."""
        self._of(namespace).snapshots.clear()

    def dead_letters(self, *, namespace: str | None = None) -> list[Dead]:
        """All copies of dead letters, oldest first."""
        return list(self._of(namespace).dead)

    def last_tell(self, entity: str, *, namespace: str | None = None) -> int:
        """The sequence of a type's last tell, for `rewind`."""
        return self._of(namespace).queues[entity].last_sequence

    def waiting(self, entity: str, *, namespace: str | None = None) -> int:
        """Tells of a type that nobody acknowledged yet."""
        return len(self._of(namespace).queues[entity])

    def disconnect(self, session: MemorySession, *, reconnect: bool = True) -> None:
        """Break a session's connection: what is on its way is lost.

        It is made anew at once, as nats-py does it, or by `reconnect`; then its consumers are told
        that they are lost, while its subscriptions and inboxes go on.
        """
        session.cut()
        if reconnect:
            session.restore()

    def reconnect(self, session: MemorySession) -> None:
        """Make a session's connection anew."""
        session.restore()

    def _of(self, namespace: str | None) -> Streams:
        return self.streams(namespace or self.settings.namespace)


Headers = Mapping[str, str] | None


def _puback(subject: str, answer: PublishAnswer) -> bytes:
    """What a stream answers to a publish, in JetStream's JSON."""
    body: dict[str, object] = {"stream": _stream_of(subject)}
    if isinstance(answer, Appended):
        body["seq"] = answer.sequence
    else:
        code, why = FULL_CODE, "maximum messages per subject exceeded"
        if isinstance(answer, Refused):
            code, why = answer.code, answer.why
        body |= {"seq": 0, "error": {"code": 503, "err_code": code, "description": why}}
    return json.dumps(body).encode()


def _stream_of(subject: str) -> str:
    namespace, kind, entity = subject.split(".")[:3]
    subjects = Subjects(namespace)
    names = {
        "to": subjects.command_stream(entity),
        "log": subjects.log_stream(entity),
        "snap": subjects.snapshot_stream(entity),
        "ids": subjects.ids_stream(entity),
    }
    return names.get(kind, subjects.dead_stream)
