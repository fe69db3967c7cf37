"""Grants: the permissions of a login as a server takes them. Pure; `permissions.py` has the list.

Three forms: a user of nats-server's configuration, the claims of a user's JWT, and the whole
configuration of accounts for production (`layout`): runners in the account CORE with the streams,
and everybody else in an account of its own that imports what it needs as services: each caller
asks, tells, info and signals, the reader and the operator requests of JetStream's API as well.
There a reply subject means nothing in CORE. So the server's acknowledgement of a tell can't be
stored in a log, its answer to a look-up can't be a request that deletes a stream, and nobody sees
another's answers.

No secret is ever printed. Each user's is a variable that the server takes from its environment,
and without which it refuses to start; NKEYs by default, since the server takes an empty password.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec

from ..entities.settings import JETSTREAM_API, Settings
from ..streams.subjects import Subjects
from ..streams.topology import planned
from .permissions import INBOX, Need, Role, Verb, creating, needs, resizing, role_told

LogIn: TypeAlias = Literal["nkey", "password"]

CORE = "CORE"
SYSTEM = "SYS"
"""The account of the server's own events; its user isn't perdure's."""
CALLER = re.compile(r"[a-z][a-z0-9_]{0,31}")
"""A caller's name: as such a user, in capitals an account and a part of a variable's name."""
TAKEN = frozenset(
    {"core", "creator", "operator", "reader", "runner", "sys", "system"}
    | {"on", "off", "yes", "no", "true", "false", "include"}
)
"""Names that no caller may have: they are other users' or accounts', or mean something else in a
server's configuration."""
CREATOR = "creator"
LINE_BYTES = 4_096
"""The longest line that nats-server takes (`max_control_line`) unless it is told otherwise."""
CONNECT_BYTES = 900
"""What a log-in sends beside its claims: some 580 are the JWT's names, keys and signature, the
rest is the log-in around it."""
API = "JS.CORE.API"
"""Where who isn't in CORE has JetStream's API: by its own name an account without JetStream is
answered by the server that it has none."""
STEP = "    "
ANSWER_WITHIN = "10m"
"""How long the server keeps a way back across accounts: beyond the 2 minutes that it would by
itself, so that an ask with a long timeout still gets its answer."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user of the server's configuration."""

    name: str
    needs: Sequence[Need]
    about: Sequence[str] = ()
    """What a person should know of it, as comments."""


@dataclass(frozen=True, slots=True)
class Apart:
    """A login in an account of its own, and what that one imports from CORE."""

    login: Login
    services: Sequence[str]
    replies: Sequence[str] = ()
    """Where answers of its tells may go: streams, since the runner publishes them in CORE."""
    many: Sequence[str] = ()
    """Requests of JetStream's API and of runners: services that may answer by many messages."""

    @property
    def account(self) -> str:
        """Its name."""
        return self.login.name.upper()


def merged(wanted: Iterable[Need]) -> list[Need]:
    """Each permission once; the first reason counts."""
    found: dict[tuple[Verb, str], Need] = {}
    for need in wanted:
        found.setdefault((need.verb, need.subject), need)
    return list(found.values())


def of_role(
    role: Role, settings: Settings, entities: Sequence[str], *, create: bool = False
) -> list[Need]:
    """What a role needs for these types; with `create` also what it takes to make the streams and
    to update them, and to resize."""
    subjects = Subjects(settings.namespace)
    wanted = [
        need
        for entity in entities
        for need in needs(
            role,
            subjects,
            entity,
            settings.reply_prefixes,
            timers=settings.timers,
            inbox=settings.inbox_prefix,
            api=settings.api_prefix,
        )
    ]
    if create:
        streams = stream_names(settings, entities)
        wanted += [*creating(streams, "CREATE"), *creating(streams, "UPDATE")]
        wanted += [need for entity in entities for need in resizing(subjects, entity)]
    return merged(wanted)


def stream_names(settings: Settings, entities: Sequence[str]) -> list[str]:
    """All streams of these types, and those that they share."""
    return [stream.name for stream in planned(settings, entities)]


# -- claims -----------------------------------------------------------------------------------
def claims(wanted: Iterable[Need]) -> dict[str, Any]:
    """The `nats` object of a user's JWT: what it may, and no bounds of its own."""
    wanted = list(wanted)
    return {
        "pub": {"allow": _of(wanted, "publish")},
        "sub": {"allow": _of(wanted, "subscribe")},
        "subs": -1,
        "data": -1,
        "payload": -1,
        "type": "user",
        "version": 2,
    }


def connect_bytes(made: dict[str, Any]) -> int:
    """What logging in with a JWT of these claims sends in one line, about."""
    return len(json.dumps(made, separators=(",", ":"))) * 4 // 3 + CONNECT_BYTES


