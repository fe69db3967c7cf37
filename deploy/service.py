"""Service: what a runner answers to the NATS tools that look for services (ADR-32).

`nats micro ls` lists runners, `nats micro info` and `nats micro stats` show one. They ask on
`$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, alone or followed by a service's name, which is the
namespace, or also its id, which is the runner's. Answers come from the statistics that are there.

Plain subscriptions, as every other of a runner's, and not nats-py's `micro`: that one is bound to
one connection of nats-py, while a session makes new ones as long as it lives. Only where a command
hosts (`perdure run`, `dev`), on a server; and where a login may not subscribe there, all else goes
on.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import msgspec

from ..durable.runner import Runner
from ..durable.stats import RunnerStats, TypeStats
from ..entities.settings import Settings
from ..streams.asks import reply_allowed
from ..streams.port import Message, Subscription, Unreachable
from ..streams.subjects import Subjects

logger: logging.Logger = logging.getLogger("perdure.service")

HEAD = "$SRV"
VERBS = {"PING": "ping", "INFO": "info", "STATS": "stats"}
TYPE = "io.nats.micro.v1.{verb}_response"


class Service:
    """Answers for one runner."""

    def __init__(self, runner: Runner, settings: Settings) -> None:
        self._runner = runner
        self._settings = settings
        self._heard: list[Subscription] = []

    def __repr__(self) -> str:
        return f"Service({self._settings.namespace}, {self._runner.id})"

    def subjects(self) -> list[str]:
        """Where it hears."""
        name, id = self._settings.namespace, self._runner.id
        return [
            f"{HEAD}.{verb}{end}" for verb in VERBS for end in ("", f".{name}", f".{name}.{id}")
        ]

    async def start(self) -> None:
        """Begin to answer. Raises Unreachable."""
        asks = self._runner.session.asks
        for subject in self.subjects():
            self._heard.append(await asks.subscribe(subject, self._answer))

    async def stop(self) -> None:
        """Answer no more."""
        for subscription in self._heard:
            await subscription.stop()
        self._heard.clear()

    def _answer(self, message: Message) -> None:
        verb = VERBS.get(message.subject.split(".")[1])
        if verb is None or not reply_allowed(message.reply, self._settings.reply_prefixes):
            return
        answer = described(self._settings.namespace, verb, self._runner.stats())
        self._runner.session.asks.send(message.reply, msgspec.json.encode(answer))


def described(namespace: str, verb: str, stats: RunnerStats) -> dict[str, Any]:
    """What is answered to one of `VERBS`."""
    answer: dict[str, Any] = {
        "type": TYPE.format(verb=verb),
        "name": namespace,
        "id": stats.runner,
        "version": version("perdure"),
        "metadata": {"host": stats.host, "process": str(stats.process)},
    }
    subjects = Subjects(namespace)
    if verb == "info":
        answer["description"] = "a perdure runner: durable entities on JetStream"
        answer["endpoints"] = [_endpoint(subjects, type) for type in stats.types]
    elif verb == "stats":
        answer["started"] = datetime.fromtimestamp(stats.since / 1000, UTC)
        answer["endpoints"] = [_endpoint(subjects, type) | _did(type) for type in stats.types]
    return answer


def _endpoint(subjects: Subjects, type: TypeStats) -> dict[str, Any]:
    """A type's asks; all runners hear them, and the owner answers."""
    return {
        "name": type.entity,
        "subject": subjects.ask(type.entity, "*"),
        "queue_group": "",
        "metadata": {"shards": f"{type.owned} of {type.shards}", "version": type.version},
    }


def _did(type: TypeStats) -> dict[str, Any]:
    """Tells aside, which no request brings; times are nanoseconds, of those without an error."""
    asked = [one for one in type.counts.commands if one.way in ("ask", "query", "control")]
    requests = sum(one.count for one in asked)
    timed = [type.counts.times[way] for way in ("ask", "query") if way in type.counts.times]
    took_ns = round(sum(times.sum_s for times in timed) * 1e9)
    count = sum(sum(times.counts) for times in timed)
    return {
        "num_requests": requests,
        "num_errors": sum(one.count for one in asked if one.result == "error"),
        "last_error": "",
        "processing_time": took_ns,
        "average_processing_time": took_ns // count if count else 0,
    }


@asynccontextmanager
async def answering(runner: Runner, settings: Settings) -> AsyncGenerator[None]:
    """Answer meanwhile, where that is allowed."""
    service = Service(runner, settings)
    try:
        await service.start()
    except Unreachable as error:
        logger.warning(
            "nats micro won't find this runner: %s", error, extra={"action": "service.unreachable"}
        )
    try:
        yield
    finally:
        await service.stop()
