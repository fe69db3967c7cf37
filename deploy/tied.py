"""Tied: a child process that ends when its parent does, however that ends.

`perdure dev` starts a server and a runner for somebody who sits before it. Killed, or left by a
second Ctrl-C, it can't stop them any more; left behind they would hold the port and the store. On
Linux the kernel ends them (PR_SET_PDEATHSIG). Elsewhere they stay, and the next `perdure dev` says
which process holds the store. `perdure run --workers` has its workers drained in the same way;
elsewhere those that a killed one leaves serve on, as any runners do, until they are ended.

Gotcha: the kernel means the *thread* that started the child. Start it from one that stays.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
"""From Linux's <sys/prctl.h>."""


def tie(number: signal.Signals) -> Callable[[], None] | None:
    """What a child must run before its program, to get this signal when we end; else None.

    For `preexec_fn`. Everything is looked up before, as a forked child may do little.
    """
    if sys.platform != "linux":
        return None
    libc, parent, value = ctypes.CDLL(None), os.getpid(), int(number)

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, value)
        if os.getppid() != parent:  # it ended before that
            os._exit(1)

    return in_child
