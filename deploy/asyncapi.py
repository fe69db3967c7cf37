"""Asyncapi: an app's contract as an AsyncAPI 3.0 document, as its runners have it.

Channels are the real subjects, with the escaped id as their parameter; what an operation receives
or sends is told from the runner's side, so a client does the opposite. AsyncAPI's schemas are
those of JSON Schema draft 07, so the parts of `schema.py` are rewritten to it. No servers are
named, for the contract is the same on each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec

from ..entities.contract import Contract
from ..entities.entity import Entity
from ..streams.asks import REPLY_TO_HEADER
from ..streams.subjects import Subjects
from .jsonschema import REFERENCE, JsonSchema, part, plain
from .schema import contracts_of, parts_of

VERSION = "3.0.0"
SCHEMAS = "#/components/schemas/"
VERSION_CHARS = 12
"""Of the document's own version, a digest of what it says: 48 bits tell contracts apart."""

_BINDINGS = {"nats": {"bindingVersion": "0.1.0"}}
_ID = {
    "description": "The entity's id, escaped: a byte outside A-Z a-z 0-9 _ - is written = and two "
    "capital hexadecimal digits. 1 to 255 bytes of UTF-8 before that.",
    "examples": ["a-1", "user=40example=2Ecom"],
}
_GENERATION = {"description": "How often the type was cut anew, as `info` tells.", "default": "1"}
_SHARD = {"description": "The 32-bit FNV-1a hash of the escaped id, modulo the number of shards."}
_PARAMETERS = {"id": _ID, "generation": _GENERATION, "shard": _SHARD}
_ANSWERS = "The reply subject that the caller chose, below one of the runners' reply_prefixes."


def async_api(entities: Sequence[Entity[Any, Any]], subjects: Subjects) -> JsonSchema:
    """The AsyncAPI document of these entity types. Raises ValueError as `json_schema` does."""
    names = ", ".join(sorted(entity.name for entity in entities))
    types = [_Type(entity, subjects) for entity in sorted(entities, key=lambda e: e.name)]
    schemas: JsonSchema = {name: _draft7(s) for name, s in parts_of(entities).items()}
    content: JsonSchema = {
        "channels": _joined(t.channels() for t in types),
        "operations": _joined(t.operations() for t in types),
        "components": {"messages": _joined(t.messages() for t in types), "schemas": schemas},
    }
    text = msgspec.json.encode(content, order="sorted")
    return {
        "asyncapi": VERSION,
        "info": {
            "title": f"perdure: {names}",
            "version": hashlib.sha256(text).hexdigest()[:VERSION_CHARS],
            "description": "Durable entities on NATS, as their runners receive and send. The "
            "version is a digest of all that follows.",
        },
        "defaultContentType": "application/json",
        **content,
    }


