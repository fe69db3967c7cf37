"""The append table: every row of both pure decisions, and the loop around them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from perdure.durable import append as module
from perdure.durable.append import (
    InLog,
    Overtaken,
    Rejected,
    Result,
    Step,
    after_append,
    after_read,
    append,
    is_end,
    is_ours,
)
from perdure.entities.address import Address
from perdure.entities.entropy import SystemEntropy
from perdure.streams.codec import digest
from perdure.streams.commit import FORMAT, Commit, Sealed, Stored, seal
from perdure.streams.port import (
    AppendAnswer,
    Appended,
    NoAck,
    Refused,
    Unreachable,
    WrongLast,
)

from .logs import SilentLog

A1 = Address("account", "a-1")


def sealed(id: str) -> Sealed:
    return seal(
        Commit(
            v=FORMAT,
            id=id,
            prev="",
            version=0,
            runner="r",
            time=datetime(2026, 1, 1, tzinfo=UTC),
            outcomes=(),
        )
    )


def stored(id: str, sequence: int) -> Stored:
    kept = sealed(id)
    return Stored(sequence, 0, kept.data, kept.mark)


FOREIGN = Stored(7, 0, b'{"stream":"X","seq":1}', None)
DAMAGED = Stored(7, 0, sealed("ours").data.replace(b"r", b"s"), sealed("ours").mark)


@pytest.mark.parametrize(
    ("answer", "step"),
    [
        (Appended(7), Step.ADOPT),
        (WrongLast(), Step.READ),
        (NoAck("timeout"), Step.READ),
        (Refused(10047, "no space"), Step.READ),
    ],
)
def test_what_an_answer_means(answer: AppendAnswer, step: Step) -> None:
    assert after_append(answer) is step


@pytest.mark.parametrize(
    ("last", "expected", "owned", "refusals", "step"),
    [
        (stored("ours", 7), 5, True, 0, Step.ADOPT),
        (stored("ours", 7), 5, False, 9, Step.ADOPT),  # it is in the log, whatever else
        (None, 0, True, 0, Step.PUBLISH),
        (stored("other", 5), 5, True, 0, Step.PUBLISH),
        (stored("other", 5), 5, True, module.REFUSALS, Step.GIVE_UP),
        (stored("other", 6), 5, True, 0, Step.RELOAD),
        (stored("other", 6), 5, False, 0, Step.DROP),
        (FOREIGN, 5, True, 0, Step.RELOAD),
        (DAMAGED, 5, True, 0, Step.RELOAD),
        (None, 5, True, 0, Step.RELOAD),  # the log lost its tail: the fold is void
        (stored("another", 5), 5, True, 0, Step.RELOAD),  # so it did, and gave 5 out again
        (stored("another", 5), 5, False, 0, Step.DROP),
    ],
)
def test_what_the_leaders_word_means(
    last: Stored | None, expected: int, owned: bool, refusals: int, step: Step
) -> None:
    got = after_read(
        last,
        commit_id="ours",
        expected=expected,
        end=sealed("other").mark,
        owned=owned,
        refusals=refusals,
    )
    assert got is step


def test_a_log_ends_with_a_message_of_that_number_and_hash() -> None:
    assert is_end(FOREIGN, FOREIGN.sequence, digest(FOREIGN.data))
    assert is_end(None, 0, "")
    assert not is_end(FOREIGN, FOREIGN.sequence + 1, digest(FOREIGN.data))
    assert not is_end(FOREIGN, FOREIGN.sequence, digest(b"another"))


def test_only_the_commit_id_makes_it_ours() -> None:
    assert is_ours(stored("ours", 1), "ours")
    assert not is_ours(stored("other", 1), "ours")
    assert not is_ours(FOREIGN, "ours")
    assert not is_ours(DAMAGED, "ours")


class Script(SilentLog):
    """A log that answers as told."""

    def __init__(self, answers: list[AppendAnswer], lasts: list[Stored | Unreachable | None]):
        self.answers, self.lasts = answers, lasts
        self.published: list[str] = []

    async def append(self, address: Address, commit: Sealed, *, expected: int) -> AppendAnswer:
        self.published.append(commit.id)
        return self.answers.pop(0)

    async def last(self, address: Address) -> Stored | None:
        last = self.lasts.pop(0)
        if isinstance(last, Unreachable):
            raise last
        return last


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_BASE_S", 0.0)


def owned() -> bool:
    return True


def gone() -> bool:
    return False


async def appended(log: Script, owns: Callable[[], bool], epoch: int = 1) -> Result:
    """Append our commit behind the message 5 that the leader vouched for on connection 1."""
    return await append(
        log,
        log,
        A1,
        sealed("ours"),
        expected=5,
        end=sealed("other").mark,
        owned=owns,
        live=owned,
        epoch=lambda: epoch,
        vouched=1,
        entropy=SystemEntropy(),
    )


@pytest.mark.parametrize(
    ("answers", "lasts", "owns", "result", "publishes"),
    [
        ([Appended(6)], [], owned, InLog(6), 1),
        ([NoAck("lost")], [stored("ours", 6)], owned, InLog(6), 1),
        ([NoAck("lost"), Appended(6)], [stored("other", 5)], owned, InLog(6), 2),
        ([NoAck("l"), WrongLast()], [stored("other", 5), stored("ours", 6)], owned, InLog(6), 2),
        ([NoAck("l")], [Unreachable("x"), stored("ours", 6)], owned, InLog(6), 1),
        ([WrongLast()], [stored("other", 6)], owned, Overtaken(owned=True), 1),
        ([WrongLast()], [stored("other", 6)], gone, Overtaken(owned=False), 1),
        (
            [Refused(10047, "no space")] * 3,
            [stored("other", 5)] * 3,
            owned,
            Rejected("10047: no space"),
            3,
        ),
    ],
)
async def test_a_commit_is_published_until_its_fate_is_known(
    answers: list[AppendAnswer],
    lasts: list[Stored | Unreachable | None],
    owns: Callable[[], bool],
    result: object,
    publishes: int,
) -> None:
    log = Script(list(answers), list(lasts))
    got = await appended(log, owns)
    assert got == result
    assert log.published == ["ours"] * publishes
    assert not log.answers
    assert not log.lasts


async def test_on_another_connection_the_leader_is_asked_before_anything_is_published() -> None:
    for last, result in ((stored("other", 5), InLog(6)), (stored("another", 5), Overtaken(True))):
        log = Script([Appended(6)], [last])
        got = await appended(log, owned, epoch=2)
        assert got == result
        assert log.published == (["ours"] if isinstance(result, InLog) else [])
