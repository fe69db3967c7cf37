"""Where settings come from: arguments, environment, NATS contexts and `perdure.toml`.

It only finds values and says where; what they mean, and whether they are good, is settings.py's.
The rules that are more than "the first that has it":

- The context that the `nats` tool has *selected* stands for its URL. If the URL comes from above,
  nothing of that context is used, so that its password isn't shown to another server. A context
  that `NATS_CONTEXT` names was meant, and fills in what is missing.
- There is one way to log in: a place that sets one hides the others of the places below it.
- Paths in a file are relative to that file; an empty variable counts as not set.
- Unknown `PERDURE_*` variables are ignored: Kubernetes sets some for a service of that name.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

_LOGIN = {
    "credentials": "credentials",
    "user": "user",
    "password": "user",
    "token": "token",
    "nkey_seed": "nkey_seed",
}
"""The settings that log in, and the way that each belongs to."""
_LISTS = frozenset({"reply_prefixes", "labels", "resume_secrets"})
_PATHS = frozenset({"credentials", "nkey_seed", "tls_ca", "tls_cert", "tls_key"})
_CONTEXT_KEYS = {
    "url": "url",
    "creds": "credentials",
    "user": "user",
    "password": "password",
    "token": "token",
    "nkey": "nkey_seed",
    "ca": "tls_ca",
    "cert": "tls_cert",
    "key": "tls_key",
    "inbox_prefix": "inbox_prefix",
    "jetstream_api_prefix": "api_prefix",
}
_DOMAIN = "jetstream_domain"
"""The other way of the `nats` tool to say where the API is; it takes one of them."""
_CONTEXT_CANNOT = ("nsc", "user_jwt", "user_seed")
"""Ways to log in of the `nats` tool that have no setting: better refused than ignored."""


@dataclass(frozen=True)
class Found:
    """A value as it was found, unconverted, and where."""

    value: object = field(repr=False)  # it may be a password
    source: str


def find(
    names: Collection[str],
    arguments: Mapping[str, object],
    environ: Mapping[str, str],
    path: str | os.PathLike[str] | None,
) -> dict[str, Found]:
    """The value of each setting that is set anywhere; ValueError for a file that is wrong."""
    found = {name: Found(value, "argument") for name, value in arguments.items()}
    _add(found, _variables(names, environ))
    if environ.get("NATS_URL"):
        _add(found, {"url": Found(environ["NATS_URL"], "NATS_URL")})
    _add(found, _context(environ, url_is_set="url" in found))
    _add(found, _file(names, path, environ))
    return found


def _add(found: dict[str, Found], below: Mapping[str, Found]) -> None:
    """Take from the next place what is not set yet, and no second way to log in."""
    ways = {_LOGIN[name] for name in found if name in _LOGIN}
    for name, value in below.items():
        if name in found or (ways and name in _LOGIN and _LOGIN[name] not in ways):
            continue
        found[name] = value


def _variables(names: Collection[str], environ: Mapping[str, str]) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for name in names:
        variable = f"PERDURE_{name.upper()}"
        text = environ.get(variable)
        if text:
            found[name] = Found(_value_of(name, text, variable), variable)
    return found


def _value_of(name: str, text: str, variable: str) -> object:
    """A variable's text; lists and tables are JSON, lists also plain with commas."""
    if name.endswith("_retry") or (name in _LISTS and text.startswith("[")):
        try:
            return json.loads(text)
        except ValueError:
            raise ValueError(f"{variable}: {name}: not JSON") from None
    if name in _LISTS:
        return [part.strip() for part in text.split(",")]
    return text


def _context(environ: Mapping[str, str], *, url_is_set: bool) -> dict[str, Found]:
    folder = _nats_folder(environ)
    name = environ.get("NATS_CONTEXT")
    if not name:
        selected = folder / "context.txt"
        if url_is_set or not selected.is_file():
            return {}
        name = _read(selected).strip()
        if not name:
            return {}
    if name in (".", "..") or "/" in name or os.sep in name:
        raise ValueError(f"NATS context: {name!r} isn't a name")
    file = folder / "context" / f"{name}.json"
    source = f"NATS context {name}"
    try:
        values = json.loads(_read(file))
    except ValueError as error:
        raise ValueError(f"{source}: {file}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{source}: {file}: not a JSON object")
    return _of_context(cast("dict[str, Any]", values), source, file.parent, environ)


def _of_context(
    values: dict[str, Any], source: str, folder: Path, environ: Mapping[str, str]
) -> dict[str, Found]:
    for key in _CONTEXT_CANNOT:
        if values.get(key):
            raise ValueError(f"{source}: {key}: perdure can't log in that way")
    if values.get(_DOMAIN) and not values.get("jetstream_api_prefix"):
        values = {**values, "jetstream_api_prefix": f"$JS.{values[_DOMAIN]}.API"}
    return {
        name: Found(_path(name, values[key], folder, environ), source)
        for key, name in _CONTEXT_KEYS.items()
        if values.get(key)
    }


def _nats_folder(environ: Mapping[str, str]) -> Path:
    """Where the `nats` tool keeps its contexts."""
    if environ.get("XDG_CONFIG_HOME"):
        return Path(environ["XDG_CONFIG_HOME"]) / "nats"
    return Path(environ.get("HOME") or Path.home()) / ".config" / "nats"


def _file(
    names: Collection[str], path: str | os.PathLike[str] | None, environ: Mapping[str, str]
) -> dict[str, Found]:
    file = Path("perdure.toml" if path is None else path)
    if path is None and not file.is_file():
        return {}
    try:
        values = tomllib.loads(_read(file))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: {error}") from None
    for key in values:
        if key not in names:
            raise ValueError(f"{file}: {key}: no such setting")
    return {
        key: Found(_path(key, value, file.parent, environ), str(file))
        for key, value in values.items()
    }


def _path(name: str, value: Any, folder: Path, environ: Mapping[str, str]) -> Any:
    """A setting that is a path: `~` is the home folder, else relative to the file's folder."""
    if name not in _PATHS or not isinstance(value, str):
        return value
    if value.startswith("~/"):
        return str(Path(environ.get("HOME") or Path.home()) / value[2:])
    return str(folder / value)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"{file}: {reason}") from None
