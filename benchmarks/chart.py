"""The README's chart: asks a second with many clients, drawn as SVG from a run's JSON.

Each group of bars has a scale of its own, since fsync makes ten times the difference that is to be
seen within a group. Thin lines reach from the slowest round to the fastest one.
"""

from __future__ import annotations

from html import escape

from .report import number
from .results import PERDURE, RAW, RAW_BATCHED, Results, Row, recorded
from .scenarios import CLIENTS, ENTITIES

TITLE = "Commands a second, {clients} clients on {entities:,} entities"
GROUPS = {
    "always": "one server, fsync each",
    "default": "one server, default sync",
    "r3-always": "three servers, fsync each",
    "r3-default": "three servers, default sync",
}
BARS = {
    PERDURE: ("perdure ask", "#2563a8"),
    RAW: ("raw nats-py", "#9aa3ad"),
    RAW_BATCHED: ("raw nats-py, batched", "#c9cfd6"),
}
WIDTH, LEFT, RIGHT = 760, 190, 90
BAR, GAP, GROUP_GAP, HEAD, FOOT = 16, 4, 18, 62, 30
INK, FAINT = "#1f2933", "#6b7680"


def chart(results: Results) -> str:
    """The SVG, complete. Contenders and environments that weren't measured are left out."""
    clients = max(CLIENTS)
    groups = [(name, bars) for name in GROUPS if (bars := _bars(results, name, clients))]
    parts: list[str] = []
    y = HEAD
    for name, bars in groups:
        parts.append(_text(LEFT - 12, y + BAR - 3, GROUPS[name], INK, "end"))
        most = max(row.spread(recorded)[1] for row in bars) or 1.0
        for row in bars:
            parts += _bar(row, y, (WIDTH - LEFT - RIGHT) / most)
            y += BAR + GAP
        y += GROUP_GAP
    cores = results.machine.cores
    foot = f"{cores} cores for servers, runner and callers together; medians of {results.rounds}"
    title = TITLE.format(clients=clients, entities=ENTITIES)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + FOOT}" '
        f'viewBox="0 0 {WIDTH} {y + FOOT}" font-family="system-ui, sans-serif" font-size="12" '
        f'role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{y + FOOT}" rx="6" fill="#ffffff"/>',
        _text(16, 24, title, INK, "start", 'font-size="15" font-weight="600"'),
        *_legend(),
        _text(16, y + FOOT - 14, foot, FAINT, "start"),
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


def _bars(results: Results, environment: str, clients: int) -> list[Row]:
    found = (results.find(environment, "ask", clients, name) for name in BARS)
    return [row for row in found if row is not None]


def _bar(row: Row, y: int, scale: float) -> list[str]:
    low, high = row.spread(recorded)
    rate, middle = row.median(recorded), y + BAR / 2
    ends = f'x1="{LEFT + low * scale:.1f}" x2="{LEFT + high * scale:.1f}"'
    return [
        f'<rect x="{LEFT}" y="{y}" width="{rate * scale:.1f}" height="{BAR}" rx="2" '
        f'fill="{BARS[row.contender][1]}"/>',
        f'<line {ends} y1="{middle}" y2="{middle}" stroke="{INK}" stroke-width="1"/>',
        _text(LEFT + high * scale + 6, y + BAR - 4, number(rate), INK, "start"),
    ]


def _legend() -> list[str]:
    x, parts = LEFT, list[str]()
    for name, colour in BARS.values():
        parts.append(f'<rect x="{x}" y="34" width="10" height="10" rx="2" fill="{colour}"/>')
        parts.append(_text(x + 15, 43, name, FAINT, "start"))
        x += 40 + 7 * len(name)
    return parts


def _text(x: float, y: float, text: str, fill: str, anchor: str, more: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" fill="{fill}" text-anchor="{anchor}"'
    return f"<text {place}{' ' + more if more else ''}>{escape(text)}</text>"
