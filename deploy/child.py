"""A child: a Python process of ours, with a socket between us over which it tells how it is.

The runner of `perdure dev` and the workers of `perdure run --workers` are such. It is given what
it needs as JSON in its only argument; over the socket both sides say one JSON object a line. It
ends when we do, however that comes (`tied.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from typing import Self

import msgspec

from .tied import tie

DRAIN_MARGIN_S = 5.0
"""How much longer than `drain_timeout` it may take to end, in seconds, before it is killed."""

LINE_BYTES = 1024**2
"""What it may say in one line: more than a traceback ever has."""


class Child:
    """One such process, from its start to its end."""

    def __init__(
        self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.ended: asyncio.Task[int] = asyncio.ensure_future(process.wait())
        """Its exit code, when it comes; a signal's number, negative, if that ended it."""
        self._process, self._reader, self._writer = process, reader, writer

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pid={self.pid}, code={self._process.returncode})"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @classmethod
    async def start(
        cls,
        program: str,
        given: msgspec.Struct,
        *,
        tied: signal.Signals,
        flags: Sequence[str] = (),
        own_session: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Self:
        """Start one with what is given, but its field `socket`, which is made here.

        `program` is Python code, `flags` are Python's, `tied` is the signal that it gets when we
        end. In an `own_session` it hears nothing of a terminal. Raises OSError.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES)
            argument = msgspec.json.encode(
                msgspec.structs.replace(given, socket=theirs.fileno())
            ).decode()
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # a user's queue.py in the current folder isn't ours
                    *flags,
                    "-c",
                    program,
                    argument,
                    pass_fds=(theirs.fileno(),),
                    preexec_fn=tie(tied),
                    start_new_session=own_session,
                    env=env,
                )
            except BaseException:
                writer.close()
                raise
        return cls(process, reader, writer)

    async def hear(self) -> bytes:
        """The next line that it says; empty when it says no more."""
        return await self._reader.readline()

    def say(self, what: msgspec.Struct) -> None:
        """Say something to it, if it still listens."""
        self._writer.write(msgspec.json.encode(what) + b"\n")

    async def stop(self, drain_s: float, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it; kill it if it doesn't end within `drain_s` and the margin; its exit code."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            await asyncio.wait({self.ended}, timeout=drain_s + DRAIN_MARGIN_S)
        if not self.ended.done():
            self.kill()
        code = await self.ended
        self._writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        return code

    def kill(self) -> None:
        """End it at once, if it is there."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
