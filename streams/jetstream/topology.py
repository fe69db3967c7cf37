"""Creating and checking streams: the I/O for `streams/topology.py`.

Creating is idempotent and safe among several that start at once: whoever loses the race finds
what the other made, and takes its sharding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...entities.settings import Settings
from ..port import Halted, Incompatible, Unreachable
from ..subjects import Sharding, Subjects
from ..topology import (
    FIRST_GENERATION,
    RESTORING,
    Difference,
    Stream,
    advice,
    command_stream,
    differences,
    halted_by,
    sharding_of,
    shared_streams,
    type_streams,
    updated,
)
from .api import Response, StreamInfo, call, parse_time
from .connection import Connection
from .errors import NAME_IN_USE, NO_STREAM


async def sharding(connection: Connection, subjects: Subjects, entity: str) -> Sharding | None:
    """How a type is cut, None if it has no command stream.

    Raises Unreachable, Incompatible, Halted.
    """
    name = subjects.command_stream(entity)
    config = await _config(connection, name)
    if config is None:
        return None
    found = sharding_of(subjects, entity, config)
    if found is None:
        raise Incompatible(
            f"{name}: subject_transform is {config.get('subject_transform')}, which isn't "
            "perdure's. If the stream isn't perdure's, choose another namespace for perdure"
        )
    token = halted_by(subjects, entity, config)
    if token is not None:
        raise Halted(entity, found, restoring=token.startswith(RESTORING))
    return found


async def provision(
    connection: Connection, settings: Settings, subjects: Subjects, entity: str
) -> Sharding:
    """Create what is missing, check what is there. Raises Incompatible, Unreachable."""
    found = await sharding(connection, subjects, entity)
    if found is None:
        planned = Sharding(FIRST_GENERATION, settings.shards)
        await _create(connection, command_stream(settings, subjects, entity, planned))
        found = await sharding(connection, subjects, entity) or planned
    wanted = (
        *type_streams(settings, subjects, entity, found),
        *shared_streams(settings, subjects),
    )
    await _apply_all(connection, wanted)
    return found


async def provision_shared(connection: Connection, settings: Settings, subjects: Subjects) -> None:
    """The same of the streams that all types share. Raises Incompatible, Unreachable."""
    await _apply_all(connection, shared_streams(settings, subjects))


async def server_time_ns(connection: Connection, subjects: Subjects) -> int:
    """What the server's clock says, as it tells with every stream. Raises Unreachable."""
    path = f"STREAM.INFO.KV_{subjects.members_bucket}"
    try:
        found = await call(connection, path, None, StreamInfo)
        return parse_time(found.ts)
    except (Incompatible, ValueError) as error:
        raise Unreachable(f"the server doesn't tell its time: {error}") from None


async def check(
    connection: Connection, settings: Settings, subjects: Subjects, entity: str
) -> list[Difference]:
    """Every difference of the streams that exist, nothing changed. Raises Unreachable."""
    found = await compared(connection, settings, subjects, entity)
    return [difference for differences in found.values() for difference in differences or ()]


async def compared(
    connection: Connection, settings: Settings, subjects: Subjects, entity: str
) -> dict[str, list[Difference] | None]:
    """For each stream of a type, and those that all share, what isn't as it should be; None: it
    doesn't exist. Nothing is changed. Raises Unreachable."""
    cut = Sharding(FIRST_GENERATION, settings.shards)
    config = await _config(connection, subjects.command_stream(entity))
    if config is not None:
        cut = sharding_of(subjects, entity, config) or cut
    found: dict[str, list[Difference] | None] = {}
    for stream in (
        *type_streams(settings, subjects, entity, cut),
        *shared_streams(settings, subjects),
    ):
        config = await _config(connection, stream.name)
        found[stream.name] = None if config is None else differences(stream, config)
    return found


async def _apply_all(connection: Connection, wanted: Sequence[Stream]) -> None:
    refused: list[Difference] = []
    for stream in wanted:
        refused += await _apply(connection, stream)
    if refused:
        raise Incompatible(advice(refused))


async def _apply(connection: Connection, stream: Stream) -> list[Difference]:
    """Create or update one stream; what has to be refused is returned."""
    config = await _config(connection, stream.name)
    if config is None:
        await _create(connection, stream)
        config = await _config(connection, stream.name) or {}
    found = differences(stream, config)
    refused = [difference for difference in found if difference.treatment == "refuse"]
    if found and not refused:
        path = f"STREAM.UPDATE.{stream.name}"
        await call(connection, path, updated(stream, config), StreamInfo)
    return refused


async def _create(connection: Connection, stream: Stream) -> None:
    """Create it, unless somebody else just did, in whatever configuration."""
    path = f"STREAM.CREATE.{stream.name}"
    await call(connection, path, stream.config, Response, accept=(NAME_IN_USE,))


async def _config(connection: Connection, name: str) -> dict[str, Any] | None:
    found = await call(connection, f"STREAM.INFO.{name}", None, StreamInfo, accept=(NO_STREAM,))
    return None if found.error is not None else found.config
