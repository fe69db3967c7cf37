"""`perdure schema`: an app's contract, for clients in other languages and for reviews."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from ...streams.subjects import Subjects
from ..asyncapi import async_api
from ..schema import json_schema
from .app import AnyEntity, load_app
from .options import NO_OPTIONS, Common
from .trouble import SUCCESS, Failed, UsageError

INDENT = 2


def schema(
    app: str,
    /,
    *,
    format: Literal["jsonschema", "asyncapi"] = "jsonschema",
    type: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    common: Common = NO_OPTIONS,
) -> int:
    """Print what an app's entities take, answer and record, made from their types.

    As JSON Schemas (draft 2020-12) of all messages, perdure's own among them, or as an AsyncAPI
    3.0 document with the subjects. The same code gives the same text, so a difference between two
    releases is a difference of the contract. It needs no server.

    For instance:

    * `perdure schema bank`
    * `perdure schema bank.py --format asyncapi > asyncapi.json`
    * `perdure schema bank --json | jq '."$defs"."account.command"'`

    Parameters
    ----------
    app
        A module (`bank`), `module:name`, or a file (`bank.py`).
    format
        `jsonschema`, or `asyncapi`.
    type
        Only this entity type: `account`. May be given again.
    """
    output = common.output()
    entities = _chosen(load_app(app), type)
    try:
        if format == "asyncapi":
            made = async_api(entities, Subjects(common.settings().namespace))
        else:
            made = json_schema(entities)
    except ValueError as error:
        raise Failed(f"{app}: {error}", "give one of the messages another tag") from None
    data = msgspec.json.encode(made, order="sorted")
    output.result(msgspec.Raw(data), msgspec.json.format(data, indent=INDENT).decode())
    return SUCCESS


def _chosen(entities: tuple[AnyEntity, ...], types: tuple[str, ...]) -> list[AnyEntity]:
    """Those of the given names, all if none is given. Raises UsageError."""
    there = {entity.name: entity for entity in entities}
    for name in types:
        if name not in there:
            raise UsageError(f"no entity type {name!r}", f"there are: {', '.join(there)}")
    return [entity for name, entity in there.items() if not types or name in types]
