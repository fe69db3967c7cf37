"""Look-ups by the leader's word, while there may be no leader: who is silent is asked again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.streams.jetstream import api
from perdure.streams.port import Message, Unreachable

SETTING = api.LOOKUP_TRIES_S
TRIES_S = (0.02, 0.04, 0.06)
ANSWER = b'{"message": {"seq": 7, "time": "2026-01-01T00:00:00Z", "subject": "s"}}'


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "LOOKUP_TRIES_S", TRIES_S)


class Leaderless:
    """A connection on which so many requests get no answer; all that is asked is noted."""

    api = "$JS.API."

    def __init__(self, silent: int, *, cut: bool = False) -> None:
        self.asked: list[float] = []
        self._silent, self._cut = silent, cut

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> Message:
        self.asked.append(timeout_s)
        if len(self.asked) <= self._silent:
            if not self._cut:
                await asyncio.sleep(timeout_s)
            raise Unreachable("no answer")
        return Message("_INBOX.x", ANSWER)


async def look(connection: Any) -> api.RawMessage | None:
    return await api.lookup(connection, "LOG", {"seq": 7})


async def test_one_answer_is_enough() -> None:
    connection = Leaderless(0)
    found = await look(connection)
    assert found is not None
    assert found.seq == 7
    assert connection.asked == [TRIES_S[0]]


async def test_silence_is_asked_again() -> None:
    connection = Leaderless(2)
    found = await look(connection)
    assert found is not None
    assert connection.asked == list(TRIES_S)


async def test_it_gives_up_after_the_last_try() -> None:
    connection = Leaderless(99)
    with pytest.raises(Unreachable):
        await look(connection)
    assert connection.asked == list(TRIES_S)


async def test_a_connection_that_ends_is_told_at_once() -> None:
    connection = Leaderless(99, cut=True)
    with pytest.raises(Unreachable):
        await look(connection)
    assert connection.asked == [TRIES_S[0]]


def test_all_tries_together_take_as_long_as_any_request() -> None:
    assert sum(SETTING) == api.TIMEOUT_S
