"""The promises about flows, checked on what their logs say. No line of the code under test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .evidence import Logged
from .notation import read
from .sagas import FlowCall, Sagas

Json: TypeAlias = dict[str, Any]

ASK, FAIL, STEP = 16, 32, 1


@dataclass(slots=True)
class FlowLog:
    """One flow, as its entity's log has it."""

    entity: str
    key: str
    records: list[tuple[Json, int]] = field(default_factory=list[tuple[Json, int]])  # server ms
    parked: str | None = None
    final: Json | None = None

    def all(self, kind: str) -> list[Json]:
        """Its records of a kind."""
        return [record for record, _ in self.records if record["type"] == kind]


class SagaLog:
    """One entity's log, read."""

    def __init__(self, entity: str, messages: list[Logged]) -> None:
        self.entity = entity
        self.flows: dict[str, FlowLog] = {}
        self.finals: dict[str, Json] = {}
        self.levels: dict[int, int] = {0: 0}  # the mix after so many events
        self.problems: list[str] = []
        self.poked: Counter[int] = Counter()
        for message in messages:
            if message.mark is not None:
                for outcome in read(message.data)["outcomes"]:
                    self._take(outcome, message)

    def _take(self, outcome: Json, message: Logged) -> None:
        for event in outcome.get("events", []):
            count = len(self.levels) - 1
            mix = (self.levels[count] * 31 + event["uid"] * 7 + event["line"]) % 1_000_003
            self.levels[count + 1] = mix
            self.poked[event["uid"]] += event["line"] == 0
        ended = any(outcome.get(name) is not None for name in ("reply", "failure", "dead"))
        ended = ended or "reply" in outcome
        part = outcome.get("flow")
        if part is not None:
            self._flow(outcome, part, message, ended=ended)
        if ended:
            name = outcome["name"]
            if name in self.finals:
                self.problems.append(f"ended twice: {self.entity} {name} at {message.sequence}")
            self.finals[name] = outcome

    def _flow(self, outcome: Json, part: Json, message: Logged, *, ended: bool) -> None:
        key = part["key"]
        flow = self.flows.setdefault(key, FlowLog(self.entity, key))
        if flow.final is not None:
            self.problems.append(f"goes on after its end: {self.entity} {key}")
        flow.records += [(r, message.time_ns // 1_000_000) for r in part.get("records", [])]
        flow.parked = part.get("parked")
        if ended and outcome["name"] == key:
            flow.final = outcome


def saga_violations(sagas: Sagas) -> list[str]:
    """Everything that is wrong."""
    logs = {entity: SagaLog(entity, messages) for entity, messages in sagas.logs.items()}
    for call in sagas.calls:
        logs.setdefault(call.entity, SagaLog(call.entity, []))
    found: list[str] = [f"untagged error: {text}" for text in sagas.untagged]
    for log in logs.values():
        found += log.problems
        for flow in log.flows.values():
            found += _flow(flow, sagas)
    found += _calls(logs, sagas)
    for call in sagas.calls:
        found += _seen(logs[call.entity], call)
    found += _outside(logs, sagas)
    if sagas.waiting:
        found.append(f"tells of flows are left: {sagas.waiting[:5]}")
    return found


def _flow(flow: FlowLog, sagas: Sagas) -> Iterator[str]:
    where = f"{flow.entity} {flow.key}"
    for kind in ("ran", "opened", "resolved", "fired", "asked", "answered"):
        for name, times in Counter(record["name"] for record in flow.all(kind)).items():
            if times > 1:
                yield f"recorded twice: {where}: {kind} {name}, {times} times"
    due = {record["name"]: record["due_ms"] for record in flow.all("armed")}
    for record, at_ms in flow.records:
        if record["type"] == "fired" and at_ms < due.get(record["name"], 1 << 62):
            yield f"timer early: {where}: {record['name']} at {at_ms}, due {due}"
    if flow.parked is not None:
        yield f"parked: {where}: {flow.parked}"
    elif flow.final is None:
        last = flow.records[-1][0] if flow.records else None
        yield f"flow forgotten: {where}: its last record is {last}"
    elif _reason(flow.final) == "cancelled" and flow.key not in sagas.cancelled:
        yield f"cancelled by nobody: {where}"


def _reason(outcome: Json) -> str | None:
    dead: Json = outcome.get("dead") or {}
    return dead.get("reason")


def _calls(logs: dict[str, SagaLog], sagas: Sagas) -> Iterator[str]:
    for call in sagas.calls:
        final = logs[call.entity].finals.get(call.key)
        where = f"{call.entity} {call.key} uid {call.uid}"
        if final is None:
            if call.stored:
                yield f"stored and lost: {where}"
            if call.reply or call.failure:
                yield f"answered, not in the log: {where}"
            continue
        yield from _outcome(call, final, logs[call.entity], where)


def _outcome(call: FlowCall, final: Json, log: SagaLog, where: str) -> Iterator[str]:
    reply, failure, dead = final.get("reply"), final.get("failure"), final.get("dead")
    if (call.reply or call.failure) and (call.reply, call.failure) != (reply, failure):
        yield f"another reply than recorded: {where}: {call.reply or call.failure}"
    if dead is not None:
        if dead["reason"] != "cancelled":
            yield f"unjust dead letter: {where}: {dead['reason']}"
        return
    if bool(failure) != bool(call.script & FAIL):
        yield f"another end than its code says: {where}: {reply or failure}"
    flow = log.flows.get(call.key)
    if reply is None or flow is None:
        return
    resolved = {record["name"]: record["value"] for record in flow.all("resolved")}
    fired = [record["name"] for record in flow.all("fired")]
    late = "within deferred go" in fired
    if reply["value"] != resolved.get("go") and not late:
        yield f"another value than resolved: {where}: {reply['value']}, {resolved}"


def _seen(log: SagaLog, call: FlowCall) -> Iterator[str]:
    """Each line saw the state that its segment began with, and what it emitted since."""
    final, flow = log.finals.get(call.key), log.flows.get(call.key)
    if final is None or flow is None or not final.get("reply"):
        return
    possible: set[int] = set()
    version = 0
    for record, _ in flow.records:
        if record["type"] == "began":
            version = record["version"]
        elif record["type"] == "emitted":
            version += record["count"]
        possible.add(version)
    last = 0
    for line, count, mix in final["reply"]["seen"]:
        if count not in possible or log.levels.get(count) != mix or count < last:
            yield (
                f"a line saw another state: {call.entity} uid {call.uid} line {line}: "
                f"{count}, of {sorted(possible)}"
            )
        last = count


def _outside(logs: dict[str, SagaLog], sagas: Sagas) -> Iterator[str]:
    keys: dict[tuple[int, str], set[str]] = {}
    for uid, name, key in sagas.effects:
        keys.setdefault((uid, name), set()).add(key)
    for (uid, name), found in keys.items():
        if len(found) > 1:
            yield f"a step has two keys: uid {uid} {name}: {found}"
    for entity, log in logs.items():
        for uid, times in log.poked.items():
            if times > 1:
                yield f"executed twice: {entity} poke {uid}, {times} times"
    by_uid = {call.uid: call for call in sagas.calls}
    for uid, call in by_uid.items():
        final = logs[call.entity].finals.get(call.key)
        if final is None or final.get("dead") is not None:
            continue
        undone = "undo one" in {name for number, name, _ in sagas.effects if number == uid}
        acted = call.script & STEP and (uid, "one") in keys
        if final.get("failure") is not None and acted and not undone:
            yield f"not undone: {call.entity} uid {uid}"
        if final.get("reply") is not None and undone:
            yield f"undone in error: {call.entity} uid {uid}"
        if call.script & ASK and not any(log.poked[uid] for log in logs.values()):
            yield f"asked and not done: {call.entity} uid {uid}"
