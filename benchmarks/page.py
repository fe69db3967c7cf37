"""What of a run is published: the tables of docs/performance.md and the README's chart.

    make bench ARGS='--json docs/performance.json' && python -m benchmarks.page

A test holds both to the JSON beside them, so that no figure is typed by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from .chart import GROUPS, chart
from .process import ROOT
from .report import FIGURES, SAYS, cells
from .results import Results

JSON = ROOT / "docs" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"
CHART = ROOT / "docs" / "performance.svg"
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->\n"


def main() -> int:
    """Write the page's tables and the chart anew; the exit code."""
    results = load(JSON)
    PAGE.write_text(filled(PAGE.read_text(), results))
    CHART.write_text(chart(results))
    return 0


def load(file: Path) -> Results:
    """A run that was kept."""
    return msgspec.json.decode(file.read_bytes(), type=Results)


def filled(page: str, results: Results) -> str:
    """The page with the tables of these results. Raises ValueError if it has no place for them."""
    head, _, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise ValueError(f"no place for results between {BEGIN.strip()} and {END.strip()}")
    return f"{head}{BEGIN}{tables(results)}{END}{tail}"


def tables(results: Results) -> str:
    """One Markdown table an environment, and where they come from."""
    machine = results.machine
    said = (
        f"Measured {results.time[:10]} at `{results.commit}` on {machine.cores} cores "
        f"({machine.processor}) for all processes, shared with other work (load average "
        f"{machine.load_before:g} before, {machine.load_after:g} after), {machine.system}, Python "
        f"{machine.python}, nats-server {machine.nats_server}, nats-py {machine.nats_py}: "
        f"{results.rounds} rounds of {results.seconds:g} s.\n"
    )
    parts = [said]
    for environment in dict.fromkeys(row.environment for row in results.rows):
        parts.append(f"\n### {GROUPS.get(environment, environment).capitalize()}\n")
        parts += _table(results, environment)
    return "\n".join(parts) + "\n"


def _table(results: Results, environment: str) -> list[str]:
    names = ("what", "clients", "who", *FIGURES, "errors")
    lines = [_line(names), _line(["---"] * 3 + ["---:"] * (len(names) - 3))]
    for row in results.rows:
        if row.environment == environment:
            what = SAYS.get(row.kind, row.kind)
            lines.append(_line([what, str(row.clients), row.contender, *cells(results, row)]))
    return lines


def _line(values: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(values)} |"


if __name__ == "__main__":
    sys.exit(main())
