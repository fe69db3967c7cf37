"""An asyncio event loop without a clock and without I/O: its time jumps to the next timer.

Everything that a simulated world does runs here, in one thread, in an order that depends on
nothing but what was called: ready callbacks first in, first out; timers by time, then by the order
in which they were set. So one seed is one history, and an hour of waiting costs nothing.

A callback belongs to the `Process` of its context. One that is frozen keeps its callbacks until it
is thawed; one that crashed loses them for ever: no task is cancelled and no `finally` runs, as
after `kill -9`. Where nothing is left to do though the main task waits, that is a `Deadlock`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import sys
from asyncio import events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, TypeVar, cast

T = TypeVar("T")

STEP_LIMIT = 400_000
"""Callbacks in one run at most; a world that needs more is spinning."""


class Deadlock(AssertionError):
    """Nothing is ready and no timer is set, but the main task isn't done."""


class Endless(AssertionError):
    """The limit of steps was reached."""


class Killed(BaseException):
    """Unwinds the Python stack of a process that was killed in the middle of a callback.

    Not an Exception, so that no handler of the code under test takes it for a defect. What
    `finally` blocks do while it passes reaches nobody: the process is dead already.
    """


class Process:
    """What can crash and freeze: a runner or a client, with all its callbacks."""

    def __init__(self, loop: SimulatedLoop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.frozen = False
        self.slept_s = 0.0  # how long it was frozen in all
        self.steps = 0
        self.fuse: tuple[int, Callable[[], None]] | None = None
        self._held: list[_Soon] = []
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)

    def __repr__(self) -> str:
        how = "dead" if not self.alive else "frozen" if self.frozen else "alive"
        return f"<{self.name}: {how}, {self.steps} steps, {len(self._held)} held>"

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task of this process."""
        return self.loop.create_task(coroutine, context=self.context.copy())

    def later(self, delay_s: float, callback: Callable[..., object], *args: object) -> None:
        """Something arrives at this process after a delay."""
        self.loop.call_later(delay_s, callback, *args, context=self.context)

    def crash(self) -> None:
        """Never run again. From inside one of its own callbacks, raise `Killed` afterwards."""
        self.alive = False
        self._held.clear()

    def freeze(self) -> None:
        """Run nothing until `thaw`."""
        self.frozen = True
        self.slept_s -= self.loop.time()

    def thaw(self) -> None:
        """Run what was kept back, in its order, all at once."""
        self.frozen = False
        self.slept_s += self.loop.time()
        self.loop.resume(self._held)
        self._held = []

    def at_step(self, steps: int, action: Callable[[], None]) -> None:
        """Do something before the callback that comes after `steps` more of this process."""
        self.fuse = (self.steps + steps, action)

    def admit(self, handle: _Soon) -> bool:
        """Whether a callback may run now; keeps or drops it otherwise."""
        if self.alive and not self.frozen:
            self.steps += 1
            if self.fuse is not None and self.steps >= self.fuse[0]:
                action = self.fuse[1]
                self.fuse = None
                action()
                return self.admit(handle)
            return True
        if self.alive:
            self._held.append(handle)
        return False


PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)
"""The process that a callback belongs to; None for the world: servers, network, the test."""


class _Soon:
    """A callback that waits for its turn: asyncio's Handle, as far as asyncio uses it."""

    __slots__ = ("args", "callback", "context", "gone")

    def __init__(
        self, callback: Callable[..., object], args: tuple[object, ...], context: Context | None
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = contextvars.copy_context() if context is None else context
        self.gone = False

    def cancel(self) -> None:
        self.gone = True
        self.args = ()

    def cancelled(self) -> bool:
        return self.gone


class SimulatedLoop:
    """See the module. `uncaught` collects what no task and no callback caught.

    It has what asyncio needs of a loop for tasks, futures and timers, and nothing for I/O.
    """

    def __init__(self, step_limit: int = STEP_LIMIT) -> None:
        self.steps = 0
        self.uncaught: list[str] = []
        self._limit = step_limit
        self._now = 0.0
        self._ready: deque[_Soon] = deque()
        self._timers: list[tuple[float, int, _Soon]] = []
        self._timer_number = 0
        self._tasks: list[tuple[asyncio.Task[Any], Process | None]] = []
        self._sweep_at = 256
        self._closed = False
        self._running = False
        self._asyncios = cast("asyncio.AbstractEventLoop", self)

    # -- what asyncio asks of a loop ----------------------------------------------------------
    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def call_soon(
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> _Soon:
        handle = _Soon(callback, args, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> _Soon:
        return self.call_at(
            self._now + delay if delay > 0 else self._now, callback, *args, context=context
        )

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> _Soon:
        handle = _Soon(callback, args, context)
        self._timer_number += 1
        heapq.heappush(self._timers, (when, self._timer_number, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._asyncios)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self._asyncios, name=name or "task", context=context)
        # Held here, so that no garbage collection decides about a task's life.
        process = PROCESS.get() if context is None else context.get(PROCESS)
        self._tasks.append((task, process))
        if len(self._tasks) > self._sweep_at:
            self._tasks = [(t, p) for t, p in self._tasks if not t.done()]
            self._sweep_at = 2 * len(self._tasks) + 256
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self._closed or isinstance(error, Killed):
            return
        self.uncaught.append(f"{context.get('message')}: {error!r}")

    # -- running ------------------------------------------------------------------------------
    def resume(self, handles: list[_Soon]) -> None:
        """Make callbacks that a process kept back ready again."""
        self._ready.extend(handles)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run until `main` is done. Raises Deadlock, Endless, and what `main` raises."""
        task = self.create_task(main)
        hooks = sys.get_asyncgen_hooks()
        self._running = True
        sys.set_asyncgen_hooks(finalizer=self._close_generator)
        # A loop has to say that it runs, and asyncio has no public name for that.
        events._set_running_loop(self._asyncios)  # pyright: ignore[reportPrivateUsage]
        try:
            self._turn_until(task)
        finally:
            events._set_running_loop(None)  # pyright: ignore[reportPrivateUsage]
            sys.set_asyncgen_hooks(*hooks)
            self._running = False
        return task.result()

    def pending(self, process: Process) -> int:
        """How many tasks of a process aren't done."""
        return sum(owner is process and not task.done() for task, owner in self._tasks)

    def unretrieved(self) -> list[str]:
        """Exceptions of tasks that nobody looked at, whether garbage was collected or not."""
        return self.uncaught + [
            f"{task.get_coro()!r} failed unseen: {task.exception()!r}"
            for task, process in self._tasks
            if (process is None or process.alive)
            and task.done()
            and getattr(task, "_log_traceback", False)
        ]

    def close(self) -> None:
        """Forget everything that still waits, without running a line of it."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        for task, _ in self._tasks:
            if not task.done():
                _abandon(task)
        self._tasks.clear()

    def _turn_until(self, task: asyncio.Task[Any]) -> None:
        """One turn of the loop after another; all in one function, since there are so many."""
        ready, timers, pop = self._ready, self._timers, heapq.heappop
        while not task.done():
            if not ready:
                if not timers:
                    raise Deadlock(f"nothing to do at {self._now:.3f} s, but {task!r} waits")
                self._now = max(self._now, timers[0][0])
            while timers and timers[0][0] <= self._now:
                ready.append(pop(timers)[2])
            for _ in range(len(ready)):
                handle = ready.popleft()
                if handle.gone:
                    continue
                context = handle.context
                process = context.get(PROCESS)
                if process is not None and not process.admit(handle):
                    continue
                self.steps += 1
                try:
                    context.run(handle.callback, *handle.args)
                except Killed:
                    continue
                except Exception as error:
                    self.uncaught.append(f"in a callback: {error!r}")
            if self.steps > self._limit:
                raise Endless(f"{self.steps} steps, and only {self._now:.3f} s have passed")

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._closed:
            self.create_task(generator.aclose())


def _abandon(task: asyncio.Task[Any]) -> None:
    """End a task that will never be finished: its process was killed, or the run is over.

    Its `finally` blocks run now, at a known place, and reach nobody, since the loop is closed.
    """
    setattr(task, "_log_destroy_pending", False)  # noqa: B010  # asyncio's own; else it complains
    coroutine: Any = task.get_coro()
    with contextlib.suppress(Exception, Killed):
        coroutine.close()
