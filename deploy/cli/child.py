"""The other end of `devrunner.py`: a runner process as `perdure dev` sees it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from asyncio.subprocess import Process

import msgspec

from ..tied import tie
from .devrunner import PROGRAM, Given, Go, Loaded, Ready

DRAIN_MARGIN_S = 5.0
"""How much longer than `drain_timeout` it may take to end, in seconds, before it is killed."""


class Child:
    """One runner process, from loading to its end."""

    def __init__(
        self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.ended: asyncio.Task[int] = asyncio.ensure_future(process.wait())
        """Its exit code, when it comes."""
        self._process, self._reader, self._writer = process, reader, writer
        self._hosting = False

    def __repr__(self) -> str:
        return f"Child(pid={self._process.pid}, hosting={self._hosting})"

    @classmethod
    async def start(cls, given: Given) -> Child:
        """Start one with what is given, but its socket, which is made here."""
        ours, theirs = socket.socketpair()
        with theirs:
            argument = msgspec.json.encode(
                msgspec.structs.replace(given, socket=theirs.fileno())
            ).decode()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-B",  # two changes within a second would share one cached file
                "-c",
                PROGRAM,
                argument,
                pass_fds=(theirs.fileno(),),
                preexec_fn=tie(signal.SIGKILL),
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer)

    async def loaded(self) -> Loaded:
        """What it loaded; it has told why it failed. `files` is empty if it just ended."""
        line = await self._reader.readline()
        return msgspec.json.decode(line, type=Loaded) if line else Loaded(False, (), ())

    async def host(self, url: str, changed: tuple[str, ...] = ()) -> bool:
        """Let it go; whether it hosts then. If not, it has told why and ends."""
        self._writer.write(msgspec.json.encode(Go(url, changed)) + b"\n")
        self._hosting = True  # it may own shards from now on
        line = await self._reader.readline()
        if line:
            msgspec.json.decode(line, type=Ready)
        return bool(line)

    async def stop(self, drain_s: float) -> int:
        """Drain and end it, or just end it if it hosts nothing; its exit code."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM if self._hosting else signal.SIGKILL)
            await asyncio.wait({self.ended}, timeout=drain_s + DRAIN_MARGIN_S)
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self._writer.close()
        return await self.ended
