"""What runners cost that have nothing to do, what a second one adds, how soon a handler starts.

`idle`: the processor time of a runner of 64 shards (4 types) without any command, and of the
servers, of one server and of a cluster of three. `workers`: `perdure run --workers 2` beside
`--workers 1`, in turn, on handlers that compute for 5 ms. `prompt`: at 100 commands a second, the
time from `ask` to the handler's start in another process.

    make bench-cluster                               six minutes, most of them idle
    make bench-cluster ARGS='--only workers prompt'

Exit codes: 0 all targets are met, 1 one is missed or something failed, 2 wrong usage, 130 stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import statistics
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from perdure import Cluster, connect
from perdure.deploy.process import run_until_signalled

from .closed import quantile
from .cluster_host import Hosted, Prompt, Take
from .contenders import ANSWER_S
from .host import settings_of
from .options import count
from .orders import Load, Perdure, Sample
from .process import ROOT, Child, child, cpu_s
from .scenarios import Environment
from .servers import Servers, running
from .verdict import Figure, add_files, judged, new_folder
from .waiting import until

PARTS = ("idle", "workers", "prompt")
ONE = Environment("r1", fsync=True, replicas=1, usual={})
EASY = Environment("default", fsync=False, replicas=1, usual={})
"""For the workers: server and caller share their two cores, so the less of it they take the more
is told of the workers."""
THREE = Environment("r3", fsync=True, replicas=3, usual={})

IDLE_MOST = 1.0
"""Percent of a core that an idle runner may take."""
WORKERS_LEAST = 1.6
"""Times one worker's throughput that two shall have, on two cores which all share."""
PROMPT_MOST_MS = 10.0
"""Milliseconds to a handler's start at p99; what is promised is ten times that."""

CLIENTS, ENTITIES = 64, 200
"""Of the workers' load: with fewer clients, chance leaves a worker without any now and then."""
RATE = 100
"""Commands a second of the prompt part."""
START_S = 30.0
"""How long a runner may take until it answers."""
END_S = 15.0
"""How long one may take to end: longer than its `drain_timeout`."""
COMMAND_BYTES = 2**25
"""Each command stream's size, which the server reserves."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the process with code 2, or 0 for --help."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", choices=PARTS, nargs="+", default=PARTS, help="which parts; default: all")
    add("--idle-s", type=float, default=60.0, help="idle before and while measured; default: 60")
    add("--rounds", type=count, default=5, help="of the workers' slices; default: 5")
    add("--slice-s", type=float, default=3.0, help="of one slice; default: 3")
    add("--commands", type=count, default=3_000, help="of the prompt part; default: 3000")
    add_files(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; the exit code."""
    options = parse(arguments)
    errors = Console(stderr=True, highlight=False)

    async def work(figures: list[Figure]) -> None:
        folder = new_folder(options.store, "cluster-")
        try:
            await measure(options, folder, figures, errors)
        finally:
            shutil.rmtree(folder)

    return run_until_signalled(judged(work, "a cluster", options.json, errors))


async def measure(
    options: argparse.Namespace, folder: Path, figures: list[Figure], errors: Console
) -> None:
    """All parts that are wanted; figures are added as they are known."""
    if "workers" in options.only:
        errors.print("workers")
        async with running(EASY, folder / "workers") as servers:
            figures += await workers(options, servers, folder)
    if "prompt" in options.only:
        errors.print("prompt")
        async with running(ONE, folder / "prompt") as servers:
            figures += await prompt(options, servers, folder)
    if "idle" in options.only:
        for environment in (ONE, THREE):
            errors.print(f"idle, {environment.name}: twice {options.idle_s:g} s")
            async with running(environment, folder / environment.name) as servers:
                figures += await idle(options, environment, servers, folder)


def spec_of(servers: Servers, namespace: str, **settings: Any) -> Perdure:
    """What perdure's processes need to know."""
    given = {"command_stream_bytes": COMMAND_BYTES, **settings}
    return Perdure(servers.url, namespace, given)


# -- idle ---------------------------------------------------------------------------------------
async def idle(
    options: argparse.Namespace, environment: Environment, servers: Servers, folder: Path
) -> list[Figure]:
    """The processor time of who has nothing to do, once all is done that follows a start."""
    spec = spec_of(servers, "idle", replicas=environment.replicas)
    async with child("cluster_host", Hosted(spec, idle=True), folder) as runner:
        await asyncio.sleep(options.idle_s)
        before, began = (cpu_s([runner.pid]), cpu_s(servers.pids)), time.perf_counter()
        await asyncio.sleep(options.idle_s)
        after, lasted_s = (cpu_s([runner.pid]), cpu_s(servers.pids)), time.perf_counter() - began
    own, theirs = (
        100 * (b - a) / lasted_s if a is not None and b is not None else float("nan")
        for a, b in zip(before, after, strict=True)
    )
    name = environment.name
    return [
        Figure(f"{name}: idle runner of 64 shards", own, "% of a core", most=IDLE_MOST),
        Figure(f"{name}: its server" + ("s" if environment.replicas > 1 else ""), theirs, "%"),
    ]


