"""The situations that one runner and a zombie can meet, counted, so that we know they were met.

A simulation that finds nothing proves little if its worlds never came to the hard places. They are
seen from outside where that is possible (what passed a port, what is in the log), and by the
`action` of the log records of "perdure.*" elsewhere. Each must be met within 1,000 seeds.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import patch

from .evidence import Evidence
from .model import read_log

ACTIONS = {
    "append.conflict": "append condition failed",
    "append.unknown": "append without an acknowledgement",
    "append.refused": "append refused for another reason",
    "append.adopted": "lost acknowledgement, and adopted",
    "append.overtaken": "another commit came first",
    "append.rejected": "the log keeps refusing",
    "ledger.hit": "repeated command found in the ledger",
    "tell.processed": "tell below the watermark",
    "suspect.marked": "suspect marked",
    "snapshot.loaded": "snapshot loaded",
    "ledger.paged": "page of a ledger read",
    "snapshot.ignored": "snapshot refused",
    "snapshot.stored": "snapshot stored",
    "term.gap": "gap seen",
    "term.deleted": "term taken by another",
    "term.reconnected": "reconnect ended a term",
    "term.refused": "term refused",
    "shard.lost": "shard lost to another",
    "shard.forced": "shard taken by force",
    "shard.late": "shard not finished in time",
    "shards.assigned": "shards assigned anew",
    "member.joined": "runner joined",
    "member.gone": "runner gone",
    "member.dead": "dead runner found",
    "member.silent": "silent runner found",
    "member.expelled": "runner taken for dead",
    "stream.rewound": "rewound stream seen",
    "log.rewound": "log that lost its tail seen",
    "log.foreign": "foreign message in a log",
    "entity.passivated": "entity left memory",
    "entity.quarantined": "entity quarantined",
    "handler.defect": "defect retried",
    "state.stale": "stale fold found by the leader",
    "command.dead": "dead letter",
    "deadletter.not_copied": "copy of a dead letter not stored",
    "reply.forbidden": "forbidden reply subject",
    "append.way": "way of appending changed",
}
"""By the `action` of a log record."""

BROKEN = {
    "activation.failed",
    "shard.failed",
    "member.failed",
    "snapshot.failed",
    "intake.failed",
    "read.failed",
}
"""Actions that say that the code under test failed inside: each is a violation."""

BATCHES = (
    "batch acknowledged",
    "batch refused",
    "batch overtaken",
    "batch unknown, adopted",
    "batch of a dead sender stored",
)
"""What an atomic batch can come to."""

SEEN_OUTSIDE = (
    "zombie's append refused",
    "redelivery after append, before ack",
    "ask attached to one in progress",
    "ask refused: mailbox full",
    "tell refused: full",
    "one more runner",
    "deaf",
    "zombie",
    "partition",
    "runner crashed",
    "runner drained",
    "process killed by poison",
    "dead letter: poison",
    "dead letter: malformed",
    "dead letter: defect",
    "dead letter: unencodable",
    "dead letter: too_old",
    "dead letter: expired",
    "key with another payload",
    "repeated key, same reply",
    "made key too old, ask refused",
    *BATCHES,
)

ALL = (*SEEN_OUTSIDE, *ACTIONS.values())


class _Record:
    """A log record with what is read of it here; the real one costs ten times as much."""

    action = ""  # here, since a logger refuses an extra that the record itself has

    def __init__(self, *given: Any) -> None:
        _, self.levelno, _, _, self.msg, self.args, self.exc_info = given[:7]

    def getMessage(self) -> str:
        return self.msg % self.args if self.args else str(self.msg)


class _Listener(logging.Handler):
    def __init__(
        self, seen: Counter[str], evidence: Evidence, say: Callable[..., None] | None
    ) -> None:
        super().__init__(logging.DEBUG)
        self._seen, self._evidence, self._say = seen, evidence, say

    def handle(self, record: Any) -> bool:
        action: str = record.action
        self._seen[ACTIONS.get(action, f"log: {action}")] += 1
        if action in BROKEN:
            error = record.exc_info[1] if record.exc_info else None
            text = f"internal error, {action}: {record.getMessage()}: {error!r}"
            self._evidence.uncaught.append(text)
        if action == "tell.processed":
            _, address, name = record.args
            self._evidence.processed.add((str(address).partition("/")[2], name))
        if self._say is not None:
            self._say("log:", action, record.getMessage())
            if record.exc_info and action in BROKEN:
                self._say(*traceback.format_exception(record.exc_info[1]))
        return True


@contextmanager
def listening(
    seen: Counter[str], evidence: Evidence, say: Callable[..., None] | None
) -> Generator[None]:
    """Count what the code under test logs; nothing of it reaches other handlers meanwhile."""
    logger = logging.getLogger("perdure")
    before = logger.level, logger.propagate, logger.handlers[:]
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(cast("Any", _Record))
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.handlers[:] = [_Listener(seen, evidence, say)]
    try:
        with patch.object(logging, "_srcfile", None):  # as documented: nobody looks for the caller
            yield
    finally:
        logging.setLogRecordFactory(factory)
        logger.handlers[:] = before[2]
        logger.setLevel(before[0])
        logger.propagate = before[1]


def count_evidence(evidence: Evidence, seen: Counter[str]) -> None:
    """What the log and the calls tell in the end."""
    for entity, messages in evidence.logs.items():
        for recorded in read_log(entity, messages).outcomes:
            if recorded.dead is not None:
                seen[f"dead letter: {recorded.dead['reason']}"] += 1
    for call in evidence.calls:
        if call.other and call.error == "MalformedMessage":
            seen["key with another payload"] += 1
        if call.again and not call.other and (call.reply or call.failure):
            seen["repeated key, same reply"] += 1