class _Type:
    """What an AsyncAPI document says of one entity type."""

    def __init__(self, entity: Entity[Any, Any], subjects: Subjects) -> None:
        self.name: str = entity.name
        self._subjects = subjects
        self._contracts = contracts_of(entity)

    # -- messages ---------------------------------------------------------------------------------
    def messages(self) -> JsonSchema:
        """All that is sent, in `components`."""
        name = self.name
        made: JsonSchema = {
            f"{name}.ask": _message(f"{name}.ask", "Perdure.headers.ask"),
            f"{name}.tell": _message(f"{name}.tell", "Perdure.headers.tell"),
            f"{name}.answer": _message(f"{name}.answer"),
            f"{name}.acknowledgement": _message("Perdure.acknowledgement"),
            f"{name}.info": _message("Perdure.type.TypeInfo"),
            f"{name}.anything": {"description": "Any body.", "payload": {}},
            f"{name}.commit": _message(f"{name}.commit", "Perdure.headers.commit"),
            f"{name}.outcome": _message(f"{name}.outcome"),
        }
        for contract in self._contracts:
            kind, tag = _kind(contract), contract.tag
            answered = part(name, "answer", tag)
            made[answered] = _message(answered)
            made[part(name, kind, tag)] = _message(part(name, kind, tag), "Perdure.headers.ask")
            if contract.writes:
                made[part(name, "told", tag)] = _message(
                    part(name, kind, tag), "Perdure.headers.tell"
                )
        return made

    # -- channels ---------------------------------------------------------------------------------
    def channels(self) -> JsonSchema:
        """The subjects, and the reply subjects that callers choose."""
        name, to = self.name, self._subjects
        asked = ["ask", *(f"{_kind(c)}.{plain(c.tag)}" for c in self._contracts)]
        told = ["tell", *(f"told.{plain(c.tag)}" for c in self._contracts if c.writes)]
        answered = ["answer", *(f"answer.{plain(c.tag)}" for c in self._contracts)]
        owner = to.command(name, "{generation}", "{shard}", "{id}")
        owner = owner.replace(f"{to.namespace}.cmd.", f"{to.namespace}.ask.", 1)
        streams = (to.command_stream(name), to.log_stream(name), to.dead_stream)
        return {
            f"{name}.ask": self._channel(to.ask(name, "{id}"), asked, "An ask."),
            f"{name}.ask.owner": self._channel(owner, asked, "An ask, straight to the owner."),
            f"{name}.tell": self._channel(to.to(name, "{id}"), told, "A tell.", streams[0]),
            f"{name}.info": self._channel(to.info(name), ["anything"], "How is the type cut?"),
            f"{name}.log": self._channel(to.log(name, "{id}"), ["commit"], "The log.", streams[1]),
            f"{name}.dead": self._channel(
                to.dead(name, "{id}"), ["outcome"], "Copies of dead letters.", streams[2]
            ),
            f"{name}.answers": self._channel(None, answered, _ANSWERS),
            f"{name}.acknowledgements": self._channel(None, ["acknowledgement"], "JetStream's."),
            f"{name}.infos": self._channel(None, ["info"], "The reply subject."),
        }

    def _channel(
        self, address: str | None, messages: Iterable[str], what: str, stream: str | None = None
    ) -> JsonSchema:
        refs = {m: {"$ref": f"#/components/messages/{self.name}.{m}"} for m in messages}
        channel: JsonSchema = {"address": address, "description": what, "messages": refs}
        names = {n: p for n, p in _PARAMETERS.items() if address and f"{{{n}}}" in address}
        if names:
            channel["parameters"] = names
        if stream is not None:
            channel["x-jetstream-stream"] = stream
        return channel

    # -- operations -------------------------------------------------------------------------------
    def operations(self) -> JsonSchema:
        """What runners receive, what they answer, and what they store."""
        name = self.name
        made = {
            f"{name}.ask": self._receives("ask", ["ask"], "answers", ["answer"]),
            f"{name}.ask.owner": self._receives("ask.owner", ["ask"], "answers", ["answer"]),
            f"{name}.tell": self._told("tell"),
            f"{name}.info": self._receives("info", ["anything"], "infos", ["info"]),
            f"{name}.log": self._sends("log", ["commit"]),
            f"{name}.dead": self._sends("dead", ["outcome"]),
        }
        for contract in self._contracts:
            kind, tag = _kind(contract), plain(contract.tag)
            answered = [f"answer.{tag}"]
            made[f"{name}.ask.{tag}"] = self._receives(
                "ask", [f"{kind}.{tag}"], "answers", answered
            )
            if contract.writes:
                made[f"{name}.tell.{tag}"] = self._told(f"told.{tag}")
                made[f"{name}.told.{tag}"] = {
                    **self._sends("answers", answered),
                    "description": f"What a tell is answered, where its {REPLY_TO_HEADER} says.",
                }
        return made

    def _told(self, message: str) -> JsonSchema:
        """A tell is acknowledged by JetStream at once, and answered where a header says, if it
        does."""
        return self._receives("tell", [message], "acknowledgements", ["acknowledgement"])

    def _receives(
        self, channel: str, messages: list[str], back: str, replies: list[str]
    ) -> JsonSchema:
        return {
            **self._operation("receive", channel, messages),
            "reply": {
                "channel": {"$ref": f"#/channels/{self.name}.{back}"},
                "messages": self._refs(back, replies),
            },
        }

    def _sends(self, channel: str, messages: list[str]) -> JsonSchema:
        return self._operation("send", channel, messages)

    def _operation(self, action: str, channel: str, messages: list[str]) -> JsonSchema:
        return {
            "action": action,
            "channel": {"$ref": f"#/channels/{self.name}.{channel}"},
            "messages": self._refs(channel, messages),
            "bindings": _BINDINGS,
        }

    def _refs(self, channel: str, messages: list[str]) -> list[JsonSchema]:
        head = f"#/channels/{self.name}.{channel}/messages"
        return [{"$ref": f"{head}/{message}"} for message in messages]


def _kind(contract: Contract) -> str:
    return "command" if contract.writes else "query"


def _message(payload: str, headers: str | None = None) -> JsonSchema:
    message: JsonSchema = {"name": payload, "payload": {"$ref": f"{SCHEMAS}{payload}"}}
    return message if headers is None else {**message, "headers": {"$ref": f"{SCHEMAS}{headers}"}}


def _joined(parts: Iterable[JsonSchema]) -> JsonSchema:
    return {name: value for part in parts for name, value in part.items()}


def _draft7(schema: Any) -> Any:
    """A schema of draft 2020-12 as one of draft 07, which has no `prefixItems`, and takes nothing
    beside a reference."""
    if isinstance(schema, list):
        return [_draft7(item) for item in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    old: JsonSchema = {}
    for key, value in cast("JsonSchema", schema).items():
        if key == "prefixItems":
            old["items"] = _draft7(value)
        elif key == "items" and "prefixItems" in schema:
            old["additionalItems"] = _draft7(value)
        elif key == "properties":
            old[key] = {k: _draft7(v) for k, v in value.items()}
        elif key in ("const", "default", "enum", "examples"):
            old[key] = value
        elif key == "$ref":
            old[key] = SCHEMAS + str(value).removeprefix(REFERENCE)
        else:
            old[key] = _draft7(value)
    if "$ref" in old and len(old) > 1:
        return {"allOf": [{"$ref": old.pop("$ref")}], **old}
    return old
