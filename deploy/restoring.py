"""Restoring: entity types out of a backup, so that none is ever there in half.

All that can be refused is refused before anything is changed: another namespace or server, a
damaged file, a type that is there or is hosted, another secret. Then each type's command stream
comes first, *halted*: it takes no tells, and a runner that starts meanwhile refuses to host. Its
token says that the type is being restored, so nobody sets it going by mistake. When log,
registry, copies of dead letters and timers are there and the log is verified, it is set going.
What fails or is interrupted before is removed again, the command stream last; what is killed stays
halted, and `again` begins anew. The end isn't interrupted: first all types are marked as whole,
then all are set going; so if that fails for one, all are there, and none is half used.
"""

from __future__ import annotations

import asyncio
import hashlib
import shlex
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..durable.secret import SECRET_KEY
from ..entities.settings import Settings
from ..streams.jetstream import resizing, topology
from ..streams.jetstream.api import Response, StreamInfo, call, parse_time
from ..streams.jetstream.archive import Archived, unarchive
from ..streams.jetstream.errors import NO_STREAM
from ..streams.jetstream.scan import bounds, scan
from ..streams.jetstream.session import JetStreamSession
from ..streams.jetstream.storing import stored
from ..streams.port import Incompatible, Unreachable
from ..streams.rebuild import rebuild
from ..streams.subjects import Sharding
from ..streams.topology import RESTORING, halted_by, shared_streams
from .backup import ANY, Message, hosted_by, stream_of
from .backupfolder import (
    KINDS,
    MANIFEST,
    Kind,
    Manifest,
    NoBackup,
    Part,
    SavedType,
    check_part,
    chunks,
)
from .dead import DeadLetters, named_by
from .openflows import OpenFlows, Timer

TOKEN_BYTES = 4
"""Of what tells two restores apart that are made at the same time."""

AT_ONCE = 64
"""Timers that are armed at a time."""

LEFT: tuple[Kind, ...] = ("log", "snap", "ids", "cmd")
"""The streams of a type in the order in which they are removed: the halted one last."""


class Refused(Exception):
    """It can't be restored, and nothing has changed, or not any more; or the text says what is
    left. `next_step`: what to do."""

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what)
        self.next_step = next_step


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to restore."""

    types: Sequence[SavedType]
    replicas: int | None = None
    """Copies of each stream; None: as many as in the backup."""
    again: bool = False
    """What an earlier restore left is removed first."""
    keep_secret: bool = False
    """The secret that is there stays; tokens of the backup are worth nothing."""
    accept_faults: bool = False
    """A log with faults is restored all the same."""


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What was restored of one type."""

    restored: str
    """The entity type."""
    messages: int
    """Commits in its log."""
    tells: int
    """Tells that wait."""
    timers: int
    """Timers of flows that were armed."""
    dead_letters: int
    """Copies of dead letters that were stored."""
    undecided: int
    """Copies that were left out: the log was cut before their verdicts."""
    ids: int
    """Ids that were registered beside those of the backup."""
    faults: int


