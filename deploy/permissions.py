"""Permissions: what each role must be allowed to do, subject by subject, and why.

Four roles: a *caller* asks and tells, a *reader* reads logs and ids (`history`, `watch`, `ids`), a
*runner* hosts, an *operator* looks after what is there (`perdure dead`, `flows`, `verify`,
`runners`, `drain`), which takes a caller's and a reader's rights too. Who broadcasts needs both of
these as well: the ids, and to tell. What a runner needs beyond that to create or update a stream,
and an operator to resize a type, is apart (`creating`, `resizing`): lent for a moment, best.
Nobody needs more, and nobody should have it: who may publish to a log's subject can write history.

Each need has a probe: a message or subscription at or below its subject that has no effect. What a
stream would store names another stream as the expected one, so the server refuses it (10060); an
API request that could do something contradicts itself in its body, so it is refused as well; a
subscription ends as soon as it begins. All are well-formed: the server logs nothing about them.
That the list is complete is held by a test, which runs perdure with just these permissions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal, TypeAlias

from ..entities.settings import JETSTREAM_API
from ..streams.jetstream.schedules import CONSUMER as RELAY
from ..streams.subjects import Subjects

Role: TypeAlias = Literal["caller", "reader", "runner", "operator"]
Verb: TypeAlias = Literal["publish", "subscribe"]

PROBE = "perdure-check"
"""The id, consumer and stream name in probes. A stream of this name is nobody's."""

PROBE_HEADERS = {"Nats-Expected-Stream": PROBE}
"""What makes a stream refuse a probe."""

PROBE_BODY = b"{}"
"""For requests that do nothing, or refuse any body. An empty one would purge a bucket."""

CONTRADICTIONS = {
    "STREAM.CREATE.": b'{"name":"%b"}' % PROBE.encode(),  # not the name in the subject
    "STREAM.UPDATE.": b'{"name":"%b"}' % PROBE.encode(),
    "STREAM.PURGE.": b'{"filter":"%b","seq":1,"keep":1}' % PROBE.encode(),  # up to, and all but
    "STREAM.MSG.DELETE.": b'{"seq":0}',  # no message has that sequence
    "CONSUMER.CREATE.": b'{"stream_name":"%b","config":{}}' % PROBE.encode(),
}
"""Bodies that the server refuses, by the beginning of the API request. They are known to it: an
unknown field would be logged."""

INBOX = "_INBOX"
"""Where answers to perdure's own connections go unless the setting `inbox_prefix` says more."""


@dataclass(frozen=True, slots=True)
class Need:
    """One permission."""

    verb: Verb
    subject: str
    """What must be allowed, with wildcards."""
    why: str
    probe: str
    """What is tried: the subject, or one below it."""
    request: str = ""
    """Of JetStream's API: what the probe asks for, without the API's prefix."""

    @property
    def body(self) -> bytes:
        """What is sent there."""
        found = (body for head, body in CONTRADICTIONS.items() if self.request.startswith(head))
        return next(found, PROBE_BODY)

    def below(self, prefix: str) -> Need:
        """The same where the API's requests begin with that (the setting `api_prefix`)."""
        if not self.request or prefix == JETSTREAM_API:
            return self
        request = self.subject.removeprefix(f"{JETSTREAM_API}.")
        return replace(self, subject=f"{prefix}.{request}", probe=f"{prefix}.{self.request}")

    def __str__(self) -> str:
        return f"{self.verb} {self.subject} ({self.why})"


def role_told(role: Role) -> str:
    """The role with its article."""
    return f"an {role}" if role == "operator" else f"a {role}"


def needs(
    role: Role,
    subjects: Subjects,
    entity: str,
    reply_prefixes: Sequence[str] = (INBOX,),
    *,
    timers: bool = True,
    inbox: str = INBOX,
    api: str = JETSTREAM_API,
) -> list[Need]:
    """What a role needs for one entity type. A runner answers below the reply prefixes, and needs
    more if it takes part in timers. `inbox` and `api` are the settings `inbox_prefix` and
    `api_prefix`; who reads by another prefix than JetStream's own needs no consumer to follow."""
    home = api == JETSTREAM_API
    wanted: Iterator[Need]
    match role:
        case "caller":
            wanted = _calling(subjects, entity)
        case "reader":
            wanted = chain(_reading(subjects, entity), _following(subjects, entity, home=home))
        case "runner":
            timing = _timing(subjects) if timers else []
            wanted = chain(_hosting(subjects, entity, reply_prefixes), timing)
        case "operator":
            wanted = _operating(subjects, entity, home=home)
    answers = _subscribe(f"{inbox}.>", "get answers", f"{inbox}.{PROBE}")
    return [answers, *(need.below(api) for need in wanted)]


