"""`perdure restore`: entity types out of a backup, and the rehearsal of that."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from ...entities.entropy import SystemEntropy
from ...entities.settings import Settings
from ...streams.caller import Caller
from ...streams.port import Incompatible
from ..backupfolder import Manifest, NoBackup, SavedType, read_manifest
from ..restoring import Refused, Restore, Restored, Wanted
from ..server import EmbeddedServer
from .advice import HOST
from .app import load_app
from .backup import Bar, session_of, shown, types_and_folder
from .calling import calling, run
from .operating import with_server
from .options import NO_OPTIONS, Common
from .output import Output, stamp
from .trouble import FAILED, SUCCESS, Failed, UsageError
from .verify import AnyEntity, Verification

MOST_REPLICAS = 5
"""JetStream's own."""

REHEARSAL = "perdure-rehearsal-"
"""How the folder of a rehearsal's server begins, where temporary ones are."""

TOKEN_BYTES = 32
"""Of the login to a rehearsal's server: nobody guesses it."""


def restore(
    *names: str,
    app: str | None = None,
    replicas: int | None = None,
    rehearse: Annotated[bool, Parameter(negative="")] = False,
    again: Annotated[bool, Parameter(negative="")] = False,
    keep_secret: Annotated[bool, Parameter(negative="")] = False,
    accept_faults: Annotated[bool, Parameter(negative="")] = False,
    common: Common = NO_OPTIONS,
) -> int:
    """Bring entity types back from FOLDER, here or on another server, in the same namespace.

    States, keys with their outcomes, commands that wait, suspended flows with their tokens,
    timers, schedules and dead letters are as they were when the backup was made. It is refused,
    and nothing changes, where the type is there already or hosted, or the backup is damaged. Each
    log is verified before its type takes commands, and no runner can host it before. If it fails,
    or is interrupted, what it made is removed again.

    With `--rehearse` all that happens on a server of its own, which is thrown away.

    For instance:

    * `perdure restore /backups/2026-01-31 --rehearse --app bank`
    * `perdure restore /backups/2026-01-31`
    * `perdure restore account /backups/2026-01-31 --url nats://new:4222 --replicas 1`

    Parameters
    ----------
    names
        The entity types (all of the backup if none), and the folder.
    app
        The code: every event is folded with it, too, as `perdure verify --app` does.
    replicas
        Copies of each stream; as many as in the backup if it isn't given.
    rehearse
        On a server of its own, here, whose files go when it ends. It needs a nats-server program.
    again
        Remove first what a restore left that was killed.
    keep_secret
        Let another secret stay that is there: tokens of flows in the backup are then refused.
    accept_faults
        Restore a log with faults all the same; a runner refuses the entities that have them.
    """
    types, folder = types_and_folder("restore", names)
    if replicas is not None and not 1 <= replicas <= MOST_REPLICAS:
        raise UsageError(f"--replicas {replicas}", f"give a number from 1 to {MOST_REPLICAS}")
    entities = {e.name: e for e in load_app(app)} if app is not None else {}
    settings, output = common.settings(), common.output()
    manifest = _manifest(folder)
    wanted = Wanted(
        types=_wanted(manifest, types),
        replicas=1 if rehearse else replicas,
        again=again,
        keep_secret=keep_secret,
        accept_faults=accept_faults,
    )
    if wanted.replicas is not None:
        settings = msgspec.structs.replace(settings, replicas=wanted.replicas)
    task = Restoration(output, folder, manifest, wanted, entities)
    if rehearse:
        return run(_rehearse(task, settings))
    return run(task.on(with_server(settings)))


