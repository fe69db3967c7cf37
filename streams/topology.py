"""Topology: which streams a namespace has, and how each must be configured.

Plain data and a pure comparison; `streams/jetstream/topology.py` does the I/O. Every rule here is
one that correctness stands on, and each was measured: a stream that lists `….cmd.…` itself takes
commands for wrong shards, a log that can be purged can be forked, a duplicate window swallows
commands, `discard: old` forgets what was accepted.

Three kinds of configuration are told apart:
- what must be so: a difference is refused, never repaired, for it may be somebody else's stream;
- bounds that follow the settings (the mailbox's capacity, the command stream's size): updated;
- what an operator may choose (replicas, placement, compression): taken as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..entities.settings import Settings
from .subjects import Sharding, Subjects

DUPLICATE_WINDOW_NS = 100_000_000
"""The server's minimum (0 would mean 2 minutes): within it a reused `Nats-Msg-Id` is swallowed."""
FIRST_GENERATION = 1
"""Of a type that was never resized."""
DEAD_PART = 4
"""The copies of dead letters may take a quarter of what one type's tells may. The server reserves
`max_bytes` on its disk when a stream is created, so large bounds are refused on small disks."""

Config: TypeAlias = Mapping[str, Any]

_PLAIN: Config = {
    "allow_atomic": False,
    "allow_batched": False,
    "allow_direct": True,
    "allow_msg_counter": False,
    "allow_msg_schedules": False,
    "allow_msg_ttl": False,
    "allow_rollup_hdrs": False,
    "consumer_limits": {},
    "deny_delete": False,
    "deny_purge": False,
    "discard": "new",
    "discard_new_per_subject": False,
    "first_seq": 0,
    "max_age": 0,
    "max_bytes": -1,
    "max_consumers": -1,
    "max_msg_size": -1,
    "max_msgs": -1,
    "max_msgs_per_subject": -1,
    "mirror": None,
    "no_ack": False,
    "persist_mode": "default",
    "republish": None,
    "retention": "limits",
    "sealed": False,
    "sources": None,
    "storage": "file",
    "subject_delete_marker_ttl": 0,
    "subject_transform": None,
}
"""What every stream of ours has unless it says otherwise; the server leaves out what is off."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream as it should be."""

    name: str
    fixed: Config
    """Must be so."""
    bounds: Config = field(default_factory=dict[str, Any])
    """Follow the settings."""
    initial: Config = field(default_factory=dict[str, Any])
    """Only what it is created with."""

    @property
    def config(self) -> dict[str, Any]:
        """The configuration to create it with."""
        given = {**self.initial, **self.fixed, **self.bounds, "name": self.name}
        return {k: v for k, v in given.items() if v is not None}


