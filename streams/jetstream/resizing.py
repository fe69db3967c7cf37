"""Halting a command stream and cutting it anew: two updates, and a look in between.

A stream has one list of subjects and one transform, and an update changes both in one step. But no
update is conditional on what the stream holds. So first it takes a subject of its own instead of
`….to.…`: publishers hear that nobody is there, and nothing can come in between the look whether it
is empty and the update that cuts it.

What a publisher sent before may still wait in the server, or be on its way through a cluster's
log. A message to the subject of its own takes the same way, so once it is stored, so is all before
it; then it is removed.
"""

from __future__ import annotations

from typing import Any

from ..port import Halted, Incompatible, Unreachable
from ..subjects import Sharding, Subjects
from ..topology import RESTORING, halted_by, sharding_of, transform_of
from .api import StreamInfo, call, delete_message, lookup
from .connection import Connection
from .errors import NO_STREAM
from .storing import stored


async def halt(connection: Connection, subjects: Subjects, entity: str, token: str) -> Sharding:
    """Take no tells any more. Raises Unreachable, Incompatible."""
    name = subjects.command_stream(entity)
    config = await _config(connection, name)
    found = sharding_of(subjects, entity, config)
    if found is None:
        raise Incompatible(f"{name}: its subject_transform isn't perdure's")
    if (halted_by(subjects, entity, config) or "").startswith(RESTORING):
        raise Halted(entity, found, restoring=True)
    barrier = subjects.halted(entity, token)
    await _update(connection, name, {**config, "subjects": [barrier]})
    if not await stored(connection, name, barrier, b""):
        raise Unreachable(f"{name} doesn't store what it should at {barrier}")
    await _remove_all(connection, name, subjects.halted(entity, "*"))
    return found


async def whole(
    connection: Connection, subjects: Subjects, entity: str, restoring: str, token: str
) -> None:
    """A type that was halted to be restored is whole: it is halted like any other from now on.

    Raises Unreachable, Incompatible.
    """
    name = subjects.command_stream(entity)
    config = await _config(connection, name)
    if halted_by(subjects, entity, config) != restoring:
        raise Incompatible(f"{name}: somebody else is at it")
    await _update(connection, name, {**config, "subjects": [subjects.halted(entity, token)]})


async def recut(
    connection: Connection, subjects: Subjects, entity: str, sharding: Sharding, token: str
) -> None:
    """Cut it, and take tells again. Raises Unreachable, Incompatible."""
    name = subjects.command_stream(entity)
    config = await _config(connection, name)
    if halted_by(subjects, entity, config) != token:
        raise Incompatible(f"{name} was halted by somebody else meanwhile, or set going again")
    source, target = transform_of(subjects, entity, sharding)
    transform = {"src": source, "dest": target}
    await _update(
        connection, name, {**config, "subjects": [source], "subject_transform": transform}
    )


async def _remove_all(connection: Connection, stream: str, subject: str) -> None:
    """Remove every message on a subject: also those of others who went away before they did."""
    while found := await lookup(connection, stream, {"seq": 1, "next_by_subj": subject}):
        await delete_message(connection, stream, found.seq)


async def _config(connection: Connection, name: str) -> dict[str, Any]:
    found = await call(connection, f"STREAM.INFO.{name}", None, StreamInfo, accept=(NO_STREAM,))
    if found.error is not None:
        raise Incompatible(f"there is no stream {name}: nothing of this type was ever hosted here")
    return found.config


async def _update(connection: Connection, name: str, config: dict[str, Any]) -> None:
    await call(connection, f"STREAM.UPDATE.{name}", config, StreamInfo)
