"""A backup as files: one for each stream, and a manifest that is written last.

A folder without a manifest is no backup: whatever ended its making, nobody can take it for one.
What is in it is secret (all that the entities ever did, and what signs resume tokens), so only
its owner may read the files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from ..entities.address import is_type
from ..streams.jetstream.archive import CHUNK_BYTES, Archived

FORMAT = 1
"""Of the folder; a newer one is refused, never misread."""

MANIFEST = "manifest.json"
SECRET = "resume.secret"
"""What signs resume tokens, as the members bucket has it."""

ARCHIVE_BEGINS = b"\xff\x06\x00\x00S2sTwO"
"""Every archive of nats-server: it is an S2 stream."""

ONLY_OWNER = 0o600
ONLY_OWNER_FOLDER = 0o700

Kind = Literal["cmd", "snap", "log", "ids", "dead", "secret"]

KINDS: tuple[Kind, ...] = ("cmd", "snap", "log", "ids")
"""The streams of a type, in the order in which they are saved: see `backup.py`."""


class NoBackup(Exception):
    """What is there can't be restored, or not be written to. `next_step` is what to do."""

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what)
        self.next_step = next_step


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file."""

    file: str
    kind: Kind
    type: str = ""
    """The entity type; nothing for what all of them share."""
    bytes: int
    sha256: str
    archived: Archived | None = None
    """Of a stream: its configuration, and what it held."""
    messages: int = 0
    """Of a file of messages."""


class SavedType(msgspec.Struct, frozen=True, kw_only=True):
    """One entity type."""

    type: str
    generation: int
    shards: int
    hosted: bool
    """Whether a runner hosted it meanwhile."""
    faults: int | None
    """What `perdure verify` found in its log; None if nobody looked."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is."""

    format: int
    perdure: str
    """The version that wrote it."""
    server: str
    """The version of the nats-server whose archives these are."""
    namespace: str
    began: datetime
    ended: datetime
    one_instant: bool
    """Whether nothing was told or committed meanwhile: all types are of one instant."""
    secret: Literal["saved", "none", "left out"]
    types: tuple[SavedType, ...]
    parts: tuple[Part, ...]

    def part(self, kind: Kind, entity: str = "") -> Part | None:
        """The file of that kind."""
        found = (part for part in self.parts if (part.kind, part.type) == (kind, entity))
        return next(found, None)


class _Format(msgspec.Struct):
    format: int = 0


class _Head(msgspec.Struct):
    """What tells a manifest from other files of that name."""

    format: int
    perdure: str
    namespace: str


class Writing:
    """A file that is being written; its size and hash are known at its end."""

    def __init__(self, path: Path) -> None:
        self.bytes: int = 0
        self._hash = hashlib.sha256()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        self._file: BinaryIO = os.fdopen(os.open(path, flags, ONLY_OWNER), "wb", buffering=0)

    def write(self, data: bytes) -> None:
        """Append. Raises OSError."""
        self._hash.update(data)
        view = memoryview(data)
        while view:  # a raw file may take less, for instance before the disk is full
            view = view[self._file.write(view) :]
        self.bytes += len(data)

    def end(self) -> str:
        """All of it is on the disk; its hash. Raises OSError."""
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        """Leave it as it is."""
        self._file.close()


