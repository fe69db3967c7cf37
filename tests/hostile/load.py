"""Asks in masses, from a process of their own: `python -m tests.hostile.load URL NAMESPACE PLAN`.

PLAN is JSON: `{"callers": 64, "seconds": 3, "ms": 1}` is a closed loop, each caller asking again
when it is answered; `{"rate": 2000, "seconds": 10, "ms": 1}` an open one, which asks on, answered
or not; each command takes `ms` milliseconds. The report on standard output is one line of JSON.
Refusals are raised at once, not retried, so that each is seen. What this process itself was kept
from running, by others on the machine, is not counted as the runner's time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from perdure import Cluster, ClusterError, MailboxFull, Retry, Settings, connect, error_tag

from .victim import Victim, Work

ENTITIES = 500
BEAT_S = 0.01
LATE_S = 0.1
"""A refusal that takes longer helps nobody."""


@dataclass
class Report:
    """What the callers saw. Times are in seconds."""

    replies: list[float] = field(default_factory=list[float])
    refusals: list[float] = field(default_factory=list[float])
    errors: Counter[str] = field(default_factory=Counter[str])
    late: int = 0  # moments at which the load itself was behind its rate
    seconds: float = 0.0
    stalls: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def refused(self, began: float) -> None:
        """A refusal came, just now."""
        now = time.monotonic()
        stalled = sum(min(b, now) - max(a, began) for a, b in self.stalls[-20:] if b > began)
        self.refusals.append(max(0.0, now - began - stalled))

    def told(self, lines: list[str]) -> dict[str, Any]:
        return {
            "replies": len(self.replies),
            "per_second": round(len(self.replies) / self.seconds, 1),
            "reply_p50": percentile(self.replies, 0.5),
            "reply_p99": percentile(self.replies, 0.99),
            "refusals": len(self.refusals),
            "refusal_p50": percentile(self.refusals, 0.5),
            "refusal_p99": percentile(self.refusals, 0.99),
            "refusal_max": max(self.refusals, default=0.0),
            "refused_late": sum(took > LATE_S for took in self.refusals),
            "errors": dict(self.errors),
            "late": self.late,
            "stalled": round(sum(b - a for a, b in self.stalls), 3),
            "log": lines,
            "seconds": round(self.seconds, 2),
        }


def percentile(times: list[float], part: float) -> float:
    """Of some times, 0 if there are none."""
    return round(sorted(times)[int(part * (len(times) - 1))], 4) if times else 0.0


class Lines(logging.Handler):
    """Warnings of perdure and of nats-py: what was dropped is among them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.lines) < 20:
            self.lines.append(record.getMessage()[:200])


async def ask(cluster: Cluster, number: int, ms: float, report: Report) -> None:
    began = time.monotonic()
    try:
        await cluster.at(Victim, f"load-{number % ENTITIES}").ask(Work(ms))
    except MailboxFull:
        report.refused(began)
    except ClusterError as error:
        report.errors[error_tag(error)] += 1
    else:
        report.replies.append(time.monotonic() - began)


async def closed(cluster: Cluster, plan: dict[str, Any], report: Report) -> None:
    """As many asks at once as there are callers."""
    callers, end = plan["callers"], time.monotonic() + plan["seconds"]

    async def caller(first: int) -> None:
        number = first
        while time.monotonic() < end:
            await ask(cluster, number, plan["ms"], report)
            number += callers

    await asyncio.gather(*(caller(n) for n in range(callers)))


async def opened(cluster: Cluster, plan: dict[str, Any], report: Report) -> None:
    """So many asks a second, whatever comes of them; and wait for them all."""
    rate, seconds, began = plan["rate"], plan["seconds"], time.monotonic()
    tasks: set[asyncio.Task[None]] = set()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        wait = due - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        elif number % 64 == 0:
            report.late += wait < -0.05
            await asyncio.sleep(0)
        task = asyncio.get_running_loop().create_task(ask(cluster, number, plan["ms"], report))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


async def watch(report: Report) -> None:
    """Note when this process didn't run for a while."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(BEAT_S)
        now = time.monotonic()
        if now - began > 2 * BEAT_S:
            report.stalls.append((began + BEAT_S, now))


async def main(url: str, namespace: str, plan: dict[str, Any]) -> dict[str, Any]:
    lines = Lines()
    logging.getLogger().addHandler(lines)
    report = Report()
    once = Retry(attempts=1)
    settings = Settings(url=url, namespace=namespace, transient_retry=once, ask_timeout=5.0)
    async with connect(settings=settings) as cluster:
        await asyncio.gather(*(ask(cluster, n, 0, Report()) for n in range(ENTITIES)))
        watcher = asyncio.create_task(watch(report))
        began = time.monotonic()
        await (opened if "rate" in plan else closed)(cluster, plan, report)
        report.seconds = time.monotonic() - began
        watcher.cancel()
        return report.told(lines.lines)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))))
