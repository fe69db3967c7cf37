"""docs/observability.md against the code: metrics, buckets, checks, alerts, actions of the log."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from perdure.deploy.metrics import FAMILIES
from perdure.deploy.readiness import CHECKS
from perdure.durable.counts import BOUNDS_S
from perdure.durable.ring import Health

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs" / "observability.md").read_text()
LAYERS = ("entities", "streams", "durable", "deploy")
ACTION = re.compile(r"[a-z_]+\.[a-z_]+")
LOGGING = ("_log", "log", "log_item")
"""Functions that log a line under an action, which they are given."""
END = re.compile(r"(?:end|ended|lose)\(\"([a-z]+)\"\)")
"""Where a term or its consumer ends, and why."""


def cells(head: str, page: str = DOC) -> list[list[str]]:
    """The rows of the table whose head begins so."""
    table = page.partition(f"\n| {head} |")[2].partition("\n\n")[0]
    rows = [re.split(r"(?<!\\)\|", line.strip("|")) for line in table.splitlines()[2:]]
    assert rows, head
    return [[cell.strip() for cell in row] for row in rows]


def test_every_metric_is_there_in_order() -> None:
    assert [row[:4] for row in cells("metric")] == [
        [
            f"`{family.name}`",
            family.kind,
            ", ".join(f"`{label}`" for label in family.labels) or "-",
            family.help,
        ]
        for family in FAMILIES
    ]


def test_the_buckets_are_told() -> None:
    told = DOC.partition("whose bounds double:")[2].partition(". What takes")[0]
    found = [float(number) for number in re.findall(r"[0-9]+\.[0-9]+", told)]
    assert found == list(BOUNDS_S)


def test_every_check_is_there_in_order() -> None:
    assert [row[0] for row in cells("check")] == [f"`{name}`" for name in CHECKS]


def test_every_alert_is_there_in_order() -> None:
    (group,) = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())["groups"]
    assert [row[0] for row in cells("alert")] == [f"`{rule['alert']}`" for rule in group["rules"]]


# -- actions ------------------------------------------------------------------------------------
def texts(node: ast.expr) -> Iterator[str]:
    """What an expression may be, where it is made of texts; a `*` stands for what isn't known."""
    match node:
        case ast.Constant(str(text)):
            yield text
        case ast.IfExp():
            yield from texts(node.body)
            yield from texts(node.orelse)
        case ast.JoinedStr():
            parts = (v.value if isinstance(v, ast.Constant) else "*" for v in node.values)
            yield "".join(map(str, parts))
        case _:
            pass


def logged(source: str) -> set[str]:
    """The actions under which a module logs."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "action":
                    found |= set(texts(value))
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in LOGGING:
                given = [text for argument in node.args for text in texts(argument)]
                found |= {text for text in given if ACTION.fullmatch(text)}
    return found


def actions() -> set[str]:
    """All actions in the code."""
    found: set[str] = set()
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            found |= logged(path.read_text())
    found.discard("create")  # in a request to JetStream
    found.discard("member.*")
    return found | {f"member.{health.value}" for health in Health if health is not Health.WELL}


def test_every_action_is_there_once() -> None:
    operating = (ROOT / "docs" / "operating-quick.md").read_text()
    rows = [*cells("action"), *cells("action", operating)]
    told = [name for row in rows for name in re.findall(r"`([a-z_.]+)`", row[0])]
    assert sorted(told) == sorted(set(told))
    code = actions()
    assert "term.*" in code
    ends = {name for name in told if name.startswith("term.") and name not in code}
    files = [p for layer in ("streams", "durable") for p in (ROOT / layer).rglob("*.py")]
    sources = "".join(p.read_text() for p in files if p.name != "follow.py")  # no term's consumer
    assert ends == {f"term.{reason}" for reason in END.findall(sources)}
    assert set(told) - ends == code - {"term.*"}


def test_an_action_is_found_in_all_its_forms() -> None:
    source = """
log.info("x", extra={"action": "a.one" if x else "a.two"})
self.log("b.one", why="not.this")
_log(target, "c.one", f"what.{ever}")
extra = {"action": f"d.{reason}"}
"""
    assert logged(source) == {"a.one", "a.two", "b.one", "c.one", "d.*"}
