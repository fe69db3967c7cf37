"""Document: OpenAPI 3.1 of an app, generated from its message classes.

Each command and query has a path of its own, with its body, its reply and its failures, so that
clients and forms can be generated; nothing is said here that the resources don't do, and fuzzing
against it in the tests holds the two together.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from ...entities.contract import Contract
from ...entities.errors import ClusterError, Suspended
from ...entities.tagged import Failure, wire_twin
from .calls import Resumption
from .limits import LEAST_WAIT_S, Limits
from .past import MOST, Happened, encode_page_schema
from .problems import FAILURE_STATUS, PROBLEM, STATUSES, Problem
from .served import Message, Served

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_KEY_PATTERN = '^(?:[A-Za-z0-9:_-]{1,255}|"[A-Za-z0-9:_-]{1,255}")$'
_BLANK = (400, 404, 405, 406, 408, 413, 414, 415, 422, 500, 503, 504)
"""Statuses of problems that the gateway makes by itself."""


def document(
    types: Mapping[str, Served], limits: Limits, *, require_key: bool, root: str
) -> bytes:
    """The document as JSON."""
    shapes = _Shapes(types)
    paths: Json = {}
    for name, served in types.items():
        paths |= _paths_of(name, served, shapes, limits, require_key=require_key)
    told = {
        "openapi": "3.1.1",
        "jsonSchemaDialect": "https://spec.openapis.org/oas/3.1/dialect/base",
        "info": {
            "title": f"perdure: {', '.join(types)}",
            "version": version("perdure"),
            "description": "Commands, queries and histories of entities. Errors are RFC 9457.",
        },
        "servers": [{"url": root or "/"}],
        "paths": {**paths, **_common_paths()},
        "components": {"schemas": shapes.components, "responses": _responses()},
    }
    return msgspec.json.encode(told)


class _Shapes:
    """The schemas of all classes, each named once."""

    def __init__(self, types: Mapping[str, Served]) -> None:
        contracts = [m.contract for s in types.values() for m in s.messages.values()]
        replies = [c.reply for c in contracts]
        twins = [wire_twin(f) for c in contracts for f in c.failures]
        states = [s.state for s in types.values()]
        events = [e for s in types.values() for e in s.entity.events]
        messages = [c.message for c in contracts]
        every = [*messages, *replies, *twins, *states, *events, Problem, Happened, Resumption]
        found, components = msgspec.json.schema_components(every, ref_template=_REF)
        self._of: list[tuple[Any, Json]] = list(zip(every, found, strict=True))
        self.components: Json = {**components, "ClusterProblem": _cluster_problem()}

    def of(self, wanted: Any) -> Json:
        """The schema of one of them."""
        return next(schema for kind, schema in self._of if kind is wanted)

    def body(self, message: type[msgspec.Struct]) -> Json:
        """Of a message whose type the path says already: it may be left out."""
        name = self.of(message)["$ref"].rpartition("/")[2]
        schema: Json = copy.deepcopy(self.components[name])
        schema["required"] = [f for f in schema.get("required", []) if f != "type"]
        return schema


def _cluster_problem() -> Json:
    tags = [kind.tag for kind in STATUSES if kind is not Suspended]
    return {
        "type": "object",
        "description": "Infrastructure refused, failed or doesn't know.",
        "required": ["type", "title", "status", "may_have_taken_effect", "advice"],
        "properties": {
            "type": {"enum": tags},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "address": {"type": ["string", "null"]},
            "key": {"type": ["string", "null"]},
            "request_id": {"type": ["string", "null"]},
            "may_have_taken_effect": {
                "type": "boolean",
                "description": "false: it is certain that it had, and will have, no effect.",
            },
            "advice": {
                "enum": ["wait", "retry", "retry with the same key", "fix", "check"],
            },
        },
    }


# -- paths --------------------------------------------------------------------------------------
def _paths_of(
    name: str, served: Served, shapes: _Shapes, limits: Limits, *, require_key: bool
) -> Json:
    at = f"/entities/{name}/{{id}}"
    shared = {"parameters": [_ID]}
    paths: Json = {}
    for tag, message in served.messages.items():
        path: Json = {**shared}
        if message.contract.writes:
            path["post"] = _command(name, message, shapes, limits, require_key=require_key)
            outcome = _outcome(name, message, shapes, limits)
            paths[f"{at}/outcomes/{tag}/{{key}}"] = {
                "parameters": [_ID, _KEY_IN_PATH],
                "get": outcome,
            }
        else:
            path["post"] = _query(name, message, shapes, limits, by_get=False)
            if message.gettable:
                path["get"] = _query(name, message, shapes, limits, by_get=True)
        paths[f"{at}/{tag}"] = path
    history = paths.setdefault(f"{at}/history", {**shared})
    history["get"] = _history(name, limits)
    state = paths.setdefault(f"{at}/state", {**shared})
    state["get"] = _state(name, shapes.of(served.state), limits)
    return paths


def _command(
    name: str, message: Message, shapes: _Shapes, limits: Limits, *, require_key: bool
) -> Json:
    contract = message.contract
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": require_key,
        "description": "Names the intention: the same key gets the outcome recorded first.",
        "schema": {"type": "string", "pattern": _KEY_PATTERN},
    }
    return {
        "operationId": f"{name}.{contract.tag}",
        "tags": [name],
        "summary": _summary(contract),
        "parameters": [key, _PREFER, _wait(limits)],
        "requestBody": _request_body(contract, shapes),
        "responses": {
            "200": _json("The reply.", shapes.of(contract.reply)),
            "202": _ACCEPTED,
            **_failures(contract, shapes),
            **_problems(400, 404, 405, 406, 408, 413, 414, 415, 422, 429, 500, 502, 503, 504),
        },
    }


def _outcome(name: str, message: Message, shapes: _Shapes, limits: Limits) -> Json:
    contract = message.contract
    return {
        "operationId": f"{name}.{contract.tag}.outcome",
        "tags": [name],
        "summary": f"What came of a {contract.tag}",
        "parameters": [_PREFER, _wait(limits)],
        "responses": {
            "200": _json("The reply.", shapes.of(contract.reply)),
            "202": _ACCEPTED,
            **_failures(contract, shapes),
            **_problems(400, 404, 405, 406, 414, 422, 429, 500, 502, 503, 504),
        },
    }


def _query(name: str, message: Message, shapes: _Shapes, limits: Limits, *, by_get: bool) -> Json:
    contract = message.contract
    told: Json = {
        "operationId": f"{name}.{contract.tag}" + ("" if by_get else ".post"),
        "tags": [name],
        "summary": _summary(contract),
        "parameters": [_FRESH, _wait(limits), _PREFER],
        "responses": {
            "200": _json("The answer.", shapes.of(contract.reply)),
            **_problems(400, 404, 405, 406, 408, 413, 414, 415),
            **_problems(409, 422, 429, 500, 502, 503, 504),
        },
    }
    if not by_get:
        return {**told, "requestBody": _request_body(contract, shapes)}
    for field in message.fields:
        shown = {"schema": field.schema}
        told["parameters"].append(
            {
                "name": field.name,
                "in": "query",
                "required": field.required,
                **(shown if field.plain else {"content": {"application/json": shown}}),
            }
        )
    return told


def _history(name: str, limits: Limits) -> Json:
    after = _in_query("after", "The position after which to begin.", 0, MOST)
    limit = _in_query("limit", f"Outcomes on a page: {limits.page}.", 1, limits.page_most)
    last = {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The position of the last event that came; beats `after`.",
        "schema": {"type": "integer", "minimum": 0, "maximum": MOST},
    }
    page = _json("A page, or with `Accept: text/event-stream` a stream.", {})
    page["content"] = {
        "application/json": {"schema": encode_page_schema()},
        "text/event-stream": {"schema": {"type": "string"}},
    }
    return {
        "operationId": f"{name}.history",
        "tags": [name],
        "summary": "What happened to an entity",
        "parameters": [after, limit, last, _wait(limits), _PREFER],
        "responses": {"200": page, **_problems(400, 404, 405, 406, 414, 422, 500, 502, 503, 504)},
    }


def _state(name: str, schema: Json, limits: Limits) -> Json:
    number = _in_query("version", "As it was at this version.", 0, MOST)
    time = {
        "name": "time",
        "in": "query",
        "description": "As it was at this time, which has a zone. Not both.",
        "schema": {"type": "string", "format": "date-time"},
    }
    return {
        "operationId": f"{name}.state",
        "tags": [name],
        "summary": "The state of an entity",
        "parameters": [number, time, _wait(limits), _PREFER],
        "responses": {
            "200": _json("The state.", schema),
            **_problems(400, 404, 405, 406, 409, 414, 422, 429, 500, 502, 503, 504),
        },
    }


def _common_paths() -> Json:
    statuses = (400, 404, 405, 406, 408, 409, 413, 414, 415, 422, 429, 500, 502, 503, 504)
    done = {"204": {"description": "It is recorded; the first value counts."}}
    token = {
        "name": "token",
        "in": "path",
        "required": True,
        "description": "A secret: prefer `POST /resume`, whose path may be logged.",
        "schema": {"type": "string", "minLength": 1},
    }
    value: Json = {"required": True, "content": {"application/json": {"schema": {}}}}
    given = {"content": {"application/json": {"schema": {"$ref": _REF.format(name="Resumption")}}}}
    probe = {"200": _json("It is.", {"type": "object"})}
    unready = {"503": _json("It isn't, and why.", {"type": "object"})}
    return {
        "/resume": {
            "post": {
                "operationId": "resume",
                "summary": "Give a flow the value that it waits for",
                "requestBody": {"required": True, **given},
                "responses": {**done, **_problems(*statuses)},
            }
        },
        "/resume/{token}": {
            "parameters": [token],
            "post": {
                "operationId": "resume.by_path",
                "summary": "The same with the token in the path",
                "requestBody": value,
                "responses": {**done, **_problems(*statuses)},
            },
        },
        "/livez": {"get": {"summary": "Whether it lives", "responses": probe}},
        "/readyz": {
            "get": {"summary": "Whether calls get through", "responses": {**probe, **unready}}
        },
        "/openapi.json": {
            "get": {
                "summary": "This document",
                "responses": {"200": _json("OpenAPI 3.1.", {"type": "object"})},
            }
        },
    }


# -- parts --------------------------------------------------------------------------------------
_ID: Json = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "The entity's id: 1-255 bytes of UTF-8, percent-encoded.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
_KEY_IN_PATH: Json = {
    "name": "key",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9:_-]{1,255}$"},
}
_PREFER: Json = {
    "name": "Prefer",
    "in": "header",
    "description": "RFC 7240: `wait=10` (seconds), and for commands `respond-async`.",
    "schema": {"type": "string"},
}
_FRESH: Json = {
    "name": "fresh",
    "in": "query",
    "description": "Linearizable: the owner looks first whether the log holds something newer.",
    "schema": {"type": "boolean"},
}
_ACCEPTED: Json = {
    "description": "It is stored, and its outcome will be at `Location`.",
    "headers": {
        "Location": {"required": True, "schema": {"type": "string"}},
        "Retry-After": {"schema": {"type": "integer"}},
    },
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["key", "outcome", "waits_for"],
                "properties": {
                    "key": {"type": "string"},
                    "outcome": {"type": "string"},
                    "waits_for": {"type": "array", "items": {"type": "string"}},
                    "resume_token": {"type": "string"},
                },
            }
        }
    },
}


def _wait(limits: Limits) -> Json:
    return {
        "name": "wait",
        "in": "query",
        "description": "How many seconds to wait; beats `Prefer`.",
        "schema": {"type": "number", "minimum": LEAST_WAIT_S, "maximum": limits.wait_s},
    }


def _in_query(name: str, description: str, least: int, most: int) -> Json:
    schema = {"type": "integer", "minimum": least, "maximum": most}
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _request_body(contract: Contract, shapes: _Shapes) -> Json:
    schema = shapes.body(contract.message)
    content = {"application/json": {"schema": schema}}
    return {"required": bool(schema["required"]), "content": content}


def _failures(contract: Contract, shapes: _Shapes) -> Json:
    kinds = [_failure(f, shapes.of(wire_twin(f))) for f in contract.failures]
    schema = {"anyOf": [*kinds, {"$ref": _REF.format(name="ClusterProblem")}]}
    description = "A declared failure, or the same key is at work."
    return {
        str(FAILURE_STATUS): {
            "description": description,
            "content": {PROBLEM: {"schema": schema}},
        }
    }


def _failure(failure: type[Failure], twin: Json) -> Json:
    return {
        "type": "object",
        "required": ["type", "title", "status", "failure"],
        "properties": {
            "type": {"const": failure.tag},
            "title": {"type": "string"},
            "status": {"const": FAILURE_STATUS},
            "key": {"type": ["string", "null"]},
            "failure": twin,
        },
    }


def _problems(*statuses: int) -> Json:
    return {str(s): {"$ref": f"#/components/responses/{s}"} for s in statuses}


def _responses() -> Json:
    """Every problem by its status: of the gateway, of the eleven, or of either."""
    by_status: dict[int, list[type[ClusterError]]] = {}
    for kind, status in STATUSES.items():
        if kind is not Suspended:
            by_status.setdefault(status.code, []).append(kind)
    by_status.setdefault(404, []).extend(k for k in STATUSES if k.tag == "SendTimeout")
    found: Json = {}
    for code in sorted({*_BLANK, *by_status}):
        refs: list[Json] = [{"$ref": _REF.format(name="Problem")}]
        refs += [{"$ref": _REF.format(name="ClusterProblem")}] if code in by_status else []
        tags = ", ".join(kind.tag for kind in by_status.get(code, []))
        found[str(code)] = {
            "description": tags or "A problem.",
            "content": {PROBLEM: {"schema": refs[0] if len(refs) == 1 else {"anyOf": refs}}},
        }
    return found


def _json(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _summary(contract: Contract) -> str:
    given = (contract.message.__doc__ or "").strip().partition("\n")[0]
    return given or contract.tag.replace("_", " ")
