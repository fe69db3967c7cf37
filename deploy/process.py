"""The process of a runner: its event loop, its garbage, and how it ends.

SIGTERM, SIGINT and SIGHUP cancel what runs, once: leaving `async with connect(…)` then drains. A
second signal means it: the process ends at once, and what was in hand is given to the next owner,
as after a crash. Only SIGHUP doesn't count as a second one: a terminal that is closed sends it
once itself and once by its shell. Where it is ignored from the start (`nohup`), it stays so.
uvloop is used where it is installed, by a loop factory and never by `install()`,
which would change loops that aren't ours.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from .logs import flush

_log = logging.getLogger("perdure.process")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Kubernetes and systemd send the first, Ctrl-C the second, a closed terminal the third."""

YOUNG_OBJECTS = 20_000
"""How many more objects there are before the garbage collector looks at the new ones. Under load
hundreds of commands are in hand, each with dozens of objects that live for milliseconds; looked at
after every 700, as Python does by itself, they are found alive again and again, and that took a
quarter of a runner's time. What isn't in a circle is freed at once, as ever; 20,000 objects that
are take a few megabytes."""

HARD_EXIT = 1
"""The exit code after a second signal: it wasn't drained."""


def end_at_once(name: str) -> None:
    """What a second signal of this name does: end without draining."""
    _log.warning("%s again: ending without draining", name, extra={"action": "hard_exit"})
    flush()
    os._exit(HARD_EXIT)


def run_until_signalled(
    main: Coroutine[Any, Any, int],
    signals: Sequence[signal.Signals] = SIGNALS,
    *,
    again: Callable[[str], None] = end_at_once,
) -> int:
    """Run `main` on a new loop; its result, or 0 if one of the signals ended it, cleanly.

    `again` is told of each further signal, by name. Raises what `main` raises.
    """
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_until_signalled(main, signals, again))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's factory if uvloop is installed, else None: asyncio's own."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return None
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)


@contextmanager
def collecting_seldom() -> Generator[None]:
    """Garbage collection as a runner needs it: seldom, and without what was there before."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def _until_signalled(
    main: Coroutine[Any, Any, int],
    signals: Sequence[signal.Signals],
    again: Callable[[str], None],
) -> int:
    loop = asyncio.get_running_loop()
    task = loop.create_task(main)
    stopping = Stopping(task, again)
    heard = [n for n in signals if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, stopping.on_signal, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not stopping.asked:
            raise
        return 0
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


class Stopping:
    """What signals have asked for so far."""

    def __init__(self, task: asyncio.Task[int], again: Callable[[str], None]) -> None:
        self._task, self._again = task, again
        self.asked: bool = False

    def on_signal(self, number: int) -> None:
        """The first signal cancels the task, which drains; `again` hears of a second one."""
        name = signal.Signals(number).name
        if self.asked and number == signal.SIGHUP:
            return
        if self.asked:
            self._again(name)
            return
        self.asked = True
        _log.info("%s: draining", name, extra={"action": "drain"})
        self._task.cancel()
