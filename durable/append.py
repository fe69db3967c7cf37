"""The appender: one commit into the log, exactly once, whatever gets lost on the way.

What each answer means is decided by two pure functions, `after_append` and `after_read`; their
rows are the append table of docs/architecture.md. A stored message is ours only if it carries our
commit's id: never because a key matches, since another owner may have recorded the same command
with other outcomes beside it. Nothing is folded over another's commit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

from ..entities.address import Address
from ..entities.entropy import Entropy
from ..streams.codec import digest
from ..streams.commit import Damaged, Sealed, Stored, unseal
from ..streams.port import AppendAnswer, Appended, Log, NoAck, Refused, Unreachable, WrongLast

logger: logging.Logger = logging.getLogger("perdure.append")

RETRY_BASE_S = 0.05
RETRY_MAX_S = 2.0
"""How fast an unknown outcome is looked into again: soon after a lost message, gently while a
stream has no leader for seconds."""

ANOTHER = NoAck("the connection is another one")
"""Instead of an answer, where nothing was published."""

REFUSALS = 3
"""How often a log may refuse for another reason (no space, no permission) before callers hear."""


class Step(Enum):
    """What to do next with a commit."""

    ADOPT = "adopt"  # it is in the log
    READ = "read"  # see what the leader has
    PUBLISH = "publish"  # again, the same commit
    RELOAD = "reload"  # another commit came first: fold it, decide again in order
    DROP = "drop"  # another commit came first, and the shard isn't ours any more
    GIVE_UP = "give up"  # the log refuses


@dataclass(frozen=True, slots=True)
class InLog:
    """The commit is in the log, at this sequence."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Overtaken:
    """Another message is in its place; `owned`: whether the shard is still ours."""

    owned: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """The log refused it for another reason; nothing is stored."""

    why: str


Result: TypeAlias = InLog | Overtaken | Rejected


def after_append(answer: AppendAnswer) -> Step:
    """What an answer to the append means."""
    match answer:
        case Appended():
            return Step.ADOPT
        case WrongLast() | NoAck() | Refused():
            return Step.READ


def after_read(
    last: Stored | None,
    *,
    commit_id: str,
    expected: int,
    end: str,
    owned: bool,
    refusals: int,
) -> Step:
    """What the leader's last message of the entity means for our commit."""
    if last is not None and is_ours(last, commit_id):
        return Step.ADOPT
    if is_end(last, expected, end):
        return Step.GIVE_UP if refusals >= REFUSALS else Step.PUBLISH
    return Step.RELOAD if owned else Step.DROP


def is_end(last: Stored | None, sequence: int, end: str) -> bool:
    """Whether a log still ends with the message that has this sequence, and this hash.

    A log that lost its tail gives a sequence out again.
    """
    if last is None or last.sequence != sequence:
        return last is None and sequence == 0
    return digest(last.data) == end


def is_ours(stored: Stored, commit_id: str) -> bool:
    """Whether a stored message is the commit with this id."""
    try:
        commit = unseal(stored)
    except Damaged:
        return False
    return commit is not None and commit.id == commit_id


class Appender(Protocol):
    """Whoever sends commits to the log, alone or with others."""

    async def append(self, address: Address, commit: Sealed, *, expected: int) -> AppendAnswer:
        """As `Log.append`: the answer is about this commit alone."""
        ...


async def append(
    appender: Appender,
    log: Log,
    address: Address,
    sealed: Sealed,
    *,
    expected: int,
    end: str,
    owned: Callable[[], bool],
    live: Callable[[], bool],
    epoch: Callable[[], int],
    vouched: int,
    entropy: Entropy,
    first: AppendAnswer | None = None,
) -> Result:
    """Publish a commit until its fate is known; `first` is the answer if it was published once.

    `end` is the hash of the message that has the expected sequence, and `vouched` the connection
    (`epoch`) on which the leader said so: on another one it is asked again first. Ends only with
    an answer that is certain, or when nobody waits for it any more (`live`).
    """
    refusals = tries = 0
    while True:
        answer: AppendAnswer = ANOTHER
        if first is not None:
            answer, first = first, None
        elif epoch() == vouched:
            answer = await appender.append(address, sealed, expected=expected)
        if isinstance(answer, Appended):
            return InLog(answer.sequence)
        if isinstance(answer, Refused):
            refusals += 1
        _report(address, answer)
        try:
            last, vouched = await _last(log, address, live, epoch, entropy)
        except _Abandoned:
            return Overtaken(owned=False)
        step = after_read(
            last,
            commit_id=sealed.id,
            expected=expected,
            end=end,
            owned=owned(),
            refusals=refusals,
        )
        match step:
            case Step.ADOPT:
                assert last is not None
                _log(logging.DEBUG, "append.adopted", address, answer)
                return InLog(last.sequence)
            case Step.RELOAD | Step.DROP:
                if (0 if last is None else last.sequence) <= expected:
                    _log(logging.ERROR, "log.rewound", address, answer)
                return Overtaken(step is Step.RELOAD)
            case Step.GIVE_UP:
                return Rejected(_why(answer))
            case _:
                tries += 1
                if tries > 1 or refusals:
                    await asyncio.sleep(_delay(tries, entropy))


class _Abandoned(Exception):
    """Nobody waits for the commit any more."""


async def _last(
    log: Log,
    address: Address,
    live: Callable[[], bool],
    epoch: Callable[[], int],
    entropy: Entropy,
) -> tuple[Stored | None, int]:
    """The leader's word, however long it takes, and on which connection: without it nothing may be
    said."""
    tries = 0
    while True:
        if not live():
            raise _Abandoned
        before = epoch()
        try:
            return await log.last(address), before
        except Unreachable:
            tries += 1
            await asyncio.sleep(_delay(tries, entropy))


def _delay(tries: int, entropy: Entropy) -> float:
    longest: float = min(RETRY_MAX_S, RETRY_BASE_S * 2.0 ** min(tries - 1, 10))
    return longest * entropy.uniform(0.5, 1.0)


def _report(address: Address, answer: AppendAnswer) -> None:
    match answer:
        case WrongLast():
            _log(logging.DEBUG, "append.conflict", address, answer)
        case Refused():
            _log(logging.WARNING, "append.refused", address, answer)
        case _:
            _log(logging.DEBUG, "append.unknown", address, answer)


def _log(level: int, action: str, address: Address, answer: AppendAnswer) -> None:
    extra = {"action": action, "address": str(address)}
    logger.log(level, "%s: %s: %s", action, address, answer, extra=extra)


def _why(answer: AppendAnswer) -> str:
    return f"{answer.code}: {answer.why}" if isinstance(answer, Refused) else repr(answer)
