"""One of several runners: `python -m tests.chaos.member`, with its settings in the environment.

It does what `perdure run --log-json --log-level debug` does, without the second of processor time
that the command line takes to start: in a test that starts dozens, that would be felt by callers.
"""

from __future__ import annotations

import asyncio
import json

from perdure import Settings, connect
from perdure.deploy.logs import configure, flush
from perdure.deploy.process import collecting_seldom, run_until_signalled
from perdure.deploy.watchdog import Watchdog

from .journal import journal


async def main() -> int:
    """Host until a signal, then drain."""
    settings = Settings.load()
    with Watchdog(ends=True), collecting_seldom():
        async with connect(settings.url, serving=[journal], settings=settings) as cluster:
            print(json.dumps({"runner": cluster.runner_id}), flush=True)
            await asyncio.Event().wait()
    return 0


if __name__ == "__main__":
    configure("debug", json=True)
    try:
        raise SystemExit(run_until_signalled(main()))
    finally:
        flush()
