"""JsonSchema: the few things that all schemas here are made of, each in one order only.

What msgspec makes of a type is put in order, so that moving a class in the code changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, cast

import msgspec

JsonSchema: TypeAlias = dict[str, Any]
Defs: TypeAlias = dict[str, JsonSchema]
"""Parts of a document, by their names."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = "#/$defs/"
"""Before the name of a part."""

_ODD = re.compile(r"[^A-Za-z0-9.-]")
_VALUES = frozenset({"const", "default", "enum", "examples"})
"""Keywords that hold values, and no schemas."""


def components(types: Sequence[Any], prefix: str) -> tuple[list[JsonSchema], Defs]:
    """The schema of each type, and the parts that they refer to, whose names get the prefix.

    Without `discriminator`, which is OpenAPI's, and with what has no order sorted.
    """
    template = f"{REFERENCE}{prefix}{{name}}"
    schemas, parts = msgspec.json.schema_components(types, ref_template=template)
    defs = {f"{prefix}{name}": _tidy(schema) for name, schema in parts.items()}
    return [_tidy(schema) for schema in schemas], defs


def _tidy(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_tidy(item) for item in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    tidy: JsonSchema = {}
    for key, value in cast("JsonSchema", schema).items():
        if key in _VALUES:
            tidy[key] = value
        elif key == "properties":  # its keys are names of fields
            tidy[key] = {name: _tidy(part) for name, part in value.items()}
        elif key == "anyOf":
            tidy |= any_of(_tidy(value))
        elif key == "required":
            tidy[key] = sorted(value)
        elif key == "description":
            tidy[key] = " ".join(str(value).split())
        elif key != "discriminator":
            tidy[key] = _tidy(value)
    return tidy


def _flat(options: Iterable[JsonSchema]) -> list[JsonSchema]:
    """Without unions within the union."""
    flat: list[JsonSchema] = []
    for option in options:
        flat += option["anyOf"] if set(option) == {"anyOf"} else [option]
    return flat


def any_of(options: Iterable[JsonSchema]) -> JsonSchema:
    """The union, flat, in an order that doesn't depend on that of the code."""
    flat = _flat(options)
    once = {msgspec.json.encode(option, order="sorted"): option for option in flat}
    found = [once[text] for text in sorted(once)]
    return found[0] if len(found) == 1 else {"anyOf": found}


def merged(parts: Iterable[Defs]) -> Defs:
    """All of them, sorted. Raises ValueError if two have the same name."""
    every: Defs = {}
    for part in parts:
        for name, schema in part.items():
            if name in every:
                raise ValueError(f"two parts of the schema are called {name}")
            every[name] = schema
    return dict(sorted(every.items()))


def ref(name: str) -> JsonSchema:
    """A reference to a part."""
    return {"$ref": f"{REFERENCE}{name}"}


def part(name: str, kind: str, tag: str) -> str:
    """The name of an entity type's part: `account.reply.withdraw`."""
    return f"{name}.{kind}.{plain(tag)}"


def plain(tag: str) -> str:
    """A tag as names of parts have it: each odd character becomes `_` and its number."""
    return _ODD.sub(lambda odd: odd[0] if odd[0] == "_" else f"_{ord(odd[0]):02x}", tag)
