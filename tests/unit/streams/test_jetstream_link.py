"""A link's end, where nats-py can't end its client in an orderly way."""

from __future__ import annotations

import pytest

from perdure.streams.jetstream.link import Link
from perdure.streams.jetstream.reader import Reader


class Cut(Reader):
    """A client whose transport is gone before nats-py wrote its rest to it."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.closes = 0

    async def close(self) -> None:
        self.closes += 1
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to perform operation on <TCPTransport closed=True>"),  # uvloop's
        AttributeError("'NoneType' object has no attribute 'write'"),
        ConnectionResetError(),
    ],
)
async def test_a_link_that_was_cut_ends_without_a_word(error: Exception) -> None:
    client = Cut(error)
    link = Link(client)
    await link.close(flush=False)
    assert (client.closes, link.alive) == (1, False)
