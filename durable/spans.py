"""Spans: what a runner tells its tracer, once something is done. Nothing without a tracer.

A command's span begins when it was taken and ends with its outcome in the log; a flow's when it
began, which may be months ago. What a flow does is below the call that began it, whoever resumed
it since: that call has a span of its own, and one here below it with a link to the flow's.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from msgspec import UNSET

from ..entities.address import Address
from ..entities.record import Asked
from ..streams.commit import Outcome
from ..streams.tracing import Kind, Tracer, about
from .counts import tag_in
from .item import Item
from .openflow import OpenFlow


def decided(
    tracer: Tracer | None, address: Address, item: Item, outcome: Outcome, took_s: float
) -> None:
    """A command has its outcome."""
    if tracer is None:
        return
    kind: Kind = "server" if item.way == "ask" else "consumer"
    name = f"{address.entity}.{_tag(item.command)}"
    tracer.past(name, kind, _outcome(address, item.name, outcome), item.trace, took_s)


def ended(
    tracer: Tracer | None, address: Address, flow: OpenFlow, outcome: Outcome, now_ms: int
) -> None:
    """A flow that had waited has its outcome. The times are the server's."""
    if tracer is not None:
        name = f"{address.entity}.{tag_in(flow.command)}"
        took_s = max(0, now_ms - flow.since_ms) / 1000
        tracer.past(name, "internal", _outcome(address, flow.name, outcome), flow.trace, took_s)


def woke(
    tracer: Tracer | None, address: Address, item: Item, flow: OpenFlow | None, took_s: float
) -> None:
    """What brought a flow on is recorded: its value, its time, another's answer. It is below who
    sent that, and linked to the call that began the flow."""
    if tracer is None:
        return
    name, link = f"{address.entity} {_tag(item.command)}", None if flow is None else flow.trace
    tracer.past(name, "consumer", about(address), item.trace, took_s, link=link)


def answered(
    tracer: Tracer | None, address: Address, query: Any, trace: str | None, took_s: float
) -> None:
    """A query was answered."""
    if tracer is not None:
        name = f"{address.entity}.{_tag(query)}"
        tracer.past(name, "server", about(address), trace, took_s)


def step(
    tracer: Tracer | None, address: Address, name: str, attempt: int, trace: str | None
) -> AbstractContextManager[str | None]:
    """Around one attempt of a step."""
    if tracer is None:
        return nullcontext()
    attributes = {**about(address), "perdure.step": name, "perdure.attempt": attempt}
    return tracer.span(f"{address.entity} step {name}", "internal", attributes, trace)


def asking(
    tracer: Tracer | None, address: Address, asked: Asked, trace: str | None
) -> AbstractContextManager[str | None]:
    """Around what a flow asks of another entity; what that does is below it."""
    if tracer is None:
        return nullcontext(trace)
    attributes = {**about(address), "perdure.ask": f"{asked.entity}/{asked.id}"}
    name = f"ask {asked.entity}.{tag_in(asked.command)}"
    return tracer.span(name, "producer", attributes, trace)


def _outcome(address: Address, name: str, outcome: Outcome) -> dict[str, str | int]:
    attributes = {**about(address), "perdure.key": name}
    if outcome.dead is not None:
        attributes["error.type"] = outcome.dead.reason
        attributes["perdure.outcome"] = "dead"
    else:
        attributes["perdure.outcome"] = "reply" if outcome.failure is UNSET else "failure"
    return attributes


def _tag(command: Any) -> str:
    config = getattr(command, "__struct_config__", None)  # None: it couldn't be decoded
    return "unknown" if config is None else str(config.tag).removeprefix("$")
