"""A connection between a session and the broker: what is sent on it arrives later, or never.

Whatever the broker says to a session goes through `post`, which runs it in a later turn of the
session's loop, in order: so no callback runs inside the call that caused it. It runs in the
context that the session was made in, never in the sender's, which is far away on a real server.
A cut connection drops what is on its way, as a broken TCP connection does.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, TypeVar

from ..port import Unreachable

T = TypeVar("T")


class Connection:
    """One session's connection, in the hands of both ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed: bool = False
        self._down = False
        self._epoch = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = contextvars.copy_context()

    def __repr__(self) -> str:
        return f"<Connection {self.name} {'up' if self.up else 'down'}>"

    @property
    def up(self) -> bool:
        """Whether both ends can be reached; a loop that was closed takes its sessions along."""
        gone = self._loop is not None and self._loop.is_closed()
        return not (self.closed or self._down or gone)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the session: the one that it was first used in."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def post(self, callback: Callable[..., None], *args: Any) -> None:
        """Run a callback at the session's end, unless the connection is cut before it arrives."""
        if self.up:
            self.loop.call_soon(self._arrive, self._epoch, callback, args, context=self._context)

    def _arrive(self, epoch: int, callback: Callable[..., None], args: tuple[Any, ...]) -> None:
        if epoch == self._epoch:
            callback(*args)

    @property
    def epoch(self) -> int:
        """Which connection this is: another number after each cut."""
        return self._epoch

    def demand(self) -> None:
        """Raises Unreachable without a connection."""
        if not self.up:
            raise Unreachable(f"{self.name}: no connection")

    async def answer(self, value: T) -> T:
        """The broker's answer, a turn of the loop later. Raises Unreachable if cut meanwhile."""
        epoch = self._epoch
        await self.turn()
        if epoch != self._epoch or not self.up:
            raise Unreachable(f"{self.name}: the connection was lost before the answer came")
        return value

    async def turn(self) -> None:
        """Let the loop run whatever was due before."""
        arrived: asyncio.Future[None] = self.loop.create_future()
        self.loop.call_soon(_arrived, arrived)
        await arrived

    def cut(self) -> None:
        """Break it: what is on its way is lost."""
        self._down = True
        self._epoch += 1

    def restore(self) -> None:
        """Make it anew."""
        self._down = False

    def close(self) -> None:
        """End it for good."""
        self.closed = True
        self._epoch += 1


def _arrived(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
