"""The promises, checked on what a run left behind. Yields one line for each that was broken.

Everything here reads `Evidence` and the model's `History` and nothing else: no line of the code
under test is imported. A violation begins with its kind, a stable text up to the first colon.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .evidence import Accepted, Call, Evidence
from .model import History, Recorded, lost_of, read_log

TAGS = frozenset(
    {
        "AlreadyProcessingMessage",
        "EntityNotAssignedToRunner",
        "MailboxFull",
        "MalformedMessage",
        "PersistenceError",
        "RunnerNotRegistered",
        "RunnerUnavailable",
        "SendTimeout",
        "Suspended",
        "RpcClientError",
        "SerializationError",
    }
)

DEADLY = {
    "defect": {"boom", "sour"},
    "unencodable": {"mute"},
    "poison": {"poison"},
}
"""Why a dead letter may be, by the kinds of commands that deserve it."""


ANSWERED = ("ask", "result", "plain ask", "plain tell")
"""Ways that end with a recorded outcome."""

PLAIN = ("plain ask", "plain tell", "plain query")
"""Ways that have no time of their own."""

GRACE_S = 0.1
"""How much longer than its time a call may take."""

DEFECTIVE = ("boom", "sour", "poison")
"""Kinds whose handler fails."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the checker must know of the settings."""

    defect_attempts: int
    poison_marks: int
    made_window_s: float
    made_keys: int
    ask_timeout_s: float


def violations(evidence: Evidence, limits: Limits) -> list[str]:
    """Everything that is wrong."""
    histories = {entity: read_log(entity, messages) for entity, messages in evidence.logs.items()}
    for entity in {call.entity for call in evidence.calls} | set(evidence.waiting):
        histories.setdefault(entity, read_log(entity, []))
    for entity, messages in evidence.torn.items():
        histories.setdefault(entity, read_log(entity, [])).lost = lost_of(messages)
    found: list[str] = []
    for _, history in sorted(histories.items()):
        found += history.problems
        found += _executed_twice(history)
        found += _executed_too_late(history, limits)
        found += _dead_letters(history, evidence, limits)
        found += _tell_order(history, evidence)
        found += _client_order(history, evidence)
        found += _reads(history, evidence)
        found += _past(history, evidence)
        found += _watched(history, evidence)
    found += _accepted(histories, evidence)
    found += _told(histories, evidence)
    found += _endless(evidence, limits)
    for call in evidence.calls:
        found += _call(call, histories[call.entity], evidence)
    found += [f"uncaught: {text}" for text in evidence.uncaught]
    found += [f"unbounded: {text}" for text in evidence.unbounded]
    found += [f"no answer when healthy: {text}" for text in evidence.unanswered]
    for uid, times in sorted(evidence.killed.items()):
        if times > 10 * limits.poison_marks:
            found.append(f"poison lives on: uid {uid} ended {times} processes")
    return found


# -- what the log says ----------------------------------------------------------------------------
def _executed_twice(history: History) -> Iterator[str]:
    for uid, recorded in history.by_uid.items():
        executed = [r for r in recorded if r.dead is None]
        if len(executed) > 1:
            places = [(r.sequence, r.name) for r in executed]
            yield f"executed twice: {history.entity} uid {uid} {executed[0].kind} at {places}"


def _executed_too_late(history: History, limits: Limits) -> Iterator[str]:
    """A made key was out of its window by the very log on which its command was decided.

    It may be one that was forgotten. On what it was decided isn't known of a log that lost its
    tail.
    """
    if history.lost.sequences:
        return
    sequence, before_ms = 0, 0  # the commit that is looked at, and the time of the one before it
    for recorded in history.outcomes:
        if recorded.sequence != sequence:
            before_ms = history.own_ms.get(sequence, 0)
            sequence = recorded.sequence
        if recorded.birth is None or recorded.dead is not None:
            continue
        late_ms = before_ms - recorded.birth - int(limits.made_window_s * 1000)
        if late_ms > 0:
            yield (
                f"executed too late: {history.entity} at {sequence} uid {recorded.uid}: its key "
                f"was out of its window for {late_ms} ms"
            )