def creating(streams: Sequence[str], verb: Literal["CREATE", "UPDATE"]) -> list[Need]:
    """What it takes to create streams that are missing, or to update bounds that changed."""
    why = f"{verb.lower()} a stream"
    return [_api(f"STREAM.{verb}.{name}", why) for name in streams]


def backing_up(subjects: Subjects, entity: str) -> list[Need]:
    """What an operator needs beyond the role to save a type (`perdure backup`).

    Not to be tried by a probe, and to be granted to few: the server sends an archive to whatever
    subject is named, a log's too.
    """
    bucket = f"KV_{subjects.members_bucket}"
    wanted = [
        _publish(subjects.resize(entity), "see whether a runner hosts it"),
        _api(f"STREAM.MSG.GET.{bucket}", "save what signs resume tokens"),
    ]
    for stream in _kept(subjects, entity):
        wanted.append(_api(f"STREAM.SNAPSHOT.{stream}", "save a stream"))
        wanted.append(_publish(f"$JS.SNAPSHOT.ACK.{stream}.>", "take more of it"))
    return wanted


def restoring(subjects: Subjects, entity: str) -> list[Need]:
    """What an operator needs beyond the role, and beyond `creating` for the streams that all types
    share, to restore a type (`perdure restore`).

    Not to be tried by a probe, and to be lent for that time only: it makes and removes streams.
    """
    time, bucket = subjects.time_stream, subjects.members_bucket
    shared = (subjects.dead_stream, f"KV_{bucket}", time)
    wanted = [_api(f"STREAM.INFO.{name}", "look at a stream") for name in shared]
    for stream in _kept(subjects, entity):
        wanted += [
            _api(f"STREAM.INFO.{stream}", "see that it isn't there"),
            _api(f"STREAM.RESTORE.{stream}", "restore a stream"),
            _publish(f"$JS.SNAPSHOT.RESTORE.{stream}.>", "send its archive"),
            _api(f"STREAM.DELETE.{stream}", "remove it if that fails"),
        ]
    return [
        *wanted,
        *_resizing(subjects, entity),  # it comes halted, and is set going at the end
        _publish(subjects.later(entity, "*", "*"), "set timers of open flows"),
        _api(f"STREAM.PURGE.{time}", "forget them if it fails"),
        _publish(subjects.dead(entity, "*"), "store copies of dead letters"),
        _publish(f"$KV.{bucket}.secret.resume", "store what signs resume tokens"),
        _api(f"STREAM.MSG.GET.KV_{bucket}", "see whether another one is there"),
    ]


def _kept(subjects: Subjects, entity: str) -> tuple[str, ...]:
    """The streams of a type."""
    return (
        subjects.command_stream(entity),
        subjects.log_stream(entity),
        subjects.snapshot_stream(entity),
        subjects.ids_stream(entity),
    )


def resizing(subjects: Subjects, entity: str) -> list[Need]:
    """What an operator needs besides to resize a type: to be lent for a moment.

    Who may update a command stream may also have it republish what is told, to a log's subject.
    """
    return list(_resizing(subjects, entity))


def _timing(subjects: Subjects) -> list[Need]:
    """What a runner needs for timers, those of other types, too, and to tell flows of any type
    what they asked."""
    stream, later, due = subjects.time_stream, subjects.later, subjects.due
    start, take = f"CONSUMER.CREATE.{stream}.{RELAY}.", f"CONSUMER.MSG.NEXT.{stream}."
    probe = f"{start}{due(PROBE, PROBE, PROBE)}"
    return [
        _publish(later("*", "*", "*"), "set timers", later(PROBE, PROBE, PROBE)),
        _publish(subjects.to("*", "*"), "tell flows what comes", subjects.to(PROBE, PROBE)),
        _publish(subjects.ask("*", "*"), "the same", subjects.ask(PROBE, PROBE)),
        _api(f"STREAM.INFO.{stream}", "check the stream of timers"),
        _api(f"STREAM.PURGE.{stream}", "forget timers"),
        _api(f"{start}{due('*', '*', '*')}", "take part in relaying timers", probe),
        _api(f"{take}*", "take timers whose time has come", f"{take}{PROBE}"),
        _api(f"CONSUMER.INFO.{stream}.{RELAY}", "see whether they still come"),
        _publish(f"$JS.ACK.{stream}.>", "acknowledge timers", f"$JS.ACK.{stream}.{PROBE}"),
    ]


def stats_need(subjects: Subjects) -> Need:
    """What it takes to ask runners what they have."""
    return _publish(subjects.stats, "ask runners for their statistics")


