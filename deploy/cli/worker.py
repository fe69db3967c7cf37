"""A worker of `perdure run --workers`: a process with a runner, which a supervisor looks after.

It is what `perdure run` is without it, but for three things. What it can't do it tells the
supervisor, who tells it once for all workers (`supervisor.py`). Its log records have its number.
And it drains once, however often it is signalled: who has no patience kills it.
"""

from __future__ import annotations

import socket
import sys

import msgspec

from ...entities.errors import ClusterError
from ..logs import Level, configure
from ..process import run_until_signalled
from ..supervisor import Drained, Ready, Why
from .app import load_app
from .ending import ending
from .hosting import hosting
from .options import Common
from .output import Output, told
from .trouble import Trouble

PROGRAM = "from perdure.deploy.cli.worker import main; main()"
"""What Python is told to run."""

WHAT_CHARS = 10_000
"""What is told of an error's text, from its beginning: the parent reads lines of a mebibyte."""
TRACE_CHARACTERS = 100_000
"""What is told of a traceback, from its end: all but that of a recursion without end."""


class Given(msgspec.Struct, frozen=True):
    """What it is started with, as JSON in its only argument.

    Anybody on the machine can read that, so `url` is what the command line said and not what a
    variable or a file says, which may hold a password.
    """

    app: str
    worker: int
    url: str | None
    namespace: str | None
    log_level: Level
    log_json: bool
    socket: int = -1
    """The file descriptor of its end."""


class Telling(Output):
    """Tells the supervisor what is wrong instead of printing it."""

    def __init__(self, channel: socket.socket) -> None:
        super().__init__()
        self._channel = channel

    def trouble(self, trouble: Trouble) -> None:
        """What is wrong, and the next step; the user's own traceback with it."""
        trace = trouble.trace[-TRACE_CHARACTERS:]
        _say(self._channel, Why(trouble.what[:WHAT_CHARS], trouble.next_step, trace))

    def cluster_error(self, error: ClusterError, next_step: str) -> None:
        """A cluster error, as people are told it."""
        _say(self._channel, Why(told(error)[:WHAT_CHARS], next_step))


def main() -> None:
    """Run on this process's argument, and exit."""
    given = msgspec.json.decode(sys.argv[1], type=Given)
    with socket.socket(fileno=given.socket) as channel:
        channel.set_inheritable(False)  # a program that APP starts has no business with it
        sys.exit(_run(given, channel))


def _run(given: Given, channel: socket.socket) -> int:
    configure(given.log_level, json=given.log_json, worker=given.worker)
    return ending(
        Telling(channel),
        lambda: run_until_signalled(_host(given, channel), again=lambda _signal: None),
    )


async def _host(given: Given, channel: socket.socket) -> int:
    settings = Common(url=given.url, namespace=given.namespace).settings()
    async with hosting(load_app(given.app), settings, ends=True, health=True) as cluster:
        _say(channel, Ready())
        await cluster.drained.wait()
    _say(channel, Drained())
    return 0


def _say(channel: socket.socket, what: msgspec.Struct) -> None:
    channel.sendall(msgspec.json.encode(what) + b"\n")
