"""Wireschema: perdure's own messages as JSON Schemas, beside what an app declares.

What docs/wire.md describes: errors, headers, envelopes, what wakes a flow, what an owner answers
to control messages, and the frame of a commit. They are made from the structs that encode and
decode them, and sharpened where a limit is enforced by code instead of by a type.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec

from ..durable.reads import Past
from ..durable.stats import RunnerStats
from ..durable.waker import Cancel, Retry
from ..entities.errors import REASONS
from ..entities.status import EntityStatus
from ..entities.suspension import Suspension
from ..entities.tagged import wire_twin
from ..streams.asks import (
    AT_HEADER,
    DEADLINE_HEADER,
    FORBIDDEN_HEADER,
    KEY_HEADER,
    REPLY_CHARS,
    REPLY_TO_HEADER,
    TRACE_HEADER,
    Envelope,
    Kind,
    TypeInfo,
)
from ..streams.commit import FORMAT, MARK, Commit
from ..streams.registration import Registration
from ..streams.resuming import RESUME
from .jsonschema import Defs, JsonSchema, any_of, components, merged, ref

OWN = "Perdure."
"""Before the names of perdure's own parts: no entity type's name has a capital letter."""

COMMIT = "Perdure.type.Commit"
OUTCOME = "Perdure.type.Outcome"
WAKERS = ("Perdure.type.Cancel", "Perdure.type.Resume", "Perdure.type.Retry")
"""What callers may send to a flow. (`$answer` and `$fired` are between runners.)"""

_HASH = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_NULL: JsonSchema = {"type": "null"}
_MILLISECONDS = {"type": "string", "pattern": "^[0-9]{1,15}$"}


class Resume(msgspec.Struct, tag=RESUME, forbid_unknown_fields=True):
    """Somebody gives a deferred its value."""

    token: str
    value: Any = None  # durable's own has raw JSON there, which no schema can show a default of


def own() -> Defs:
    """All parts that don't depend on an app."""
    types = (Commit, TypeInfo, Past, Suspension, EntityStatus, RunnerStats, Registration)
    _, defs = components([*types, Resume, Cancel, Retry], f"{OWN}type.")
    _sharpen(defs)
    return merged([defs, _errors(), _headers(), _answers(), _plain()])


def _sharpen(defs: Defs) -> None:
    """What the code holds, beyond the types of the fields."""
    commit, outcome = _fields(defs, "Commit"), _fields(defs, "Outcome")
    commit |= {"v": {"const": FORMAT}, "prev": {"type": "string", "pattern": "^([0-9a-f]{32})?$"}}
    commit["outcomes"] = {**commit["outcomes"], "minItems": 1}
    outcome["payload_hash"] = _HASH
    defs[OUTCOME]["oneOf"] = [
        *({"required": [way]} for way in ("reply", "failure", "dead")),
        {  # of a command whose flow is open
            "required": ["flow"],
            "properties": {"reply": False, "failure": False, "dead": False},
        },
    ]
    _fields(defs, "Dead")["error"] = ref("Perdure.error")
    _fields(defs, "TypeInfo")["schemas"] = {"type": "object"}
    _fields(defs, "RunnerStats")["connection"] = {"type": "object"}
    _fields(defs, "Registration")["v"] = {"const": FORMAT}
    status = defs["Perdure.type.EntityStatus"]
    status["properties"]["runner"] = {"type": "string"}
    status["required"] = sorted([*status["required"], "runner"])


def _fields(defs: Defs, name: str) -> JsonSchema:
    fields: JsonSchema = defs[f"{OWN}type.{name}"]["properties"]
    return fields


def _errors() -> Defs:
    """The eleven cluster errors. A runner always sends all fields."""
    _, defs = components([wire_twin(reason) for reason in REASONS], f"{OWN}error.")
    for schema in defs.values():
        schema["required"] = sorted(schema["properties"])
    return {**defs, "Perdure.error": any_of(map(ref, defs))}