def _calling(subjects: Subjects, entity: str) -> Iterator[Need]:
    yield _publish(subjects.info(entity), "find its runners")
    shards = f"{subjects.ask(entity, '*')}.*.*"
    yield _publish(subjects.ask(entity, "*"), "ask", subjects.ask(entity, PROBE))
    yield _publish(shards, "ask the owner", subjects.ask_shard(entity, 0, 0, PROBE))
    yield _publish(subjects.to(entity, "*"), "tell", subjects.to(entity, PROBE))
    yield _publish(subjects.signal(entity), "signal")


def _reading(subjects: Subjects, entity: str) -> Iterator[Need]:
    log = subjects.log_stream(entity)
    yield _api(f"STREAM.MSG.GET.{log}", "read the log at its leader")
    yield _api(f"DIRECT.GET.{log}", "read the log")
    ids = subjects.ids_stream(entity)
    yield _api(f"STREAM.MSG.GET.{ids}", "list ids, at their leader")
    yield _api(f"DIRECT.GET.{ids}", "list ids")


def _following(subjects: Subjects, entity: str, *, home: bool) -> Iterator[Need]:
    """A consumer in the account of the streams. Elsewhere none: it could push to any subject of
    that account, a request of the API's that takes no body among them."""
    if not home:
        return
    log = subjects.log_stream(entity)
    start = f"CONSUMER.CREATE.{log}."
    probe = f"{start}{PROBE}.{subjects.log(entity, PROBE)}"
    yield _api(f"{start}*.{subjects.log(entity, '*')}", "watch", probe)
    yield from _consuming(log)


def _operating(subjects: Subjects, entity: str, *, home: bool) -> Iterator[Need]:
    log, dead = subjects.log_stream(entity), subjects.dead_stream
    yield from _calling(subjects, entity)
    yield from _reading(subjects, entity)
    yield from _following(subjects, entity, home=home)
    yield _api(f"DIRECT.GET.{subjects.time_stream}", "list open flows")
    yield _api(f"STREAM.MSG.GET.{subjects.time_stream}", "list open flows at the leader")
    yield stats_need(subjects)
    yield _publish(subjects.member("*"), "ping and drain runners", subjects.member(PROBE))
    yield _api(f"DIRECT.GET.KV_{subjects.members_bucket}", "see which runners are silent")
    yield _publish(subjects.ids(entity, "*"), "repair the ids", subjects.ids(entity, PROBE))
    yield _api("STREAM.NAMES", "find the entity types")
    for name in (log, dead):
        yield _api(f"STREAM.INFO.{name}", "see how far a stream goes")
    commands = subjects.command_stream(entity)
    yield _api(f"STREAM.INFO.{commands}", "see how a type is cut, and whether tells wait")
    yield _api(f"DIRECT.GET.{subjects.snapshot_stream(entity)}", "compare snapshots")
    yield _api(f"DIRECT.GET.{dead}", "read dead letters")
    yield _api(f"STREAM.MSG.GET.{dead}", "read a dead letter at its leader")
    yield _api(f"STREAM.MSG.DELETE.{dead}", "discard a dead letter's copy")


def _resizing(subjects: Subjects, entity: str) -> Iterator[Need]:
    commands = subjects.command_stream(entity)
    yield _api("STREAM.NAMES", "find the entity types")
    yield _publish(subjects.resize(entity), "ask who hosts it, to resize it")
    halted = subjects.halted(entity, "*")
    yield _publish(halted, "wait for tells on their way", subjects.halted(entity, PROBE))
    yield _api(f"STREAM.UPDATE.{commands}", "resize")
    yield _api(f"STREAM.MSG.GET.{commands}", "find what a resize stored itself")
    yield _api(f"STREAM.MSG.DELETE.{commands}", "remove what a resize stored itself")
    yield _api(f"CONSUMER.NAMES.{commands}", "find terms of runners that are gone")
    looked = f"CONSUMER.INFO.{commands}"
    yield _api(f"{looked}.*", "look at terms of runners that are gone", f"{looked}.{PROBE}")
    ended = f"CONSUMER.DELETE.{commands}"
    yield _api(f"{ended}.*", "remove terms of runners that are gone", f"{ended}.{PROBE}")


