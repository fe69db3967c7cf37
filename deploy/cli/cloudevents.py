"""Cloudevents: an entity's events as CloudEvents 1.0, for systems that take these.

Each is known by its address and version, in every export the same, so whoever has seen one knows
it again. What isn't an event (failures, dead letters, foreign messages) has no place there.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from urllib.parse import quote

import msgspec
from msgspec import Raw

from ...entities.address import Address
from .chronicle import Entry


class CloudEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event in CloudEvents' JSON format."""

    specversion: str
    id: str
    """Address and version: `account/a-1/17`."""
    source: str
    """The entity: `/perdure/account/a-1`, the namespace first."""
    type: str
    """`perdure.account.withdrawn`."""
    subject: str
    """The entity's id."""
    time: datetime
    """Of the commit, by the runner's clock."""
    datacontenttype: str
    entityversion: int
    """The entity's number of events up to this one: their order."""
    traceparent: str | None = None
    data: Raw
    """The event's JSON."""


class _Tagged(msgspec.Struct):
    type: str


def cloud_events(entry: Entry, address: Address, namespace: str) -> Iterator[CloudEvent]:
    """The events of one outcome, in their order."""
    first = entry.version - len(entry.events) + 1
    for version, event in enumerate(entry.events, first):
        tag = msgspec.json.decode(event, type=_Tagged).type
        yield CloudEvent(
            specversion="1.0",
            id=f"{address}/{version}",
            source=f"/{namespace}/{address.entity}/{quote(address.id, safe='')}",
            type=f"{namespace}.{address.entity}.{tag}",
            subject=address.id,
            time=entry.time,
            datacontenttype="application/json",
            entityversion=version,
            traceparent=entry.trace,
            data=event,
        )
