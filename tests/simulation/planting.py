"""Planting: how a bug on purpose gets into the real modules, and out again.

A patch names what it replaces, so one that fits no longer fails with an AttributeError instead of
planting nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from .checker import kinds

Patches = list[tuple[Any, str, Any]]
"""What, which attribute of it, and what stands there instead."""

PLANTED: dict[str, Callable[[], Patches]] = {}
"""By name: the function that makes its patches."""

OF_FLOWS: dict[str, Callable[[], Patches]] = {}
"""The same of bugs that only a world with flows shows."""


@contextmanager
def planted(name: str | None) -> Generator[None]:
    """The real modules with one bug, or as they are."""
    with ExitStack() as stack:
        for target, attribute, replacement in (PLANTED | OF_FLOWS)[name]() if name else ():
            stack.enter_context(patch.object(target, attribute, replacement))
        yield


def caught(violations: list[str]) -> bool:
    """Whether a promise was broken, and not only the patch itself: one that doesn't fit fails."""
    return bool(violations) and "uncaught" not in kinds(violations)


def bug(make: Callable[[], Patches]) -> Callable[[], Patches]:
    """Register a bug under its function's name."""
    PLANTED[make.__name__] = make
    return make


def bug_of_flows(make: Callable[[], Patches]) -> Callable[[], Patches]:
    """The same of a bug that only a world with flows shows."""
    OF_FLOWS[make.__name__] = make
    return make
