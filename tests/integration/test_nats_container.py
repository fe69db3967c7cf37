"""`perdure.containers`: a server with the right options, around an image that is given."""

from __future__ import annotations

import pytest

from perdure import Settings, connect
from perdure.containers import NatsContainer, NoEngine
from tests.bank import Account, Balance, Deposit, account


async def test_a_runner_on_it(image: str) -> None:
    with NatsContainer(image) as nats:
        settings = Settings(url=nats.url, shards=2, command_stream_bytes=2**24)
        async with connect(settings=settings, serving=[account]) as cluster:
            assert await cluster.at(Account, "a-1").ask(Deposit(5)) == Balance(5)


@pytest.mark.usefixtures("image")
def test_an_image_that_nobody_has() -> None:
    with pytest.raises(NoEngine), NatsContainer("perdure.invalid/nats:none"):
        pytest.fail("it started")
