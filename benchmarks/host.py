"""perdure's runner in a process of its own: what `perdure run` does, for one entity type."""

from __future__ import annotations

from perdure import Settings, connect

from .account import account
from .child import Parent, run
from .orders import Perdure


def settings_of(spec: Perdure) -> Settings:
    """The settings that the command line gave; nothing of this machine's environment."""
    given = {**spec.settings, "url": spec.url, "namespace": spec.namespace}
    return Settings.load(environ={}, **given)


async def main(parent: Parent, spec: Perdure) -> None:
    """Host the account until the parent leaves."""
    async with connect(serving=[account], settings=settings_of(spec)):
        parent.say("ready")
        await parent.leave()


if __name__ == "__main__":
    run(main, Perdure)
