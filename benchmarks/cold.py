"""A cold entity: its first command after its runner was replaced, beside one raw direct get.

What a first command costs more than the next one is the activation: reading the snapshot and what
the log has after it. A raw direct get of the newest commit is the least that any reader pays, so
it is the measure.
"""

from __future__ import annotations

import msgspec

from .contenders import WARM_CLIENTS, Contender
from .orders import Load
from .results import PERDURE, Row, Slice

FIRST, AGAIN, ACTIVATION = "first ask", "second ask", "activation"
DIRECT_GET = "raw direct get"
OF = ": "
"""Between another contender than the usual one and what of it a row tells."""

DEPTHS = {20: "without a snapshot", 120: "with one"}
"""Commits that an entity has, and what a load finds."""
BLOCK = 20
"""Entities in a round: few enough that the machine is the same for all that it compares."""
FIRST_ENTITY = 1_000_000
"""The numbers of these entities: nothing else touches them."""


async def cold(
    environment: str, contender: Contender, raw: Contender, clients: int, rounds: int
) -> list[Row]:
    """Measure one contender's activations, each beside direct gets of the same entities."""
    block = BLOCK * clients
    for number, depth in enumerate(DEPTHS):
        for _ in range(depth):
            first = FIRST_ENTITY * (number + 1)
            await contender.send(Load("ask", WARM_CLIENTS, block * rounds, first=first))
    await contender.restart()
    rows: list[Row] = []
    for number, depth in enumerate(DEPTHS):
        load = Load("ask", clients, block, first=FIRST_ENTITY * (number + 1))
        found = await activations(contender, raw, load, rounds)
        kind = f"cold, {depth} commits"
        prefix = "" if contender.name == PERDURE else f"{contender.name}{OF}"
        rows += [
            Row(environment, kind, clients, prefix + name, slices)
            for name, slices in found.items()
        ]
    return rows


def direct_get_beside(name: str) -> str:
    """The name of the row with the direct gets of the same rounds as a row of that name."""
    contender, of, _ = name.rpartition(OF)
    return f"{contender}{of}{DIRECT_GET}"


async def activations(
    contender: Contender, raw: Contender, load: Load, rounds: int
) -> dict[str, list[Slice]]:
    """Slices of asks to entities that aren't in memory, in each round to further ones."""
    found: dict[str, list[Slice]] = {n: [] for n in (FIRST, AGAIN, ACTIVATION, DIRECT_GET)}
    for turn in range(rounds):
        ask = msgspec.structs.replace(load, first=load.first + turn * load.entities)
        get = msgspec.structs.replace(ask, way="get", namespace=contender.namespace)
        found[DIRECT_GET].append(await raw.slice(get))
        found[FIRST].append(await contender.slice(ask))
        found[AGAIN].append(await contender.slice(ask))
        found[ACTIVATION].append(difference(found[FIRST][-1], found[AGAIN][-1]))
    return found


def difference(first: Slice, second: Slice) -> Slice:
    """What the first command took longer than the second one: of the times, not of rates."""
    return Slice(
        0.0,
        0.0,
        first.p50_ms - second.p50_ms,
        first.p99_ms - second.p99_ms,
        first.completed,
        None if first.cpu_s is None or second.cpu_s is None else first.cpu_s - second.cpu_s,
        first.errors + second.errors,
    )
