"""Answers: how an outcome or an error goes back to those who asked.

Every answer leaves through `Answers.send`, which publishes below the allowed prefixes only: a
caller's reply subject must not make the runner write anywhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import UNSET, structs

from ..entities.address import Address
from ..entities.errors import ClusterError, advice_to
from ..entities.tagged import to_wire
from ..streams.asks import Answer, encode_answer, raw, reply_allowed
from ..streams.commit import Commit, Outcome
from ..streams.port import Asks
from .counts import Counts, Way
from .item import Asker, Item

logger: logging.Logger = logging.getLogger("perdure.answers")


FLOW = "flow:"
"""Before a token, in the place of a tell's reply subject: who asks is a flow."""


TELL_S = 10.0
"""How often at most one type's runner warns of reply subjects that it may not answer to."""


class Answers:
    """Sends answers about the entities of one type."""

    def __init__(
        self,
        asks: Asks,
        prefixes: tuple[str, ...],
        push: Callable[[str, bytes], None] | None = None,
        counts: Counts | None = None,
    ) -> None:
        """`push` brings an outcome to a flow that waits for it; errors are added to `counts`."""
        self._counts = counts or Counts()
        self._asks = asks
        self._prefixes = prefixes
        self._push = push
        self._unsent = 0
        self._told_at = -TELL_S

    def allowed(self, reply: str) -> bool:
        """Whether an answer may go there."""
        return reply_allowed(reply, self._prefixes)

    def send(self, askers: Iterable[Asker], data: bytes) -> None:
        """The same answer to each. A reply subject outside the prefixes gets none, and a log."""
        for asker in askers:
            reply = asker.reply
            if self._push is not None and reply.startswith(FLOW):
                self._push(reply, data)
            elif self.allowed(reply):
                self._asks.send(reply, data)
            elif reply:  # else nobody waits for it
                self.not_answered("no answer was sent", reply)

    def not_answered(self, what: str, reply: str) -> None:
        """Tell it, but not each time: who asks so may do it a thousand times a second."""
        now = asyncio.get_running_loop().time()
        self._unsent += 1
        level = logging.DEBUG
        if now >= self._told_at + TELL_S:
            level, self._told_at = logging.WARNING, now
        more = f" ({self._unsent} such so far)" if self._unsent > 1 else ""
        why = forbidden(reply, self._prefixes)
        logger.log(level, "%s: %s%s", what, why, more, extra={"action": "reply.forbidden"})

    def error(
        self,
        askers: Iterable[Asker],
        error: ClusterError,
        address: Address,
        key: str | None,
        way: Way = "ask",
    ) -> None:
        """An error, told to each asker with its own request id."""
        self._counts.answered(way, "error", error.tag)
        for asker in askers:
            self.send([asker], error_answer(error, address, key, asker))

    def error_of(self, item: Item, error: ClusterError, address: Address) -> None:
        """An error of one command, to all who asked for it."""
        may = error.may_have_taken_effect or item.published
        if item.way == "ask":  # a tell has an outcome, or comes again
            self._counts.answered("ask", "error", error.tag)
        for asker in item.askers:
            if not asker.reply.startswith(FLOW):  # a flow waits for what is recorded
                self.send([asker], error_answer(error, address, item.key, asker, may=may))


def forbidden(reply: str, prefixes: tuple[str, ...]) -> str:
    """Why nothing may be answered there, and what would allow it."""
    allowed = ", ".join(f"{prefix}.…" for prefix in prefixes)
    return f"the reply subject {reply[:100]!r} isn't below {allowed} (setting: reply_prefixes)"


def error_answer(
    error: ClusterError,
    address: Address,
    key: str | None,
    asker: Asker,
    sequence: int | None = None,
    *,
    may: bool | None = None,
) -> bytes:
    """An error as bytes. A bare client can't repeat with the same key, so it gets to check.

    `sequence` is that of the commit which the verdict was read from, if there is one; `may` says
    better than the error whether it may have taken effect. Under overload most answers are made
    here, so the error is not copied, which would cost three times as much.
    """
    may = error.may_have_taken_effect if may is None else may
    look = asker.plain and key is None and may
    told: Any = structs.replace(
        to_wire(error),
        address=str(address),
        key=key,
        request_id=asker.request,
        may_have_taken_effect=may,
        advice="check" if look else advice_to(key, error),
    )
    return encode_answer(Answer(error=raw(told), seq=sequence))


def outcome_answer(outcome: Outcome, sequence: int, version: int) -> bytes:
    """A recorded outcome as bytes: a reply, a failure, or a dead letter's error."""
    if outcome.dead is not None:
        return encode_answer(Answer(error=outcome.dead.error, seq=sequence, version=version))
    if outcome.failure is not UNSET:
        return encode_answer(Answer(failure=outcome.failure, seq=sequence, version=version))
    return encode_answer(Answer(reply=outcome.reply, seq=sequence, version=version))


def versions(commit: Commit) -> list[int]:
    """The entity's version after each outcome of a commit."""
    if len(commit.outcomes) == 1:
        return [commit.version]
    after: list[int] = []
    version = commit.version - sum(len(outcome.events) for outcome in commit.outcomes)
    for outcome in commit.outcomes:
        version += len(outcome.events)
        after.append(version)
    return after