def _quoted(subject: str) -> str:
    """As the server's configuration has it: its reader knows no escape of another character."""
    return json.dumps(subject, ensure_ascii=False)


def _of(wanted: Iterable[Need], verb: Verb) -> list[str]:
    return [need.subject for need in wanted if need.verb == verb]


# -- configuration ----------------------------------------------------------------------------
def user_block(
    role: Role, settings: Settings, entities: Sequence[str], by: LogIn, *, create: bool = False
) -> str:
    """One user of one role, to stand among the `users` of an account."""
    about = [f"What {role_told(role)} of {', '.join(entities)} needs, and no more."]
    if settings.inbox_prefix == INBOX:
        about += [
            f"Who may subscribe to {INBOX}.> reads all answers in this account. Where that is too",
            "much, set another inbox_prefix for each login (perdure permissions --inbox).",
        ]
    login = Login(role, of_role(role, settings, entities, create=create), about)
    return "\n".join(_user(login, by)) + "\n"


def layout(
    settings: Settings, entities: Sequence[str], callers: Sequence[str], by: LogIn = "nkey"
) -> str:
    """The accounts of production, to be included into the server's configuration.

    `callers` are names as `CALLER` has them, none of `TAKEN`.
    """
    hosts = [_creator(settings, entities), _login_of("runner", settings, entities)]
    apart = [
        _reader(settings, entities),
        _operator(settings, entities),
        *(_caller(settings, entities, name) for name in callers),
    ]
    lines = [
        *_head([*hosts, *(one.login for one in apart)], by),
        "accounts {",
        *_indented(_core(hosts, apart, by)),
        *(line for one in apart for line in _indented(_account(one, by))),
        f"{STEP}{SYSTEM} {{ users: [ {{ {_secret('system', by)} }} ] }}",
        "}",
        f"system_account: {SYSTEM}",
    ]
    return "\n".join(lines) + "\n"


def variable(name: str, by: LogIn) -> str:
    """The variable of the server's environment with a user's public NKEY, or password."""
    return f"PERDURE_{name.upper()}_{by.upper()}"


def _head(logins: Sequence[Login], by: LogIn) -> Iterator[str]:
    yield "# The accounts of perdure in production; docs/security.md tells what to do with them."
    yield "# Include this file into the server's configuration. It has no secret in it: the server"
    kind = "public NKEYs" if by == "nkey" else "passwords (never empty, and in double quotes)"
    yield f"# takes {kind} from these variables, and doesn't start without:"
    for name in (*(login.name for login in logins), "system"):
        yield f"#   {variable(name, by)}"


def _login_of(role: Role, settings: Settings, entities: Sequence[str]) -> Login:
    own = _with_inbox(settings, f"{INBOX}.{role}")
    return Login(role, of_role(role, own, entities), [_told(own.inbox_prefix)])


def _told(inbox: str, **more: str) -> str:
    """What its program's settings must be, as a comment."""
    pairs = {"inbox_prefix": inbox, **more}.items()
    return "Its settings: " + ", ".join(f'{name} = "{value}"' for name, value in pairs)


def _creator(settings: Settings, entities: Sequence[str]) -> Login:
    inbox = f"{INBOX}.{CREATOR}"
    own = _with_inbox(settings, inbox)
    about = [
        "A runner that may also create streams, update their bounds and resize types: for perdure",
        "topology --apply when a type or a setting is new, and for perdure shards resize. Not for",
        "runners that go on.",
        _told(inbox),
    ]
    return Login(CREATOR, of_role("runner", own, entities, create=True), about)


def _with_inbox(settings: Settings, inbox: str) -> Settings:
    prefixes = tuple(dict.fromkeys((*settings.reply_prefixes, INBOX)))
    return msgspec.structs.replace(settings, inbox_prefix=inbox, reply_prefixes=prefixes)


def _reader(settings: Settings, entities: Sequence[str]) -> Apart:
    inbox = f"{INBOX}.reader"
    own = msgspec.structs.replace(_with_inbox(settings, inbox), api_prefix=API)
    login = Login("reader", of_role("reader", own, entities), [_told(inbox, api_prefix=API)])
    return Apart(login, (), many=_of(login.needs, "publish"))


def _operator(settings: Settings, entities: Sequence[str]) -> Apart:
    """It asks and tells as a caller does, and beyond that looks after what is there."""
    replies = list(_replies(settings, "operator"))
    own = msgspec.structs.replace(_with_inbox(settings, INBOX), api_prefix=API)
    needed = [*of_role("operator", own, entities), *_hearing(replies)]
    inboxes = [subject.removesuffix(".>") for subject in replies] or [INBOX]
    login = Login("operator", needed, [_told(inboxes[0], api_prefix=API)])
    calls = set(_of(of_role("caller", settings, entities), "publish"))
    many = [subject for subject in _of(needed, "publish") if subject not in calls]
    services = list(_services(Subjects(settings.namespace), entities))
    return Apart(login, services, replies, many)


