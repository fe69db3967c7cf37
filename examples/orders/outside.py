"""The world outside of the shop, for an example: one SQLite file that all processes share.

`provider.py` and `desk.py` keep in it what a payment provider and an office would keep. It is not
part of the shop: the runner may be killed at any moment, and what was done outside stays done.
The variable ORDERS_OUTSIDE names the file; by default it is .demo/outside.db.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

FILE = "ORDERS_OUTSIDE"
BUSY_S = 10.0  # how long one process waits for another that writes

TABLES = """
CREATE TABLE IF NOT EXISTS charges (
    key TEXT PRIMARY KEY, card TEXT NOT NULL,
    taken INTEGER NOT NULL, given_back INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS requests (
    "order" TEXT PRIMARY KEY, cents INTEGER NOT NULL, token TEXT NOT NULL);
"""


def path() -> Path:
    return Path(os.environ.get(FILE, ".demo/outside.db"))


@contextmanager
def opened() -> Generator[sqlite3.Connection]:
    """The file, within one transaction: all of the block takes effect, or nothing."""
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file, timeout=BUSY_S, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # kept if a process is killed
        connection.execute("BEGIN IMMEDIATE")
        for statement in TABLES.split(";"):
            connection.execute(statement)
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()  # without COMMIT nothing has happened
