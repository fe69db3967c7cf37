"""Hints: what an entity type takes, and which types there are, for whoever mistyped one.

A type's runners tell by `info`, in JSON Schemas; only the tags and the names of fields are read
here. The types are those that have a log. Both are asked over the connection that is there.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec import UNSET

from ...streams.asks import decode_info
from ...streams.caller import Caller
from ...streams.codec import Undecodable
from ...streams.jetstream.scan import names
from ...streams.port import Halted, Incompatible, Unreachable
from .advice import HOST
from .operating import connection_of, has_server, types_of
from .trouble import Failed

INFO_S = 1.0
"""How long a hint may take, in seconds: it is only a kindness."""

TYPES_S = 2.0
"""The same of the list of types: a login that may not ask for it gets no answer."""


class _Ref(msgspec.Struct, frozen=True):
    ref: str = msgspec.field(name="$ref", default="")


class _Commands(_Ref, frozen=True):
    any: list[_Ref] = msgspec.field(name="anyOf", default_factory=list[_Ref])


class _Schema(msgspec.Struct, frozen=True):
    properties: dict[str, dict[str, Any]] = {}


class _Schemas(msgspec.Struct, frozen=True):
    commands: _Commands = _Commands()
    defs: dict[str, _Schema] = msgspec.field(name="$defs", default_factory=dict[str, _Schema])


async def no_such_type(caller: Caller, entity: str) -> str | None:
    """That there is no such type, and which there are; None if there is, or nobody tells."""
    if not has_server(caller):
        return None
    try:
        async with asyncio.timeout(TYPES_S):
            found = await types_of(caller)
    except (TimeoutError, Unreachable, Incompatible):
        return None
    if entity in found:
        return None
    there = f"only {', '.join(found)}" if found else "nor any other"
    namespace = caller.session.subjects.namespace
    return f"there is no entity type {entity!r} in namespace {namespace!r}, {there}"


async def halted(caller: Caller, entity: str) -> str | None:
    """That the type is halted, and what ends that; None if it isn't, or nobody tells."""
    try:
        async with asyncio.timeout(TYPES_S):
            await caller.session.sharding(entity)
    except Halted as error:
        return str(error)
    except (TimeoutError, Unreachable, Incompatible):
        return None
    return None


async def require_type(caller: Caller, entity: str) -> None:
    """That there is such a type, where nothing of it was found. Raises Failed."""
    missing = await no_such_type(caller, entity)
    if missing is not None:
        raise Failed(missing, f"correct it, or host it: {HOST}")


async def no_registry(caller: Caller, entity: str) -> bool:
    """Whether the type's registry of ids is known to be gone."""
    if not has_server(caller):
        return False
    subjects = caller.session.subjects
    try:
        async with asyncio.timeout(TYPES_S):
            found = await names(connection_of(caller), subjects.ids(entity, "*"))
    except (TimeoutError, Unreachable, Incompatible):
        return False
    return subjects.ids_stream(entity) not in found


async def takes(caller: Caller, entity: str) -> str | None:
    """What the type takes, on one line; None if nobody tells."""
    session = caller.session
    try:
        answer = await session.asks.request(session.subjects.info(entity), b"", timeout_s=INFO_S)
        schemas = decode_info(answer.data).schemas
    except (Unreachable, Undecodable):
        return None
    shapes = [] if schemas is UNSET else shapes_of(bytes(schemas))
    return f"{entity} takes {', '.join(shapes)}" if shapes else None


def shapes_of(schemas: bytes) -> list[str]:
    """Each command and query with its fields: `withdraw {"cents": …}`."""
    try:
        tree = msgspec.json.decode(schemas, type=_Schemas)
    except msgspec.DecodeError:
        return []
    refs = tree.commands.any or [tree.commands]
    names = [ref.ref.rpartition("/")[2] for ref in refs]
    return [_shape(tree.defs[name]) for name in names if name in tree.defs]


def _shape(schema: _Schema) -> str:
    tags: list[str] = schema.properties.get("type", {}).get("enum") or ["?"]
    fields = ", ".join(f'"{name}": …' for name in schema.properties if name != "type")
    return f"{tags[0]} {{{fields}}}" if fields else tags[0]
