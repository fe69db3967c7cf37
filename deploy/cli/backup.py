"""`perdure backup`: entity types as files, while they run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from rich.progress import Progress

from ...streams.caller import Caller
from ...streams.jetstream.session import JetStreamSession
from ..backup import Backup, Wishes
from ..backupfolder import Manifest, NoBackup
from .calling import connected, type_of
from .operating import types_of, with_server
from .options import NO_OPTIONS, Common
from .output import Output, stamp
from .trouble import FAILED, SUCCESS, Failed, UsageError
from .verify import Verification

MIB = 1024**2


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """What was saved of one type."""

    saved: str
    """The entity type."""
    messages: int
    """Commits in its log."""
    tells: int
    """Tells that waited."""
    dead_letters: int
    bytes: int
    """Of its files."""
    hosted: bool
    """Whether a runner hosted it."""
    faults: int | None
    """Of its log; null if nobody looked."""


def backup(
    *names: str,
    verify: bool = True,
    secret: bool = True,
    force: Annotated[bool, Parameter(negative="")] = False,
    common: Common = NO_OPTIONS,
) -> int:
    """Save entity types to FOLDER: logs, snapshots, ids, dead letters and commands that wait.

    Without a TYPE all of the namespace are saved. It runs beside runners and changes nothing. All
    that was acknowledged before it began is in it, timers and suspended flows follow from the
    logs. What was acknowledged meanwhile may be. Stop the runners before, and all types are of one
    instant.

    The folder is written for its owner alone: it holds all that the entities ever did, and what
    signs resume tokens. The manifest comes last: a folder without one is no backup. It exits with
    1 if a log has faults; the backup is there all the same.

    For instance:

    * `perdure backup /backups/2026-01-31`
    * `perdure backup account order /backups/2026-01-31`
    * `perdure restore /backups/2026-01-31 --rehearse`

    Parameters
    ----------
    names
        The entity types (all if none), and the folder.
    verify
        Look through the logs for faults, too, as `perdure verify` does.
    secret
        With what signs resume tokens, so that those that people have stay good. Who has it can
        resume every flow. None is there if the setting `resume_secrets` is used.
    force
        Replace an earlier backup in the folder.
    """
    types, folder = types_and_folder("backup", names)
    settings, output = with_server(common.settings()), common.output()

    async def work(caller: Caller) -> int:
        wanted = await _existing(caller, types)
        session = session_of(caller)
        with shown(output) as bar:

            async def faults(entity: str) -> int:
                bar.rest()
                return await Verification(caller, output, entity, None, None, None).run()

            wishes = Wishes(wanted, secret=secret, force=force)
            making = Backup(session, folder, wishes, bar, faults if verify else None)
            manifest = await _attempted(folder, making.make())
        return _show(output, folder, manifest)

    return connected(settings, work)


def types_and_folder(command: str, names: Sequence[str]) -> tuple[list[str], Path]:
    """What was typed: types, if any, and the folder last. Raises UsageError."""
    if not names:
        raise UsageError("no folder given", f"perdure {command} [TYPE…] FOLDER")
    *types, folder = names
    for name in types:
        type_of(name)
    return list(dict.fromkeys(types)), Path(folder).expanduser().absolute()


def session_of(caller: Caller) -> JetStreamSession:
    """The session beneath a call."""
    session = caller.session
    assert isinstance(session, JetStreamSession), "with_server was not asked"
    return session


class Bar:
    """A line of progress on standard error, where somebody looks."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def __call__(self, what: str, bytes: int) -> None:
        """So many bytes of a file are done. In any thread."""
        self._progress.start()
        self._progress.update(self._task, description=f"{what}, MiB", completed=bytes // MIB)

    def rest(self) -> None:
        """Somebody else shows progress now: before 14.1 rich has one at a time."""
        self._progress.stop()


@contextmanager
def shown(output: Output) -> Generator[Bar]:
    """A bar for a while."""
    with output.progress() as progress:
        yield Bar(progress)


async def _attempted(folder: Path, work: Coroutine[Any, Any, Manifest]) -> Manifest:
    """Do it. Raises Failed."""
    try:
        return await work
    except NoBackup as error:
        raise Failed(str(error), error.next_step) from None
    except OSError as error:
        why = f"{error.filename or folder}: {error.strerror or error}"
        raise Failed(why, "mend that (room? rights?), then the same with --force") from None
    except asyncio.CancelledError:
        what = f"interrupted; {folder} is no backup (it has no manifest)"
        raise Failed(what, "the same with --force") from None


async def _existing(caller: Caller, types: Sequence[str]) -> Sequence[str]:
    """The types to save, all of which are there. Raises Failed."""
    there = await types_of(caller)
    missing = [name for name in types if name not in there]
    if missing or not there:
        known = f"only {', '.join(there)}" if there else "nor any other"
        namespace = caller.session.subjects.namespace
        what = f"there is no log of {', '.join(missing) or 'any type'} in namespace {namespace!r}"
        raise Failed(f"{what}, {known}", "correct it, or give another --namespace")
    return types or there


def _show(output: Output, folder: Path, manifest: Manifest) -> int:
    for saved in manifest.types:
        parts = [part for part in manifest.parts if part.type == saved.type]
        held = {part.kind: part.archived.state for part in parts if part.archived is not None}
        value = Saved(
            saved=saved.type,
            messages=held["log"].messages,
            tells=held["cmd"].messages,
            dead_letters=sum(part.messages for part in parts),
            bytes=sum(part.bytes for part in parts),
            hosted=saved.hosted,
            faults=saved.faults,
        )
        text = (
            f"saved     {saved.type}: {value.messages} commits, {value.tells} tells that wait, "
            f"{value.dead_letters} dead letters, {value.bytes / MIB:.1f} MiB"
        )
        output.result(value, text)
    instant = "of one instant" if manifest.one_instant else "taken while others wrote"
    text = f"{folder}: {instant}, {stamp(manifest.began)} to {stamp(manifest.ended)}"
    whole = {
        "folder": str(folder),
        "one_instant": manifest.one_instant,
        "secret": manifest.secret,
        "began": manifest.began,
        "ended": manifest.ended,
    }
    output.result(whole, text)
    if manifest.secret == "saved":
        output.note("with what signs resume tokens: who reads it can resume every flow")
    return FAILED if any(saved.faults for saved in manifest.types) else SUCCESS