def _dead_letters(history: History, evidence: Evidence, limits: Limits) -> Iterator[str]:
    copies = [data for entity, data in evidence.dead_copies if entity == history.entity]
    waiting = evidence.waiting.get(history.entity, [])
    lost = _lost_places(evidence, history.entity)
    for recorded in history.outcomes:
        if recorded.dead is None:
            continue
        if not _deserved(recorded, history, evidence, limits):
            yield (
                f"unjust dead letter: {history.entity} at {recorded.sequence} uid {recorded.uid} "
                f"{recorded.kind}: {recorded.dead['reason']}"
            )
        if recorded.at is None:
            yield f"a dead letter of no tell: {history.entity} at {recorded.sequence}"
        elif (
            recorded.at[1] not in waiting
            and recorded.at not in lost
            and not _forgotten(recorded, history, evidence)
        ):
            name = f'"{recorded.name}"'.encode()
            if not any(name in copy for copy in copies):
                yield f"no copy of a dead letter: {history.entity} {recorded.name}"


def _forgotten(recorded: Recorded, history: History, evidence: Evidence) -> bool:
    """Whether its made key was forgotten before its copy was stored: its tell came again."""
    known = (history.entity, recorded.name) in evidence.processed
    return known and recorded.birth is not None


def _deserved(recorded: Recorded, history: History, evidence: Evidence, limits: Limits) -> bool:
    assert recorded.dead is not None
    reason = recorded.dead["reason"]
    if reason == "malformed":
        key = recorded.dead.get("key")
        first = history.by_name.get(key) if key else None
        reused = (first is not None and first.uid != recorded.uid) or key in history.lost.names
        return reused or recorded.kind == "garbage" or recorded.uid in evidence.garbage
    if reason == "expired":
        deadline_ms = evidence.deadlines.get(recorded.uid or 0)
        now_ms = history.times[recorded.sequence] / 1e6
        return deadline_ms is not None and now_ms > deadline_ms - evidence.skew_ms
    if reason == "too_old":
        birth_ms = evidence.births.get(recorded.uid or 0)
        now_ms = history.times[recorded.sequence] / 1e6
        return birth_ms is not None and (
            now_ms > birth_ms + limits.made_window_s * 1000 - evidence.skew_ms
            or birth_ms <= _forgotten_birth(recorded, history, limits)
        )
    if reason == "defect" and recorded.kind == "boom":
        return evidence.boom_times.get(recorded.uid or 0, 0) >= limits.defect_attempts
    return recorded.kind in DEADLY.get(reason, set())


def _forgotten_birth(recorded: Recorded, history: History, limits: Limits) -> int:
    """The newest birth that may have been forgotten for lack of room before this outcome."""
    earlier = [o for o in history.outcomes if o.sequence < recorded.sequence]
    births = [o.birth for o in earlier if o.birth is not None]
    return max(births[: -limits.made_keys], default=-1)


def _lost_places(evidence: Evidence, entity: str) -> set[tuple[int, int]]:
    return {(a.time_ns, a.sequence) for a in evidence.accepted if a.entity == entity and a.lost}


def _tell_order(history: History, evidence: Evidence) -> Iterator[str]:
    lost = _lost_places(evidence, history.entity) | history.lost.places
    newest = (0, 0)
    for recorded in history.outcomes:
        if recorded.at is None or recorded.at in lost:
            continue
        if recorded.name in history.lost.names:  # of two copies, the later one takes effect now
            continue
        if recorded.at < newest:
            yield (
                f"tells out of order: {history.entity} uid {recorded.uid} at {recorded.sequence}: "
                f"{recorded.at} after {newest}"
            )
        newest = max(newest, recorded.at)


def _client_order(history: History, evidence: Evidence) -> Iterator[str]:
    """Of one client: what began after the success of another must come after it in the log."""
    lost = {a.uid for a in evidence.accepted if a.entity == history.entity and a.lost}
    lost |= history.lost.uids
    sent = Counter(call.uid for call in evidence.calls)  # another's copy may come first
    by_client: dict[str, list[Call]] = {}
    for call in evidence.calls:
        usual = call.way in ("ask", "tell") and sent[call.uid] == 1
        if call.entity == history.entity and usual and call.uid not in lost:
            by_client.setdefault(call.client, []).append(call)
    for client, calls in by_client.items():
        done = sorted((c for c in calls if c.ok), key=lambda c: c.end)
        newest: tuple[int, Call] | None = None
        passed = 0
        for call in sorted(calls, key=lambda c: c.begin):
            while passed < len(done) and done[passed].end < call.begin:
                position = _position(history, done[passed])
                if position is not None and (newest is None or position > newest[0]):
                    newest = position, done[passed]
                passed += 1
            position = _position(history, call)
            if position is not None and newest is not None and position < newest[0]:
                yield (
                    f"client order: {client} {history.entity}: {call.way} uid {call.uid} took "
                    f"effect before {newest[1].way} uid {newest[1].uid}, begun after its success"
                )


def _position(history: History, call: Call) -> int | None:
    recorded = history.by_uid.get(call.uid)
    return recorded[0].position if recorded else None


