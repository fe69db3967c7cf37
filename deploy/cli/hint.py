"""Hint: what an entity type takes, for whoever mistyped a command.

Its runners tell by `info`, in JSON Schemas; only the tags and the names of fields are read here.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from ...streams.asks import decode_info
from ...streams.caller import Caller
from ...streams.codec import Undecodable
from ...streams.port import Unreachable

INFO_S = 1.0
"""How long a hint may take, in seconds: it is only a kindness."""


class _Ref(msgspec.Struct, frozen=True):
    ref: str = msgspec.field(name="$ref", default="")


class _Commands(_Ref, frozen=True):
    any: list[_Ref] = msgspec.field(name="anyOf", default_factory=list[_Ref])


class _Schema(msgspec.Struct, frozen=True):
    properties: dict[str, dict[str, Any]] = {}


class _Schemas(msgspec.Struct, frozen=True):
    commands: _Commands = _Commands()
    defs: dict[str, _Schema] = msgspec.field(name="$defs", default_factory=dict[str, _Schema])


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
