"""One order as one tree of spans, over its entities, and over a wait of hours and a crash."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta

import desk
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, StatusCode
from order import Order, Place, Verdict
from shop import ENTITIES
from stock import GetShelf, Receive, Shelf, Stock

from perdure import Settings, Suspended, TestCluster, Token, memory
from perdure.streams import otel, tracing

SETTINGS = Settings(tracing=True)
BOTH = {"lamp": 2, "table": 1}


class Spans:
    """What was exported."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def tree(self, root: str) -> list[str]:
        """All below the only span of that name, as indented names in the order of their starts."""
        spans = self._exporter.get_finished_spans()
        (top,) = (span for span in spans if span.name == root)
        return list(self._below(top, spans, 0))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def text(self) -> str:
        return "".join(span.to_json() for span in self._exporter.get_finished_spans())

    def forget(self) -> None:
        self._exporter.clear()

    def _below(
        self, span: ReadableSpan, spans: tuple[ReadableSpan, ...], depth: int
    ) -> Iterator[str]:
        yield "  " * depth + span.name
        at = _at(span)
        own = [s for s in spans if s.parent is not None and s.parent.span_id == at.span_id]
        for child in sorted(own, key=lambda s: (s.start_time or 0, s.name)):
            assert _at(child).trace_id == at.trace_id
            yield from self._below(child, spans, depth + 1)


def _at(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace.get_tracer", provider.get_tracer)
    tracer = otel.OpenTelemetry()
    monkeypatch.setattr(tracing, "_opentelemetry", lambda: tracer)
    yield Spans(exporter)
    provider.shutdown()


async def stocked(cluster: TestCluster, spans: Spans) -> None:
    for sku in BOTH:
        await cluster.at(Stock, sku).ask(Receive(9))
    spans.forget()


RESERVED = ["  ask stock.reserve", "    stock.reserve"] * 2
PAID_AND_TAKEN = [
    "  ask payment.charge",
    "    payment.charge",
    "    payment step charge",
    *["  ask stock.take", "    stock.take"] * 2,
]


@pytest.mark.usefixtures("outside_file")
async def test_a_small_order(spans: Spans) -> None:
    async with memory(*ENTITIES, settings=SETTINGS) as cluster:
        await stocked(cluster, spans)
        assert (
            await cluster.at(Order, "o-1").ask(Place("ann", "good", BOTH, 50_00), key="k") == 5000
        )
        await cluster.quiet()
    tree = spans.tree("ask order.place")
    assert tree[0] == "ask order.place"
    assert sorted(tree[1:]) == sorted([*RESERVED, *PAID_AND_TAKEN, "  order.place"])
    (asked,), (ended,) = spans.named("ask order.place"), spans.named("order.place")
    assert asked.attributes is not None
    assert ended.attributes is not None
    assert (asked.attributes["perdure.id"], asked.attributes["perdure.key"]) == ("o-1", "k")
    assert (ended.attributes["perdure.key"], ended.attributes["perdure.outcome"]) == ("k", "reply")


@pytest.mark.usefixtures("outside_file")
async def test_one_that_waits_over_a_crash(spans: Spans) -> None:
    """What it does after hours, on another runner, is below the call that began it."""
    async with memory(*ENTITIES, settings=SETTINGS) as cluster:
        await stocked(cluster, spans)
        await cluster.at(Order, "o-1").tell(Place("ann", "good", BOTH, 200_00), key="k")
        await cluster.quiet()
        await cluster.advance(timedelta(hours=2))
        await cluster.crash()
        token = Token[Verdict](desk.requests()["o-1"].token)
        await cluster.resume(token, Verdict(approved=True, by="kim"))
        assert await cluster.at(Order, "o-1").result(Place, "k") == 200_00
        await cluster.quiet()
    tree = spans.tree("tell order.place")
    desks = ["  order step put on desk", "  order step clear desk"]
    assert sorted(tree[1:]) == sorted([*RESERVED, *desks, *PAID_AND_TAKEN, "  order.place"])
    assert spans.tree("resume order.flow") == ["resume order.flow", "  order resume"]
    (resumed,), (told,) = spans.named("order resume"), spans.named("tell order.place")
    (link,) = resumed.links
    begun = told.get_span_context()
    assert begun is not None
    assert (link.context.trace_id, link.context.span_id) == (begun.trace_id, begun.span_id)
    (flow,) = spans.named("order.place")
    assert flow.start_time is not None
    assert flow.end_time is not None
    assert timedelta(microseconds=(flow.end_time - flow.start_time) / 1000) >= timedelta(hours=2)


@pytest.mark.usefixtures("outside_file")
async def test_attempts_and_failures(spans: Spans) -> None:
    async with memory(*ENTITIES, settings=SETTINGS) as cluster:
        await stocked(cluster, spans)
        await cluster.at(Order, "o-1").ask(Place("ann", "flaky", BOTH, 50_00))
        await cluster.at(Order, "o-2").outcome(Place("ann", "declined", BOTH, 50_00))
        assert await cluster.at(Stock, "lamp").query(GetShelf()) == Shelf(7, 0, 2)
        await cluster.quiet()
    charges = spans.named("payment step charge")
    codes = [span.status.status_code for span in charges]
    assert codes == [StatusCode.ERROR, StatusCode.UNSET, StatusCode.UNSET]  # no error: an answer
    assert [(s.attributes or {}).get("perdure.attempt") for s in charges] == [1, 2, 1]
    assert (charges[2].attributes or {})["error.type"] == "declined"
    assert spans.tree("query stock.get_shelf") == ["query stock.get_shelf", "  stock.get_shelf"]


@pytest.mark.usefixtures("outside_file")
async def test_without_the_setting_there_are_none(spans: Spans) -> None:
    async with memory(*ENTITIES) as cluster:
        await stocked(cluster, spans)
        await cluster.at(Order, "o-1").ask(Place("ann", "good", BOTH, 50_00))
    assert spans.named("order.place") == []


@pytest.mark.usefixtures("outside_file")
async def test_that_a_flow_waits_is_no_error_and_its_token_in_no_span(spans: Spans) -> None:
    async with memory(*ENTITIES, settings=SETTINGS) as cluster:
        await stocked(cluster, spans)
        large = Place("ann", "good", BOTH, 200_00)
        with pytest.raises(Suspended) as first:
            await cluster.at(Order, "o-1").ask(large, key="k", on_suspend="raise")
        await cluster.quiet()
        with pytest.raises(Suspended) as caught:
            await cluster.at(Order, "o-1").ask(large, key="k", on_suspend="raise")
        await cluster.quiet()
    token = caught.value.resume_token
    assert token is not None
    assert token not in f"{caught.value} {caught.value!r} {first.value!r}"
    assert token not in spans.text()
    (*_, asked) = spans.named("ask order.place")
    assert asked.status.status_code == StatusCode.UNSET
    assert (asked.attributes or {})["error.type"] == "Suspended"


def test_without_the_package_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "perdure.streams.otel")
    tracing._opentelemetry.cache_clear()  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ValueError, match="pip install 'perdure"):
        tracing.tracer_of(SETTINGS)