def _caller(settings: Settings, entities: Sequence[str], name: str) -> Apart:
    """Somebody who asks and tells. Nobody else is in its account, so any inbox is its own.

    An answer of an ask comes back by the import. A tell's doesn't: the runner publishes it in its
    own account, of which this one gets what is below the exported streams.
    """
    plain = _with_inbox(settings, INBOX)
    replies = list(_replies(settings, name))
    about = [_told(subject.removesuffix(".>")) for subject in replies[:1]]
    login = Login(name, [*of_role("caller", plain, entities), *_hearing(replies)], about)
    return Apart(login, list(_services(Subjects(settings.namespace), entities)), replies)


def _hearing(replies: Sequence[str]) -> list[Need]:
    return [Need("subscribe", subject, "get answers of tells", subject) for subject in replies]


def _core(hosts: Sequence[Login], apart: Sequence[Apart], by: LogIn) -> Iterator[str]:
    yield f"{CORE} {{"
    body = ["jetstream: enabled", "users: ["]
    for login in hosts:
        body += _indented(_user(login, by))
    body += ["]", "exports: [", *_indented(_exports(apart)), "]"]
    yield from _indented(body)
    yield "}"


def _exports(apart: Sequence[Apart]) -> Iterator[str]:
    """Each service once, with all who may import it."""
    single, many = _importers(apart, "services"), _importers(apart, "many")
    for found, more in ((single, ""), (many, "response: stream, ")):
        for subject, accounts in found.items():
            kept = f'{more}response_threshold: "{ANSWER_WITHIN}"'
            named = ", ".join(accounts)
            yield f"{{ service: {_quoted(subject)}, accounts: [{named}], {kept} }}"
    for one in apart:
        for subject in one.replies:
            yield f"{{ stream: {_quoted(subject)}, accounts: [{one.account}] }}"


def _importers(apart: Sequence[Apart], kind: Literal["services", "many"]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in apart:
        for subject in one.services if kind == "services" else one.many:
            found.setdefault(_there(subject), []).append(one.account)
    return found


def _there(subject: str) -> str:
    """What a service's subject is in CORE."""
    request = subject.removeprefix(f"{API}.")
    return subject if request == subject else f"{JETSTREAM_API}.{request}"


def _account(one: Apart, by: LogIn) -> Iterator[str]:
    body = ["users: [", *_indented(_user(one.login, by)), "]", "imports: ["]
    for kind, subjects in (
        ("service", (*one.services, *one.many)),
        ("stream", one.replies),
    ):
        for subject in subjects:
            there = _there(subject)
            source = f"account: {CORE}, subject: {_quoted(there)}"
            to = "" if there == subject else f", to: {_quoted(subject)}"
            body.append(f"{STEP}{{ {kind}: {{ {source} }}{to} }}")
    yield f"{one.account} {{"
    yield from _indented([*body, "]"])
    yield "}"


def _services(subjects: Subjects, entities: Sequence[str]) -> Iterator[str]:
    """What callers reach: of each type the asks, with a shard or without, tells, info, signals."""
    for entity in entities:
        yield subjects.ask(entity, ">")
        yield subjects.to(entity, "*")
        yield subjects.info(entity)
        yield subjects.signal(entity)


def _replies(settings: Settings, name: str) -> Iterator[str]:
    """Where answers of its tells may go: below the reply prefixes that no inbox has."""
    for prefix in settings.reply_prefixes:
        if not prefix.startswith("_"):
            yield f"{prefix}.{name}.>"


def _user(login: Login, by: LogIn) -> Iterator[str]:
    yield from (f"# {line}" for line in login.about)
    yield "{"
    body = [_secret(login.name, by), "permissions: {"]
    for verb in ("publish", "subscribe"):
        granted = [need for need in login.needs if need.verb == verb]
        body += [f"{STEP}{verb}: {{", f"{STEP * 2}allow: ["]
        body += [f"{STEP * 3}{_quoted(need.subject)}  # {need.why}" for need in granted]
        body += [f"{STEP * 2}]", f"{STEP}}}"]
    yield from _indented([*body, "}"])
    yield "}"


def _secret(name: str, by: LogIn) -> str:
    reference = f"${variable(name, by)}"
    return f"nkey: {reference}" if by == "nkey" else f"user: {name}, password: {reference}"


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (STEP + line for line in lines)
