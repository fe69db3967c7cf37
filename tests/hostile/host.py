"""A runner in a process of its own: `python -m tests.hostile.host URL NAMESPACE ACTIONS [JSON]`.

Each noteworthy action is one line in the file ACTIONS: its name, a space, and the message. JSON
holds more settings. With `PERDURE_HOST_QUIET` only warnings are noted: a line costs time. With
`PERDURE_HOST_LOOK_S` tells that nobody is given are looked for so often, and taken at that age.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

import msgspec

from perdure import Settings, serve
from perdure.durable import undelivered

from .victim import victim


class Actions(logging.Handler):
    """Writes each record's stable action at once, since the process may be killed."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.DEBUG)
        self._file = path.open("a", buffering=1, encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        action = getattr(record, "action", f"log.{record.levelname.lower()}")
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {record.exc_info[1]!r}"
        self._file.write(f"{action} {' '.join(text.split())[:400]}\n")


def main(url: str, namespace: str, actions: str, more: str = "{}") -> None:
    root = logging.getLogger()
    root.addHandler(Actions(Path(actions)))
    quiet = "PERDURE_HOST_QUIET" in os.environ
    logging.getLogger("perdure").setLevel(logging.WARNING if quiet else logging.DEBUG)
    if "PERDURE_HOST_LOOK_S" in os.environ:
        undelivered.LOOK_S = undelivered.AGE_S = float(os.environ["PERDURE_HOST_LOOK_S"])
    given = {"url": url, "namespace": namespace, **json.loads(more)}
    settings = msgspec.convert(given, Settings)
    asyncio.run(serve(victim, settings=settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