Treatment: TypeAlias = Literal["refuse", "update"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One entry of a stream's configuration that isn't as it should be."""

    stream: str
    entry: str
    wanted: object
    found: object
    treatment: Treatment

    def __str__(self) -> str:
        wanted, found = _shown(self.wanted), _shown(self.found)
        return f"{self.stream}: {self.entry} is {found}, perdure needs {wanted}"


def type_streams(
    settings: Settings, subjects: Subjects, entity: str, sharding: Sharding
) -> tuple[Stream, ...]:
    """The streams of one entity type, cut as `sharding` says."""
    return (
        command_stream(settings, subjects, entity, sharding),
        log_stream(settings, subjects, entity),
        snapshot_stream(settings, subjects, entity),
        ids_stream(settings, subjects, entity),
    )


def planned(settings: Settings, entities: Sequence[str]) -> list[Stream]:
    """The streams that types will have that aren't there yet, and those that all share."""
    subjects, cut = Subjects(settings.namespace), Sharding(FIRST_GENERATION, settings.shards)
    wanted = [s for e in entities for s in type_streams(settings, subjects, e, cut)]
    return [*wanted, *shared_streams(settings, subjects)]


def shared_streams(settings: Settings, subjects: Subjects) -> tuple[Stream, ...]:
    """The streams that all types of a namespace share."""
    timers = (time_stream(settings, subjects),) if settings.timers else ()
    return (dead_stream(settings, subjects), members_stream(settings, subjects), *timers)


def command_stream(
    settings: Settings, subjects: Subjects, entity: str, sharding: Sharding
) -> Stream:
    """The tells: a work queue in which each subject is a bounded mailbox."""
    source, target = transform_of(subjects, entity, sharding)
    return Stream(
        subjects.command_stream(entity),
        {
            **_without("max_bytes", "max_msgs_per_subject"),
            "discard_new_per_subject": True,
            "duplicate_window": DUPLICATE_WINDOW_NS,
            "retention": "workqueue",
            "subject_transform": {"src": source, "dest": target},
            "subjects": [source],
        },
        {
            "max_bytes": settings.command_stream_bytes,
            "max_msgs_per_subject": settings.mailbox_capacity,
        },
        {"num_replicas": settings.replicas},
    )


def log_stream(settings: Settings, subjects: Subjects, entity: str) -> Stream:
    """The commits: nothing is ever removed, and one subject is one entity."""
    return Stream(
        subjects.log_stream(entity),
        {
            **_PLAIN,
            "allow_atomic": True,
            "deny_delete": True,
            "deny_purge": True,
            "subjects": [subjects.log(entity, "*")],
        },
        initial={"num_replicas": settings.replicas},
    )


def snapshot_stream(settings: Settings, subjects: Subjects, entity: str) -> Stream:
    """The snapshots: the newest of each subject; a cache."""
    return Stream(
        subjects.snapshot_stream(entity),
        {
            **_PLAIN,
            "discard": "old",
            "max_msgs_per_subject": 1,
            "subjects": [subjects.snapshot(entity, ">")],
        },
        initial={"num_replicas": settings.replicas},
    )


def ids_stream(settings: Settings, subjects: Subjects, entity: str) -> Stream:
    """The registry of ids: a page is written in parts, and rolled up to one message."""
    return Stream(
        subjects.ids_stream(entity),
        {
            **_PLAIN,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "subjects": [subjects.ids(entity, "*")],
        },
        initial={"num_replicas": settings.replicas},
    )


def dead_stream(settings: Settings, subjects: Subjects) -> Stream:
    """Copies of dead-letter verdicts: when it is full, the newest are refused and reported."""
    bytes = settings.command_stream_bytes // DEAD_PART
    return Stream(
        subjects.dead_stream,
        {**_without("max_bytes"), "subjects": [subjects.dead("*", "*")]},
        initial={"num_replicas": settings.replicas, "max_bytes": bytes},
    )


LATEST_MS = 9_214_646_400_000  # 2262-01-01
"""Unix milliseconds up to which a server keeps a timer: its 64-bit nanoseconds end soon after."""


def time_stream(settings: Settings, subjects: Subjects) -> Stream:
    """The timers: schedules that the server turns into messages for who relays them.

    `discard: new` is refused with schedules, and an age would drop those that still wait.
    """
    return Stream(
        subjects.time_stream,
        {
            **_PLAIN,
            "allow_msg_schedules": True,
            "allow_rollup_hdrs": True,
            "discard": "old",
            "retention": "workqueue",
            "subjects": [subjects.later("*", "*", "*"), subjects.due("*", "*", "*")],
        },
        initial={"num_replicas": settings.replicas},
    )


def members_stream(settings: Settings, subjects: Subjects) -> Stream:
    """The members bucket, laid out as the key-value buckets of every NATS client are."""
    bucket = subjects.members_bucket
    return Stream(
        f"KV_{bucket}",
        {
            **_PLAIN,
            "allow_msg_ttl": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "max_msgs_per_subject": 1,
            "subjects": [f"$KV.{bucket}.>"],
        },
        initial={"num_replicas": settings.replicas},
    )


def _without(*entries: str) -> dict[str, Any]:
    return {k: v for k, v in _PLAIN.items() if k not in entries}


# -- how a type is cut ------------------------------------------------------------------------
def transform_of(subjects: Subjects, entity: str, sharding: Sharding) -> tuple[str, str]:
    """The subjects of a command stream's transform: what is published, and what is stored."""
    shard = f"{{{{partition({sharding.shards},1)}}}}"
    target = subjects.command(entity, sharding.generation, shard, "{{wildcard(1)}}")
    return subjects.to(entity, "*"), target


def sharding_of(subjects: Subjects, entity: str, config: Config) -> Sharding | None:
    """How an existing command stream cuts its type; None if its transform isn't ours."""
    transform: dict[str, Any] = config.get("subject_transform") or {}
    head = re.escape(subjects.command(entity, "@", "@", "@").partition("@")[0])
    pattern = head + r"(\d{1,9})\.\{\{\s*partition\((\d{1,9}),\s*1\)\s*\}\}\..*"
    match = re.fullmatch(pattern, str(transform.get("dest", "")))
    if match is None or int(match[2]) == 0:
        return None
    sharding = Sharding(int(match[1]), int(match[2]))
    source, target = transform_of(subjects, entity, sharding)
    plain = {k: str(transform.get(k, "")).replace(" ", "") for k in ("src", "dest")}
    return sharding if plain == {"src": source, "dest": target} else None


def halted_by(subjects: Subjects, entity: str, config: Config) -> str | None:
    """The token of whoever halted a command stream; None if it takes tells."""
    listed: list[str] = config.get("subjects") or []
    head = subjects.halted(entity, "")
    if len(listed) == 1 and listed[0].startswith(head):
        return listed[0].removeprefix(head)
    return None


RESTORING = "restoring-"
"""How the token begins of whoever halted a command stream to restore its type. Until that has
ended the type isn't whole, so nobody else may set it going."""


# -- comparing --------------------------------------------------------------------------------
def differences(wanted: Stream, found: Config) -> list[Difference]:
    """What of a stream's configuration isn't as it should be; empty if all is well."""
    return [
        *_compare(wanted.name, wanted.fixed, found, "refuse"),
        *_compare(wanted.name, wanted.bounds, found, "update"),
    ]


def updated(wanted: Stream, found: Config) -> dict[str, Any]:
    """The configuration to update a stream with: as it is, with the bounds of the settings."""
    return {**found, **wanted.bounds}


def advice(refused: list[Difference]) -> str:
    """One text for all differences that can't be accepted, and what to do."""
    names = sorted({difference.stream for difference in refused})
    return (
        f"{'; '.join(map(str, refused))}. If {_listed(names)} is perdure's, set that right with "
        f"`nats stream edit`; if it isn't, choose another namespace for perdure"
    )


def _compare(stream: str, wanted: Config, found: Config, treatment: Treatment) -> list[Difference]:
    return [
        Difference(stream, entry, value, found.get(entry), treatment)
        for entry, value in wanted.items()
        if _normal(entry, value) != _normal(entry, found.get(entry))
    ]


def _normal(entry: str, value: object) -> object:
    """Left out, off and empty are the same, as the server treats them."""
    if entry == "persist_mode" and value in (None, ""):
        return "default"
    if entry == "subject_transform" and isinstance(value, dict):
        return json.dumps(value, sort_keys=True).replace(" ", "")
    if entry.startswith("max_") and entry != "max_age" and value in (None, 0):
        return -1
    return value or None


def _shown(value: object) -> str:
    return "not set" if value is None else json.dumps(value, sort_keys=True)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"each of {', '.join(names)}"
