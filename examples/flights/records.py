"""From a file of flight records to the commands of each aircraft, in the order of the file.

One row is one flight. Its name is date, carrier, number, origin and scheduled departure, as in
`2013-01-01-UA-1545-EWR-0515`; the key of each of its commands is that name and the command's tag:
`2013-01-01-UA-1545-EWR-0515:depart`. The key says which intention it is, not which attempt, so
the file may be fed as often as one likes.

- `dep_time` is missing: the flight was cancelled: `Cancel`.
- `dep_time` and `arr_time` are there: `Depart`, `Arrive`. That holds too for a diverted flight
  that reached its destination in the end (`arr_time`, but no `arr_delay` and no `air_time`).
- `arr_time` is missing: it departed and never arrived: `Depart` alone.
- No tail number: the aircraft is `unknown`.
- The same row again is the same flight, and skipped. Two different rows of one name, an arrival
  without a departure, a distance that isn't a number: the file is refused, with the line.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from aircraft import Arrive, Cancel, Depart

from perdure import IdempotencyKey

UNKNOWN = "unknown"
MAX_ROWS = 500_000  # all rows are held in memory, at about 3 KB each; a month has 30,000
NEEDED = (
    *("year", "month", "day", "dep_time", "sched_dep_time", "arr_time"),
    *("carrier", "flight", "tailnum", "origin", "dest", "distance"),
)

FlightCommand: TypeAlias = Depart | Arrive | Cancel


class BadRecords(Exception):
    """The file isn't one of flight records. The text says which line, and why."""


@dataclass(frozen=True)
class Keyed:
    """One command, and the key that names it."""

    key: str
    command: FlightCommand


Flight: TypeAlias = tuple[Keyed, ...]


@dataclass
class Plan:
    """What to ask of whom."""

    aircraft: dict[str, list[Flight]] = field(default_factory=dict[str, list[Flight]])
    """By tail number: the commands of each of its flights, in the order of the file."""
    rows: int = 0
    """Flights: rows of the file without the repeated ones."""
    repeated: int = 0
    """Rows that stood in the file before, word for word; skipped."""
    commands: int = 0


def read(path: Path) -> Plan:
    """The plan of a file, `.csv` or `.csv.gz`.

    Raises BadRecords if it isn't one of flight records, OSError if it can't be read.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as lines:
            return plan_of(lines)
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error, csv.Error) as error:
        raise BadRecords(f"not a CSV file of flight records: {error}") from error


def plan_of(lines: Iterable[str]) -> Plan:
    """The plan of the lines of a CSV file, its header first. Raises BadRecords."""
    reader = csv.reader(lines, strict=True)
    header = next(reader, list[str]())
    missing = [column for column in NEEDED if column not in header]
    if missing:
        raise BadRecords(f"line 1: no column {', '.join(missing)}")
    plan, seen = Plan(), dict[str, list[str]]()
    for values in reader:
        if not values:  # an empty line
            continue
        try:
            _add(header, values, plan, seen)
        except ValueError as error:
            raise BadRecords(f"line {reader.line_num}: {error}") from error
    return plan


def _add(header: list[str], values: list[str], plan: Plan, seen: dict[str, list[str]]) -> None:
    if len(values) != len(header):
        raise ValueError(f"it has {len(values)} values for {len(header)} columns")
    name, tail, commands = commands_of(dict(zip(header, values, strict=True)))
    if name in seen:
        if seen[name] != values:
            raise ValueError(f"another flight of the name {name} stands above")
        plan.repeated += 1
        return
    if plan.rows == MAX_ROWS:
        raise ValueError(f"more than {MAX_ROWS:,} flights")
    seen[name] = values
    plan.aircraft.setdefault(tail, []).append(commands)
    plan.rows += 1
    plan.commands += len(commands)


def commands_of(row: dict[str, str]) -> tuple[str, str, Flight]:
    """A row's flight name, tail number and commands. Raises ValueError."""
    date = f"{int(row['year']):04}-{int(row['month']):02}-{int(row['day']):02}"
    scheduled = f"{int(row['sched_dep_time']):04}"
    name = f"{date}-{row['carrier']}-{row['flight']}-{row['origin']}-{scheduled}"
    tail = _given(row["tailnum"]) or UNKNOWN
    departed, arrived = _given(row["dep_time"]), _given(row["arr_time"])
    if not departed:
        if arrived:
            raise ValueError(f"{name} arrived at {arrived} and never departed")
        return name, tail, (_keyed(name, Cancel(name)),)
    miles = int(row["distance"])
    if miles < 0:
        raise ValueError(f"{name} has a distance of {miles} miles")
    depart = _keyed(name, Depart(name, row["dest"], miles))
    return name, tail, (depart, _keyed(name, Arrive(name))) if arrived else (depart,)


def _given(value: str) -> str | None:
    return None if value in ("", "NA") else value


def _keyed(name: str, command: FlightCommand) -> Keyed:
    return Keyed(IdempotencyKey(f"{name}:{type(command).__name__.lower()}"), command)