# -- what was accepted ----------------------------------------------------------------------------
def _accepted(histories: dict[str, History], evidence: Evidence) -> Iterator[str]:
    for told in evidence.accepted:
        if told.entity in evidence.damaged or told.lost:
            continue
        waits = told.sequence in evidence.waiting.get(told.entity, [])
        history = histories.get(told.entity)
        if history is None:  # an id that can't be: the copy is the record
            if waits or not _buried(told, evidence):
                yield f"accepted, lost: tell {told.sequence} to {told.entity}"
        elif not _settled(told, history):
            yield (
                f"accepted, lost: tell {told.sequence} uid {told.uid} to {told.entity}, "
                f"{'still waiting' if waits else 'acknowledged without an outcome'}"
            )
        elif waits:
            yield f"never acknowledged: tell {told.sequence} uid {told.uid} to {told.entity}"


def _settled(told: Accepted, history: History) -> bool:
    if (told.time_ns, told.sequence) in history.by_place:
        return True
    if (told.time_ns, told.sequence) in history.lost.places or told.uid in history.lost.uids:
        return True
    recorded = history.by_name.get(told.key or "")
    return recorded is not None and recorded.uid == told.uid


def _buried(told: Accepted, evidence: Evidence) -> bool:
    place = f"{told.sequence},{told.time_ns}".encode()
    return any(place in data for _, data in evidence.dead_copies)


def _endless(evidence: Evidence, limits: Limits) -> Iterator[str]:
    """A call ends within its time, and little more."""
    for call in evidence.calls:
        if call.way not in PLAIN and call.lasted_s > limits.ask_timeout_s + GRACE_S:
            yield (
                f"outlived its time: {call.client} {call.way} uid {call.uid} to {call.entity}: "
                f"{call.lasted_s:.3f} s, allowed are {limits.ask_timeout_s}"
            )


def _told(histories: dict[str, History], evidence: Evidence) -> Iterator[str]:
    """Each answer names the commit that it was read from, also one that reached nobody."""
    entities = {call.uid: call.entity for call in evidence.calls}
    logged = {entity: {m.sequence for m in log} for entity, log in evidence.logs.items()}
    for data in evidence.told:
        answer = json.loads(data)
        said: Any = answer.get("reply") or answer.get("failure")
        if not hasattr(said, "get"):  # of a flow, which are checked elsewhere
            continue
        entity = entities.get(said.get("uid", -1))
        if entity is None or entity in evidence.damaged:
            continue
        lost = histories[entity].lost
        if said["uid"] in lost.uids or answer["seq"] in lost.sequences:
            continue
        place = answer["seq"], answer["version"]
        executed = [r for r in histories[entity].by_uid.get(said["uid"], ()) if r.dead is None]
        if executed and place != (executed[0].sequence, executed[0].version):
            was = executed[0].sequence, executed[0].version
            yield f"another place than recorded: {entity} uid {said['uid']}: {place}, not {was}"
        elif place[0] and place[0] not in logged.get(entity, ()):
            yield f"a place that isn't there: {entity} uid {said['uid']}: {place}"


# -- what callers heard ---------------------------------------------------------------------------
def _call(call: Call, history: History, evidence: Evidence) -> Iterator[str]:
    what = f"{call.client} {call.way} {call.kind} uid {call.uid} to {call.entity} key {call.key}"
    if call.untagged is not None:
        yield f"untagged error: {what}: {call.untagged}"
    if call.error is not None and call.error not in TAGS:
        yield f"unknown tag: {what}: {call.error}"
    if call.entity in evidence.damaged:
        return
    lost = call.uid in history.lost.uids or call.key in history.lost.names
    if call.way in ANSWERED and (call.reply or call.failure) and not lost:
        yield from _answered(call, history, what)
    if call.error is not None:
        yield from _refused(call, history, evidence, what)
    healthy = call.kind not in ("boom", "sour", "mute", "poison", "garbage") and not call.other
    if call.calm and healthy and call.end >= 0 and not call.ok:
        yield f"no answer when healthy: {what}: {call.error} {call.cause}"


def _answered(call: Call, history: History, what: str) -> Iterator[str]:
    if call.way == "result":
        named = history.by_name.get(call.key or "")
        recorded = [named] if named is not None else []
    else:
        recorded = [r for r in history.by_uid.get(call.uid, ()) if r.dead is None]
    if not recorded:
        yield f"answered, not in the log: {what}: {call.reply or call.failure}"
    elif (recorded[0].reply, recorded[0].failure) != (call.reply, call.failure):
        yield (
            f"another reply than recorded: {what}: {call.reply or call.failure}, "
            f"not {recorded[0].reply or recorded[0].failure}"
        )


