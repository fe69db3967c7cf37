"""OpenTelemetry's tracer, as perdure uses it. The only file that imports `opentelemetry`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..entities.clock import SystemClock
from ..entities.errors import Suspended
from ..entities.tagged import Failure
from .token import without_tokens
from .tracing import Attributes, Kind, tag_of_error

FIELD = "traceparent"
DESCRIPTION_CHARS = 256
"""Of an error's text in a span at most: enough to know it, and no payload."""
KINDS: dict[Kind, SpanKind] = {
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "server": SpanKind.SERVER,
    "consumer": SpanKind.CONSUMER,
    "internal": SpanKind.INTERNAL,
}

_clock = SystemClock()
_w3c = TraceContextTextMapPropagator()


class OpenTelemetry:
    """Spans by the global tracer provider, which the program sets up, or
    `opentelemetry-instrument` for it."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("perdure")

    def __repr__(self) -> str:
        return "OpenTelemetry()"

    @contextmanager
    def span(
        self, name: str, kind: Kind, attributes: Attributes, parent: str | None = None
    ) -> Generator[str | None]:
        """See `Tracer`. A declared failure, or that a flow waits, is an answer and no error."""
        with self._tracer.start_as_current_span(
            name,
            _context(parent),
            kind=KINDS[kind],
            attributes=dict(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield _traceparent(span)
            except BaseException as error:
                span.set_attribute("error.type", tag_of_error(error))
                if not isinstance(error, Failure | Suspended):
                    told = without_tokens(str(error))[:DESCRIPTION_CHARS]
                    span.set_status(Status(StatusCode.ERROR, told))
                raise

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
        """See `Tracer`."""
        now_ns = _clock.now_ns()
        span = self._tracer.start_span(
            name,
            _context(parent),
            kind=KINDS[kind],
            attributes=dict(attributes),
            links=_links(link),
            start_time=now_ns - int(took_s * 1e9),
        )
        if "error.type" in attributes:
            span.set_status(Status(StatusCode.ERROR))
        span.end(now_ns)


def _context(parent: str | None) -> Context | None:
    return None if parent is None else _w3c.extract({FIELD: parent})


def _links(traceparent: str | None) -> list[trace.Link]:
    """None for what isn't a traceparent: anybody may write that header."""
    if traceparent is None:
        return []
    found = trace.get_current_span(_w3c.extract({FIELD: traceparent}, Context()))
    context = found.get_span_context()
    return [trace.Link(context)] if context.is_valid else []


def _traceparent(span: trace.Span) -> str | None:
    carrier: dict[str, str] = {}
    _w3c.inject(carrier, set_span_in_context(span))
    return carrier.get(FIELD)
