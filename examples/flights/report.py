"""What the demo found: the comparison with the file's own totals, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import msgspec
from aircraft import Logbook
from rich.console import Console
from rich.table import Table

Totals: TypeAlias = dict[str, dict[str, int]]
SHOWN = 10


@dataclass(frozen=True)
class Difference:
    """A number of one aircraft that isn't the same on both sides."""

    aircraft: str
    what: str
    entity: int | None
    file: int | None


@dataclass(frozen=True)
class Report:
    """One run of the demo, as `--json` prints it."""

    data: str
    store: str
    rows: int
    repeated_rows: int
    commands: int
    refused: int
    """Commands that an aircraft refused: the records contradict themselves."""
    aircraft: int
    commits: int
    """Commits in the log, by its last sequence after the run."""
    new_commits: int
    """By how much that sequence grew in this run."""
    seconds: float
    """From the first command to the last outcome."""
    commands_per_second: float
    most_miles: dict[str, int]
    totals: dict[str, int]
    differences: list[Difference]

    def show(self, console: Console) -> None:
        """For people."""
        console.print(self._handled())
        console.print(self._commits())
        if self.refused:
            console.print(f"refused: {self.refused:,} commands: the records contradict themselves")
        table = Table("aircraft", "miles", title="Most miles", title_justify="left", box=None)
        table.columns[1].justify = "right"
        for tail, miles in self.most_miles.items():
            table.add_row(tail, f"{miles:,}")
        console.print(table)
        sums = ", ".join(f"{count:,} {what}" for what, count in self.totals.items())
        if self.differences:
            console.print(f"check: {len(self.differences):,} totals differ from totals.py's:")
            for it in self.differences[:SHOWN]:
                console.print(f"  {it.aircraft} {it.what}: {it.entity}, in the file {it.file}")
        else:
            console.print(f"check: {self.aircraft:,} aircraft, {sums}: equal to totals.py's")

    def _handled(self) -> str:
        return (
            f"{self.rows:,} rows handled: {self.commands:,} commands to {self.aircraft:,} "
            f"aircraft in {self.seconds:.1f} s, {self.commands_per_second:,.0f} a second"
        )

    def _commits(self) -> str:
        if self.new_commits == 0:
            return f"0 new commits: all was done before, nothing changed ({self.commits:,} in all)"
        before = self.commits - self.new_commits
        went_on = f", {before:,} were there before" if before else ""
        return f"{self.new_commits:,} new commits{went_on}"


def as_totals(books: dict[str, Logbook]) -> Totals:
    """Logbooks as plain numbers, in the form of totals.py."""
    return {tail: msgspec.structs.asdict(book) for tail, book in books.items()}


def summed(totals: Totals) -> dict[str, int]:
    """The totals of all aircraft together."""
    sums: dict[str, int] = {}
    for one in totals.values():
        for what, count in one.items():
            sums[what] = sums.get(what, 0) + count
    return sums


def most_miles(totals: Totals) -> dict[str, int]:
    """The tail numbers with the most miles, the most first. `unknown` is no aircraft."""
    ranked = sorted((-one["miles"], tail) for tail, one in totals.items() if tail != "unknown")
    return {tail: -miles for miles, tail in ranked[:SHOWN]}


def differences(entity: Totals, file: Totals) -> list[Difference]:
    """Each number that one side hasn't, or has otherwise."""
    found: list[Difference] = []
    for tail in sorted(entity.keys() | file.keys()):
        ours, theirs = entity.get(tail, {}), file.get(tail, {})
        for what in sorted(ours.keys() | theirs.keys()):
            if ours.get(what) != theirs.get(what):
                found.append(Difference(tail, what, ours.get(what), theirs.get(what)))
    return found
