"""The oracle: reads the log with nothing but nats-py and says what must have happened.

It shares no code with the runner: hashes, chain, versions, replies and order are computed anew
from the JSON in the log.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Any

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from .linear import Recorded, Seen

MODULUS = 1_000_003


@dataclass(frozen=True)
class Message:
    """One message of the log."""

    subject: str
    headers: dict[str, str]
    data: bytes
    stored: datetime

    @property
    def id(self) -> str:
        """Whose it is."""
        return self.subject.rpartition(".")[2]


@dataclass
class Entry:
    """One entity, as its log has it."""

    n: int = 0
    digest: int = 0
    prev: str = ""
    version: int = 0
    last_tell: int = 0
    names: list[str] = field(default_factory=list[str])
    recorded: list[Recorded] = field(default_factory=list[Recorded])


@dataclass
class Verdict:
    """What the log says, and what is wrong with it."""

    entities: dict[str, Entry]
    outcomes: dict[str, dict[str, Any]]  # by name: {"reply": …} or {"failure": …}
    commits: int
    wrong: list[str]


async def read(url: str, namespace: str, entity: str) -> list[Message]:
    """Every message of the log stream."""
    module: Any = nats  # its annotations are partly missing
    client = await module.connect(url, connect_timeout=5)
    try:
        js = client.jetstream()
        stream = f"{namespace.upper()}_LOG_{entity}"
        total = (await js.stream_info(stream)).state.messages
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, inactive_threshold=30
        )
        got: list[Message] = []
        done = asyncio.Event()

        async def on_message(message: Any) -> None:
            stored = message.metadata.timestamp
            got.append(Message(message.subject, message.headers or {}, message.data, stored))
            if len(got) >= total:
                done.set()

        if total:
            await js.subscribe(
                f"{namespace}.log.{entity}.*",
                stream=stream,
                cb=on_message,
                config=config,
                ordered_consumer=True,
                pending_msgs_limit=-1,
                pending_bytes_limit=-1,
            )
            await asyncio.wait_for(done.wait(), 60)
        return got
    finally:
        await client.close()


def judge(messages: list[Message]) -> Verdict:
    """Compute everything anew."""
    verdict = Verdict({}, {}, 0, [])
    for message in messages:
        id = message.id
        entry = verdict.entities.setdefault(id, Entry())
        mark = blake2b(message.data, digest_size=16).hexdigest()
        if message.headers.get("Perdure-Commit") != mark:
            verdict.wrong.append(f"{id}: a commit whose hash is wrong")
        commit = json.loads(message.data)
        if commit["prev"] != entry.prev:
            verdict.wrong.append(f"{id}: the chain is broken at version {commit['version']}")
        entry.prev = mark
        verdict.commits += 1
        for outcome in commit["outcomes"]:
            _judge_outcome(verdict, id, entry, outcome)
        if commit["version"] != entry.version:
            verdict.wrong.append(f"{id}: version {commit['version']}, not {entry.version}")
    return verdict


def _judge_outcome(verdict: Verdict, id: str, entry: Entry, outcome: dict[str, Any]) -> None:
    name, op = outcome["name"], outcome.get("command", {}).get("op")
    if name in verdict.outcomes:
        verdict.wrong.append(f"{id}: {name} took effect twice")
    if "dead" in outcome:
        verdict.wrong.append(f"{id}: {name} is a dead letter: {outcome['dead']}")
        return
    if (op + entry.n) % 7 == 0:
        expected: dict[str, Any] = {
            "failure": {"type": "declined", "n": entry.n, "digest": entry.digest}
        }
        events: list[Any] = []
    else:
        entry.n += 1
        entry.digest = (entry.digest * 31 + op) % MODULUS
        expected = {"reply": {"type": "receipt", "n": entry.n, "digest": entry.digest}}
        events = [{"type": "written", "op": op}]
    got = {k: outcome[k] for k in ("reply", "failure") if k in outcome}
    if got != expected or outcome.get("events", []) != events:
        verdict.wrong.append(f"{id}: {name} has {got}, expected {expected}")
    entry.version += len(events)
    entry.names.append(name)
    verdict.outcomes[name] = expected
    place = tuple[int, int, int](outcome["at"]) if "at" in outcome else None
    shown = next(iter(got.values()))
    seen = Seen(shown["n"], shown["digest"], declined="failure" in got)
    entry.recorded.append(Recorded(op, name, seen, place))
    if "at" in outcome:
        sequence = outcome["at"][1]
        if sequence <= entry.last_tell:
            verdict.wrong.append(f"{id}: tell {sequence} took effect after {entry.last_tell}")
        entry.last_tell = sequence