def _refused(call: Call, history: History, evidence: Evidence, what: str) -> Iterator[str]:
    executed = any(r.dead is None for r in history.by_uid.get(call.uid, ()))
    alone = sum(c.uid == call.uid for c in evidence.calls) == 1
    # a verdict that is gone, or was about what is gone: and then another one
    lost = call.uid in history.lost.uids or call.key in history.lost.names
    only = executed and alone and not lost
    if call.may is False and only and call.way not in ("query", "result"):
        yield f"dishonest error: {what}: {call.error} ({call.cause}), but it took effect"
    if not _may_hear(call, evidence):
        yield f"unjust refusal: {what}: {call.error} ({call.cause})"


def _may_hear(call: Call, evidence: Evidence) -> bool:
    """Whether a caller can have got this error for what it sent."""
    reused = call.key is not None and len({c.uid for c in _of_key(call, evidence)}) > 1
    match call.error:
        case "MalformedMessage":
            gone = call.way == "state" and call.entity in evidence.torn
            return call.kind == "garbage" or reused or gone
        case "SerializationError":
            told = "quarantined" in call.cause or call.way == "state"  # which reads the log itself
            damaged = call.entity in evidence.healed and told
            mute = call.kind in ("mute", "garbage")
            return mute or damaged or (reused and call.way == "result")
        case "RpcClientError":
            return call.kind in DEFECTIVE or call.client in evidence.cut_off
        case "Suspended":
            return False
        case _:
            return True


def _of_key(call: Call, evidence: Evidence) -> list[Call]:
    """All calls of one key, some of which may carry another payload."""
    return [c for c in evidence.calls if c.key == call.key and c.entity == call.entity]


def _reads(history: History, evidence: Evidence) -> Iterator[str]:
    """Queries show states that were, and never go back for a client; fresh ones not at all."""
    if history.entity in evidence.torn:  # what was shown may be gone
        return
    calls = [c for c in evidence.calls if c.entity == history.entity and c.end >= 0]
    moments = sorted(
        [(c.end, 1, c) for c in calls] + [(c.begin, 0, c) for c in calls], key=lambda m: m[:2]
    )
    seen: dict[str, int] = {}
    anybody = 0
    floor: dict[int, int] = {}
    for _, is_end, call in moments:
        if not is_end:
            floor[id(call)] = max(seen.get(call.client, 0), anybody if call.fresh else 0)
            continue
        shown = call.reply if call.way in ("ask", "query", "plain query") else None
        if shown is None or "n" not in shown:
            continue
        if call.way != "ask":
            numbers = (shown["n"], shown["total"], shown["mix"])
            if numbers not in history.states.get(shown["n"], set()):
                yield f"a state that never was: {call.client} {history.entity} {numbers}"
            if shown["n"] < floor[id(call)] and call.way == "query":
                yield (
                    f"stale query: {call.client} {history.entity} uid {call.uid} "
                    f"fresh={call.fresh}: {shown['n']} < {floor[id(call)]}"
                )
        if not call.again:
            seen[call.client] = max(seen.get(call.client, 0), shown["n"])
            anybody = max(anybody, shown["n"])


def _past(history: History, evidence: Evidence) -> Iterator[str]:
    """A state at a version is the fold of the events up to it."""
    if history.entity in evidence.torn:
        return
    for call in evidence.calls:
        if call.entity == history.entity and call.way == "state" and call.reply is not None:
            numbers = (call.reply["n"], call.reply["total"], call.reply["mix"])
            if history.levels.get(call.version) != numbers:
                yield (
                    f"wrong state of the past: {call.client} {history.entity} at version "
                    f"{call.version}: {numbers}, not {history.levels.get(call.version)}"
                )


def _watched(history: History, evidence: Evidence) -> Iterator[str]:
    """A watcher sees everything, once, in order, from where it began to what it saw last."""
    if history.entity in evidence.torn:
        return
    seen = evidence.watched.get(history.entity)
    logged = [(r.sequence, r.uid) for r in history.outcomes]
    if seen is not None and seen != logged:
        first = next((n for n, (a, b) in enumerate(zip(seen, logged, strict=False)) if a != b), -1)
        yield (
            f"watched another log: {history.entity}: {len(seen)} records of {len(logged)}, "
            f"the first difference at {first}"
        )


def kinds(found: Iterable[str]) -> list[str]:
    """The kinds of some violations, each once."""
    return sorted({text.partition(":")[0] for text in found})
