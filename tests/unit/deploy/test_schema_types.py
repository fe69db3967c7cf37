"""The schemas of all kinds of fields, held against the decoder that runners use."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import jsonschema
import msgspec
import pytest
from msgspec import Meta, field

from perdure import Command, Decision, Entity, Event, Failure, Query, State, Value
from perdure.deploy.asyncapi import async_api
from perdure.deploy.jsonschema import merged, plain
from perdure.deploy.schema import json_schema
from perdure.streams.subjects import Subjects


class Shelf(State):
    count: int = 0


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: int = 0


@dataclass
class Size:
    width: float


class Box(Value):
    size: Size
    at: Point | None = None


class Gone(Failure, tag="gone"):
    why: str


class Lost(Failure, tag="gone"):
    """Another one with the same tag, of another command."""

    where: int


class Store(Command[Shelf, list[Box], Gone]):
    """Has a field of each kind."""

    count: Annotated[int, Meta(ge=1, le=10)]
    name: Annotated[str, Meta(min_length=1, max_length=5, pattern="^[a-z]+$")] = "a"
    tags: Annotated[list[str], Meta(max_length=2)] = field(default_factory=list[str])
    colour: Colour = Colour.RED
    kind: Literal["wide", "deep", 3] = "wide"
    pair: tuple[int, str] = (1, "a")
    sizes: dict[str, float] = field(default_factory=dict[str, float])
    box: Box | None = None
    either: int | str | None = None
    when: datetime | None = None
    anything: Any = None
    required: bool = False  # fields with names of JSON Schema's own words
    default: int = 0
    enum: int = 0


class Odd(Command[Shelf, None, Lost], tag="with space/é"):
    pass


class Count(Query[Shelf, Annotated[int, Meta(ge=0)]]):
    pass


class Stored(Event):
    count: int


class Audited(Event):
    by: int | str


Messages: TypeAlias = Store | Odd | Count


def decide(state: Shelf, command: Messages) -> Decision[Stored]:
    raise NotImplementedError


def evolve(state: Shelf, event: Stored | Audited) -> Shelf:
    raise NotImplementedError


shelf = Entity(Shelf(), decide, evolve)


class Reader(State):
    pass


class Look(Query[Reader, str]):
    pass


def look(state: Reader, command: Look) -> Decision[Stored]:
    raise NotImplementedError


def never(state: Reader, event: Stored) -> Reader:
    return state


reader = Entity(Reader(), look, never)
"""Takes no commands."""

BODIES: list[dict[str, Any]] = [
    {"count": 1},
    {"count": 0},
    {"count": 11},
    {"name": "b"},
    {"name": ""},
    {"name": "abcdef"},
    {"name": "B"},
    {"tags": ["x", "y"]},
    {"tags": ["x", "y", "z"]},
    {"tags": [1]},
    {"colour": "blue"},
    {"colour": "green"},
    {"kind": 3},
    {"kind": "3"},
    {"pair": [2, "b"]},
    {"pair": [2]},
    {"pair": [2, "b", 3]},
    {"pair": ["2", "b"]},
    {"sizes": {"a": 1.5}},
    {"sizes": {"a": "b"}},
    {"box": {"type": "box", "size": {"width": 1.0}}},
    {"box": {"type": "box", "size": {"width": 1.0}, "at": [1]}},
    {"box": {"type": "box", "size": {"width": 1.0}, "at": []}},
    {"box": {"type": "box", "size": {}}},
    {"box": {"type": "other", "size": {"width": 1.0}}},
    {"either": "x"},
    {"either": 5},
    {"either": None},
    {"either": 5.5},
    {"when": "2026-11-24T10:00:00Z"},
    {"when": 5},
    {"anything": {"x": [1]}},
    {"required": True, "default": 1, "enum": 2},
    {"required": 1},
    {"default": "x"},
    {"enum": None},
    {"more": 1},
    {"type": "odd"},
]


def validator(reference: str, document: dict[str, Any], validators: Any) -> Any:
    return validators({**document, "$ref": reference})


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(msgspec.json.encode(json_schema([shelf, reader])))
    return made


@pytest.fixture(scope="module")
def older() -> dict[str, Any]:
    made = async_api([shelf, reader], Subjects())
    return {"components": json.loads(msgspec.json.encode(made["components"]))}


def test_the_schema_and_the_decoder_take_the_same(
    document: dict[str, Any], older: dict[str, Any]
) -> None:
    new = validator("#/$defs/shelf.command", document, jsonschema.Draft202012Validator)
    old = validator("#/components/schemas/shelf.command", older, jsonschema.Draft7Validator)
    verdicts: set[bool] = set()
    for body in BODIES:
        full = {"type": "store", "count": 1, **body}
        try:
            shelf.messages.decode(msgspec.json.encode(full))
            taken = True
        except msgspec.ValidationError:
            taken = False
        assert new.is_valid(full) is taken, full
        assert old.is_valid(full) is taken, full
        verdicts.add(taken)
    assert verdicts == {True, False}


def test_two_failures_with_one_tag_both_stand_under_it(
    document: dict[str, Any],
) -> None:
    failure = validator("#/$defs/shelf.failure", document, jsonschema.Draft202012Validator)
    assert failure.is_valid({"type": "gone", "why": "x"})
    assert failure.is_valid({"type": "gone", "where": 1})
    assert not failure.is_valid({"type": "gone"})


def test_an_entity_without_commands(document: dict[str, Any]) -> None:
    assert "reader.command" not in document["$defs"]
    asked = validator("#/$defs/reader.ask", document, jsonschema.Draft202012Validator)
    assert asked.is_valid({"type": "look"})
    assert not asked.is_valid({"type": "store", "count": 1})
    told = validator("#/$defs/reader.tell", document, jsonschema.Draft202012Validator)
    assert not told.is_valid({"type": "look"})


def test_names_of_parts_are_plain(document: dict[str, Any]) -> None:
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert all(set(name) <= allowed for name in document["$defs"])
    assert plain("with space/é") == "with_20space_2f_e9"
    assert "shelf.command.with_20space_2f_e9" in document["$defs"]


def test_two_parts_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match="two parts of the schema are called a"):
        merged([{"a": {}}, {"a": {}}])


def test_the_order_of_the_code_is_no_part_of_the_contract() -> None:
    def other(state: Shelf, command: Count | Odd | Store) -> Decision[Stored]:
        raise NotImplementedError

    def evolve_other(state: Shelf, event: Audited | Stored) -> Shelf:
        raise NotImplementedError

    again = Entity(Shelf(), other, evolve_other)
    assert again.events != shelf.events
    orders: list[list[Entity[Any, Any]]] = [[shelf, reader], [reader, again]]
    schemas = [json_schema(entities) for entities in orders]
    apis = [async_api(entities, Subjects()) for entities in orders]
    for made, same in (schemas, apis):
        assert msgspec.json.encode(made, order="sorted") == msgspec.json.encode(
            same, order="sorted"
        )
