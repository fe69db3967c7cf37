"""Images: all that the streams of a cluster in memory hold, as lines of JSON, and back.

What a server would still have when a release that reads it is started: logs, snapshots, waiting
tells, timers; and what people were given meanwhile, tokens and keys. Sequences and times stay as
they were.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import msgspec

from perdure import Entity, Settings, Token
from perdure.durable.testing import TestCluster
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.timers import Armed

from .trips import World

BEGIN_NS = 1_795_515_106_564_000_000
"""When every image begins."""

Line: TypeAlias = dict[str, Any]


def broker_of(cluster: TestCluster) -> MemoryBroker:
    """The server of a cluster in memory."""
    broker: MemoryBroker = vars(cluster)["_broker"]
    return broker


def image_of(cluster: TestCluster, world: World) -> list[Line]:
    """All that is there now."""
    broker, space = broker_of(cluster), "perdure"
    streams, now_ns = broker.streams(space), cluster.clock.now_ns()
    lines: list[Line] = [{"what": "time", "now_ns": now_ns}]
    lines += [{"what": "given", "name": n, "token": str(t)} for n, t in world.tokens.items()]
    lines += [{"what": "step", "name": name, "key": key} for name, key in world.keys.items()]
    for name, log in sorted(streams.logs.items()):
        queue = streams.queues[name]
        lines.append({"what": "type", "type": name, "tells": queue.last_sequence})
        found = [(m, token) for token in log.tokens() for m in log.between(token, 0, None, 10_000)]
        lines += [
            {"what": "log", "type": name, "token": token, "sequence": m.sequence}
            | {"time_ns": m.time_ns, "mark": m.mark, **as_line(m.data)}
            for m, token in sorted(found, key=lambda pair: pair[0].sequence)
        ]
        for sequence in range(1, queue.last_sequence + 1):
            tell = queue.by_sequence(sequence)
            if tell is not None:
                place = {"sequence": sequence, "time_ns": tell.time_ns}
                lines.append(
                    {"what": "tell", "type": name, "token": tell.token, **place}
                    | {"headers": dict(tell.headers or {}), **as_line(tell.data)}
                )
    armed: dict[tuple[str, str, str], Armed] = vars(streams.timers)["_armed"]
    lines += [
        {"what": "timer", "type": name, "token": token, "timer": timer, "due_ms": one.due_ms}
        | as_line(one.data)
        for (name, token, timer), one in armed.items()
    ]
    lines += [
        {"what": "snapshot", "subject": subject, **as_line(data)}
        for subject, data in sorted(streams.snapshots.items())
    ]
    return lines


def restore(cluster: TestCluster, image: Sequence[Line], *, snapshots: bool) -> World:
    """Put that into a cluster that wasn't started yet; who holds which token.

    Without `snapshots` their entities are folded from their logs.
    """
    broker, world = broker_of(cluster), World()
    streams, clock = broker.streams("perdure"), cluster.clock
    tells = [line for line in image if line["what"] == "tell"]
    for line in image:
        match line["what"]:
            case "given":
                world.tokens[line["name"]] = Token[int](line["token"])
            case "type":
                broker.provision(broker.settings, line["type"])
            case "log":
                data, log = data_of(line), streams.logs[line["type"]]
                stored = log.append(
                    *(line["token"], data, line["mark"], line["time_ns"]), expected=None
                )
                assert getattr(stored, "sequence", 0) == line["sequence"]
            case "snapshot" if snapshots:
                streams.snapshots[line["subject"]] = data_of(line)
            case "timer":
                streams.timers.arm(
                    *(line["type"], line["token"], line["timer"], line["due_ms"]), data_of(line)
                )
            case _:
                pass
    for line in sorted(tells, key=lambda tell: tell["time_ns"]):
        queue = streams.queues[line["type"]]
        queue.last_sequence = line["sequence"] - 1
        clock.reach(line["time_ns"])
        queue.publish(line["token"], data_of(line), line["headers"] or None, 100)
    for line in image:
        if line["what"] == "type":
            streams.queues[line["type"]].last_sequence = line["tells"]
        elif line["what"] == "time":
            clock.reach(line["now_ns"])
    return world


@asynccontextmanager
async def hosting(cluster: TestCluster) -> AsyncGenerator[TestCluster]:
    """The same, while its runner runs."""
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.close()


def cluster_of(settings: Settings, *entities: Entity[Any, Any]) -> TestCluster:
    """One that wasn't started yet, at the time at which images begin."""
    cluster = TestCluster(entities, settings)
    vars(cluster.clock)["_now_ns"] = BEGIN_NS
    return cluster


def as_line(data: bytes) -> Line:
    """Bytes as text where they are; else in base64."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def data_of(line: Line) -> bytes:
    """The bytes in a line."""
    text: str | None = line.get("text")
    return base64.b64decode(line["base64"]) if text is None else text.encode()


def read(data: bytes) -> dict[str, list[Line]]:
    """The images of a file, by their cases."""
    images: dict[str, list[Line]] = {}
    for text in data.splitlines():
        line: Line = msgspec.json.decode(text)
        images.setdefault(line.pop("case"), []).append(line)
    return images


def written(images: dict[str, list[Line]]) -> bytes:
    """The file of some images."""
    return b"".join(
        msgspec.json.encode({"case": case, **line}) + b"\n"
        for case, image in images.items()
        for line in image
    )