def _hosting(subjects: Subjects, entity: str, reply_prefixes: Sequence[str]) -> Iterator[Need]:
    shards = f"{subjects.ask(entity, '*')}.*.*"
    yield _subscribe(subjects.ask(entity, "*"), "hear asks")
    yield _subscribe(shards, "hear a shard's asks", subjects.ask_shard(entity, 0, 0, "*"))
    yield _subscribe(subjects.info(entity), "be found")
    yield _publish(subjects.info(entity), "see whether it is found")
    yield _subscribe(subjects.signal(entity), "hear signals")
    yield _subscribe(subjects.resize(entity), "be asked before a resize")
    yield _subscribe(subjects.member("*"), "be pinged", subjects.member(PROBE))
    yield _publish(subjects.member("*"), "ping others", subjects.member(PROBE))
    yield _subscribe(subjects.members, "hear of other runners")
    yield _publish(subjects.members, "tell other runners")
    yield _subscribe(subjects.stats, "be asked for statistics")
    yield from _found(subjects)
    for prefix in reply_prefixes:
        yield _publish(f"{prefix}.>", "answer", f"{prefix}.{PROBE}")
    yield from _storing(subjects, entity)
    yield from _reading(subjects, entity)
    yield from _taking(subjects, entity)


def _found(subjects: Subjects) -> Iterator[Need]:
    """What it takes to be found by `nats micro` (service.py)."""
    for verb in ("PING", "INFO", "STATS"):
        named = f"$SRV.{verb}.{subjects.namespace}"
        yield _subscribe(f"$SRV.{verb}", "be listed by nats micro")
        yield _subscribe(named, "be listed by nats micro")
        yield _subscribe(f"{named}.*", "be listed by nats micro", f"{named}.{PROBE}")


def _storing(subjects: Subjects, entity: str) -> Iterator[Need]:
    bucket = subjects.members_bucket
    log, snapshot = subjects.log(entity, "*"), subjects.snapshot(entity, ">")
    yield _publish(log, "append commits", subjects.log(entity, PROBE))
    yield _publish(snapshot, "store snapshots", subjects.snapshot(entity, PROBE))
    yield _publish(subjects.dead(entity, "*"), "copy dead letters", subjects.dead(entity, PROBE))
    yield _publish(subjects.ids(entity, "*"), "register ids", subjects.ids(entity, PROBE))
    yield _publish(f"$KV.{bucket}.>", "keep marks and terms", f"$KV.{bucket}.{PROBE}")
    yield _api(f"STREAM.MSG.GET.KV_{bucket}", "read marks and terms")
    yield _api(f"STREAM.PURGE.KV_{bucket}", "remove marks")
    yield _api(f"DIRECT.GET.KV_{bucket}", "see who else is there")
    yield _api(f"DIRECT.GET.{subjects.snapshot_stream(entity)}", "read snapshots")


def _taking(subjects: Subjects, entity: str) -> Iterator[Need]:
    commands = subjects.command_stream(entity)
    kept = (
        subjects.log_stream(entity),
        subjects.snapshot_stream(entity),
        subjects.ids_stream(entity),
    )
    shared = (subjects.dead_stream, f"KV_{subjects.members_bucket}")
    for name in (commands, *kept, *shared):
        yield _api(f"STREAM.INFO.{name}", "check a stream")
    yield _api(f"STREAM.MSG.GET.{commands}", "read a waiting tell again")
    yield _api(f"STREAM.MSG.DELETE.{commands}", "remove a tell that no consumer finds")
    yield _api(f"CONSUMER.NAMES.{commands}", "find earlier terms")
    yield _api(f"CONSUMER.LIST.{commands}", "see who holds which shard")
    start = f"CONSUMER.CREATE.{commands}."
    probe = f"{start}{PROBE}.{subjects.command(entity, 0, 0, PROBE)}"
    yield _api(f"{start}*.{subjects.command(entity, '*', '*', '*')}", "start a term", probe)
    yield from _consuming(commands)
    yield _publish(f"$JS.ACK.{commands}.>", "acknowledge", f"$JS.ACK.{commands}.{PROBE}")


def _consuming(stream: str) -> Iterator[Need]:
    for verb, why in (
        ("MSG.NEXT", "pull messages"),
        ("INFO", "look at a consumer"),
        ("DELETE", "end a consumer"),
    ):
        head = f"CONSUMER.{verb}.{stream}"
        yield _api(f"{head}.*", why, f"{head}.{PROBE}")


def _publish(subject: str, why: str, probe: str = "") -> Need:
    return Need("publish", subject, why, probe or subject)


def _subscribe(subject: str, why: str, probe: str = "") -> Need:
    return Need("subscribe", subject, why, probe or subject)


def _api(request: str, why: str, probe: str = "") -> Need:
    tried = probe or request
    return Need(
        "publish", f"{JETSTREAM_API}.{request}", why, f"{JETSTREAM_API}.{tried}", request=tried
    )
