"""A runner in a process of its own: `python -m tests.chaos.host URL NAMESPACE ACTIONS`.

Each action that the tests count is one line in the file ACTIONS, written at once, since the
process is going to be killed.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

from perdure import Settings, serve

from .journal import journal

COUNTED = (
    "ledger.",
    "append.",
    "term.",
    "tell.",
    "snapshot.",
    "shard.",
    "activation.",
    "suspect.",
)


class Counted(logging.Handler):
    """Writes the stable action of each record that the tests count."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.DEBUG)
        self._file = path.open("a", buffering=1)

    def emit(self, record: logging.LogRecord) -> None:
        action = str(getattr(record, "action", ""))
        if action.startswith(COUNTED) or record.levelno >= logging.ERROR:
            self._file.write(f"{action or record.getMessage()}\n")


def main(url: str, namespace: str, appends: Any, actions: str) -> None:
    logger = logging.getLogger("perdure")
    logger.addHandler(Counted(Path(actions)))
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    settings = Settings(
        url=url, namespace=namespace, shards=8, snapshot_min_commits=20, appends=appends
    )
    asyncio.run(serve(journal, settings=settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
