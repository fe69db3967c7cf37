"""The till a second time: what each command must come to, computed from the log's bytes alone.

Shares no code with the entity, the runner or the wire (import-linter and a test hold that): a
mistake that both made would go unseen. It reads the bytes that the broker stored, checks that they
hang together, and recomputes every outcome on the state that the commits before it left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, TypeAlias

from .evidence import Logged
from .notation import read

Json: TypeAlias = dict[str, Any]
Answer: TypeAlias = tuple[list[Json], Json | None, Json | None]
"""Events, reply, failure."""

EPOCH = "1970-01-01T00:00:00Z"
"""Before any commit."""

PLACE, INBOX = "@", "_INBOX."
"""How a name begins that isn't a key: a tell's place, a bare ask's reply subject."""


class Account:
    """The three numbers of one till, moved by events."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0
        self.blend = 0

    def apply(self, event: Json) -> None:
        """One event of the log. Raises ValueError for one that can't be there."""
        if event.get("type") != "put":
            raise ValueError(f"an event that no command may leave behind: {event}")
        self.count = self.count + 1
        self.sum = self.sum + event["amount"]
        self.blend = (self.blend * 31 + event["uid"] * 7 + event["amount"]) % 1_000_003

    def after(self, events: list[Json]) -> Account:
        """A copy, some events later."""
        copy = Account()
        copy.count, copy.sum, copy.blend = self.count, self.sum, self.blend
        for event in events:
            copy.apply(event)
        return copy

    def numbers(self) -> tuple[int, int, int]:
        """All three, to compare."""
        return self.count, self.sum, self.blend

    def receipt(self, uid: int) -> Json:
        """What the till shows."""
        numbers = {"n": self.count, "total": self.sum, "mix": self.blend}
        return {"type": "receipt", "uid": uid, **numbers}


def answer_to(account: Account, command: Json, key: str | None) -> Answer:
    """What must come of a command. Raises ValueError for one that can have no outcome."""
    uid = command["uid"]
    match command["type"]:
        case "touch":
            return [], account.receipt(uid), None
        case "stamp":
            stamped = {"type": "stamped", "uid": uid, "version": account.count, "key": key}
            return [put(uid, 2)], stamped, None
        case "add":
            if (account.sum + uid) % 7 == 0:
                return [], None, {"type": "refused", "uid": uid, "total": account.sum}
            events = [put(uid, command["amount"])]
        case "split":
            events = [put(uid, command["amount"]), put(uid, 1)]
        case "boom":
            events = [put(uid, 3)]
        case other:
            raise ValueError(f"a command that can't have an outcome: {other}")
    return events, account.after(events).receipt(uid), None


def put(uid: int, amount: int) -> Json:
    """The only event."""
    return {"type": "put", "uid": uid, "amount": amount}


@dataclass(slots=True)
class Recorded:
    """One outcome in a log."""

    position: int  # among the entity's outcomes
    sequence: int  # of its commit
    name: str
    uid: int | None
    kind: str
    at: tuple[int, int] | None  # time and sequence of a tell
    reply: Json | None
    failure: Json | None
    dead: Json | None
    birth: int | None = None  # of a key that a client made, Unix ms
    version: int = 0  # of the entity after it


@dataclass(slots=True)
class History:
    """One entity's log, read."""

    entity: str
    outcomes: list[Recorded] = field(default_factory=list[Recorded])
    by_name: dict[str, Recorded] = field(default_factory=dict[str, Recorded])
    by_uid: dict[int, list[Recorded]] = field(default_factory=dict[int, list[Recorded]])
    by_place: dict[tuple[int, int], Recorded] = field(
        default_factory=dict[tuple[int, int], Recorded]
    )
    states: dict[int, set[tuple[int, int, int]]] = field(
        default_factory=dict[int, set[tuple[int, int, int]]]
    )
    levels: dict[int, tuple[int, int, int]] = field(
        default_factory=dict[int, tuple[int, int, int]]
    )  # by version, between the events of one command too
    times: dict[int, int] = field(default_factory=dict[int, int])  # by sequence, of the server
    own_ms: dict[int, int] = field(default_factory=dict[int, int])  # of its commits themselves
    account: Account = field(default_factory=Account)
    commits: int = 0
    foreign: int = 0
    problems: list[str] = field(default_factory=list[str])
    lost: Lost = field(default_factory=lambda: Lost())


