"""One process's connection to the broker: all that it sends and hears takes its time, or is lost.

What the broker does runs in the world's own context, never in the process's, so that a request
that is on its way is served although its sender crashed meanwhile. What comes back runs in the
process's context, where a frozen or dead process keeps or loses it.

`cut` breaks the connection: everybody who waits for an answer hears `Unreachable`, and what is on
its way back is lost. What was sent may still be served, as it may be when a TCP connection breaks
or a process dies; only `reset`, the end of the server itself, loses that, too.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from perdure.streams.port import Unreachable

from .loop import PROCESS, Process, SimulatedLoop
from .weather import Fate, Weather

T = TypeVar("T")

ACK_TIMEOUT_S = 2.0
"""How long a backend waits for an acknowledgement or an answer of the server."""


def world_context() -> contextvars.Context:
    """A context that belongs to no process."""
    context = contextvars.copy_context()
    context.run(PROCESS.set, None)
    return context


class Wire:
    """See the module."""

    def __init__(self, process: Process, weather: Weather, say: Callable[..., None]) -> None:
        self.process = process
        self.weather = weather
        self.say = say
        self.up = True
        self.epoch = 0
        self.server = 0  # which life of the server this is
        self.world = world_context()
        self._loop: SimulatedLoop = process.loop
        self._waiting: dict[asyncio.Future[Any], str] = {}
        self.deaf_until = 0.0  # until then it hears no news of members, and tells none
        self.overdue: list[Callable[[str], None]] = []  # consumers that are lost, and not told yet

    @property
    def deaf(self) -> bool:
        """Whether news of members don't pass right now."""
        return self._loop.time() < self.deaf_until

    async def call(
        self,
        what: str,
        operation: Callable[[], Coroutine[Any, Any, T]],
        *,
        timeout_s: float = ACK_TIMEOUT_S,
        hangs: bool = False,
    ) -> T:
        """Have the broker do something, and hear of it. Raises Unreachable: it may be done.

        `hangs`: the broker may never come to an answer.
        """
        if not self.up:
            raise Unreachable(f"{what}: no connection")
        fate = self.weather.fate(what)
        answer: asyncio.Future[T] = self._loop.create_future()
        self._waiting[answer] = what
        late = fate.there_s + fate.back_s > timeout_s
        if hangs or late or fate.request_lost or fate.answer_lost:
            self.process.later(timeout_s, fail, answer, f"{what}: no answer in {timeout_s} s")
        if not fate.request_lost:
            self.at_broker(fate.there_s, self._serve, operation, answer, fate)
        try:
            return await answer
        finally:
            del self._waiting[answer]

    def at_broker(self, delay_s: float, action: Callable[..., object], *args: object) -> None:
        """Something arrives at the broker, unless that ends before."""
        self._loop.call_later(
            delay_s, self._if_lives, self.server, action, args, context=self.world
        )

    def at_process(self, delay_s: float, action: Callable[..., object], *args: object) -> None:
        """Something arrives at the process, unless the connection is cut before."""
        self.process.later(delay_s, self._if_same, self.epoch, action, args)

    def cut(self) -> None:
        """Break the connection."""
        self.up = False
        self.epoch += 1
        for answer, what in list(self._waiting.items()):
            fail(answer, f"{what}: the connection broke")

    def reset(self) -> None:
        """The server ends, and begins a new life."""
        self.cut()
        self.server += 1

    def restore(self) -> None:
        """Make it anew: whatever lived on the old one is found lost by then, at the latest."""
        self.up = True
        overdue, self.overdue = self.overdue, []
        for on_lost in overdue:
            self.process.later(0.001, on_lost, "reconnected")

    def _if_same(
        self, epoch: int, action: Callable[..., object], args: tuple[object, ...]
    ) -> None:
        if epoch == self.epoch and self.up:
            action(*args)

    def _if_lives(
        self, server: int, action: Callable[..., object], args: tuple[object, ...]
    ) -> None:
        if server == self.server:
            action(*args)

    def _serve(
        self,
        operation: Callable[[], Coroutine[Any, Any, T]],
        answer: asyncio.Future[T],
        fate: Fate,
    ) -> None:
        self._step(operation(), answer, fate)

    def _step(self, work: Coroutine[Any, Any, T], answer: asyncio.Future[T], fate: Fate) -> None:
        """Run the broker's work until it waits: what a task does, in fewer turns of the loop."""
        try:
            awaited: asyncio.Future[Any] = work.send(None)
        except StopIteration as done:
            self._answer(answer, fate, None, done.value)
        except Exception as error:
            self._answer(answer, fate, error, None)
        else:
            awaited._asyncio_future_blocking = False  # pyright: ignore[reportPrivateUsage]
            awaited.add_done_callback(lambda _: self._step(work, answer, fate), context=self.world)

    def _answer(
        self, answer: asyncio.Future[T], fate: Fate, error: Exception | None, value: T | None
    ) -> None:
        if not fate.answer_lost:
            self.at_process(fate.back_s, _settle, answer, error, value)


def _settle(answer: asyncio.Future[T], error: Exception | None, value: T) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(value)


def fail(answer: asyncio.Future[Any], why: str) -> None:
    """Whoever waits for it hears that it is unknown, unless it came."""
    if not answer.done():
        answer.set_exception(Unreachable(why))
