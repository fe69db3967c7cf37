"""The runner of `perdure dev`: a process of its own, so that changed code can replace it.

Python can't load a module anew without leaving parts of the old one behind, a new process can. It
loads APP, says so, and waits until it is told to go: a file with a mistake in it never costs the
runner that is there, and the old one is drained before the new one hosts. `dev.py` starts it; they
talk over a socket, one JSON object a line. Ctrl-C reaches both, as they share the terminal, and is
the other's business: it ends this one with SIGTERM.
"""

from __future__ import annotations

import importlib
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..logs import Level, configure
from ..process import run_until_signalled
from .app import AnyEntity, load_app
from .ending import ending
from .hosting import announce, hosting
from .options import Common
from .output import Output
from .trouble import Trouble

PROGRAM = "from perdure.deploy.cli.devrunner import main; main()"
"""What Python is told to run."""


BACKEND = "perdure.streams.jetstream.session"
"""Imported while the old runner still hosts: it takes as long as all else between the two."""


class Given(msgspec.Struct, frozen=True):
    """What it is started with, as JSON in its only argument."""

    app: str
    socket: int
    """The file descriptor of its end."""
    namespace: str | None
    json: bool
    log_level: Level
    log_json: bool


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """It loaded APP, or failed and said why; the files are to be watched."""

    ok: bool
    files: tuple[str, ...]
    folders: tuple[str, ...]


class Go(msgspec.Struct, frozen=True, tag="go"):
    """Host it. `changed`: the files for which; none the first time."""

    url: str
    changed: tuple[str, ...] = ()


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """It hosts."""


def main() -> None:
    """Run on this process's argument, and exit."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    given = msgspec.json.decode(sys.argv[1], type=Given)
    with socket.socket(fileno=given.socket) as channel:
        sys.exit(_run(given, channel))


def _run(given: Given, channel: socket.socket) -> int:
    configure(given.log_level, json=given.log_json)
    output = Output(json=given.json)
    importlib.import_module(BACKEND)
    before = set(sys.modules)  # in a checkout of perdure, its own files lie in the user's folder
    try:
        entities = load_app(given.app)
    except Trouble as trouble:
        output.trouble(trouble)
        _say(channel, _loaded(before, given.app, ok=False))
        return trouble.code
    _say(channel, _loaded(before, given.app, ok=True))
    line = channel.makefile("rb").readline()
    if not line:  # it isn't wanted any more
        return 0
    go = msgspec.json.decode(line, type=Go)
    work = _host(given, go, entities, channel)
    return ending(output, lambda: run_until_signalled(work, (signal.SIGTERM,)))


async def _host(
    given: Given, go: Go, entities: Sequence[AnyEntity], channel: socket.socket
) -> int:
    common = Common(namespace=given.namespace, json=given.json)
    output, settings = common.output(), common.settings(url=go.url)
    async with hosting(entities, settings, ends=False) as cluster:
        _say(channel, Ready())  # before people hear of it: the parent must know first
        if go.changed:
            served = {entity.name: list(entity.contracts) for entity in entities}
            told = "; ".join(f"{name}: {', '.join(tags)}" for name, tags in served.items())
            value = {"ready": True, "reloaded": go.changed, "entities": served}
            output.result(value, f"Reloaded for {', '.join(go.changed)}. {told}")
        else:
            announce(output, entities, settings, how=f"perdure dev {given.app}")
            output.line("Ctrl-C drains the runner and stops both; changed code gets a new runner.")
        await cluster.drained.wait()
    return 0


def _say(channel: socket.socket, what: msgspec.Struct) -> None:
    channel.sendall(msgspec.json.encode(what) + b"\n")


def _loaded(before: set[str], app: str, *, ok: bool) -> Loaded:
    """The user's files among what was imported, and where they lie."""
    place = app.partition(":")[0]
    roots = {Path.cwd()}
    if place.endswith(".py"):
        roots.add(Path(place).resolve().parent)
    files: list[Path] = []
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if isinstance(file, str):
            files.append(Path(file).resolve())
    own = [file for file in files if _is_own(file, roots)]
    return Loaded(ok, tuple(map(str, own)), tuple(map(str, roots | {f.parent for f in own})))


def _is_own(file: Path, roots: set[Path]) -> bool:
    """Whether it is the user's, and not of an environment that lies in the user's folder."""
    inside = any(file.is_relative_to(root) for root in roots)
    return inside and "site-packages" not in file.parts
