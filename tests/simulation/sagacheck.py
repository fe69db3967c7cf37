"""The promises about flows, checked on what their logs say. No line of the code under test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .evidence import Logged
from .notation import read
from .sagas import Answered, FlowCall, Sagas

Json: TypeAlias = dict[str, Any]

ASK, FAIL = 16, 32
LAST = 9
"""The line of the event that a flow ends with."""
LATE = "within deferred go"
DEADLINE = "(deadline)"
UNDONE = ("two", "one")
"""Steps that can be undone, the last one first."""
PARKED = "(parked)"
"""What a flow waits for that is parked in the middle of a turn."""
GIVEN_UP = " was undone: "
"""How the end of one reads that was cancelled, and can't be undone."""


@dataclass(slots=True)
class FlowLog:
    """One flow, as its entity's log has it."""

    entity: str
    key: str
    records: list[tuple[Json, int]] = field(default_factory=list[tuple[Json, int]])  # server ms
    parked: str | None = None
    final: Json | None = None
    final_ms: int = 0

    def all(self, kind: str) -> list[Json]:
        """Its records of a kind."""
        return [record for record, _ in self.records if record["type"] == kind]

    def place(self, kind: str, name: str) -> int | None:
        """Where the record of that kind and name stands."""
        for place, (record, _) in enumerate(self.records):
            if record["type"] == kind and record["name"] == name:
                return place
        return None

    @property
    def alone(self) -> bool:
        """Whether it waits, and has the entity for itself meanwhile."""
        if self.final is not None:
            return False
        for record, _ in reversed(self.records):
            if record["type"] in ("began", "waits"):
                return bool(record.get("exclusive"))
        return False


