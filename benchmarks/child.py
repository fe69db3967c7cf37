"""A process of a benchmark, from inside: it says that it is ready, takes orders, ends at EOF.

Orders come by standard input, so that a parent that dies takes all of its processes with it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from perdure.deploy.process import loop_factory

T = TypeVar("T")


class Parent:
    """The process that gives the orders."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def say(self, what: object) -> None:
        """Tell the parent something."""
        sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
        sys.stdout.buffer.flush()

    async def serve(self, do: Callable[[bytes], Coroutine[Any, Any, object]]) -> None:
        """Do what the parent orders and answer, until it leaves; that ends also what is begun."""
        line = await self._reader.readline()
        while line:
            following = asyncio.ensure_future(self._reader.readline())
            work = asyncio.ensure_future(do(line))
            await asyncio.wait({following, work}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():  # there is no order before the last one's answer: it left
                work.cancel()
                await asyncio.wait({work})
                return
            self.say(work.result())
            line = await following

    async def leave(self) -> None:
        """Wait until the parent has no more use for us."""
        await self._reader.read()


def run(main: Callable[[Parent, T], Coroutine[Any, Any, None]], spec: type[T]) -> None:
    """Run `main` with what stands on the command line, on uvloop where it is installed."""
    given = msgspec.json.decode(sys.argv[1], type=spec)

    async def with_parent() -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        await main(Parent(reader), given)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(with_parent())
