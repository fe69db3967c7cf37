"""Intake: what a caller is told of a command that there isn't."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Retry
from perdure.streams.asks import ENVELOPE_BYTES
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


LARGE = "x" * (ENVELOPE_BYTES + 1)


@pytest.mark.parametrize(
    "envelope",
    [
        [1, "ask", {"type": "add", "n": 1}, "k", None, LARGE],
        [1, "ask", {"type": "add", "n": 1}, "k", None, "r", LARGE],
        [1, "status", None, None, None, "r", None, None, None, None, False, LARGE],
        [1, "result", None, "k", None, "r", None, None, None, None, False, LARGE],
    ],
)
async def test_what_is_beside_a_payload_is_bounded(envelope: list[object]) -> None:
    async with world(counter) as w:
        error = (await w.ask("c", envelope))["error"]
        assert error["type"] == "MalformedMessage"
        assert "envelope" in error["cause"]


async def test_what_waits_is_counted_with_all_that_it_keeps() -> None:
    """A command's payload is a part of its message, which stays with it."""
    async with world(counter, defect_retry=Retry(attempts=2, base=0.3)) as w:
        runner, trace = w.runners[0][0], "y" * 3000
        broken = [1, "ask", {"type": "break", "how": "always"}, "k", None, "r", *[None] * 5, trace]
        broken[10] = False
        waits = asyncio.create_task(w.ask("c", broken))
        await w.until(lambda: runner.statistics().asks == 1)
        assert runner.statistics().bytes > len(trace)
        later = asyncio.create_task(
            w.ask("d", [1, "result", None, "later", None, "r", *[None] * 4, False, trace])
        )
        await w.until(lambda: runner.statistics().asks == 2)
        assert runner.statistics().bytes > 2 * len(trace)
        await w.ask("d", {"type": "add", "n": 1}, key="later")
        await asyncio.gather(waits, later)
        assert runner.statistics().bytes == 0
