"""Lines of a process, waited for no longer than it may take."""

from __future__ import annotations

import subprocess
import threading
from typing import IO

LIMIT_S = 60.0


def read_line(process: subprocess.Popen[str], stream: IO[str] | None) -> str:
    """Its next line; empty at its end. A process that says nothing is killed.

    Nothing else could end the wait: a thread that reads can't be interrupted, nor a loop be closed
    before its threads.
    """
    assert stream is not None
    watchdog = threading.Timer(LIMIT_S, process.kill)
    watchdog.start()
    try:
        return stream.readline()
    finally:
        watchdog.cancel()