class SagaLog:
    """One entity's log, read."""

    def __init__(self, entity: str, messages: list[Logged]) -> None:
        self.entity = entity
        self.flows: dict[str, FlowLog] = {}
        self.finals: dict[str, Json] = {}
        self.levels: dict[int, int] = {0: 0}  # the mix after so many events
        self.problems: list[str] = []
        self.events: Counter[tuple[int, int]] = Counter()  # by uid and line
        self.answers: dict[int, int] = {}  # by a poke's uid
        for message in messages:
            if message.mark is not None:
                for outcome in read(message.data)["outcomes"]:
                    self._take(outcome, message)

    def _take(self, outcome: Json, message: Logged) -> None:
        part = outcome.get("flow")
        self._alone(outcome, part)
        for event in outcome.get("events", []):
            count = len(self.levels) - 1
            mix = (self.levels[count] * 31 + event["uid"] * 7 + event["line"]) % 1_000_003
            self.levels[count + 1] = mix
            self.events[event["uid"], event["line"]] += 1
        ended = any(outcome.get(name) is not None for name in ("reply", "failure", "dead"))
        ended = ended or "reply" in outcome
        command: Json = outcome.get("command") or {}
        if command.get("type") == "poke" and "reply" in outcome:
            self.answers[command["uid"]] = outcome["reply"]
        if part is not None:
            self._flow(outcome, part, message, ended=ended)
        if ended:
            name = outcome["name"]
            if name in self.finals:
                self.problems.append(f"ended twice: {self.entity} {name} at {message.sequence}")
            self.finals[name] = outcome

    def unburied(self, copies: Sequence[bytes]) -> list[str]:
        """The flows whose dead letters are in none of these."""
        dead = [name for name in self.flows if self.finals.get(name, {}).get("dead") is not None]
        return [n for n in dead if not any(f'"{n}"'.encode() in copy for copy in copies)]

    def _alone(self, outcome: Json, part: Json | None) -> None:
        """While a flow has the entity for itself, no command is taken."""
        let_in = any(event["line"] == 0 for event in outcome.get("events", []))
        let_in = let_in or (part is not None and part["key"] not in self.flows)
        alone = [flow.key for flow in self.flows.values() if flow.alone]
        if let_in and alone:
            self.problems.append(f"let in: {self.entity} {outcome['name']}, beside {alone}")

    def _flow(self, outcome: Json, part: Json, message: Logged, *, ended: bool) -> None:
        key = part["key"]
        flow = self.flows.setdefault(key, FlowLog(self.entity, key))
        if flow.final is not None:
            self.problems.append(f"goes on after its end: {self.entity} {key}")
        flow.records += [(r, message.time_ns // 1_000_000) for r in part.get("records", [])]
        flow.parked = part.get("parked")
        if ended and outcome["name"] == key:
            flow.final, flow.final_ms = outcome, message.time_ns // 1_000_000
            lines = [event["line"] for event in outcome.get("events", [])]
            runs = not key.startswith("poke-")  # else a command that was told for later
            if runs and (LAST in lines) != bool(outcome.get("reply")):
                self.problems.append(f"torn: {self.entity} {key} ends with the events {lines}")


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
            found += _waits(flow, sagas)
    found += _calls(logs, sagas)
    for log in logs.values():
        found += [f"no copy of a dead letter: {name}" for name in log.unburied(sagas.dead_copies)]
    for call in sagas.calls:
        found += _seen(logs[call.entity], call)
    found += _given(logs, sagas)
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
    cancelled = bool(flow.all("cancelled"))
    if flow.parked is not None:
        yield f"parked: {where}: {flow.parked}"
    elif flow.final is None:
        last = flow.records[-1][0] if flow.records else None
        yield f"flow forgotten: {where}: its last record is {last}"
    elif (_reason(flow.final) == "cancelled") != cancelled:
        yield f"cancelled and not ended so, or the other way round: {where}: {flow.final}"
    elif cancelled and flow.key not in sagas.cancelled and flow.place("fired", DEADLINE) is None:
        yield f"cancelled by nobody: {where}"


def _waits(flow: FlowLog, sagas: Sagas) -> Iterator[str]:
    """A wait is over when what it waits for has happened, and not before; a timer never early."""
    where = f"{flow.entity} {flow.key}"
    due = {record["name"]: record["due_ms"] for record in flow.all("armed")}
    happened: set[str] = {PARKED} if flow.key in sagas.retried else set()
    on: set[str] | None = None
    for record, at_ms in flow.records:
        kind = record["type"]
        if kind == "fired":
            happened.add(f"timer {record['name']}")
            if at_ms < due.get(record["name"], 1 << 62):
                yield f"timer early: {where}: {record['name']} at {at_ms}, due {due}"
        elif kind == "resolved":
            happened.add(f"deferred {record['name']}")
        elif kind == "answered":
            happened.add(f"ask {record['name']}")
        elif kind == "waits":
            on = set(record["on"])
        elif kind == "began":
            if on is not None and not on & happened and not flow.all("cancelled"):
                yield f"went on: {where}: it waited for {sorted(on)}, {sorted(happened)} happened"
            on = None


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
        buggy = call.uid in sagas.buggy
        yield from _outcome(call, final, logs[call.entity], where, buggy=buggy)


def _outcome(
    call: FlowCall, final: Json, log: SagaLog, where: str, *, buggy: bool
) -> Iterator[str]:
    reply, failure, dead = final.get("reply"), final.get("failure"), final.get("dead")
    if (call.reply or call.failure) and (call.reply, call.failure) != (reply, failure):
        yield f"another reply than recorded: {where}: {call.reply or call.failure}"
    flow = log.flows.get(call.key)
    if call.deadline_ms is not None and flow is not None and flow.all("waits"):
        armed = {record["name"]: record["due_ms"] for record in flow.all("armed")}
        if armed.get(DEADLINE) != call.deadline_ms:
            yield f"deadline forgotten: {where}: {call.deadline_ms}, armed {armed}"
    if dead is not None:
        late = dead["reason"] == "expired" and call.deadline_ms is not None
        wrong = dead["reason"] == "defect" and buggy
        if dead["reason"] != "cancelled" and not late and not wrong:
            yield f"unjust dead letter: {where}: {dead['reason']}: {dead['error']}"
        return
    if bool(failure) != bool(call.script & FAIL):
        yield f"another end than its code says: {where}: {reply or failure}"
    if reply is None or flow is None:
        return
    fired, resolved = flow.place("fired", LATE), flow.place("resolved", "go")
    in_time = resolved is not None and (fired is None or resolved < fired)
    value = flow.records[resolved][0]["value"] if resolved is not None and in_time else None
    if reply["value"] != value:
        yield f"another value than came in time: {where}: {reply['value']}, {value}"


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


def _given(logs: dict[str, SagaLog], sagas: Sagas) -> Iterator[str]:
    """What a flow was given is what somebody gave who may, and what was answered is recorded."""
    flows: dict[int, FlowLog] = {}
    for call in sagas.calls:
        flow = logs[call.entity].flows.get(call.key)
        if flow is None:
            continue
        flows[call.uid] = flow
        opened = flow.place("opened", "go")
        sent_ms = sagas.sent_ms.get(call.uid)
        if sent_ms is not None and (opened is None or flow.records[opened][1] > sent_ms):
            yield f"token given before it was recorded: {call.entity} {call.key} at {sent_ms}"
        for record in flow.all("resolved"):
            if record["value"] not in sagas.given.get(call.uid, ()):
                yield f"given by nobody: {call.entity} {call.key}: {record}"
        answers = [log.answers[call.uid] for log in logs.values() if call.uid in log.answers]
        for record in flow.all("answered"):
            if [record.get("reply")] != answers:
                yield f"another answer: {call.entity} {call.key}: {record}, not {answers}"
    for kind, answered in (("resolved", sagas.resumed), ("cancelled", sagas.ended)):
        for one in answered:
            if one.uid in flows and not _had(flows[one.uid], kind, one):
                yield f"answered before it was recorded: {kind}, {one}"


def _had(flow: FlowLog, kind: str, answered: Answered) -> bool:
    """Whether something had happened in a flow by then, or it had ended, or not begun: what is
    sent where the mailbox is full overtakes what fills it, the flow's own command too."""
    if flow.final is not None and flow.final_ms <= answered.at_ms:
        return True
    if flow.records and flow.records[0][1] > answered.sent_ms:
        return True
    return any(record["type"] == kind and ms <= answered.at_ms for record, ms in flow.records)


def _outside(logs: dict[str, SagaLog], sagas: Sagas) -> Iterator[str]:
    done: dict[int, list[str]] = {}  # by uid, in the order in which each was done first
    keys: dict[tuple[int, str], set[str]] = {}
    for uid, name, key in sagas.effects:
        if not keys.setdefault((uid, name), set()):
            done.setdefault(uid, []).append(name)
        keys[uid, name].add(key)
    for (uid, name), found in keys.items():
        if len(found) > 1:
            yield f"a step has two keys: uid {uid} {name}: {found}"
    for entity, log in logs.items():
        for (uid, line), times in log.events.items():
            if times > 1:
                yield f"executed twice: {entity} uid {uid} line {line}, {times} times"
    for call in sagas.calls:
        flow = logs[call.entity].flows.get(call.key)
        if flow is not None:
            yield from _undone(call, flow, done.get(call.uid, []), call.uid in sagas.buggy)
        final = logs[call.entity].finals.get(call.key)
        whole = final is not None and final.get("dead") is None and call.script & ASK
        if whole and not any(log.events[call.uid, 0] for log in logs.values()):
            yield f"asked and not done: {call.entity} uid {call.uid}"


def _undone(call: FlowCall, flow: FlowLog, done: list[str], buggy: bool) -> Iterator[str]:
    """What ends without a reply undoes what it did, newest first; what ends with one, nothing."""
    if flow.final is None:
        return
    undone = [name for name in done if name.startswith("undo ")]
    ran = [name for name in UNDONE if flow.place("ran", name) is not None]
    expected = [] if flow.final.get("reply") else [f"undo {name}" for name in ran]
    if buggy and GIVEN_UP in str(flow.final.get("dead")):
        expected = expected[: len(undone)]
    if undone != expected:
        yield f"undone otherwise: {call.entity} uid {call.uid}: {undone}, not {expected}"