def _headers() -> Defs:
    asked: JsonSchema = {
        KEY_HEADER: ref("Perdure.key"),
        DEADLINE_HEADER: {**_MILLISECONDS, "description": "Unix ms; not executed after it."},
        TRACE_HEADER: {"type": "string", "description": "W3C trace context."},
        FORBIDDEN_HEADER: False,
    }
    told: JsonSchema = {
        **asked,
        REPLY_TO_HEADER: {
            "type": "string",
            "maxLength": REPLY_CHARS,
            "description": "Where to publish the answer, once.",
        },
        AT_HEADER: {**_MILLISECONDS, "description": "Unix ms; not executed before it."},
    }
    return {
        "Perdure.headers.ask": _object({**asked, AT_HEADER: False}),
        "Perdure.headers.tell": _object(told),
        "Perdure.headers.commit": {**_object({MARK: _HASH}), "required": [MARK]},
    }


def _object(properties: JsonSchema) -> JsonSchema:
    return {"type": "object", "properties": properties}


def _answers() -> Defs:
    suspended = {"type": "array", "items": ref("Perdure.type.Suspension")}
    return {
        "Perdure.answer.flows": answer(suspended),
        "Perdure.answer.status": answer(ref("Perdure.type.EntityStatus")),
        "Perdure.answer.woken": answer(_NULL),
    }


def _plain() -> Defs:
    """What is no struct here."""
    problem = _object({"code": {"type": "integer"}, "err_code": {"type": "integer"}})
    problem["properties"]["description"] = {"type": "string"}
    return {
        "Perdure.acknowledgement": {
            "description": "JetStream's answer to a tell: stored at `seq`, or why not.",
            "type": "object",
            "properties": {
                "stream": {"type": "string"},
                "seq": {"type": "integer", "minimum": 0},
                "duplicate": {"type": "boolean"},
                "error": {**problem, "required": ["code", "description"]},
            },
            "oneOf": [
                {"required": ["stream", "seq"], "properties": {"error": False}},
                {"required": ["error"]},
            ],
        },
        "Perdure.key": {
            "type": "string",
            "pattern": "^[A-Za-z0-9:_-]{1,255}$",
            "description": "An idempotency key: names one command to one entity.",
        },
        "Perdure.past": any_of([ref("Perdure.type.Past"), _NULL]),
    }


def answer(reply: JsonSchema, failure: JsonSchema | None = None) -> JsonSchema:
    """One JSON object with exactly one of reply, failure and error."""
    number = {"type": "integer", "minimum": 0}
    ways = ["reply"] if failure is None else ["reply", "failure"]
    return {
        "type": "object",
        "properties": {
            "reply": reply,
            "failure": False if failure is None else failure,
            "error": ref("Perdure.error"),
            "seq": number,
            "version": number,
        },
        "oneOf": [
            *({"required": [way, "seq", "version"]} for way in ways),
            {"required": ["error"]},
        ],
    }


def enveloped(kind: Kind, payload: JsonSchema) -> JsonSchema:
    """An envelope of that kind."""
    _, defs = components([Envelope], "")
    schema: JsonSchema = copy.deepcopy(defs["Envelope"])
    key = ref("Perdure.key")
    changes: dict[str, Any] = {
        "v": {"const": 1},
        "kind": {"const": kind},
        "payload": payload,
        "key": key if kind == "result" else any_of([key, _NULL]),
        "birth": any_of([{"type": "integer", "minimum": 0}, _NULL]),
    }
    if kind == "ask":
        changes["at"] = _NULL  # only a tell can be for later
    names = list(Envelope.__struct_fields__)
    for name, change in changes.items():
        schema["prefixItems"][names.index(name)] = change
    schema["minItems"] = names.index("key") + 1 if kind == "result" else schema["minItems"]
    return {**schema, "title": f"Envelope: {kind}"}
