"""The suite itself: each planted error is noticed by the checks that are there for it.

In virtual time, so that a check that waits in vain is done at once.
"""

from __future__ import annotations

import pytest

from perdure.streams.port import Unreachable

from ..simulation.loop import SimulatedLoop
from .backend import Check
from .catalogue import ALL
from .memory import MemoryBackend
from .plants import batches, core, ids, logs, queues, registers, resizing, timers
from .plants.plant import PLANTS, Plant

CHECKS = {check.__name__: check for check in ALL}
NOTICED = (AssertionError, pytest.fail.Exception, TimeoutError, Unreachable)
"""How a check fails: it sees something wrong, or something never comes."""
STEPS = 300_000
"""Enough for the longest check, several times."""


def run(check: Check) -> None:
    """A check on a fresh memory backend, in virtual time."""

    async def main() -> None:
        backend = MemoryBackend()
        try:
            await check(backend)
        finally:
            await backend.close()

    loop = SimulatedLoop(STEPS)
    try:
        loop.run(main())
    finally:
        loop.close()


@pytest.mark.parametrize("check", ALL, ids=lambda check: check.__name__)
def test_a_correct_backend_passes(check: Check) -> None:
    run(check)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_planted_error_is_noticed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.plant(monkeypatch)
    for name in plant.noticed_by:
        with pytest.raises(NOTICED):
            run(CHECKS[name])


def test_every_check_has_a_planted_error() -> None:
    plants = (batches, core, ids, logs, queues, registers, resizing, timers)
    modules = {module.__name__ for module in plants}
    assert modules == {p.plant.__module__ for p in PLANTS}
    assert set(CHECKS) == {name for plant in PLANTS for name in plant.noticed_by}
