"""A process that hosts, and can run a singleton: `python -m tests.unit.durable.singleton_child`.

It says in JSON, a line each, who it is, and when its run begins and ends.
"""

from __future__ import annotations

import asyncio
import json
import sys

from perdure import Settings, Singleton, connect
from perdure.deploy.process import run_until_signalled

from .keeper import keeper


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def work(handle: Singleton) -> None:
    say(begins=handle.term)
    try:
        await asyncio.Event().wait()
    finally:
        say(ends=handle.term)


async def main(url: str, namespace: str) -> int:
    settings = Settings(url=url, namespace=namespace, shards=4, command_stream_bytes=2**24)
    async with connect(serving=[keeper], settings=settings) as cluster:
        await cluster.singleton("work", work)
        say(runner=cluster.runner_id)
        await asyncio.Event().wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(run_until_signalled(main(*sys.argv[1:])))
