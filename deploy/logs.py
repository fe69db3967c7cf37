"""Logging of perdure's own processes: for people by default, one JSON object a line on request.

The library itself never configures logging; only a process that the command line starts does.
What is stable for programs is the `action` of a record, not its text.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

Level: TypeAlias = Literal["debug", "info", "warning", "error"]

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
        extra = {n: v for n, v in vars(record).items() if n not in _STANDARD and n != "action"}
        shown = "".join(f" {name}={value}" for name, value in extra.items())
        return super().formatMessage(record) + shown


def configure(level: Level, *, json: bool = False) -> None:
    """Log to standard error from this level on; what was configured before is replaced."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if json else HumanFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def silence() -> None:
    """Let the library's records go unheard where nobody configured logging."""
    for name in ("perdure", "nats"):
        logging.getLogger(name).addHandler(logging.NullHandler())
