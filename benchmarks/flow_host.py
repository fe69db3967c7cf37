"""The runner of the flows' benchmark, in a process of its own: the till, and whom it asks."""

from __future__ import annotations

from perdure import connect
from perdure.deploy.process import collecting_seldom

from .account import account
from .child import Parent, run
from .host import settings_of
from .orders import Perdure
from .till import till


async def main(parent: Parent, spec: Perdure) -> None:
    """Host both until the parent leaves."""
    with collecting_seldom():
        async with connect(serving=[till, account], settings=settings_of(spec)):
            parent.say("ready")
            await parent.leave()


if __name__ == "__main__":
    run(main, Perdure)
