"""Backup: entity types as files, taken while they run.

What makes it consistent is the order, and not that anybody waits:

1. *Command streams first.* A tell that is in one has perhaps an outcome in the log that is saved
   later: its name or the watermark tells, as after any crash, so it isn't done twice. One that
   was acknowledged before has its outcome in the log, which is saved later. So a tell that was
   accepted before the backup began is in it, or its outcome is.
2. *Snapshots before logs*: a snapshot newer than the log would be worthless.
3. *Logs*, all types' at once: the server cuts each when it is asked, and all are asked together
   (LOGS_AT_ONCE at a time). A log only grows, so what is saved is its beginning, up to one moment,
   and every chain in it is whole.
4. *Registries of ids after logs*: an id is registered before its first commit.
5. *Copies of dead letters last*: the verdict is in the log before its copy is stored.

Timers aren't saved: they follow from the logs (`openflows.py`). The logs of several types are of
different moments, milliseconds apart, unless nothing happened meanwhile, which the manifest tells
(`one_instant`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec

from ..durable.resizing import HOSTS_S
from ..durable.secret import SECRET_KEY
from ..entities.clock import to_datetime
from ..streams.jetstream.archive import archive
from ..streams.jetstream.scan import bounds, scan
from ..streams.jetstream.session import JetStreamSession
from ..streams.port import Incompatible, Unreachable
from ..streams.subjects import Sharding, Subjects
from .backupfolder import (
    FORMAT,
    KINDS,
    SECRET,
    Kind,
    Manifest,
    Part,
    SavedType,
    Writing,
    file_of,
    prepare,
    write_manifest,
)

ANY = 2**63 - 1
"""Beyond every sequence of a stream."""

LOGS_AT_ONCE = 16
"""Logs that are archived at a time: of each, up to archive.WINDOW_BYTES are held in memory. Those
of more types are cut in groups, one after another."""


class Message(msgspec.Struct, frozen=True):
    """One line of a file of messages."""

    subject: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a backup is to be."""

    types: Sequence[str]
    secret: bool = True
    """With what signs resume tokens."""
    force: bool = False
    """An earlier backup in the folder is given up."""


