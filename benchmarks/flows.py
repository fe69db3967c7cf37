"""What flows cost: beside plain tells to the same entities, on the same server, slice by slice.

`straight`: a flow without waits does what a plain command does, and commits as often; how much
processor time it takes more. `kinds`: what a step, a sleep, an ask of another entity, a deferred
(asked, suspended, resumed by its token) and an exclusive one cost, in commits and processor time.
`rates`: how many deferreds a second are suspended and resumed by 1, 64 and 256 clients.
Commits are counted in the logs, tells and timers in their streams. Processor time is that of
server, runner and caller, for as many commands of each kind, each to an entity of its own.

    make bench-flows                                 six minutes
    make bench-flows ARGS='--only straight --on default --rounds 9'
    make bench-flows ARGS='--only straight --profile profiles'    needs py-spy

Exit codes: 0 all targets are met, 1 one is missed or something failed, 2 wrong usage, 130 stopped.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import msgspec
from rich.console import Console

from perdure.deploy.process import run_until_signalled
from perdure.streams.subjects import Subjects

from .contenders import WARM_CLIENTS, Contender, started
from .flow_caller import FlowLoad, Kind
from .options import PROFILE_S, count
from .orders import Perdure
from .process import Child
from .profile import NoProfiler, profile, profiler
from .raw_link import api
from .results import Slice
from .scenarios import CLIENTS, ENTITIES, ENVIRONMENTS, Environment
from .servers import Servers, running
from .verdict import Figure, add_files, judged, new_folder

PARTS = ("straight", "kinds", "rates")
WHERE = {one.name: one for one in ENVIRONMENTS if one.replicas == 1}
TITLES: dict[Kind, str] = {
    "plain": "a plain tell",
    "straight": "a flow without waits",
    "step": "a step",
    "sleep": "a sleep",
    "ask": "an ask of another entity",
    "deferred": "a deferred, resumed",
    "exclusive": "the same, exclusive",
}
KINDS: tuple[Kind, ...] = ("plain", "step", "sleep", "ask", "deferred", "exclusive")

STRAIGHT_MOST = 1.5
"""Times a plain tell's processor time that a flow without waits may take."""
CYCLE_MOST = 3.0
"""Commits that a flow may take which is suspended once and resumed."""

ROUNDS, FEWER = 5, 3
"""Of slices: where a ratio is judged, and where it is only told."""
COMMAND_BYTES = 2**26
"""Each command stream's size, which the server reserves."""
NAMESPACE = "flows"

Made: TypeAlias = tuple[int, int, int]
"""Messages stored so far: commits, tells, and in the stream of timers."""


class Cost(msgspec.Struct, frozen=True):
    """What commands of one kind cost, each."""

    slice: Slice
    commits: float
    tells: float
    timers: float

    @property
    def parts_ms(self) -> tuple[float, float, float]:
        """Processor time of server, runner and caller. Raises RuntimeError without /proc."""
        spent, scale = self.slice.cpu_s, 1000 / self.slice.completed
        if spent is None:
            raise RuntimeError("there is no /proc, so processor time isn't known")
        return scale * spent.server, scale * spent.worker, scale * spent.caller

    @property
    def cpu_ms(self) -> float:
        """Processor time of all three."""
        return sum(self.parts_ms)


