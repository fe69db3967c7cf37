"""Watch: which files changed since the last look. Compared by their stamps; nothing is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

Stamp: TypeAlias = tuple[int, int, int]
"""Time of change, size, inode: a file that is replaced within a tick of the clock has another."""


class Watch:
    """Some files, and every `*.py` in some folders, new ones included."""

    def __init__(self, files: Iterable[Path] = (), folders: Iterable[Path] = ()) -> None:
        self._files: set[Path] = set()
        self._folders: set[Path] = set()
        self._stamps: dict[Path, Stamp] = {}
        self.add(files, folders)

    def __repr__(self) -> str:
        return f"Watch({len(self._stamps)} files)"

    def add(self, files: Iterable[Path], folders: Iterable[Path] = ()) -> None:
        """Watch these, too, from what they are now."""
        self._files |= set(files)
        self._folders |= set(folders)
        self._stamps = {**self._look(), **self._stamps}

    def changed(self) -> list[Path]:
        """What is new, gone or other than at the last look, in order of name."""
        now, before = self._look(), self._stamps
        self._stamps = now
        return sorted(file for file in now.keys() | before if now.get(file) != before.get(file))

    def _look(self) -> dict[Path, Stamp]:
        found = set(self._files)
        for folder in self._folders:
            found.update(folder.glob("*.py"))
        stamps = {file: _stamp(file) for file in found}
        return {file: stamp for file, stamp in stamps.items() if stamp is not None}


def _stamp(file: Path) -> Stamp | None:
    try:
        found = file.stat()
    except OSError:  # gone, or never there: both are "not there"
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
