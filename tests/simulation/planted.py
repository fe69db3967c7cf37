"""Bugs on purpose: patches of the real modules, each of which the simulation must catch.

Each is one that somebody could write in good faith, most of them because it is the simpler way.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

PLANTED: dict[str, Callable[[], AbstractContextManager[None]]] = {}
"""By name."""


@contextmanager
def planted(name: str | None) -> Generator[None]:
    """The real modules with one bug, or without."""
    if name is None:
        yield
    else:
        with PLANTED[name]():
            yield
