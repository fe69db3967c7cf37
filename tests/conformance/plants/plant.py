"""What a planted error is, and how it registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import pytest

Patch: TypeAlias = pytest.MonkeyPatch


@dataclass(frozen=True)
class Plant:
    """One error, and who must notice it."""

    name: str
    plant: Callable[[Patch], None]
    noticed_by: tuple[str, ...]


PLANTS: list[Plant] = []


def noticed_by(*checks: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a planted error."""

    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        PLANTS.append(Plant(plant.__name__, plant, checks))
        return plant

    return register


def nothing(*args: object, **kwargs: object) -> None:
    """In the place of a method that should have done something."""
