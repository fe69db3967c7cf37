"""The leak test's runner, in a process of its own."""

from __future__ import annotations

from .child import Parent, run
from .host import host
from .orders import Perdure
from .purse import purse


async def main(parent: Parent, spec: Perdure) -> None:
    """Host the purse until the parent leaves."""
    await host(purse, parent, spec)


if __name__ == "__main__":
    run(main, Perdure)
