"""One of several runners: `python -m tests.chaos.member`, with its settings in the environment.

It does what `perdure run --log-json --log-level debug` does, without the second of processor time
that the command line takes to start: in a test that starts dozens, that would be felt by callers.

There is a trap in it: where the file TRAP is, the next decision takes it away and stops the whole
process, with SIGSTOP, before what was decided is appended. A stop at a moment of chance hits that
one in no run of a hundred, and it is the one in which a runner wakes up with something to append.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any, NoReturn

from perdure import Decision, Entity, Settings, connect
from perdure.deploy.logs import Level, configure, flush
from perdure.deploy.process import collecting_seldom, run_until_signalled
from perdure.deploy.watchdog import Watchdog

from .journal import Journal, Look, Write, Written, decide, evolve

TRAP = Path(os.environ["CHAOS_TRAP"])


def decide_or_stop(state: Journal, command: Write | Look) -> Decision[Written]:
    """The journal's decision, unless the trap is set: then the process stops here for a while."""
    if isinstance(command, Write) and _taken():
        os.kill(os.getpid(), signal.SIGSTOP)
    return decide(state, command)


def _taken() -> bool:
    """Whether the trap was there. Who set it may have taken it away, so only one of both does."""
    try:
        TRAP.unlink()
    except FileNotFoundError:
        return False
    return True


journal = Entity(Journal(), decide_or_stop, evolve)


async def host(entity: Entity[Any, Any]) -> int:
    """Host until a signal, then drain."""
    settings = Settings.load()
    with Watchdog(ends=True), collecting_seldom():
        async with connect(settings.url, serving=[entity], settings=settings) as cluster:
            print(json.dumps({"runner": cluster.runner_id}), flush=True)
            await asyncio.Event().wait()
    return 0


def main(entity: Entity[Any, Any], level: Level) -> NoReturn:
    """The whole process."""
    configure(level, json=True)
    try:
        raise SystemExit(run_until_signalled(host(entity)))
    finally:
        flush()


if __name__ == "__main__":
    main(journal, "debug")
