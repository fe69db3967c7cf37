"""A runner of the orders example: `python -m tests.chaos.shopkeeper`, its settings in the
environment. It hosts what `perdure run shop` hosts, without the command line's time to start.
"""

from __future__ import annotations

import asyncio
import json
import sys

from perdure import Settings, connect
from perdure.deploy.logs import configure, flush
from perdure.deploy.process import collecting_seldom, run_until_signalled
from perdure.deploy.watchdog import Watchdog

from .processes import ROOT

sys.path.insert(0, str(ROOT / "examples" / "orders"))

from shop import ENTITIES


async def main() -> int:
    """Host until a signal, then drain."""
    settings = Settings.load()
    with Watchdog(ends=True), collecting_seldom():
        async with connect(settings.url, serving=ENTITIES, settings=settings) as cluster:
            print(json.dumps({"runner": cluster.runner_id}), flush=True)
            await asyncio.Event().wait()
    return 0


if __name__ == "__main__":
    configure("info", json=True)
    try:
        raise SystemExit(run_until_signalled(main()))
    finally:
        flush()
