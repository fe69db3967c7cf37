"""Schema: an app's contract as JSON Schemas (draft 2020-12), made from the types in its code.

One document for all entity types, for writers of clients and for whoever compares releases. Under
`$defs` the names of a type's parts begin with its name (`account.command.withdraw`), those of
perdure's own messages with `Perdure`, which no type's name can. All is sorted: a difference
between two documents is a difference of the contract.

Perdure's own messages are in `wireschema.py`; `asyncapi.py` makes another document of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ..entities.annotations import tag_of
from ..entities.contract import Contract
from ..entities.entity import Entity
from ..entities.tagged import wire_twin
from .jsonschema import (
    DIALECT,
    Defs,
    JsonSchema,
    any_of,
    components,
    merged,
    part,
    ref,
)
from .wireschema import COMMIT, OUTCOME, WAKERS, answer, enveloped, own

NULL: JsonSchema = {"type": "null"}


def json_schema(entities: Sequence[Entity[Any, Any]]) -> JsonSchema:
    """The JSON Schema document of these entity types.

    What a message is follows from its subject, so a message is validated against the part that it
    must be: `#/$defs/account.ask`. Raises ValueError if two parts would have the same name.
    """
    names = ", ".join(sorted(entity.name for entity in entities))
    return {
        "$schema": DIALECT,
        "title": f"perdure: {names}",
        "description": "Validate a message against the part of $defs that it is.",
        "$defs": parts_of(entities),
    }


def parts_of(entities: Sequence[Entity[Any, Any]]) -> Defs:
    """Perdure's own parts and those of each type, sorted. Raises ValueError."""
    return merged([own(), *map(described, entities)])


def contracts_of(entity: Entity[Any, Any]) -> list[Contract]:
    """What its commands and queries promise, by their tags."""
    return sorted(entity.contracts.values(), key=lambda contract: contract.tag)


def described(entity: Entity[Any, Any]) -> Defs:
    """All parts of one entity type."""
    name, contracts = entity.name, contracts_of(entity)
    failures = list(dict.fromkeys(f for c in contracts for f in c.failures))
    messages, replies = [c.message for c in contracts], [c.reply for c in contracts]
    types: list[Any] = [type(entity.initial), *entity.events, *map(wire_twin, failures)]
    schemas, defs = components([*types, *messages, *replies], f"{name}.type.")
    made = iter(schemas)
    state = next(made)
    events = {tag_of(cast("Any", event)): next(made) for event in entity.events}
    failed: dict[str, JsonSchema] = {}
    for failure in failures:  # two classes of different commands may have the same tag
        others = [failed[failure.tag]] if failure.tag in failed else []
        failed[failure.tag] = any_of([*others, next(made)])
    taken = [(c, next(made)) for c in contracts]
    parts: Defs = {f"{name}.state": state}
    parts |= {part(name, "reply", c.tag): next(made) for c in contracts}
    for kind, tagged in (
        ("event", events),
        ("failure", failed),
        ("command", {c.tag: schema for c, schema in taken if c.writes}),
        ("query", {c.tag: schema for c, schema in taken if not c.writes}),
    ):
        parts |= _union(name, kind, tagged)
    return merged([defs, parts, _bodies(name, contracts), _logged(name, contracts)])


def _union(name: str, kind: str, tagged: dict[str, JsonSchema]) -> Defs:
    """A part for each, and one for all of them; nothing for none."""
    each = {part(name, kind, tag): schema for tag, schema in tagged.items()}
    return {**each, f"{name}.{kind}": any_of(map(ref, each))} if each else {}


def _bodies(name: str, contracts: Sequence[Contract]) -> Defs:
    """What may be published to a type's subjects, in both forms, and what comes back."""
    told = any_of([*_some(name, contracts, writes=True), *map(ref, WAKERS)])
    asked = any_of([told, *_some(name, contracts, writes=False)])
    answers = {part(name, "answer", c.tag): _answer_of(name, c) for c in contracts}
    answers[f"{name}.state.answer"] = answer(ref(f"{name}.state"))
    reads = [f"Perdure.answer.{kind}" for kind in ("flows", "status", "woken")]
    return {
        **answers,
        f"{name}.answer": any_of(map(ref, [*answers, *reads])),
        f"{name}.ask": any_of(
            [
                asked,
                enveloped("ask", asked),
                enveloped("result", any_of([told, NULL])),
                enveloped("status", {}),
                enveloped("state", ref("Perdure.past")),
                enveloped("flows", {}),
            ]
        ),
        f"{name}.tell": any_of([told, enveloped("tell", told)]),
    }


def _some(name: str, contracts: Sequence[Contract], *, writes: bool) -> list[JsonSchema]:
    there = any(contract.writes is writes for contract in contracts)
    return [ref(f"{name}.{'command' if writes else 'query'}")] if there else []


def _logged(name: str, contracts: Sequence[Contract]) -> Defs:
    """A type's commits, as the running code writes them."""
    writing = [c for c in contracts if c.writes]
    replies = [ref(part(name, "reply", c.tag)) for c in writing]
    failing = any(c.failures for c in writing)
    outcome: JsonSchema = {
        "description": "What came of one command.",
        "allOf": [ref(OUTCOME), *(_outcome_of(name, c) for c in writing)],
        "properties": {
            "command": any_of(_some(name, contracts, writes=True)) if writing else False,
            "events": {"type": "array", "items": ref(f"{name}.event")},
            "reply": any_of([*replies, NULL]),  # null: of what wakes a flow
            "failure": ref(f"{name}.failure") if failing else False,
        },
    }
    commit: JsonSchema = {
        "description": "One message of an entity's log.",
        "allOf": [ref(COMMIT)],
        "properties": {"outcomes": {"type": "array", "items": ref(f"{name}.outcome")}},
    }
    return {f"{name}.outcome": outcome, f"{name}.commit": commit}


def _outcome_of(name: str, contract: Contract) -> JsonSchema:
    """That an outcome of this command has its reply, or one of its failures."""
    tagged = {"required": ["type"], "properties": {"type": {"const": contract.tag}}}
    reply, failure = _results(name, contract)
    return {
        "if": {"required": ["command"], "properties": {"command": tagged}},
        "then": {"properties": {"reply": reply, "failure": failure or False}},
    }


def _answer_of(name: str, contract: Contract) -> JsonSchema:
    reply, failure = _results(name, contract)
    return {"description": f"What {contract.tag} is answered.", **answer(reply, failure)}


def _results(name: str, contract: Contract) -> tuple[JsonSchema, JsonSchema | None]:
    failures = [ref(part(name, "failure", failure.tag)) for failure in contract.failures]
    return ref(part(name, "reply", contract.tag)), any_of(failures) if failures else None