class Flows(Contender):
    """The runner of tills, and its caller."""

    def __init__(self, servers: Servers, folder: Path, settings: dict[str, object]) -> None:
        spec = Perdure(servers.url, NAMESPACE, settings)
        start = partial(Child.start, spec=spec, folder=folder, source=None)
        worker, caller = partial(start, "flow_host"), partial(start, "flow_caller")
        super().__init__("flows", NAMESPACE, servers, worker, caller)
        self._subjects = Subjects(NAMESPACE)

    async def cost(self, kind: Kind, clients: int, entities: int) -> Cost:
        """One command of a kind to each entity. Raises RuntimeError if one fails."""
        before = await self._made()
        done = await self.carried(FlowLoad("tell", clients, entities, kind=kind))
        after = await self._made()
        if done.completed != entities:
            raise RuntimeError(f"{kind}: {done.completed} of {entities} commands were carried")
        made = [(b - a) / entities for a, b in zip(before, after, strict=True)]
        return Cost(done, *made)

    async def carried(self, load: FlowLoad) -> Slice:
        """A load, until all that it began has ended. Raises RuntimeError if one fails."""
        done = await self.slice(load)
        if done.errors:
            raise RuntimeError(f"{load.kind}: {done.errors} commands failed")
        return done

    async def _drained(self) -> bool:
        """Whether all flows have ended, and their timers are forgotten.

        Each waits at most once. All commands were stored before: once there are none, each flow
        waits or has ended. One that waits has a timer; once there is none, each has ended or has a
        tell that wakes it. Once these are gone, too, all have ended.
        """
        return not (await self._tells() or await self._timers() or await self._tells())

    async def _tells(self) -> int:
        streams = map(self._subjects.command_stream, ("till", "account"))
        return sum([await self._state(stream, "messages") for stream in streams])

    async def _timers(self) -> int:
        return await self._state(self._subjects.time_stream, "messages")

    async def _made(self) -> Made:
        types, subjects = ("till", "account"), self._subjects
        logs = [await self._state(subjects.log_stream(one), "last_seq") for one in types]
        tells = [await self._state(subjects.command_stream(one), "last_seq") for one in types]
        return sum(logs), sum(tells), await self._state(subjects.time_stream, "last_seq")

    async def _state(self, stream: str, what: str) -> int:
        info = await api(self._servers.client, f"STREAM.INFO.{stream}")
        return int(info["state"][what])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the process with code 2, or 0 for --help."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flows",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", choices=PARTS, nargs="+", default=PARTS, help="which parts; default: all")
    add("--on", choices=WHERE, nargs="+", default=list(WHERE), help="which sync; default: both")
    add("--commands", type=count, default=1_000, help="of a slice that counts; default: 1000")
    add("--clients", type=count, default=64, help="of such a slice; default: 64")
    add("--rounds", type=count, help="of slices in turn; default: 5, and 3 of kinds and rates")
    add("--slice-s", type=float, default=1.5, help="of a slice of the rates; default: 1.5")
    add(
        "--profile",
        type=Path,
        metavar="DIR",
        help="write what runner and caller spend time in, with plain tells and with flows that "
        f"don't wait, {PROFILE_S:g} s each; needs py-spy",
    )
    add_files(parser)
    options = parser.parse_args(arguments)
    if not 0 < options.slice_s < 600:
        parser.error("--slice-s: a number of seconds below 600")
    try:
        if options.profile is not None:
            profiler()
    except NoProfiler as error:
        parser.error(str(error))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; the exit code."""
    options = parse(arguments)
    errors = Console(stderr=True, highlight=False)

    async def work(figures: list[Figure]) -> None:
        folder = new_folder(options.store, "flows-")
        try:
            for name in options.on:
                await measure(options, WHERE[name], folder / name, figures, errors)
        finally:
            shutil.rmtree(folder)

    return run_until_signalled(judged(work, "flows", options.json, errors))


async def measure(
    options: argparse.Namespace,
    environment: Environment,
    folder: Path,
    figures: list[Figure],
    errors: Console,
) -> None:
    """All parts that are wanted, on one server; figures are added as they are known."""
    name = environment.name
    async with running(environment, folder) as servers:
        flows = Flows(servers, folder, {"command_stream_bytes": COMMAND_BYTES})
        async with started(flows):
            await warmed(options, flows)
            if "straight" in options.only:
                errors.print(f"{name}: straight")
                rounds = options.rounds or ROUNDS
                found = await costs(options, flows, ("plain", "straight"), rounds)
                figures += straight(name, found)
            if "kinds" in options.only:
                errors.print(f"{name}: kinds")
                rounds = options.rounds or FEWER
                figures += kinds(name, await costs(options, flows, KINDS, rounds))
            for clients in CLIENTS if "rates" in options.only else ():
                errors.print(f"{name}: rates, {clients} clients")
                figures += await rates(options, name, flows, clients)
            if options.profile is not None:
                await profiled(options, name, flows)


async def warmed(options: argparse.Namespace, flows: Flows) -> None:
    """Send something to each entity, so that none is loaded while it is measured."""
    most = max(options.commands, ENTITIES if "rates" in options.only else 0)
    await flows.carried(FlowLoad("tell", WARM_CLIENTS, most))
    if "kinds" in options.only:  # whom they ask, too
        await flows.carried(FlowLoad("tell", WARM_CLIENTS, options.commands, kind="ask"))


async def costs(
    options: argparse.Namespace, flows: Flows, of: Sequence[Kind], rounds: int
) -> dict[Kind, list[Cost]]:
    """Slices of each kind in turn. Each round begins with another one."""
    found: dict[Kind, list[Cost]] = {kind: [] for kind in of}
    for number in range(rounds):
        at = number % len(of)
        for kind in (*of[at:], *of[:at]):
            found[kind].append(await flows.cost(kind, options.clients, options.commands))
    return found


def straight(name: str, found: dict[Kind, list[Cost]]) -> list[Figure]:
    """What a flow without waits costs beside a plain tell."""
    ratios = _times(found, "straight")
    commits = [cost.commits for cost in found["straight"]]
    return [
        *_spent(name, "plain", found),
        *_spent(name, "straight", found),
        Figure("  commits", max(commits), "", 1.0, 1.0),
        Figure(
            "  times a plain tell, median of rounds", statistics.median(ratios), "", STRAIGHT_MOST
        ),
        Figure("  the least of the rounds", min(ratios)),
        Figure("  the most of them", max(ratios)),
    ]


def kinds(name: str, found: dict[Kind, list[Cost]]) -> list[Figure]:
    """What each kind of flow costs."""
    figures: list[Figure] = []
    for kind, mine in found.items():
        if kind == "plain":
            continue
        ratio = statistics.median(_times(found, kind))
        most = CYCLE_MOST if kind in ("deferred", "exclusive") else None
        figures += [
            *_spent(name, kind, found),
            Figure("  times a plain tell", ratio),
            Figure("  commits", max(cost.commits for cost in mine), "", most),
            Figure("  tells stored", statistics.median(cost.tells for cost in mine)),
            Figure("  messages of timers", statistics.median(cost.timers for cost in mine)),
        ]
    return figures


def _times(found: dict[Kind, list[Cost]], kind: Kind) -> list[float]:
    """How many times the processor time of a plain tell in the same round. The clock counts in
    10 ms: a very short round may have taken none, and says nothing."""
    pairs = zip(found[kind], found["plain"], strict=True)
    return [mine.cpu_ms / max(its.cpu_ms, 1e-9) for mine, its in pairs]


def _spent(name: str, kind: Kind, found: dict[Kind, list[Cost]]) -> list[Figure]:
    """The processor time of a kind, and who took it: medians of the rounds."""
    mine = found[kind]
    parts = zip(*(cost.parts_ms for cost in mine), strict=True)
    return [
        Figure(f"{name}: {TITLES[kind]}, CPU", statistics.median(c.cpu_ms for c in mine), "ms"),
        *(
            Figure(f"  {who}", statistics.median(part), "ms")
            for who, part in zip(("server", "runner", "caller"), parts, strict=True)
        ),
    ]


async def rates(
    options: argparse.Namespace, name: str, flows: Flows, clients: int
) -> list[Figure]:
    """How many deferreds a second are suspended, resumed and recorded, beside plain tells."""
    of: tuple[Kind, ...] = ("plain", "deferred")
    slices: dict[Kind, list[Slice]] = {kind: [] for kind in of}
    for number in range(options.rounds or FEWER):
        for kind in of if number % 2 == 0 else of[::-1]:
            load = FlowLoad("tell", clients, ENTITIES, options.slice_s, kind=kind)
            slices[kind].append(await flows.carried(load))
    plain, cycles = ([one.recorded for one in slices[kind]] for kind in of)
    ratio = statistics.median(mine / its for mine, its in zip(cycles, plain, strict=True))
    took_ms = statistics.median(one.p50_ms for one in slices["deferred"])
    return [
        Figure(f"{name}: plain tells, {clients} clients", statistics.median(plain), "/s"),
        Figure("  deferreds, suspended and resumed", statistics.median(cycles), "/s"),
        Figure("  times plain tells", ratio),
        Figure("  one of them, p50", took_ms, "ms"),
    ]


async def profiled(options: argparse.Namespace, name: str, flows: Flows) -> None:
    """After what is measured, since a profiler takes processor time, too."""
    options.profile.mkdir(parents=True, exist_ok=True)
    kinds: tuple[Kind, ...] = ("plain", "straight")
    for kind in kinds:
        load = FlowLoad("tell", options.clients, ENTITIES, PROFILE_S, kind=kind)
        await profile(flows, load, PROFILE_S, f"{name}-{kind}", options.profile.resolve())


if __name__ == "__main__":
    sys.exit(main())