@dataclass(slots=True)
class Lost:
    """What an entity's log lost with its tail: neither it nor its answers bind anybody."""

    uids: set[int] = field(default_factory=set[int])
    names: set[str] = field(default_factory=set[str])
    places: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])
    sequences: set[int] = field(default_factory=set[int])


def lost_of(messages: list[Logged]) -> Lost:
    """The outcomes in some messages that were lost."""
    lost = Lost()
    for message in messages:
        lost.sequences.add(message.sequence)
        outcomes: list[Json] = [] if message.mark is None else read(message.data)["outcomes"]
        for outcome in outcomes:
            lost.names.add(outcome["name"])
            command: Json = outcome.get("command") or {}
            lost.uids.add(command.get("uid", -1))
            if outcome.get("at"):
                lost.places.add((outcome["at"][2], outcome["at"][1]))
    return lost


def read_log(entity: str, messages: list[Logged]) -> History:
    """Everything that a log says, and everything that is wrong with it."""
    history = History(entity)
    history.states[0] = {history.account.numbers()}
    history.levels[0] = history.account.numbers()
    previous, time = "", EPOCH
    for message in messages:
        commit = _commit(message, history)
        if commit is None:
            continue
        history.commits += 1
        history.times[message.sequence] = message.time_ns
        own = _instant(commit["time"]) - _instant(EPOCH)
        history.own_ms[message.sequence] = own // timedelta(milliseconds=1)
        if commit["prev"] != previous:
            history.problems.append(f"chain broken: {entity} at {message.sequence}")
        if _instant(commit["time"]) < _instant(time):
            history.problems.append(f"time went back: {entity} at {message.sequence}")
        previous, time = blake2b(message.data, digest_size=16).hexdigest(), commit["time"]
        for outcome in commit["outcomes"]:
            history.problems.extend(_record(history, message.sequence, outcome))
        if commit["version"] != history.account.count:
            history.problems.append(
                f"wrong version: {entity} at {message.sequence}: {commit['version']}, "
                f"not {history.account.count}"
            )
    return history


def _commit(message: Logged, history: History) -> Json | None:
    hashed = blake2b(message.data, digest_size=16).hexdigest()
    if message.mark is None:
        history.foreign += 1
        return None
    if message.mark != hashed:
        history.problems.append(f"hash differs: {history.entity} at {message.sequence}")
    commit: Json = read(message.data)
    return commit


def _record(history: History, sequence: int, outcome: Json) -> Iterator[str]:
    command: Json = outcome.get("command") or {}
    at = outcome.get("at")
    recorded = Recorded(
        len(history.outcomes),
        sequence,
        outcome["name"],
        command.get("uid"),
        command.get("type", "garbage"),
        (at[2], at[1]) if at else None,
        outcome.get("reply"),
        outcome.get("failure"),
        outcome.get("dead"),
        outcome.get("birth"),
    )
    history.outcomes.append(recorded)
    if recorded.name in history.by_name:
        yield f"name not unique: {history.entity} {recorded.name} at {sequence}"
    history.by_name[recorded.name] = recorded
    if recorded.uid is not None:
        history.by_uid.setdefault(recorded.uid, []).append(recorded)
    if recorded.at is not None:
        history.by_place[recorded.at] = recorded
    yield from _recompute(history, recorded, command, outcome)
    recorded.version = history.account.count


def _recompute(
    history: History, recorded: Recorded, command: Json, outcome: Json
) -> Iterator[str]:
    where = f"{history.entity} at {recorded.sequence} uid {recorded.uid}"
    events: list[Json] = outcome.get("events", [])
    if recorded.dead is not None:
        if events or recorded.reply is not None or recorded.failure is not None:
            yield f"a dead letter with an effect: {where}"
        return
    key = None if recorded.name.startswith((PLACE, INBOX)) else recorded.name
    try:
        expected = answer_to(history.account, command, key)
        for event in events:
            history.account.apply(event)
            history.levels[history.account.count] = history.account.numbers()
    except (ValueError, KeyError) as error:
        yield f"impossible outcome: {where}: {error}"
        return
    if (events, recorded.reply, recorded.failure) != expected:
        found = (events, recorded.reply, recorded.failure)
        yield f"decided on another state: {where}: {found}, not {expected}"
    history.states.setdefault(history.account.count, set()).add(history.account.numbers())


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
