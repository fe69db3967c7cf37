"""The watchdog: ends a process whose event loop is stuck.

A `decide` that never returns holds the loop, and with it heartbeats, acknowledgements and every
other entity of this process. Nothing inside the loop can help then, so a thread watches it from
outside. Ended, its shards go to others at once, and the command that did it gets its poison mark;
stuck, the process would hold them for ever.

It counts its own ticks instead of reading a clock: a process that was stopped or swapped out as a
whole stops counting too, and isn't blamed for it. A call that holds the interpreter itself (a
regular expression gone wild, a C extension) stops this thread as well; for that there is
faulthandler's timer, which needs no interpreter.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading

from .logs import flush

_log = logging.getLogger("perdure.watchdog")

TICK_S = 1.0
"""How often it looks, in seconds: costs one wake-up."""

STUCK_TICKS = 30
"""Ticks without a sign of life until the loop counts as stuck. No sane `decide` takes a
thousandth of that, nor does garbage collection; and five poison marks, so a dead letter, are
reached in minutes."""

HELD_S = 120.0
"""How long, in seconds, the interpreter may be held. Longer, as this one does count the time for
which the whole process was stopped."""

REPORT_S = 5.0
"""How long the report may take, in seconds: nobody may be reading it."""

STUCK_EXIT = 3
"""The exit code of a process that was ended for it: neither success nor refusal nor usage."""


class Watchdog:
    """Watches the running loop from a thread; a context manager.

    A stuck loop is logged with the stack of every thread. Then, if `ends`, the process is ended
    without any clean-up, which would need the loop; else it is watched on.
    """

    def __init__(
        self,
        *,
        ends: bool,
        tick_s: float = TICK_S,
        stuck_ticks: int = STUCK_TICKS,
        held_s: float = HELD_S,
    ) -> None:
        self._ends = ends
        self._tick_s = tick_s
        self._stuck_ticks = stuck_ticks
        self._held_s = held_s
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._silent = 0  # ticks without a sign of life

    def __enter__(self) -> Watchdog:
        """Watch the running loop."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._watch, args=(loop,), name="perdure-watchdog", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Watch no more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    @property
    def silent_s(self) -> float:
        """For how long the loop has given no sign of life, in seconds; from any thread."""
        return self._silent * self._tick_s

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        alive = threading.Event()
        alive.set()
        while not self._over.wait(self._tick_s):
            faulthandler.dump_traceback_later(self._held_s, exit=self._ends, file=_stderr())
            if alive.is_set():
                alive.clear()
                self._silent = 0
                loop.call_soon_threadsafe(alive.set)
                continue
            self._silent += 1
            if self._silent == self._stuck_ticks:
                self._report()

    def _report(self) -> None:
        """Tell it in another thread, since standard error may be what the loop is stuck on."""
        teller = threading.Thread(target=self._tell, name="perdure-report", daemon=True)
        teller.start()
        teller.join(REPORT_S)
        if self._ends:
            os._exit(STUCK_EXIT)

    def _tell(self) -> None:
        _log.critical(
            "the event loop has been stuck for %.1f s: a decide or evolve doesn't return",
            self._stuck_ticks * self._tick_s,
            extra={"action": "stuck"},
        )
        flush()
        faulthandler.dump_traceback(_stderr())


def _stderr() -> int:
    """Where stacks go: the real standard error, whatever stands in for it."""
    return sys.__stderr__.fileno() if sys.__stderr__ is not None else 2
