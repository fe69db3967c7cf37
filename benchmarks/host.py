"""perdure's runner in a process of its own: what `perdure run` does, for one entity type.

Whatever its parent orders, it answers with what it holds.
"""

from __future__ import annotations

from typing import Any

from perdure import Entity, Settings, connect
from perdure.deploy.process import collecting_seldom

from .account import account
from .child import Parent, run
from .orders import Perdure
from .probe import Inside, look


def settings_of(spec: Perdure) -> Settings:
    """The settings that the command line gave; nothing of this machine's environment."""
    given = {**spec.settings, "url": spec.url, "namespace": spec.namespace}
    return Settings.load(environ={}, **given)


async def main(parent: Parent, spec: Perdure) -> None:
    """Host the account until the parent leaves."""
    await host(account, parent, spec)


async def host(entity: Entity[Any, Any], parent: Parent, spec: Perdure) -> None:
    """Host an entity type until the parent leaves."""
    with collecting_seldom():
        async with connect(serving=[entity], settings=settings_of(spec)):
            parent.say("ready")
            await parent.serve(_look)


async def _look(_: bytes) -> Inside:
    return look()


if __name__ == "__main__":
    run(main, Perdure)