def prepare(folder: Path, *, force: bool) -> None:
    """Make the folder ready to be written to. Raises NoBackup, OSError.

    With `force` an earlier backup there is given up, its manifest first and what tells that it is
    one last; nothing else ever is.
    """
    folder.mkdir(mode=ONLY_OWNER_FOLDER, parents=True, exist_ok=True)
    there = sorted(path.name for path in folder.iterdir())
    if not there:
        return
    strange = _strange(folder, there)
    if strange:
        what = f"{folder} holds what is no backup: {', '.join(strange[:3])}"
        raise NoBackup(what, "give a folder that is empty, or isn't there yet")
    if not force:
        what = "a backup" if MANIFEST in there else "a backup that didn't end"
        raise NoBackup(f"{folder} holds {what}", "give another folder, or --force to replace it")
    for name in (MANIFEST, *sorted(there, key=lambda name: name.endswith(".cmd"))):
        (folder / name).unlink(missing_ok=True)
    sync(folder)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make it a backup: from now on the folder is one. Raises OSError."""
    fresh = folder / f"{MANIFEST}.part"
    writing = Writing(fresh)
    try:
        writing.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        writing.end()
    finally:
        writing.close()
    sync(folder)  # the files' names, before the manifest's
    fresh.replace(folder / MANIFEST)
    sync(folder)


def read_manifest(folder: Path) -> Manifest:
    """What a backup is. Raises NoBackup, OSError."""
    try:
        data = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        what = f"{folder} has no {MANIFEST}: it is no backup, or one that didn't end"
        raise NoBackup(what, "give the folder of one that ended") from None
    try:
        newer = msgspec.json.decode(data, type=_Format).format
        if newer != FORMAT:
            what = f"{folder} is a backup of format {newer}, this perdure reads {FORMAT}"
            raise NoBackup(what, "take the version of perdure that wrote it, or a newer one")
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = f"{folder / MANIFEST} is damaged: {error}"
        raise NoBackup(what, "take another copy of it") from None
    strange = [saved.type for saved in manifest.types if not is_type(saved.type)]
    if strange:
        what = f"{folder / MANIFEST} is damaged: {strange[0][:60]!r} is no entity type"
        raise NoBackup(what, "take another copy of it")
    return manifest


def check_part(folder: Path, part: Part, on_bytes: Callable[[int], None]) -> None:
    """That a file is what was written. Raises NoBackup, OSError."""
    path, step = folder / part.file, "take another copy of this backup"
    if part.file != os.path.basename(part.file) or path.is_symlink():
        raise NoBackup(f"{path} is no file of a backup", step)
    if not path.is_file():
        raise NoBackup(f"{path} is missing", step)
    size = path.stat().st_size
    if size != part.bytes:
        raise NoBackup(f"{path} has {size} bytes, written were {part.bytes}", step)
    hash = hashlib.sha256()
    for chunk in chunks(path):
        hash.update(chunk)
        on_bytes(len(chunk))
    if hash.hexdigest() != part.sha256:
        raise NoBackup(f"{path} is damaged: its SHA-256 isn't the one that was written", step)


def chunks(path: Path) -> Iterator[bytes]:
    """A file in parts, of which one is in memory at a time. Raises OSError."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def file_of(entity: str, kind: Kind) -> str:
    """The name of a type's file. A type's name is a subject's token, so it is one of a file."""
    return f"{entity}.{kind}"


def sync(folder: Path) -> None:
    """What the folder lists is on the disk. Raises OSError."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _strange(folder: Path, there: Sequence[str]) -> list[str]:
    """What is no part of a backup: others have files with such names, too, `access.log` for one.

    A type's archive of commands is written before its other files, so it tells that they are ours;
    or the manifest does.
    """
    listed = _is_manifest(folder / MANIFEST)
    begun = {name for name in there if name.endswith(".cmd") and _is_archive(folder / name)}
    strange: list[str] = []
    for name in there:
        head, _, kind = name.rpartition(".")
        if name in (MANIFEST, f"{MANIFEST}.part", SECRET):
            ours = listed or bool(begun)
        else:
            ours = kind in (*KINDS, "dead") and is_type(head)
            ours = ours and (listed or file_of(head, "cmd") in begun)
        if not ours or (folder / name).is_symlink() or not (folder / name).is_file():
            strange.append(name)
    return strange


def _is_manifest(path: Path) -> bool:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Head).format > 0
    except (FileNotFoundError, IsADirectoryError):
        return False
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def _is_archive(path: Path) -> bool:
    """Whether it is one, or what is written of one that didn't get far."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return ARCHIVE_BEGINS.startswith(file.read(len(ARCHIVE_BEGINS)))
