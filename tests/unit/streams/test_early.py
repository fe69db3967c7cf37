"""Calls whose loop rings early by its own clock, and so stands just before the moment that they
wait for: they end, and send nothing in the meantime."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from perdure import RpcClientError, SendTimeout, Settings
from perdure.entities.address import Address
from perdure.streams.port import NoStream, PublishAnswer
from tests.bank import Account, Deposit
from tests.unit.streams.owner import Asked, World
from tests.unit.streams.virtual import run

EARLY_S = 0.0005
FEW = 50
"""Attempts of a call that waits for two seconds, at most."""


class Leaderless:
    """A command stream that takes nothing while its server starts."""

    def __init__(self) -> None:
        self.tries = 0

    async def publish(
        self, address: Address, data: bytes, headers: Mapping[str, str] | None = None
    ) -> PublishAnswer:
        self.tries += 1
        if self.tries > FEW:
            raise SystemExit(f"tries to store it {self.tries} times")
        await asyncio.sleep(0)
        return NoStream()


def test_an_ask_that_nobody_answers() -> None:
    async def main() -> None:
        world = await World.hosted()

        def silent(number: int, asked: Asked) -> None:
            if number > FEW:
                raise SystemExit(f"asks {number} times")

        world.owner.says = silent
        with pytest.raises(SendTimeout):
            await world.cluster.at(Account, "a-1").ask(Deposit(5), timeout=2)
        assert len(world.owner.asked) >= 2

    run(main(), early_s=EARLY_S)


def test_a_tell_that_is_not_stored() -> None:
    async def main() -> None:
        world = await World.hosted(settings=Settings(ask_timeout=0.5))
        session: Any = world.session
        session.commands = commands = Leaderless()
        with pytest.raises(SendTimeout):
            await world.cluster.at(Account, "a-1").tell(Deposit(5))
        assert commands.tries >= 2

    run(main(), early_s=EARLY_S)


def test_a_tell_without_a_connection() -> None:
    async def main() -> None:
        world = await World.hosted(settings=Settings(ask_timeout=0.5))
        world.broker.disconnect(world.session, reconnect=False)
        with pytest.raises(RpcClientError, match="no connection"):
            await world.cluster.at(Account, "a-1").tell(Deposit(5))

    run(main(), early_s=EARLY_S)