@dataclass
class Backup:
    """One backup that is being made."""

    session: JetStreamSession
    folder: Path
    wishes: Wishes
    told: Callable[[str, int], None]
    """Hears which file is written, and how many bytes of it are."""
    verify: Callable[[str], Awaitable[int]] | None = None
    """Looks for faults in a type's log; how many there are."""
    _parts: list[Part] = field(default_factory=list[Part])

    async def make(self) -> Manifest:
        """Make it. Raises NoBackup, Incompatible, Unreachable, OSError: then the folder has no
        manifest, and is no backup."""
        session, types = self.session, self.wishes.types
        cuts = {entity: await self._cut(entity) for entity in types}
        hosted = {entity: await hosted_by(session, entity) is not None for entity in types}
        prepare(self.folder, force=self.wishes.force)
        began = self._now()
        for kind in KINDS:
            step = LOGS_AT_ONCE if kind == "log" else 1
            for at in range(0, len(types), step):
                await self._archive_all(kind, types[at : at + step])
        for entity in types:
            await self._letters(entity)
        secret = await self._secret()
        one_instant = await self._unchanged()
        ended = self._now()
        faults: dict[str, int] = {}
        for entity in types if self.verify is not None else ():
            assert self.verify is not None
            faults[entity] = await self.verify(entity)
        saved = (
            SavedType(
                type=entity,
                generation=cuts[entity].generation,
                shards=cuts[entity].shards,
                hosted=hosted[entity],
                faults=faults.get(entity),
            )
            for entity in types
        )
        manifest = Manifest(
            format=FORMAT,
            perdure=version("perdure"),
            server=session.connection.live().version,
            namespace=session.subjects.namespace,
            began=began,
            ended=ended,
            one_instant=one_instant,
            secret=secret,
            types=tuple(saved),
            parts=tuple(self._parts),
        )
        write_manifest(self.folder, manifest)
        return manifest

    async def _cut(self, entity: str) -> Sharding:
        found = await self.session.sharding(entity)
        if found is None:
            name = self.session.subjects.command_stream(entity)
            raise Incompatible(f"there is no stream {name}: nothing of {entity} is hosted here")
        return found

    async def _archive_all(self, kind: Kind, types: Sequence[str]) -> None:
        """Streams of these types, requested together. Raises what the first that failed does."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._archive(kind, entity)) for entity in types]
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        self._parts += [part for task in tasks if (part := task.result()) is not None]

    async def _archive(self, kind: Kind, entity: str) -> Part | None:
        """One stream. What a log needs must be there; the others can be made anew."""
        name = file_of(entity, kind)
        writing = Writing(self.folder / name)
        try:

            def write(data: bytes) -> None:
                writing.write(data)
                self.told(name, writing.bytes)

            stream = stream_of(self.session.subjects, kind, entity)
            archived = await archive(self.session.connection, stream, write)
            if archived is None and kind in ("cmd", "log"):
                raise Incompatible(f"there is no stream {stream}")
            if archived is None:
                (self.folder / name).unlink()
                return None
            hash = await asyncio.to_thread(writing.end)
        finally:
            writing.close()
        return Part(
            file=name,
            kind=kind,
            type=entity,
            bytes=writing.bytes,
            sha256=hash,
            archived=archived,
        )

    async def _letters(self, entity: str) -> None:
        """The type's copies of dead letters, out of the stream of all."""
        name, subjects = file_of(entity, "dead"), self.session.subjects
        connection, stream = self.session.connection, subjects.dead_stream
        messages = 0
        writing = Writing(self.folder / name)
        try:
            async for found in scan(connection, stream, subjects.dead(entity, "*"), upto=ANY):
                line = msgspec.json.encode(Message(found.subject, found.data))
                writing.write(line + b"\n")
                messages += 1
                self.told(name, writing.bytes)
            hash = await asyncio.to_thread(writing.end)
        finally:
            writing.close()
        part = Part(
            file=name,
            kind="dead",
            type=entity,
            bytes=writing.bytes,
            sha256=hash,
            messages=messages,
        )
        self._parts.append(part)

    async def _secret(self) -> Literal["saved", "none", "left out"]:
        """What signs resume tokens, where the runners made it themselves."""
        if not self.wishes.secret:
            return "left out"
        found = await self.session.members.get(SECRET_KEY)
        if found is None:
            return "none"
        writing = Writing(self.folder / SECRET)
        try:
            writing.write(found.value)
            hash = await asyncio.to_thread(writing.end)
        finally:
            writing.close()
        part = Part(file=SECRET, kind="secret", bytes=writing.bytes, sha256=hash)
        self._parts.append(part)
        return "saved"

    async def _unchanged(self) -> bool:
        """Whether nothing was told or committed since the first stream was saved."""
        for part in self._parts:
            if part.archived is None or part.kind not in ("cmd", "log"):
                continue
            stream = stream_of(self.session.subjects, part.kind, part.type)
            now, then = await bounds(self.session.connection, stream), part.archived.state
            if now is None or (now.last_seq, now.messages) != (then.last_seq, then.messages):
                return False
        return True

    def _now(self) -> datetime:
        return to_datetime(self.session.clock.now_ns())


def stream_of(subjects: Subjects, kind: Kind, entity: str) -> str:
    """The name of a type's stream."""
    match kind:
        case "cmd":
            return subjects.command_stream(entity)
        case "snap":
            return subjects.snapshot_stream(entity)
        case "log":
            return subjects.log_stream(entity)
        case "ids":
            return subjects.ids_stream(entity)
        case _:
            raise ValueError(f"{kind} is no stream of a type")


async def hosted_by(session: JetStreamSession, entity: str) -> str | None:
    """A runner that hosts a type, or begins to; None if there is none. Raises Unreachable.

    Who listens and is silent is frozen, and may wake up: it hosts, too.
    """
    subject = session.subjects.resize(entity)
    try:
        answer = await session.asks.request(subject, b"", timeout_s=HOSTS_S)
    except Unreachable:
        if not session.connected:
            raise
        return "that doesn't answer"
    return None if answer.no_responders else answer.data[:32].decode(errors="replace")
