"""Workers: what `perdure run --workers` means, from the option to the supervised processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from ...entities.duration import seconds
from ...entities.settings import Settings
from ...entities.snowflake import MACHINES
from ..child import Child
from ..process import end_at_once, run_until_signalled
from ..supervisor import NotUnderstood, Supervisor
from .trouble import UsageError
from .worker import PROGRAM, Given

Workers: TypeAlias = int | Literal["auto"]

MOST_WORKERS = 64
"""Workers at most. Each takes some 60 MB and connections of its own, and a machine with more cores
than this is better divided, so that its loss isn't the loss of everything."""


PORTS = 65_535
"""The last port of TCP."""


def how_many(workers: Workers) -> int:
    """How many workers are meant. Raises UsageError."""
    if workers == "auto":
        return min(_cores(), MOST_WORKERS)
    if not 1 <= workers <= MOST_WORKERS:
        raise UsageError(
            f"--workers {workers}", f"give 1 to {MOST_WORKERS}, or auto: one for each core"
        )
    return workers


def machine_of(first: int | None, worker: int, count: int) -> int | None:
    """The machine number of a worker's snowflakes: each counts on from the setting `machine_id`.

    Without that each leases one. Raises UsageError if there are not enough numbers for all.
    """
    if first is None:
        return None
    if first + count > MACHINES:
        raise UsageError(
            f"machine_id {first} and {count} workers: the last number is {MACHINES - 1}",
            f"set machine_id to {MACHINES - count} or less, or take fewer --workers",
        )
    return first + worker


def port_of(first: int, worker: int, count: int) -> int:
    """Where a worker answers probes: each counts on from the setting `health_port`, so that each
    is a target of its own for who scrapes; 0: nowhere. Raises UsageError if a port can't be."""
    if not first:
        return 0
    if first + count - 1 > PORTS:
        raise UsageError(
            f"health_port {first} and {count} workers: the last port is {PORTS}",
            f"give --health-port {PORTS - count + 1} or less, or take fewer --workers",
        )
    return first + worker


def supervise(
    given: Given, count: int, settings: Settings, *, on_ready: Callable[[], None]
) -> int:
    """Keep so many workers running until SIGTERM or Ctrl-C, then drain them; the exit code.

    `given` is the first one's, `on_ready` is called when all of them host. Raises UsageError.
    """
    ports = [port_of(settings.health_port, number, count) for number in range(count)]
    machines = [machine_of(settings.machine_id, number, count) for number in range(count)]

    async def start(number: int) -> Child:
        return await Child.start(
            PROGRAM,
            msgspec.structs.replace(given, worker=number),
            tied=signal.SIGTERM,
            own_session=True,  # Ctrl-C is the supervisor's business
            env=_environment(machines[number], ports[number]),
        )

    supervisor = Supervisor(
        count, start, drain_s=seconds(settings.drain_timeout), on_ready=on_ready
    )

    def again(name: str) -> None:
        supervisor.kill()
        end_at_once(name)

    try:
        return run_until_signalled(supervisor.run(), again=again)
    except NotUnderstood as error:
        why = error.why
        raise UsageError(why.what, why.next_step, trace=why.trace) from error


def _environment(machine: int | None, port: int) -> dict[str, str]:
    machines = {} if machine is None else {"PERDURE_MACHINE_ID": str(machine)}
    return {**os.environ, **machines, "PERDURE_HEALTH_PORT": str(port)}


def _cores() -> int:
    """The cores that this process may use; where the system can't say, all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
