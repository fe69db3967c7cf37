"""The report for people: one table an environment."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from .cold import direct_get_beside
from .results import RAW, RAW_BATCHED, Results, Row, p50, p99, recorded

SAYS = {
    "ask": "ask by core",
    "stream": "ask by stream",
    "tell": "tell",
    "hot": "ask, one entity",
}
FIGURES = ("ops/s", "", "p50 ms", "p99 ms", "CPU ms", "srv+run+call", "of raw", "batched", "p50 x")
LEGEND = """\
ops/s: medians of the rounds (least-most); of tells those whose outcome was recorded, while p50 and
p99 are the time until they were stored. CPU ms: processor time a command, of server, runner (or
raw worker) and caller. of raw, batched: ops/s beside the raw client's in the same round, with
single appends or batched. p50 x: p50 as a multiple of raw's; for a cold entity, of the time that
a direct get took."""


def show(results: Results, console: Console) -> None:
    """Print all tables."""
    machine = results.machine
    console.print(
        f"{machine.system}, {machine.cores} cores for all processes ({machine.processor}), "
        f"Python {machine.python}, nats-server {machine.nats_server}, nats-py {machine.nats_py}"
    )
    console.print(
        f"{results.rounds} rounds of {results.seconds:g} s; "
        f"load average {machine.load_before:g} before, {machine.load_after:g} after"
    )
    console.print(LEGEND)
    for environment in dict.fromkeys(row.environment for row in results.rows):
        console.print()
        console.print(_table(results, environment))


def _table(results: Results, environment: str) -> Table:
    table = Table(title=environment, title_justify="left", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("clients", *FIGURES, "errors"):
        table.add_column(name, justify="right", no_wrap=True)
    last = None
    for row in results.rows:
        if row.environment != environment:
            continue
        if (row.kind, row.clients) != last:
            if last is not None:
                table.add_row()
            table.add_row(SAYS.get(row.kind, row.kind), str(row.clients))
        last = row.kind, row.clients
        table.add_row(f"  {row.contender}", "", *cells(results, row))
    return table


def cells(results: Results, row: Row) -> list[str]:
    """The figures of one row, as text."""
    low, high = row.spread(recorded)
    return [
        number(row.median(recorded)) if high else "",
        f"({number(low)}-{number(high)})" if high else "",
        number(row.median(p50)),
        number(row.median(p99)),
        number(row.cpu_ms),
        "" if row.cpu_parts_ms is None else "+".join(f"{part:.2f}" for part in row.cpu_parts_ms),
        rate_ratio(results, row, RAW),
        rate_ratio(results, row, RAW_BATCHED),
        time_ratio(results, row),
        str(row.errors),
    ]


def rate_ratio(results: Results, row: Row, name: str) -> str:
    """The rate beside a raw client's in the same rounds; empty if it wasn't there."""
    other = results.find(row.environment, row.kind, row.clients, name)
    return "" if other is None or other is row else f"{row.ratio(other, recorded):.2f}"


def time_ratio(results: Results, row: Row) -> str:
    """The median time beside the raw client's, or a direct get's."""
    for name in (RAW, direct_get_beside(row.contender)):
        other = results.find(row.environment, row.kind, row.clients, name)
        if other is not None and other is not row:
            return f"{row.ratio(other, p50):.2f}"
    return ""


def number(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
