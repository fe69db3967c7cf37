"""What a PromQL expression names: metrics with the labels that it matches, and labels by which it
groups. Parsed by the parser of GreptimeDB, which follows Prometheus's own grammar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import promql_parser


class Named(NamedTuple):
    """One selector: a series by its name, and what its labels must be."""

    series: str
    matched: dict[str, str]


def parsed(expression: str) -> Any:
    """The tree of an expression. Raises ValueError for one that isn't PromQL."""
    return promql_parser.parse(expression)


def selectors(tree: Any) -> list[Named]:
    """The selectors in it."""
    found = [node for node in _nodes(tree) if isinstance(node, promql_parser.VectorSelector)]
    return [Named(n.name or "", {m.name: m.value for m in n.matchers.matchers}) for n in found]


def grouped(tree: Any) -> set[str]:
    """The labels by which it groups and joins."""
    labels: set[str] = set()
    for node in _nodes(tree):
        modifier: Any = getattr(node, "modifier", None)
        modifier = getattr(modifier, "matching", modifier)
        labels |= set(getattr(modifier, "labels", ()))
    return labels


def _nodes(tree: Any) -> Iterator[Any]:
    yield tree
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if (child := getattr(tree, name, None)) is not None:
            yield from _nodes(child)
    for child in getattr(tree, "args", ()):
        yield from _nodes(child)
