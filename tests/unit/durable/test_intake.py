"""Intake: what a caller is told of a command that there isn't."""

from __future__ import annotations

import pytest

from perdure.streams.codec import TEXT_CHARS

from .test_runner import counter
from .world import world


async def test_an_unknown_command_is_told_what_there_is() -> None:
    async with world(counter) as w:
        error = (await w.ask("c", b'{"type":"ad","n":1}'))["error"]
        assert error["cause"] == f"no command 'ad'; counter takes: {', '.join(counter.contracts)}"
        error = (await w.ask("c", b'{"n":1,"type":"' + b"x" * 5000 + b'"}'))["error"]
        assert error["cause"].startswith(f"no command '{'x' * 60}'; counter takes: ")
        assert len(error["cause"]) <= TEXT_CHARS


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"type":"add","n":"1"}', "counter: Expected `int`, got `str` - at `$.n`"),
        (b'{"n":1}', "counter: Object missing required field `type`"),
        (b'{"type":5}', "counter: Expected `str`"),
    ],
)
async def test_any_other_mistake_is_told_as_it_is(body: bytes, says: str) -> None:
    async with world(counter) as w:
        assert (await w.ask("c", body))["error"]["cause"].startswith(says)
