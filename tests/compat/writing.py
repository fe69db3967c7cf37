"""Write golden files of flows, of today's format:

    python -m tests.compat.writing 2

makes `flows-2.jsonl` and `flows-2-msgpack.jsonl` beside this file. A file that is there is never
written again: flows that were begun by the code which wrote it are still open somewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from msgspec import structs

from perdure.streams.commit import Form

from .images import Line, broker_of, cluster_of, hosting, image_of, written
from .trips import World, shop, trip_of
from .waits import CASES, SETTINGS, Case

HERE = Path(__file__).parent
FORMS: dict[Form, str] = {"json": "", "msgpack": "-msgpack"}
"""Ways of writing commits, and what a file of that is called by."""


async def image_of_case(case: Case, form: Form) -> list[Line]:
    """What is stored when its flow is where it should be."""
    settings, world = structs.replace(SETTINGS, commit_format=form), World()
    entities = [trip_of(world)] if case.without_shop else [trip_of(world), shop]
    cluster = cluster_of(settings, *entities)
    broker_of(cluster).provision(settings, shop.name)
    async with hosting(cluster):
        await case.begin(cluster, world)
        if not case.midway:
            await cluster.quiet()
        image = image_of(cluster, world)
        world.go.set()
    return image


async def images(form: Form) -> dict[str, list[Line]]:
    """Those of all cases."""
    return {name: await image_of_case(case, form) for name, case in CASES.items()}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.compat.writing", description=__doc__)
    parser.add_argument("number", type=int, help="of the files; the next one that isn't there")
    number: int = parser.parse_args().number
    for form, called in FORMS.items():
        data = written(asyncio.run(images(form)))
        with (HERE / f"flows-{number}{called}.jsonl").open("xb") as file:
            file.write(data)
        print(file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
