"""A FastStream subscriber of what happens to the accounts of bank.py: each event becomes a line of
a statement in SQLite, exactly once, in whatever order and however often messages come.

    pip install -e '.[cli,server]' 'faststream[nats,cli]'    # in perdure's folder
    cd examples && perdure dev bank.py                       # leave it running; elsewhere:
    NATS_URL=nats://127.0.0.1:4222 STATEMENTS=statements.db faststream run statements:app

An entity's log is a stream like any other: no runner is asked, and none notices. The durable
consumer is the place in it, which the server keeps; run as many of this program as you like, they
share the work. A message is acknowledged when its lines are stored, so it may come again, and an
event's version is what makes that harmless: the second time there is nothing to insert. What can't
be stored is not acknowledged, and comes again after a while. An event that this program doesn't
know is none of its lines: entities get new ones with any release.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import msgspec
from bank import Deposited, Withdrawn
from faststream import AckPolicy, FastStream
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats.js.api import ConsumerConfig

logger = logging.getLogger("statements")

LOG = JStream("PERDURE_LOG_account", declare=False)
"""The runners have made it. A subscriber that declared it would change its configuration."""
ACK_WAIT_S = 5.0
"""After how long the server gives a message again that wasn't acknowledged, in seconds: who had it
died, or couldn't store it. Far beyond what a batch takes."""
MARK = "Perdure-Commit"
"""The header of every commit: a message without it was written by somebody else, and is none."""
SCHEMA = """CREATE TABLE IF NOT EXISTS lines (
    account TEXT NOT NULL, version INTEGER NOT NULL, time TEXT NOT NULL, cents INTEGER NOT NULL,
    PRIMARY KEY (account, version)) WITHOUT ROWID"""

broker = NatsBroker(
    os.environ.get("NATS_URL", "nats://127.0.0.1:4222"),
    log_level=logging.DEBUG,  # two lines a message are for debugging
)
app = FastStream(broker)


class Outcome(msgspec.Struct, frozen=True):
    """What one command came to; most of it isn't of interest here."""

    events: list[msgspec.Raw] = []


class Commit(msgspec.Struct, frozen=True):
    """A message of the log, as docs/wire.md has it."""

    version: int
    """How many events the account has with these."""
    time: str
    outcomes: list[Outcome]


class Tagged(msgspec.Struct, frozen=True):
    """What every event has."""

    type: str


KNOWN: dict[str, type[Deposited | Withdrawn]] = {"deposited": Deposited, "withdrawn": Withdrawn}


class Line(NamedTuple):
    """One line of a statement."""

    account: str
    version: int
    time: str
    cents: int


def lines_of(subject: str, data: bytes) -> Iterator[Line]:
    """The lines that a commit has. Raises msgspec.DecodeError for what isn't one."""
    module = msgspec.json if data[:1] == b"{" else msgspec.msgpack  # the setting commit_format
    commit = module.decode(data, type=Commit)
    events = [event for outcome in commit.outcomes for event in outcome.events]
    account = id_of(subject.rpartition(".")[2])
    for version, raw in enumerate(events, commit.version - len(events) + 1):
        known = KNOWN.get(module.decode(raw, type=Tagged).type)
        if known is None:
            continue
        event = module.decode(raw, type=known)
        cents = event.cents if isinstance(event, Deposited) else -event.cents
        yield Line(account, version, commit.time, cents)


def id_of(token: str) -> str:
    """An id, of the last token of a subject: `=` and two digits stand for a byte."""
    plain = re.sub(r"=([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), token)
    return plain.encode("latin-1").decode()


def store(file: str, lines: list[Line]) -> int:
    """Insert those that aren't there yet; how many those were."""
    with closing(sqlite3.connect(file, timeout=30)) as db, db:
        db.execute(SCHEMA)
        return db.executemany("INSERT OR IGNORE INTO lines VALUES (?, ?, ?, ?)", lines).rowcount


@broker.subscriber(
    "perdure.log.account.*",
    stream=LOG,
    durable="statements",
    pull_sub=PullSub(batch_size=100),
    config=ConsumerConfig(ack_wait=ACK_WAIT_S),
    ack_policy=AckPolicy.MANUAL,  # when it is stored; else it comes again, and not at once
)
async def write(message: NatsMessage) -> None:
    """Put one commit on the statements. Its bytes: FastStream would decode JSON by itself."""
    subject = message.raw_message.subject
    if MARK not in message.headers:
        logger.warning("%s: not a commit, left out", subject)
    else:
        lines = list(lines_of(subject, message.body))
        await asyncio.to_thread(store, os.environ.get("STATEMENTS", "statements.db"), lines)
    await message.ack()
