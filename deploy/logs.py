"""Logging of perdure's own processes: for people by default, one JSON object a line on request.

The library itself never configures logging; only a process that the command line starts does.
What is stable for programs is the `action` of a record, not its text.

Records are written by a thread of their own. Whoever reads standard error may stop reading (a full
disk, a stuck collector, a pipe that nobody empties), and then a write waits for ever: without
that thread the event loop would wait with it, and every entity of the process.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

Level: TypeAlias = Literal["debug", "info", "warning", "error"]

WAITING = 10_000
"""Records that may wait to be written, a few MB; beyond it they are dropped and counted."""

FLUSH_S = 2.0
"""How long the end of a process waits for the rest to be written, in seconds."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the others are a record's `extra`."""

_HUMAN = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, its `extra`, a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in entry:
                entry[name] = value
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry, enc_hook=str).decode()


class HumanFormatter(logging.Formatter):
    """A record as a line of text, its `extra` behind it as `name=value`."""

    def __init__(self) -> None:
        super().__init__(_HUMAN, datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, before a traceback."""
        extra = {n: v for n, v in vars(record).items() if n not in _STANDARD}
        shown = "".join(f" {name}={value}" for name, value in extra.items())
        return super().formatMessage(record) + shown


class Unblocked(logging.Handler):
    """Hands records to a thread, which gives them to another handler; never waits."""

    def __init__(self, handler: logging.Handler, *, waiting: int = WAITING) -> None:
        super().__init__()
        self._handler = handler
        self._queue: queue.Queue[logging.LogRecord] = queue.Queue(waiting)
        self._dropped = 0
        threading.Thread(target=self._write, name="perdure-logs", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue it, or count it as dropped."""
        try:
            record.msg, record.args = record.getMessage(), None  # arguments may change later
            if self._dropped:
                self._queue.put_nowait(_dropped(self._dropped))
                self._dropped = 0
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1
        except Exception:  # arguments that don't fit the text
            self.handleError(record)

    def flush(self) -> None:
        """Wait until what was queued is written, but not for long."""
        with self._queue.all_tasks_done:
            self._queue.all_tasks_done.wait_for(
                lambda: not self._queue.unfinished_tasks, timeout=FLUSH_S
            )

    def _write(self) -> None:
        while True:
            self._handler.handle(self._queue.get())
            self._queue.task_done()


def _dropped(count: int) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "name": "perdure.logs",
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": f"{count} records were dropped: standard error was not read",
            "action": "logs.dropped",
        }
    )


class OfWorker(logging.Filter):
    """Gives each record the number of the worker that it comes from, where it names none."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        """Let all pass."""
        vars(record).setdefault("worker", self._worker)
        return True


def configure(level: Level, *, json: bool = False, worker: int | None = None) -> None:
    """Log to standard error from this level on; what was configured before is replaced.

    Where several processes write there, each record tells its `worker`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if json else HumanFormatter())
    if worker is not None:
        handler.addFilter(OfWorker(worker))
    logging.basicConfig(level=level.upper(), handlers=[Unblocked(handler)], force=True)


def flush() -> None:
    """Let what was logged be written, within a moment; the interpreter does so at its end."""
    for handler in logging.root.handlers:
        handler.flush()


def silence() -> None:
    """Let the library's records go unheard where nobody configured logging."""
    for name in ("perdure", "nats"):
        logging.getLogger(name).addHandler(logging.NullHandler())
