"""Tracing: what a tracer is told of calls, commands, flows and steps.

The setting `tracing` turns it on; without it nothing here costs more than a comparison. What a
caller's span is travels as W3C's `traceparent` in the envelope, is stored with the outcome, and
with a flow for as long as it is open: so whatever a command led to, on other runners and months
later, is below the call in one tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import Literal, Protocol, TypeAlias

from ..entities.address import Address
from ..entities.errors import ClusterError
from ..entities.settings import Settings
from ..entities.tagged import Failure

Kind: TypeAlias = Literal["client", "producer", "server", "consumer", "internal"]
Attributes: TypeAlias = Mapping[str, str | int]


class Tracer(Protocol):
    """What makes spans. A `traceparent` is W3C's, as text."""

    def span(
        self, name: str, kind: Kind, attributes: Attributes, parent: str | None = None
    ) -> AbstractContextManager[str | None]:
        """A span around what is done inside, which is current there; its own traceparent.

        Its parent is the current span where none is given. An error that leaves it is recorded.
        """
        ...

    def past(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        parent: str | None,
        took_s: float,
        *,
        link: str | None = None,
    ) -> None:
        """A span of what was just done, and took so long. An attribute `error.type` marks it as
        failed. `link` is the traceparent of what it belongs to beside its parent."""
        ...


def tracer_of(settings: Settings) -> Tracer | None:
    """The tracer of these settings: OpenTelemetry's global one, or none.

    Raises ValueError where the package is missing.
    """
    return _opentelemetry() if settings.tracing else None


@cache
def _opentelemetry() -> Tracer:
    try:
        from .otel import OpenTelemetry
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise ValueError(
            "tracing: needs the package opentelemetry-api: pip install 'perdure[otel]'"
        ) from None
    return OpenTelemetry()


def about(address: Address) -> dict[str, str | int]:
    """What is said of whom a span concerns."""
    return {"messaging.system": "nats", "perdure.type": address.entity, "perdure.id": address.id}


def tag_of_error(error: BaseException) -> str:
    """The kind of an error, as an attribute: few different ones."""
    if isinstance(error, ClusterError | Failure):
        return error.tag
    return type(error).__name__
