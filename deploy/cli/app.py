"""APP: the module or file that a user names, and the entities in it.

`bank`, `bank:account`, `bank.py`, `shop/bank.py:account`. The current folder comes first, as with
`python -m`, whatever PYTHONSAFEPATH says: `perdure dev bank` is meant for the file beside you.

What is the user's mistake on the command line (no such module, nothing in it) is one line. What
is a bug in the module keeps its traceback, cut to the user's own frames. A definition that
`Entity` refuses is in between: its text is the answer, so it is one line with file and line.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ... import entities
from ...entities.entity import Entity
from .calling import type_of
from .trouble import Failed, UsageError

AnyEntity = Entity[Any, Any]

_OURS = str(Path(entities.__file__).parent)
_HERE = str(Path(__file__).parent)


def load_app(app: str) -> tuple[AnyEntity, ...]:
    """The entities that APP names, in the order of the module.

    Raises UsageError when there is no such thing, Failed when the module is broken.
    """
    place, name = _split(app)
    module = _load_file(place) if _is_file(place) else _load_module(place)
    found = _all_of(module, app) if name is None else _named(module, name, app)
    _require_names(found, app)
    return tuple({id(entity): entity for _, entity in found}.values())


def _split(app: str) -> tuple[str, str | None]:
    place, colon, name = app.partition(":")
    if not place or (colon and not name.isidentifier()):
        raise UsageError(
            f"not an APP: {app!r}", "write a module (bank), module:name or a file (bank.py)"
        )
    return place, name if colon else None


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place


def _load_module(name: str) -> ModuleType:
    _first_on_path(Path.cwd())
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"not a module's name: {name!r}", "write for instance bank or shop.bank")
    asked_for = {name, *(name[:i] for i, c in enumerate(name) if c == ".")}
    try:
        return _guarded(lambda: importlib.import_module(name), name, asked_for)
    except ModuleNotFoundError:
        file = Path(*name.split(".")).with_suffix(".py")
        raise UsageError(
            f"no module {name!r}, in {Path.cwd()} or installed",
            f"go to the folder that has {file}, or give the file's path",
        ) from None


def _load_file(place: str) -> ModuleType:
    file = Path(place).resolve()
    if not file.is_file():
        raise UsageError(f"no file {place}", "give the path of a Python file, or a module's name")
    name = file.stem
    if not name.isidentifier():
        raise UsageError(f"{place}: {name!r} isn't a module's name", "rename the file")
    loaded = sys.modules.get(name)
    if loaded is not None:
        origin = getattr(loaded, "__file__", None)
        if origin is not None and Path(origin).resolve() == file:
            return loaded
        raise UsageError(f"{place}: Python has another module {name!r} already", "rename the file")
    _first_on_path(Path.cwd())
    _first_on_path(file.parent)
    return _guarded(lambda: _execute(name, file), place)


def _execute(name: str, file: Path) -> ModuleType:
    """Import a file under its own name, so that annotations and pickles find their module."""
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file}: not a Python file", "give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _first_on_path(folder: Path) -> None:
    """Move the folder to the front of the import path."""
    text = str(folder)
    sys.path[:] = [text, *(entry for entry in sys.path if entry != text)]


def _guarded(
    load: Callable[[], ModuleType], label: str, asked_for: Collection[str] = ()
) -> ModuleType:
    """Run the user's module; what it raises becomes Failed, but that `asked_for` isn't there."""
    try:
        return load()
    except UsageError:
        raise
    except SystemExit as error:
        raise Failed(
            f"{label} ends the program when it is imported (exit code {error.code})",
            "put what it runs under: if __name__ == '__main__':",
        ) from error
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in asked_for:
            raise
        raise _broken(error, label) from error


def _broken(error: Exception, label: str) -> Failed:
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not _machinery(frame.filename)]
    if isinstance(error, SyntaxError):
        at = f"{error.filename or label}:{error.lineno or '?'}"
        code = f": {error.text.strip()}" if error.text else ""
        return Failed(f"{at}: {type(error).__name__}: {error.msg}{code}", "mend it")
    if isinstance(error, TypeError) and frames[-1].filename.startswith(_OURS):
        last = next(f for f in reversed(users) if not f.filename.startswith(_OURS))
        return Failed(f"{last.filename}:{last.lineno}: {error}", "mend the definition")
    head = ["Traceback (most recent call last):\n"] if users else []
    trace = [*head, *traceback.format_list(users), *traceback.format_exception_only(error)]
    return Failed(
        f"{label} can't be imported: {type(error).__name__}: {error}",
        "mend it; see the traceback",
        trace="".join(trace),
    )


def _machinery(filename: str) -> bool:
    """Whether a frame is of the import machinery or of this command."""
    return filename.startswith(("<frozen importlib", _HERE, importlib.__path__[0]))


def _all_of(module: ModuleType, app: str) -> list[tuple[str, AnyEntity]]:
    values: dict[str, Any] = vars(module)
    found: list[tuple[str, AnyEntity]] = [
        (name, value) for name, value in values.items() if isinstance(value, Entity)
    ]
    if not found:
        raise UsageError(
            f"{app}: no Entity at module level",
            "write for instance account = Entity(Account(), decide, evolve)",
        )
    return found


def _named(module: ModuleType, name: str, app: str) -> list[tuple[str, AnyEntity]]:
    if not hasattr(module, name):
        others = [n for n, value in vars(module).items() if isinstance(value, Entity)]
        there = f"it has {', '.join(others)}" if others else "it has no Entity at all"
        raise UsageError(f"{app}: no {name!r} in {module.__name__}", there)
    value: Any = getattr(module, name)
    if isinstance(value, Entity):
        return [(name, value)]
    items: Sequence[Any] = value if type(value) in (list, tuple) else ()
    if items and all(isinstance(item, Entity) for item in items):
        return [(f"{name}[{i}]", item) for i, item in enumerate(items)]
    raise UsageError(
        f"{app}: {name!r} is a {type(value).__name__}, not an Entity", "name an Entity or a list"
    )


def _require_names(found: Iterable[tuple[str, AnyEntity]], app: str) -> None:
    """Two different entities of one name would have one log; one under two names is fine."""
    seen: dict[str, tuple[str, AnyEntity]] = {}
    for variable, entity in found:
        other, same = seen.setdefault(entity.name, (variable, entity))
        if same is not entity:
            raise UsageError(
                f"{app}: {other} and {variable} are both the entity type {entity.name!r}",
                "give one state another tag: class Account(State, tag='…'), or name one: APP:name",
            )


def types_of(app: str | None, type: tuple[str, ...]) -> list[str]:
    """The names of an app's types, or those given by `--type`; one of both. Raises UsageError."""
    if app is not None and type:
        raise UsageError("APP and --type together", "give one of them")
    for name in type:
        type_of(name)
    names = [entity.name for entity in load_app(app)] if app is not None else list(type)
    if not names:
        raise UsageError("no entity type", "name an APP, or types: --type account")
    return list(dict.fromkeys(names))