# -- workers ------------------------------------------------------------------------------------
async def workers(options: argparse.Namespace, servers: Servers, folder: Path) -> list[Figure]:
    """The same load for one worker and for two, in turn."""
    async with AsyncExitStack() as stack:
        callers: list[Child] = []
        for number in (1, 2):
            spec = spec_of(servers, f"workers{number}")
            await stack.enter_async_context(hosting(spec, number, folder))
            caller = await stack.enter_async_context(child("caller", spec, folder))
            await until(partial(answers, caller), START_S, f"an answer of {number} workers")
            await carried(caller, Load("ask", CLIENTS, ENTITIES))
            callers.append(caller)
        rates: list[list[float]] = []
        load = Load("ask", CLIENTS, ENTITIES, options.slice_s)
        for round in range(options.rounds):
            order = callers if round % 2 == 0 else callers[::-1]
            found = {caller.pid: (await carried(caller, load)).rate for caller in order}
            rates.append([found[caller.pid] for caller in callers])
    ratio = statistics.median(two / one for one, two in rates)
    one, two = (statistics.median(rate) for rate in zip(*rates, strict=True))
    return [
        Figure("one worker, 5 ms a command", one, "/s"),
        Figure("two workers", two, "/s"),
        Figure("  times one, median of rounds", ratio, least=WORKERS_LEAST),
    ]


async def answers(caller: Child) -> bool:
    """Whether commands come through, to each of some shards."""
    return not (await caller.order(Load("ask", CLIENTS, CLIENTS), Sample, ANSWER_S)).errors


async def carried(caller: Child, load: Load) -> Sample:
    """A load in which nothing may fail. Raises RuntimeError if something does."""
    sample = await caller.order(load, Sample, load.seconds + ANSWER_S)
    if sample.errors:
        raise RuntimeError(f"calls failed: {sample.errors}")
    return sample


@asynccontextmanager
async def hosting(spec: Perdure, number: int, folder: Path) -> AsyncGenerator[None]:
    """`perdure run --workers`, as an operator starts it."""
    program = "import sys; from perdure.deploy.cli import main; sys.exit(main())"
    settings = {f"PERDURE_{name.upper()}": str(value) for name, value in spec.settings.items()}
    known = os.environ.get("PYTHONPATH")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "run", "benchmarks.cluster_host:busy"),
        *("--workers", str(number), "--url", spec.url, "--namespace", spec.namespace),
        stdout=DEVNULL,
        stderr=DEVNULL,
        cwd=folder,
        env={
            **os.environ,
            **settings,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *([known] if known else [])]),
        },
        start_new_session=True,
    )
    try:
        yield
    finally:
        await ended(process)


async def ended(process: Process) -> None:
    """Let it drain; kill it if that takes too long."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), END_S)
        except TimeoutError:
            process.kill()  # its workers end with it
            await process.wait()


# -- prompt -------------------------------------------------------------------------------------
async def prompt(options: argparse.Namespace, servers: Servers, folder: Path) -> list[Figure]:
    """How long a command is on its way to the handler, at a rate that is no load."""
    spec = spec_of(servers, "prompt")
    async with (
        child("cluster_host", Hosted(spec, idle=False), folder),
        connect(settings=settings_of(spec)) as cluster,
    ):
        for number in range(RATE):
            await take(cluster, number)  # warm
        took_ms = sorted(await paced(cluster, options.commands))
    p50, p99 = (quantile(took_ms, part) for part in (0.50, 0.99))
    return [
        Figure(f"{RATE} commands a second: to the handler's start, p50", p50, "ms"),
        Figure("  p99", p99, "ms", most=PROMPT_MOST_MS),
        Figure("  the slowest", took_ms[-1], "ms"),
    ]


async def paced(cluster: Cluster, commands: int) -> list[float]:
    """Commands at their times, whether earlier ones have ended or not; each one's milliseconds."""
    began, calls = time.monotonic(), list[asyncio.Task[float]]()
    for number in range(commands):
        await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        calls.append(asyncio.create_task(take(cluster, number % RATE)))
    return await asyncio.gather(*calls)


async def take(cluster: Cluster, number: int) -> float:
    """One command; how long it took to its handler's start, in milliseconds."""
    command = Take(time.monotonic_ns())
    return await cluster.at(Prompt, f"prompt-{number}").ask(command) / 1e6


if __name__ == "__main__":
    sys.exit(main())
