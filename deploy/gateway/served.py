"""Served: an entity type as the gateway offers it, read from its classes once, at the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from starlette.exceptions import HTTPException

from ...entities.contract import Contract
from ...entities.entity import Entity
from ...entities.state import State

OPTIONS = ("fresh", "wait")
"""Parameters that say how a query is asked. One with a field of such a name is asked by POST."""

TAKEN = ("history", "state")
"""What GET means by itself below an entity; queries of these names are asked by POST."""

_PLAIN = ("string", "integer", "number", "boolean")


class Field(msgspec.Struct, frozen=True):
    """A field of a query, as a parameter of a query string."""

    name: str
    type: Any
    required: bool
    schema: dict[str, Any]
    plain: bool
    """Whether the text is the value; else it is JSON, or text where that doesn't fit."""


class Message(msgspec.Struct, frozen=True):
    """A command or query."""

    contract: Contract
    decoder: msgspec.json.Decoder[Any]
    flows: bool
    """Whether a flow handles it, so that it may be suspended."""
    fields: tuple[Field, ...]
    """Of a query that GET may ask."""
    gettable: bool

    def from_body(self, body: bytes) -> Any:
        """The message in a body; an empty one has no fields. Raises as its decoder does."""
        return self.decoder.decode(body or b"{}")

    def from_parameters(self, values: dict[str, str]) -> Any:
        """The query in a query string. Raises HTTPException."""
        given = {f.name: _value(f, values[f.name]) for f in self.fields if f.name in values}
        return msgspec.convert(given, self.contract.message)


class Served(msgspec.Struct, frozen=True):
    """An entity type."""

    entity: Entity[Any, Any]
    state: type[State]
    messages: dict[str, Message]


def served(entity: Entity[Any, Any]) -> Served:
    """What the gateway offers of a type."""
    state = cast("type[State]", type(entity.initial))
    messages = {tag: _message(entity, contract) for tag, contract in entity.contracts.items()}
    return Served(entity, state, messages)


def types_of(entities: Sequence[Entity[Any, Any]]) -> dict[str, Served]:
    """The types of an app by name."""
    return {entity.name: served(entity) for entity in entities}


def _message(entity: Entity[Any, Any], contract: Contract) -> Message:
    cls = contract.message
    names = {field.encode_name for field in msgspec.structs.fields(cls)}
    asked = not contract.writes and contract.tag not in TAKEN
    gettable = asked and not any(option in names for option in OPTIONS)
    return Message(
        contract,
        msgspec.json.Decoder(cls),
        contract.tag in entity.flow_of,
        _fields(cls) if gettable else (),
        gettable,
    )


def _fields(cls: type[msgspec.Struct]) -> tuple[Field, ...]:
    found: list[Field] = []
    for field in msgspec.structs.fields(cls):
        schema = msgspec.json.schema(field.type, ref_template="#/components/schemas/{name}")
        plain = schema.get("type") in _PLAIN
        found.append(Field(field.encode_name, field.type, field.required, schema, plain))
    return tuple(found)


def _value(field: Field, text: str) -> Any:
    if not field.plain:
        try:
            return msgspec.json.decode(text, type=field.type)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            pass  # no JSON of that type, so it is text
    try:
        return msgspec.convert(text, field.type, strict=False)
    except msgspec.ValidationError as error:
        raise HTTPException(422, f"{field.name}: {error}"[:500]) from None
