"""Settings: every limit and default, each with its name, its unit and its reason.

Durations are seconds or a `timedelta`; sizes are bytes. A value out of range is a ValueError that
names the setting, when the settings are made, never later. Where values come from is
configuration.py's business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from .annotations import hints
from .configuration import Found, find
from .duration import Duration, seconds
from .label import LABELS, is_label
from .retry import Retry
from .snowflake import MACHINES

_NAMESPACE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
INBOX_CHARS = 200
"""Of `inbox_prefix`: with what follows, reply subjects stay well below 512, what is answered."""
_API_PREFIX = re.compile(r"[^\s.*>\x00-\x1f]+(\.[^\s.*>\x00-\x1f]+)*")
JETSTREAM_API = "$JS.API"
"""Where every server has it, within the account that has the streams."""
_PREFIX = re.compile(r"[^\s.*>$\x00-\x1f][^\s.*>\x00-\x1f]*(\.[^\s.*>\x00-\x1f]+)*")
_SECRET = frozenset({"password", "token", "resume_secrets"})
_SCHEMES = ("nats", "tls", "ws", "wss")
MEMORY = "memory:"
"""How the URL of a cluster in this process begins."""
_LOGIN = re.compile(r"(?:(?<=//)|(?<=,)|^)[^/,\s]*@")
"""Of each URL in a list, with a scheme or without, up to the last `@` before the path."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set. Raises ValueError, naming the setting, for a bad value.

    `Settings.load()` takes each from the first place that has it: an argument, `PERDURE_<NAME>`,
    `NATS_URL` and NATS contexts, `perdure.toml`, the default.
    """

    # -- where -----------------------------------------------------------------------------------
    namespace: str = "perdure"
    """The first token of every subject and, in capitals, the prefix of every stream. Two
    namespaces share a server and nothing else. `[a-z][a-z0-9_-]{0,31}`, to be valid as both."""
    url: str = "nats://127.0.0.1:4222"
    """The servers, divided by commas. The default is nats-server's own, on this machine."""
    credentials: str | None = None
    """Path of a `.creds` file (a JWT and its key). At most one way to log in may be set."""
    user: str | None = None
    """A user name, for servers without accounts' JWTs."""
    password: str | None = None
    """The user's password. Never shown."""
    token: str | None = None
    """A token, the simplest way to log in. Never shown."""
    nkey_seed: str | None = None
    """Path of a file with an NKey seed: the server sees a signature, never the secret."""
    tls_ca: str | None = None
    """Path of a PEM file with the authorities to trust; None trusts the system's."""
    tls_cert: str | None = None
    """Path of a PEM file with this client's own certificate, for servers that verify clients; the
    authorities between it and a trusted one follow it in the file."""
    tls_key: str | None = None
    """Path of a PEM file with the certificate's private key, without a passphrase; None looks for
    it in the file of `tls_cert`."""
    inbox_prefix: str = "_INBOX"
    """What the subjects begin with where this login's answers go, below one of the runners'
    `reply_prefixes`. One of its own for each login (`_INBOX.shop`), and the server's permissions
    can keep answers from all others."""
    api_prefix: str = JETSTREAM_API
    """What requests of JetStream's API begin with: another where this login's account imports them
    from that of the streams, and with a JetStream domain (`$JS.hub.API`). Not for runners."""

    # -- asking ----------------------------------------------------------------------------------
    ask_via: Literal["core", "stream"] = "core"
    """The way of an ask. `core`: one fsync, and no reply means unknown. `stream`: stored before it
    runs, so it also happens when the caller is gone; twice the writes."""
    ask_timeout: Duration = 30.0
    """How long a call waits in all. Longer than the worst failover (8 s without acknowledgements
    when a stream's leader dies), shorter than what proxies commonly allow (60 s)."""
    ask_repeat_after: Duration = 0.25
    """When an ask is first repeated with its key, then later and later. Far above a normal reply
    (about 1 ms), so repeats are rare; small enough that a lost message is hardly felt."""
    send_sla: Duration = 0.1
    """The measured objective of a send between two processes, at the 99th percentile. `perdure
    check` times some and reports against it; nothing is refused for it."""
    told_addresses: int = 65_536
    """Addresses whose last tell a client remembers, to order a later ask behind it: 15 MB at most.
    Asks to forgotten ones go by the stream, which orders them too, slower."""
    transient_retry: Retry = Retry(attempts=3, base=0.05, factor=1.0)
    """For MailboxFull, and a type that nobody hosts, within the call's timeout: long enough for a
    burst to pass, few enough not to make an overload worse."""

    # -- bounds of what waits --------------------------------------------------------------------
    mailbox_capacity: int = 100
    """Commands that may wait for one entity, by each way. At 1 ms a command the last one waits
    0.1 s, the SLA; for tells the server holds the bound."""
    runner_capacity: int = 10_000
    """Asks that may wait in one runner at most. Under load fewer may: about a second's worth of
    what the runner decides, at least 256, so that overload is refused at once and what is accepted
    is still wanted when its turn comes."""
    max_payload_bytes: int = 512 * 1024
    """The largest message taken. Half of nats-server's default limit of 1 MiB, so that a command
    fits into a commit beside its reply and headers."""
    commit_bytes: int = 512 * 1024
    """Where a commit stops to take more outcomes. A soft limit: one large outcome may exceed it,
    and still fits under the server's 1 MiB."""
    commit_outcomes: int = 64
    """Outcomes in one commit at most: the gain of sharing an fsync is flat beyond that, while all
    of them wait for the slowest."""
    commit_format: Literal["json", "msgpack"] = "json"
    """How commits are written into the log. JSON can be read with any tool; MessagePack takes
    about a fifth less space and some more of the runner's time. Both are always read."""
    appends: Literal["auto", "single", "batch"] = "auto"
    """Whether commits of several entities go into the log as one atomic batch. Where an append
    waits for a disk or a quorum, batches are several times faster; elsewhere single appends are.
    `auto` tries both under load and keeps the faster, since no configuration tells."""
    askers: int = 16
    """Callers remembered for one command in progress. A client repeats from one inbox, so more
    than a few are an attack or a bug; the others are told to wait and find the recorded reply."""
    term_credit: int = 256
    """Tells held in memory for one shard at most: more than fits in one fsync round, little
    enough (128 MiB of the largest messages) to survive 16 shards of them."""
    reply_prefixes: tuple[str, ...] = ("_INBOX", "_R_", "perdure.reply")
    """A runner replies only to subjects below these (`prefix.…`): inboxes, service imports and
    perdure's own. Else a caller could have a reply stored as an event."""

    # -- memory ----------------------------------------------------------------------------------
    passivate_after: Duration = timedelta(minutes=5)
    """When an idle entity leaves memory: longer than a person's pause, and loading is cheap."""
    resident_entities: int = 100_000
    """Entities held in memory at most; the one unused longest goes first. A bound on what is swept
    and listed; how much they hold is bounded by `cache_bytes`."""
    cache_bytes: int = 256 * 1024**2
    """What entities in memory hold at most, in bytes, by a generous estimate: some 30,000 small
    ones with ten remembered keys each, in a process that is half a gigabyte with all else."""

    # -- remembering outcomes --------------------------------------------------------------------
    dedup_window: Duration = timedelta(days=7)
    """How long a given key keeps its outcome: over a weekend and a holiday of somebody who
    retries by hand."""
    dedup_keys: int = 100_000
    """Given keys that one entity remembers at most; beyond, the oldest go: 50 MB at most."""
    made_window: Duration = timedelta(minutes=15)
    """How long a key that the client made for its own repeats keeps its outcome: 30 times the
    default timeout, after which nobody repeats it."""
    made_keys: int = 10_000
    """Made keys that one entity remembers at most."""
    resume_secrets: tuple[str, ...] = ()
    """What signs resume tokens: the first signs, all of them verify, so that a new one can be put
    before the old. With none the runners make one and keep it in the members bucket. Never
    shown."""
    snapshot_min_commits: int = 50
    """No snapshot before this many commits since the last: folding them takes milliseconds."""
    snapshot_max_commits: int = 500
    """Always a snapshot after this many, however large the state: loading stays bounded."""

    # -- failures --------------------------------------------------------------------------------
    defect_retry: Retry = Retry(attempts=5, base=0.1, factor=2.0)
    """For a bug in a handler, in case that it passes (a slow import, a race): 1.5 s in all, then a
    dead letter or an RpcClientError."""
    poison_marks: int = 5
    """Runners that a command may kill before it becomes a dead letter: one may die by chance."""
    ack_wait: Duration = 60.0
    """When the server gives an unacknowledged tell again, in case a runner lost it. Terms replace
    dead runners sooner, so this is only the last net."""
    ack_progress: Duration = 20.0
    """How often a runner says that it still holds a tell: two may be lost before `ack_wait`."""
    drain_timeout: Duration = 10.0
    """How long a leaving runner finishes what it holds. Less than Kubernetes' 30 s of grace."""

    # -- layout; fixed when an entity type is first hosted ----------------------------------------
    shards: int = 16
    """Shards of an entity type: enough for 16 runners. Each costs an idle consumer on the server
    (192 on three replicas took 17 % of a core)."""
    replicas: int = 1
    """Copies of every stream. 1 runs on the single server of a laptop; production uses 3, which
    survives the loss of one server."""
    command_stream_bytes: int = 1024**3
    """The size of a type's command stream: when 1 GiB of tells wait, publishers are refused
    instead of the server's disk being filled."""
    machine_id: int | None = None
    """The machine number in this process's snowflakes, 0-1023; different in each process. None: a
    runner leases one that no other runner has, and a client alone takes one at random."""

    # -- the cluster -----------------------------------------------------------------------------
    tracing: bool = False
    """Whether calls, commands, flows and steps are spans of OpenTelemetry's global tracer; needs
    the package opentelemetry-api. Without it a caller's `traceparent` is still kept and passed."""
    weight: float = 1.0
    """This runner's share of the shards, compared with the others': 2 gets twice as many."""
    labels: tuple[str, ...] = ()
    """What this runner is, for entity types that ask for it: `gpu`, `eu-west`. One that has
    `label="gpu"` lives only where `gpu` is among these."""
    timers: bool = True
    """Whether this runner takes part in timers, for which it needs more rights at the server.
    Without it, types with flows can't be hosted, and tells for later are refused."""
    heartbeat: Duration = 3.0
    """How often a runner renews its record in the members bucket; deaths are noticed by pings, so
    this only has to be well within `member_ttl`."""
    member_ttl: Duration = 15.0
    """When the record of a runner goes that nobody removed: five heartbeats. Whole seconds."""
    ping_every: Duration = 0.25
    """How often a runner pings the two that it watches: a killed one is noticed after this, at
    seven requests a second for each."""
    frozen_after: Duration = 2.5
    """How long a runner may be silent until the others take its shards: longer than a pause of a
    busy machine, short enough that a frozen one is replaced within five seconds."""

    # -- probes and metrics ----------------------------------------------------------------------
    health_port: int = 0
    """Where `perdure run` answers `/livez`, `/readyz` and `/metrics` by HTTP; 0: nowhere. With
    `--workers` the first worker has this port, and the others count on from it."""
    health_host: str | None = None
    """The address of this machine on which it answers; none: all, since probes come from another
    machine. Nobody has to log in there, so keep it off public networks."""

    def __post_init__(self) -> None:
        """Refuse the first bad value with a ValueError that names it.

        A value written as in a file (a table for a `Retry`, a list for a tuple) becomes what it
        means.
        """
        for name, problem in self._problems():
            raise ValueError(f"{name}: {problem}")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
        **arguments: object,
    ) -> Settings:
        """The settings of this process, as `load_with_sources` finds them, without the sources."""
        return load_with_sources(path, environ, **arguments)[0]

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{n}={v}' for n, v in self._shown())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """For rich, which would otherwise read the fields themselves, secrets included."""
        return [(name, _Shown(text)) for name, text in self._shown()]

    def _shown(self) -> Iterator[tuple[str, str]]:
        """The fields that differ from their defaults, as text, secrets hidden."""
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                yield field.name, _show(field.name, value)

    def _problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong, as pairs of a setting's name and a text."""
        yield from _converted(self)
        yield from _range_problems(self)
        if not _NAMESPACE.fullmatch(self.namespace):
            yield (
                "namespace",
                f"{self.namespace!r} isn't 1-32 of a-z, 0-9, _ and -, a letter first",
            )
        yield from _url_problems(self.url)
        for prefix in self.reply_prefixes:
            yield from _prefix_problems("reply_prefixes", prefix, self.namespace)
        yield from _inbox_problems(self)
        if not _API_PREFIX.fullmatch(self.api_prefix):
            yield "api_prefix", f"{self.api_prefix!r} isn't tokens without *, > or white space"
        if self.snapshot_min_commits > self.snapshot_max_commits:
            yield "snapshot_min_commits", "more than snapshot_max_commits"
        if seconds(self.ack_progress) * 2 > seconds(self.ack_wait):
            yield "ack_progress", "more than half of ack_wait: one lost and all come again"
        yield from _cluster_problems(self)
        ways = [n for n in ("credentials", "user", "token", "nkey_seed") if getattr(self, n)]
        if len(ways) > 1:
            yield ways[1], f"set beside {ways[0]}; log in in one way"
        if self.password is not None and self.user is None:
            yield "password", "set without user"
        if self.tls_key is not None and self.tls_cert is None:
            yield "tls_key", "set without tls_cert"


