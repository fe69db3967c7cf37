"""A neighbour: `python -m tests.hostile.neighbour URL NAMESPACE` asks, and notes what it takes.

One line an ask on standard output: when it began (the machine's monotonic clock) and what it took,
in seconds. It ends when it is told to.
"""

from __future__ import annotations

import asyncio
import sys
import time

from .client import escape, plain

PAUSE_S = 0.002
"""Between two asks: some hundred a second, so that it doesn't load the machine itself."""
IDS = ("neighbour", "a neighbour in another shard")


async def main(url: str, namespace: str) -> None:
    client = await plain(url, namespace)
    number = 0
    while True:
        number += 1
        subject = client.ask_subject(escape(IDS[number % len(IDS)]))
        message = {"type": "add", "n": 1} if number % 4 < 2 else {"type": "total"}
        began = time.monotonic()
        answer = await client.request(subject, message)
        took = time.monotonic() - began
        assert "reply" in answer, answer
        print(f"{began:.6f} {took:.6f}", flush=True)
        await asyncio.sleep(PAUSE_S)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