class Restoration:
    """One restore from the command line."""

    def __init__(
        self,
        output: Output,
        folder: Path,
        manifest: Manifest,
        wanted: Wanted,
        entities: dict[str, AnyEntity],
    ) -> None:
        self.output: Output = output
        self.folder: Path = folder
        self.manifest: Manifest = manifest
        self._wanted, self._entities = wanted, entities

    async def on(self, settings: Settings, *, rehearsal: bool = False) -> int:
        """Restore to the server of these settings; the exit code. Raises Failed."""
        async with calling(settings) as caller:
            work: Restore | None = None
            try:
                with shown(self.output) as bar:
                    work = self._restore(caller, settings, bar)
                    done = await work.run()
            except (Refused, NoBackup) as error:
                raise Failed(str(error), error.next_step) from None
            except Incompatible as error:
                step = "set that right, then the same; --replicas 1 for a server that is alone"
                raise Failed(f"{error}; nothing is restored", step) from None
            except OSError as error:
                why = f"{error.filename or self.folder}: {error.strerror or error}"
                raise Failed(f"{why}; nothing is restored", "mend that, then the same") from None
            except asyncio.CancelledError:
                raise interrupted("nothing" if work is None else work.phase) from None
        self._show(done, rehearsal=rehearsal)
        return FAILED if any(one.faults for one in done) else SUCCESS

    def _restore(self, caller: Caller, settings: Settings, bar: Bar) -> Restore:
        async def verify(entity: str) -> int:
            bar.rest()
            found = self._entities.get(entity)
            return await Verification(caller, self.output, entity, found, None, None).run()

        session = session_of(caller)
        return Restore(session, settings, self.folder, self.manifest, self._wanted, bar, verify)

    def _show(self, done: Sequence[Restored], *, rehearsal: bool) -> None:
        for one in done:
            parts = [
                f"{one.messages} commits",
                f"{one.tells} tells that wait",
                f"{one.timers} timers",
                f"{one.dead_letters} dead letters",
            ]
            parts += [f"{one.ids} ids that weren't registered"] if one.ids else []
            if one.undecided:
                parts.append(f"{one.undecided} dead letters not, as their verdicts came later")
            word = "rehearsed" if rehearsal else "restored "
            self.output.result(one, f"{word} {one.restored}: {', '.join(parts)}")
        since = stamp(self.manifest.began)
        if rehearsal:
            self.output.note(f"it can be restored as of {since}; the rehearsal's server is gone")
        else:
            self.output.note(
                f"as of {since}: what was acknowledged later is lost, and clients that repeat a "
                f"key do it anew. Start the runners: {HOST}"
            )


def interrupted(phase: str) -> Failed:
    """What is there after an interruption, in words."""
    if phase == "nothing":
        return Failed("interrupted; nothing is left of the types", "the same again")
    if phase == "done":
        return Failed("interrupted; but all is restored, and takes commands", HOST)
    step = "perdure check says which types are halted, and what to do"
    return Failed("interrupted more than once; a part may be left, halted", step)


async def _rehearse(task: Restoration, settings: Settings) -> int:
    async with rehearsal_server() as (url, token):
        there = Settings(
            url=url,
            token=token,
            namespace=task.manifest.namespace,
            dedup_window=settings.dedup_window,
            dedup_keys=settings.dedup_keys,
            made_window=settings.made_window,
            made_keys=settings.made_keys,
        )
        return await task.on(there, rehearsal=True)


@asynccontextmanager
async def rehearsal_server() -> AsyncGenerator[tuple[str, str]]:
    """A server that is thrown away: its URL, and the token that it asks for.

    All that the backup holds is there for a while, and everybody of this machine can connect. The
    folder, with the token in its configuration, is its owner's alone (0700: see `mkdtemp`).
    """
    token = SystemEntropy().token(TOKEN_BYTES)
    extra = f"authorization {{ token: {json.dumps(token)} }}"
    with tempfile.TemporaryDirectory(prefix=REHEARSAL) as folder:
        async with EmbeddedServer(folder, fsync=False, tied=True, extra=extra) as server:
            yield server.url, token


def _manifest(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except NoBackup as error:
        raise Failed(str(error), error.next_step) from None
    except OSError as error:
        why = f"{error.filename or folder}: {error.strerror or error}"
        raise Failed(why, "give the folder of a backup that can be read") from None


def _wanted(manifest: Manifest, types: Sequence[str]) -> Sequence[SavedType]:
    there = {saved.type: saved for saved in manifest.types}
    missing = [name for name in types if name not in there]
    if missing:
        what = f"the backup has no {', '.join(missing)}"
        raise UsageError(what, f"it has {', '.join(there)}")
    return [there[name] for name in types] if types else manifest.types
