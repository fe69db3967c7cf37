"""The report for people: one table an environment."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from .contenders import RAW, RAW_BATCHED
from .results import Results, Row, cpu, p50, p99, recorded

SAYS = {
    "ask": "ask by core",
    "stream": "ask by stream",
    "tell": "tell",
    "hot": "ask, one entity",
}


def show(results: Results, console: Console) -> None:
    """Print all tables."""
    machine = results.machine
    console.print(
        f"{machine.system}, {machine.cores} cores for all processes ({machine.processor}), "
        f"Python {machine.python}, nats-server {machine.nats_server}, nats-py {machine.nats_py}"
    )
    console.print(
        f"medians of {results.rounds} rounds of {results.seconds:g} s, least-most in brackets; "
        f"load average {machine.load_before:g} before, {machine.load_after:g} after"
    )
    for environment in dict.fromkeys(row.environment for row in results.rows):
        console.print()
        console.print(_table(results, environment))


def _table(results: Results, environment: str) -> Table:
    table = Table(title=environment, title_justify="left", box=None, pad_edge=False)
    table.add_column("what", no_wrap=True)
    for name in ("clients", "ops/s", "", "p50 ms", "p99 ms", "CPU ms", "of raw", "of batched"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("errors", justify="right")
    last = None
    for row in results.rows:
        if row.environment != environment:
            continue
        if (row.kind, row.clients) != last:
            table.add_row()
            table.add_row(SAYS.get(row.kind, row.kind), str(row.clients))
        last = row.kind, row.clients
        table.add_row(f"  {row.contender}", "", *cells(results, row))
    return table


def cells(results: Results, row: Row) -> list[str]:
    """The figures of one row, as text."""
    low, high = row.spread(recorded)
    return [
        number(row.median(recorded)),
        f"({number(low)}-{number(high)})",
        number(row.median(p50)),
        number(row.median(p99)),
        number(row.median(cpu)),
        ratio(results, row, RAW),
        ratio(results, row, RAW_BATCHED),
        str(row.errors),
    ]


def ratio(results: Results, row: Row, name: str) -> str:
    """The rate beside a raw client's in the same rounds."""
    other = results.find(row.environment, row.kind, row.clients, name)
    if other is None or other is row:
        return ""
    return f"{row.ratio(other, recorded):.2f}"


def number(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
