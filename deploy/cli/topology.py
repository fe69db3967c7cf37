"""`perdure topology`: the streams that an app's entities live in, shown or made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

from ...entities.settings import MEMORY, Settings
from ...streams.connect import open_session
from ...streams.jetstream.session import JetStreamSession
from ...streams.port import Incompatible
from ...streams.topology import planned
from ..nack import resources
from ..provisioning import provision
from .app import types_of
from .calling import run
from .options import NO_OPTIONS, Common
from .output import Output
from .trouble import SUCCESS, Failed, UsageError

Format: TypeAlias = Literal["plain", "nack"]


def topology(
    app: str | None = None,
    /,
    *,
    type: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)] = (),
    format: Format = "plain",
    apply: Annotated[bool, Parameter(negative="")] = False,
    common: Common = NO_OPTIONS,
) -> int:
    """Print the streams that entities live in, or make them, without hosting.

    A runner makes them when it starts. With `--apply` they are made before, or brought up to the
    settings: then runners need no right to create. What is there is never deleted, and a stream
    that isn't perdure's is refused. Repeating it changes nothing. What is chosen once (replicas,
    shards) stays: `perdure check` tells where that isn't what the settings say.

    For instance:

    * `perdure topology bank`
    * `perdure topology bank --apply`
    * `perdure topology --type account --format nack | kubectl apply -f -`

    Parameters
    ----------
    app
        A module (`bank`), one entity of it (`bank:account`) or a file (`bank.py`).
    type
        An entity type, by its name; may be repeated.
    format
        plain: one stream a line. nack: resources of NATS's JetStream controller for Kubernetes.
    apply
        Make what is missing, update the bounds that follow the settings.
    """
    settings = common.settings()
    if settings.url.startswith(MEMORY):
        raise UsageError(f"{settings.url} has no server", "give the --url of one")
    if apply and format != "plain":
        raise UsageError("--apply together with --format", "the controller makes them, or perdure")
    types, output = types_of(app, type), common.output()
    if apply:
        return run(_apply(settings, types, output))
    if format == "nack":
        Output(json=True).result(resources(planned(settings, types)))
        return SUCCESS
    streams = planned(settings, types)
    for stream in streams if output.json else ():
        output.result(stream.config)
    output.table(
        ("STREAM", "RETENTION", "#REPLICAS", "SUBJECTS", "BOUNDS"),
        [
            (
                stream.name,
                str(stream.config["retention"]),
                str(stream.config["num_replicas"]),
                " ".join(stream.config["subjects"]),
                " ".join(f"{name}={value}" for name, value in stream.bounds.items()),
            )
            for stream in streams
        ],
    )
    return SUCCESS


async def _apply(settings: Settings, types: Sequence[str], output: Output) -> int:
    session = await open_session(settings, name="perdure-topology")
    assert isinstance(session, JetStreamSession), "there is a server"
    try:
        async with aclosing(provision(session, types)) as found:
            async for one in found:
                changes = f": {'; '.join(one.changes)}" if one.changes else ""
                output.result(one, f"{one.done:<8} {one.stream}{changes}")
    except Incompatible as error:
        raise Failed(str(error), "perdure check says what differs, and what to do") from None
    finally:
        await asyncio.shield(session.close())
    return SUCCESS