@dataclass
class Restore:
    """One restore."""

    session: JetStreamSession
    settings: Settings
    folder: Path
    manifest: Manifest
    wanted: Wanted
    told: Callable[[str, int], None]
    """Hears which file is read, and how many bytes of it were."""
    verify: Callable[[str], Awaitable[int]]
    """Looks for faults in a type's log; how many there are."""
    phase: Literal["nothing", "making", "ending", "done"] = "nothing"
    """What is there of the types: `nothing` (any more); perhaps a part, halted; all, perhaps
    halted; all, and it goes."""
    _token: str = ""
    _made: list[str] = field(default_factory=list[str])
    """Types of which something was made, and that don't go yet."""

    async def run(self) -> list[Restored]:
        """Do it. Raises Refused, NoBackup, Incompatible, Unreachable, OSError."""
        names = [saved.type for saved in self.wanted.types]
        self._token = RESTORING + self.session.entropy.token(TOKEN_BYTES)
        timed = await self.require()
        subjects = self.session.subjects
        self.phase = "making"
        try:
            for entity in names:
                await self._load("cmd", entity)
                if not timed:  # nothing was there that could tell the server's time
                    timed = await self._require_clock([subjects.command_stream(entity)])
            for entity in names:
                await self._require_not_hosted(entity)
            connection = self.session.connection
            await topology.provision_shared(connection, self.settings, subjects)
            await self._secret()
            done = [await self._fill(entity) for entity in names]
        except BaseException as error:
            await asyncio.shield(self._undo(error))
            self.phase = "nothing"
            raise
        self.phase = "ending"
        ending = asyncio.ensure_future(self._end())
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:  # some would go then, and others be halted
            await asyncio.wait({ending})
            ending.result()
            raise
        return done

    # -- before anything is changed ---------------------------------------------------------------
    async def require(self) -> bool:
        """That it can be done, as far as can be told now: whether the server's time is known.

        Raises what `run` does; nothing is changed, except that `again` removes what an earlier
        restore left.
        """
        subjects, manifest = self.session.subjects, self.manifest
        if manifest.namespace != subjects.namespace:
            what = f"this is a backup of the namespace {manifest.namespace!r}"
            step = f"--namespace {manifest.namespace}: its names are in every message"
            raise Refused(what, step)
        server = self.session.connection.live().version
        if _numbers(server) < _numbers(manifest.server):
            what = f"the backup is of nats-server {manifest.server}, and this one is {server}"
            raise Refused(what, "restore to one that is as new, or newer")
        for saved in self.wanted.types:
            for kind in (*KINDS, "dead"):
                part = self.manifest.part(kind, saved.type)
                if part is None and kind in ("cmd", "log", "dead"):
                    what = f"the manifest lists no {saved.type}.{kind}"
                    raise NoBackup(what, "take another copy of this backup")
                if part is not None:
                    await self._check(part)
        secret = self.manifest.part("secret")
        if secret is not None:
            await self._check(secret)
        await self._require_secret()
        left = [saved.type for saved in self.wanted.types if await self._left(saved.type)]
        for saved in self.wanted.types:
            await self._require_not_hosted(saved.type)
        shared = shared_streams(self.settings, subjects)
        timed = await self._require_clock([stream.name for stream in shared])
        for entity in left:
            await self._remove(entity, RESTORING)
        return timed

    async def _require_clock(self, streams: Sequence[str]) -> bool:
        """That the server's clock is ahead of all that is restored; whether one of these streams
        is there, so that it tells its time. Raises Refused, NoBackup.

        Watermarks compare times: a new tell with an older one would count as done, and be lost.
        """
        answers = [await self._info(stream) for stream in streams]
        told = [found.ts for found in answers if found is not None]
        now = max(told, default="", key=self._time)
        newest = ""
        for part in self.manifest.parts:
            of = part.type in {saved.type for saved in self.wanted.types}
            if of and part.kind in ("cmd", "log") and part.archived is not None:
                newest = max(newest, part.archived.state.last_ts, key=self._time)
        if now and self._time(now) <= self._time(newest):
            raise Refused(
                f"the server's clock says {now}, the backup's newest message is of {newest}: new "
                "tells would be taken for old ones, and be lost",
                "set the server's clock, or wait until it is later than that, then the same",
            )
        return bool(now)

    def _time(self, text: str) -> int:
        try:
            return parse_time(text) if text else 0
        except ValueError as error:
            what = f"{self.folder / MANIFEST} is damaged: {error}"
            raise NoBackup(what, "take another copy of it") from None

    async def _check(self, part: Part) -> None:
        read = 0

        def more(bytes: int) -> None:
            nonlocal read
            read += bytes
            self.told(f"{part.file}: checking", read)

        await asyncio.to_thread(check_part, self.folder, part, more)

    async def _left(self, entity: str) -> bool:
        """Whether an earlier restore left something of the type that may be removed.

        Raises Refused if anything else is there.
        """
        subjects = self.session.subjects
        names = [stream_of(subjects, kind, entity) for kind in KINDS]
        configs = {name: await self._config(name) for name in names}
        there = [name for name in names if configs[name] is not None]
        if not there:
            return False
        commands = configs[subjects.command_stream(entity)]
        token = None if commands is None else halted_by(subjects, entity, commands)
        if token is None or not token.startswith(RESTORING):
            what = f"{entity} is there already: {', '.join(there)}"
            step = "restore to another server, or remove these streams if nobody wants them"
            raise Refused(what, f"{step}: nats stream rm {there[0]}")
        if not self.wanted.again:
            what = f"a restore of {entity} didn't end, or somebody else is at it now"
            raise Refused(what, "if nobody is at it, the same with --again, which begins anew")
        return True

    async def _config(self, stream: str) -> dict[str, Any] | None:
        found = await self._info(stream)
        return None if found is None else found.config

    async def _info(self, stream: str) -> StreamInfo | None:
        path = f"STREAM.INFO.{stream}"
        found = await call(self.session.connection, path, None, StreamInfo, accept=(NO_STREAM,))
        return None if found.error is not None else found

    async def _require_not_hosted(self, entity: str) -> None:
        runner = await hosted_by(self.session, entity)
        if runner is not None:
            what = f"a runner hosts {entity}, or wants to: {runner}"
            raise Refused(what, "stop all of its runners, then the same")

    async def _require_secret(self) -> None:
        """That no other secret is there. Raises Refused."""
        part = self.manifest.part("secret")
        there = await self._secret_there()
        if part is None or there is None or self.wanted.keep_secret:
            return
        if there != (self.folder / part.file).read_bytes():
            raise Refused(
                "this namespace signs resume tokens with another secret: those of the backup's "
                "flows would be refused",
                "--keep-secret if that may be, or restore to a server without that namespace",
            )

    async def _secret_there(self) -> bytes | None:
        """The secret of this namespace, if it has one."""
        if await self._config(f"KV_{self.session.subjects.members_bucket}") is None:
            return None
        found = await self.session.members.get(SECRET_KEY)
        return None if found is None else found.value

    # -- making it --------------------------------------------------------------------------------
    async def _load(self, kind: Kind, entity: str) -> None:
        """One stream, if it was saved. The command stream comes halted."""
        part = self.manifest.part(kind, entity)
        if part is None or part.archived is None:
            return
        if entity not in self._made:
            self._made.append(entity)
        subjects = self.session.subjects
        config = dict(part.archived.config)
        if kind == "cmd":
            config["subjects"] = [subjects.halted(entity, self._token)]
        if self.wanted.replicas is not None:
            config["num_replicas"] = self.wanted.replicas
        archived = Archived(config=config, state=part.archived.state)
        stream = stream_of(subjects, kind, entity)
        source = self._read(part)
        found = await unarchive(self.session.connection, stream, archived, source)
        last, wanted = found.state.last_seq, part.archived.state.last_seq
        whole = found.state.messages == part.archived.state.messages or kind != "log"
        if last != wanted or not whole:
            what = f"{stream} has {found.state.messages} messages up to sequence {last}"
            raise Refused(f"{what}, saved were others, up to {wanted}", "take another backup")

    def _read(self, part: Part) -> Iterator[bytes]:
        read = 0
        for chunk in chunks(self.folder / part.file):
            yield chunk
            read += len(chunk)
            self.told(part.file, read)

    async def _secret(self) -> None:
        part = self.manifest.part("secret")
        if part is None or await self._secret_there() is not None:
            return
        value = (self.folder / part.file).read_bytes()
        if await self.session.members.put(SECRET_KEY, value, expected=0) is None:
            await self._require_secret()  # somebody was quicker

    async def _fill(self, entity: str) -> Restored:
        """All of one type beside its command stream."""
        for kind in ("log", "snap", "ids"):
            await self._load(kind, entity)
        faults = await self.verify(entity)
        if faults and not self.wanted.accept_faults:
            raise Refused(
                f"the log of {entity} has faults ({faults}); nothing of it is left here",
                "take an older backup, or --accept-faults: a runner refuses those entities only",
            )
        session, subjects = self.session, self.session.subjects
        ids = sum([added async for added in rebuild(session, entity)])
        letters, undecided = await self._letters(entity, faults=faults)
        timers = await self._timers(entity)
        commands = await bounds(session.connection, subjects.command_stream(entity))
        log = await bounds(session.connection, subjects.log_stream(entity))
        return Restored(
            restored=entity,
            messages=0 if log is None else log.messages,
            tells=0 if commands is None else commands.messages,
            timers=timers,
            dead_letters=letters,
            undecided=undecided,
            ids=ids,
            faults=faults,
        )

    async def _letters(self, entity: str, *, faults: int) -> tuple[int, int]:
        """The copies of dead letters that aren't there yet; how many, and how many not.

        One whose verdict the log doesn't have is left out: the tell may wait in the command stream
        and take effect now, and a retry of the copy would do it once more, under another key.
        What has no id is in no log. Where the log has faults nobody can tell: all are kept.
        """
        part = self.manifest.part("dead", entity)
        assert part is not None, "require() looked"
        connection, subjects = self.session.connection, self.session.subjects
        stream, subject = subjects.dead_stream, subjects.dead(entity, "*")
        there = {
            _digest(found.subject, found.data)
            async for found in scan(connection, stream, subject, upto=ANY)
        }
        verdicts = await self._verdicts(entity) if part.messages and not faults else None
        count = undecided = 0
        with (self.folder / part.file).open("rb") as lines:
            for line in lines:
                letter = msgspec.json.decode(line, type=Message)
                if _digest(letter.subject, letter.data) in there:
                    continue
                named = named_by(letter.subject, letter.data)
                if verdicts is not None and named is not None and named not in verdicts:
                    undecided += 1
                    continue
                if not await stored(connection, stream, letter.subject, letter.data):
                    raise Unreachable(f"{stream} took no copy of a dead letter: is it full?")
                count += 1
        return count, undecided

    async def _verdicts(self, entity: str) -> set[tuple[str, str]]:
        """What the log calls dead: ids and causes."""
        letters = DeadLetters(self.session.connection, self.session.subjects)
        return {
            (letter.id, letter.cause)
            async for _, letter in letters.verdicts(entity)
            if letter is not None and letter.id is not None and letter.cause is not None
        }

    async def _timers(self, entity: str) -> int:
        """What the open flows of the log wait for. One whose time has passed fires at once."""
        session, subjects = self.session, self.session.subjects
        flows = OpenFlows(entity)
        subject = subjects.log(entity, "*")
        stream = subjects.log_stream(entity)
        async for found in scan(session.connection, stream, subject, upto=ANY):
            flows.take(found)
        timers = flows.timers(session.clock.now_ns() // 1_000_000)
        count = 0
        while some := list(islice(timers, AT_ONCE)):
            count += len(some)
            if not all(await asyncio.gather(*map(self._arm, some))):
                raise Unreachable(f"{subjects.time_stream} took no timer of {entity}")
        return count

    async def _arm(self, timer: Timer) -> bool:
        arm = self.session.schedules.arm
        return await arm(timer.address, timer.name, timer.due_ms, timer.data)

    # -- its end ----------------------------------------------------------------------------------
    async def _end(self) -> None:
        """Set all types going. Raises Refused, which names each that doesn't go."""
        connection, subjects = self.session.connection, self.session.subjects
        token = self._token.removeprefix(RESTORING)
        failed: dict[str, str] = {}
        for saved in self.wanted.types:
            try:
                await resizing.whole(connection, subjects, saved.type, self._token, token)
            except (Unreachable, Incompatible) as error:
                failed[saved.type] = str(error)
        for saved in self.wanted.types if not failed else ():
            sharding = Sharding(saved.generation, saved.shards)
            try:
                await resizing.recut(connection, subjects, saved.type, sharding, token)
            except (Unreachable, Incompatible) as error:
                failed[saved.type] = str(error)
        if failed:
            await self._tell_left(failed)
        self.phase = "done"

    async def _tell_left(self, failed: dict[str, str]) -> None:
        """What is left of each type when it couldn't be set going. Raises Refused."""
        steps: list[str] = []
        for saved in self.wanted.types:
            match await self._halted(saved.type):
                case "":
                    continue  # it goes
                case None:
                    steps.append(
                        f"perdure check says whether {saved.type} is halted, and what to do"
                    )
                case token if token.startswith(RESTORING):
                    folder = shlex.quote(str(self.folder))
                    steps.append(f"perdure restore {saved.type} {folder} --again")
                case _:
                    steps.append(f"perdure shards resize {saved.type} {saved.shards}")
        told = "; ".join(f"{entity}: {why}" for entity, why in failed.items())
        what = f"all is restored, and not all could be set going ({told})"
        raise Refused(what, ", then ".join(steps) or "perdure check: all types take commands")

    async def _halted(self, entity: str) -> str | None:
        """The token with which a type is halted; nothing if it isn't, None if that isn't known."""
        subjects = self.session.subjects
        try:
            config = await self._config(subjects.command_stream(entity))
        except (Unreachable, Incompatible):
            return None
        return None if config is None else halted_by(subjects, entity, config) or ""

    async def _undo(self, why: BaseException) -> None:
        """Remove what was made. Raises Refused if it can't be."""
        for entity in list(self._made):
            try:
                await self._remove(entity, self._token)
            except (Unreachable, Incompatible) as error:
                what = f"{why}" or "interrupted"
                raise Refused(
                    f"{what}; and a part of {entity} is left, halted: {error}",
                    "the same with --again, which removes it first",
                ) from why

    async def _remove(self, entity: str, token: str) -> None:
        """All streams of a type that an unfinished restore made, and its timers, if its token
        begins so. The command stream is the first that is made, and the last that goes."""
        connection, subjects = self.session.connection, self.session.subjects
        config = await self._config(subjects.command_stream(entity))
        halted = None if config is None else halted_by(subjects, entity, config)
        if halted is not None and halted.startswith(token):
            for subject in (subjects.later(entity, "*", "*"), subjects.due(entity, "*", "*")):
                path = f"STREAM.PURGE.{subjects.time_stream}"
                body = {"filter": subject}
                await call(connection, path, body, Response, accept=(NO_STREAM,))
            for kind in LEFT:
                path = f"STREAM.DELETE.{stream_of(subjects, kind, entity)}"
                await call(connection, path, None, Response, accept=(NO_STREAM,))
        if entity in self._made:
            self._made.remove(entity)


def _digest(subject: str, data: bytes) -> bytes:
    return hashlib.sha256(subject.encode() + b"\0" + data).digest()


def _numbers(text: str) -> tuple[int, ...]:
    """A version without what is behind its dash."""
    return tuple(int(part) for part in text.partition("-")[0].split(".") if part.isdigit())
