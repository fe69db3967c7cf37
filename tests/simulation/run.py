"""Run many seeds, and say in one line how to see each failing one again.

    python -m tests.simulation.run --seeds 10000 --jobs 2
    python -m tests.simulation.run --seed 4711 --trace
    python -m tests.simulation.run --planted early_ack --seeds 1000

Exit code 1 if a promise was broken (with `--planted`: if the planted bug was not caught), or if a
situation was never met in 1,000 seeds or more.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from multiprocessing import get_context

from .checker import kinds
from .derailing import OF_FLOWS
from .planted import PLANTED, caught, planted
from .simulate import Verdict, simulate
from .situations import ALL

CHUNK = 20
"""Seeds between two collections of garbage, and in one piece of work."""

ENOUGH = 1_000
"""Seeds within which every situation must be met, and every planted bug caught."""


def replay_line(
    seed: int, name: str | None = None, runners: int = 1, *, flows: bool = False
) -> str:
    """The command that shows one seed again."""
    plant = f" --planted {name}" if name else ""
    least = f" --runners {runners}" if runners > 1 else ""
    beside = " --flows" if flows else ""
    return f"python -m tests.simulation.run --seed {seed}{plant}{least}{beside} --trace"


def chunk(work: tuple[int, int, str | None, int, bool]) -> list[Verdict]:
    """Some seeds in a row; called in a worker process."""
    first, count, name, runners, flows = work
    with planted(name):
        verdicts = [
            simulate(seed, runners=runners, flows=flows) for seed in range(first, first + count)
        ]
    gc.collect()
    return verdicts


def verdicts_of(
    first: int, count: int, jobs: int, name: str | None, runners: int, flows: bool
) -> Iterator[Verdict]:
    """All verdicts, in the order of their seeds."""
    work = [
        (seed, min(CHUNK, first + count - seed), name, runners, flows)
        for seed in range(first, first + count, CHUNK)
    ]
    gc.freeze()
    if jobs == 1:
        for piece in work:
            yield from chunk(piece)
        return
    with get_context("fork").Pool(jobs) as pool:
        for verdicts in pool.imap(chunk, work):
            yield from verdicts


class Tally:
    """What came of many seeds."""

    def __init__(self) -> None:
        self.seeds = self.commands = self.faults = self.steps = 0
        self.failing: dict[int, list[str]] = {}
        self.situations: Counter[str] = Counter()
        self.met_in: Counter[str] = Counter()
        self.poor: list[int] = []
        self.caught = False  # the planted bug

    def add(self, verdict: Verdict) -> None:
        """One more seed."""
        self.seeds += 1
        self.commands += verdict.commands
        self.faults += verdict.faults
        self.steps += verdict.steps
        self.situations.update(verdict.situations)
        self.met_in.update(set(verdict.situations))
        if verdict.violations:
            self.failing[verdict.seed] = verdict.violations
        if verdict.commands < 200 or verdict.faults < 20:
            self.poor.append(verdict.seed)

    @property
    def missing(self) -> list[str]:
        """Situations that no seed met."""
        return [name for name in ALL if not self.situations[name]]


def report(tally: Tally, seconds: float, args: argparse.Namespace) -> Iterator[str]:
    """The summary, a line at a time; what failed comes last, where it is seen."""
    for situation in ALL:
        times, seeds_with = tally.situations[situation], tally.met_in[situation]
        yield f"  met: {situation}: {times} in {seeds_with} seeds"
    if tally.poor:
        yield f"  too small (200 commands, 20 faults): seeds {tally.poor[:5]}"
    by_kind: dict[str, list[int]] = {}
    for seed, found in tally.failing.items():
        for kind in kinds(found):
            by_kind.setdefault(kind, []).append(seed)
    for kind, seeds in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        again = replay_line(seeds[0], args.planted, args.runners, flows=args.flows)
        yield f"  {kind}: {len(seeds)} seeds, first {seeds[:5]}: {again}"
    yield (
        f"{tally.seeds} seeds, {tally.commands} commands, {tally.faults} faults in "
        f"{seconds:.1f} s ({tally.seeds / max(seconds, 1e-9):.1f} seeds a second); "
        f"{len(tally.failing)} seeds broke a promise"
    )


def show(seed: int, name: str | None, runners: int, *, trace: bool, flows: bool) -> int:
    """One seed, with its trace."""
    with planted(name):
        verdict = simulate(seed, trace=trace, runners=runners, flows=flows)
    for line in verdict.lines:
        print(line)
    print(
        f"seed {seed}: {verdict.commands} commands, {verdict.faults} faults, "
        f"{verdict.steps} steps, {verdict.seconds:.1f} s of its time, {verdict.fingerprint}"
    )
    for violation in verdict.violations:
        print("BROKEN", violation)
    return 1 if verdict.violations else 0


def many(args: argparse.Namespace) -> int:
    """Many seeds, with progress on the error output."""
    tally, begin = Tally(), time.monotonic()
    work = args.first, args.seeds, args.jobs, args.planted, args.runners, args.flows
    for verdict in verdicts_of(*work):
        tally.add(verdict)
        if verdict.violations and len(tally.failing) <= args.show:
            print(f"seed {verdict.seed}: {verdict.violations[0][:300]}")
            again = replay_line(verdict.seed, args.planted, args.runners, flows=args.flows)
            print(f"  again: {again}", flush=True)
        if args.planted and caught(verdict.violations):
            tally.caught = True
            break
        if tally.seeds % 100 == 0:
            rate = tally.seeds / (time.monotonic() - begin)
            print(f"{tally.seeds}/{args.seeds}, {rate:.1f} a second", file=sys.stderr, flush=True)
    for line in report(tally, time.monotonic() - begin, args):
        print(line)
    if args.planted:
        return 0 if tally.caught else 1
    never = tally.missing if tally.seeds >= ENOUGH else []
    if never:
        print(f"never met: {', '.join(never)}")
    return 1 if tally.failing or never or tally.poor else 0


def main(arguments: Iterable[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--runners", type=int, default=1, help="at least so many runners")
    parser.add_argument("--flows", action="store_true", help="with flows beside the rest")
    parser.add_argument("--planted", choices=sorted(PLANTED | OF_FLOWS), help="plant this bug")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: show everything")
    parser.add_argument("--show", type=int, default=10, help="failing seeds to show")
    args = parser.parse_args(list(arguments) if arguments is not None else None)
    args.flows = args.flows or args.planted in OF_FLOWS
    if args.seed is not None:
        return show(args.seed, args.planted, args.runners, trace=args.trace, flows=args.flows)
    return many(args)


if __name__ == "__main__":
    sys.exit(main())