class _Shown(str):
    """A text that rich shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


_TYPES: dict[str, Any] = hints(Settings, "Settings")

_COUNTS: dict[str, tuple[int, int]] = {
    "told_addresses": (0, 10_000_000),
    "mailbox_capacity": (1, 1_000_000),
    "runner_capacity": (1, 10_000_000),
    "max_payload_bytes": (1_024, 64 * 1024**2),  # nats-server's own upper limit
    "commit_bytes": (1_024, 64 * 1024**2),
    "commit_outcomes": (1, 10_000),
    "askers": (1, 10_000),
    "term_credit": (1, 100_000),
    "resident_entities": (1, 100_000_000),
    "cache_bytes": (1024**2, 1024**4),
    "dedup_keys": (1, 10_000_000),
    "made_keys": (1, 1_000_000),
    "snapshot_min_commits": (1, 1_000_000),
    "snapshot_max_commits": (1, 1_000_000),
    "poison_marks": (1, 1_000),
    "shards": (1, 1_024),
    "replicas": (1, 5),  # JetStream's own
    "command_stream_bytes": (1024**2, 1024**5),
    "health_port": (0, 65_535),
}
_DURATIONS: dict[str, tuple[float, float]] = {
    "ask_timeout": (0.001, 86_400.0),
    "ask_repeat_after": (0.001, 3_600.0),
    "send_sla": (0.000_001, 3_600.0),
    "passivate_after": (0.001, 31_536_000.0),
    "dedup_window": (1.0, 3_153_600_000.0),
    "made_window": (1.0, 31_536_000.0),
    "ack_wait": (1.0, 86_400.0),
    "ack_progress": (0.1, 43_200.0),
    "drain_timeout": (0.0, 3_600.0),
    "heartbeat": (0.1, 3_600.0),
    "member_ttl": (1.0, 86_400.0),
    "ping_every": (0.01, 60.0),
    "frozen_after": (0.1, 3_600.0),
}


def _converted(settings: Settings) -> Iterator[tuple[str, str]]:
    """Give each value its type, before anything is asked of it; the problems of those without."""
    for name, annotation in _TYPES.items():
        given = getattr(settings, name)
        try:
            value = msgspec.convert(given, annotation)
        except msgspec.ValidationError as error:
            yield name, str(error)
        else:
            if type(value) is not type(given):
                msgspec.structs.force_setattr(settings, name, value)


def without_login(urls: str) -> str:
    """URLs without the names and passwords that may be in them."""
    return _LOGIN.sub("***@", urls)


def _url_problems(urls: str) -> Iterator[tuple[str, str]]:
    if not urls.strip(",") or re.search(r"\s|[\x00-\x1f]", urls):
        yield "url", "empty, or with white space in it"
        return
    for url in () if urls.startswith(MEMORY) else filter(None, urls.split(",")):
        try:
            parts = urlsplit(url if "://" in url else f"nats://{url}")
            host = parts.hostname if parts.port != 0 else None
        except ValueError:  # its text may quote a part of a password
            yield "url", "not a URL: look at its port, and at its brackets"
            continue
        if parts.scheme not in _SCHEMES:
            known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
            yield "url", f"{parts.scheme}:// isn't one of {known} and {MEMORY}"
        elif not host:
            yield "url", f"no host, or port 0, in {without_login(url)}"


def _range_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, (low, high) in _COUNTS.items():
        count = getattr(settings, name)
        if not low <= count <= high:
            yield name, f"{count} isn't from {low} to {high}"
    for name, (shortest, longest) in _DURATIONS.items():
        problem = _duration_problem(getattr(settings, name), shortest, longest)
        if problem:
            yield name, problem


def _cluster_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    machine = settings.machine_id
    if machine is not None and not 0 <= machine <= MACHINES - 1:
        yield "machine_id", f"{machine} isn't from 0 to {MACHINES - 1}"
    if not 0.01 <= settings.weight <= 100:
        yield "weight", f"{settings.weight:g} isn't from 0.01 to 100"
    for label in settings.labels:
        if not is_label(label):
            yield "labels", f"{label!r} isn't {LABELS}"
    if seconds(settings.ping_every) * 3 > seconds(settings.frozen_after):
        yield "ping_every", "more than a third of frozen_after: one lost, and a runner is frozen"
    if seconds(settings.heartbeat) * 2 > seconds(settings.member_ttl):
        yield "heartbeat", "more than half of member_ttl: one lost, and the runner is forgotten"


def _duration_problem(duration: Duration, shortest: float, longest: float) -> str | None:
    try:
        length = seconds(duration)
    except ValueError as error:
        return str(error)
    if shortest <= length <= longest:
        return None
    return f"{length:g} s isn't from {shortest:g} s to {longest:g} s"


def _prefix_problems(name: str, prefix: str, namespace: str) -> Iterator[tuple[str, str]]:
    if not _PREFIX.fullmatch(prefix):
        yield name, f"{prefix!r} isn't tokens without $ in front, *, > or white space"
    elif prefix == namespace or (
        prefix.startswith(f"{namespace}.") and prefix.split(".")[1] != "reply"
    ):
        yield name, f"{prefix!r} would let a caller have replies stored as events"


def _inbox_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    inbox = settings.inbox_prefix
    yield from _prefix_problems("inbox_prefix", inbox, settings.namespace)
    if len(inbox) > INBOX_CHARS:
        yield "inbox_prefix", f"over {INBOX_CHARS} characters"


def _show(name: str, value: object) -> str:
    if name in _SECRET and value:
        return "'***'"
    return repr(without_login(value) if name == "url" and isinstance(value, str) else value)


def load_with_sources(
    path: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    **arguments: object,
) -> tuple[Settings, dict[str, str]]:
    """The settings of this process, and where each value came from.

    Each is taken from the first that has it: `arguments` (None counts as not given),
    `PERDURE_<NAME>` in `environ` (the process's own if None), `NATS_URL`, the NATS context (the
    one that `NATS_CONTEXT` names, else the one selected by the `nats` tool, and this one only if
    the URL was not given above), the file at `path` (`perdure.toml` in the current folder if None
    and there), the default. A source is told as "argument", "PERDURE_URL", "NATS_URL", "NATS
    context prod", the file's path, or "default".

    Raises ValueError, in one line that names the file or variable and the key, for an unknown key
    in the file, a bad value or a file that can't be read; TypeError for an unknown argument.
    """
    for name in arguments:
        if name not in _TYPES:
            raise TypeError(f"{name!r} isn't a setting")
    given = {name: value for name, value in arguments.items() if value is not None}
    found = find(_TYPES, given, os.environ if environ is None else environ, path)
    values = {name: _convert(name, at) for name, at in found.items()}
    sources = {name: found[name].source if name in found else "default" for name in _TYPES}
    try:
        settings = Settings(**values)
    except ValueError as error:
        name = str(error).partition(":")[0]
        raise ValueError(f"{sources.get(name, 'settings')}: {error}") from None
    return settings, sources


def _convert(name: str, found: Found) -> Any:
    try:
        return msgspec.convert(found.value, _TYPES[name], strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"{found.source}: {name}: {' '.join(str(error).split())}") from None
