"""What is told of reply subjects that nobody may answer to: not each time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from perdure.durable.answers import TELL_S, Answers
from perdure.durable.item import Asker
from tests.unit.streams.virtual import run


class Nowhere:
    """Nothing is sent there."""

    def send(self, subject: str, data: bytes) -> None:
        pytest.fail(f"sent to {subject}")


def test_a_flood_of_them_is_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        asks: Any = Nowhere()
        answers = Answers(asks, ("_INBOX",))
        for _ in range(3):
            for n in range(1_000):
                answers.send([Asker(f"elsewhere.{n}")], b"")
            await asyncio.sleep(TELL_S)

    with caplog.at_level(logging.WARNING):
        run(main())
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert told[0].startswith("no answer was sent: the reply subject 'elsewhere.0' isn't below")
    assert told[2].endswith("(2001 such so far)")
