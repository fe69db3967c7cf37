"""Checks: what `perdure check` looks at, from the server to the runners, in that order.

Each check yields findings of one line. One that makes the next ones meaningless ends the list: no
server, an old server, no JetStream. The others go on, so that one run names everything that is
wrong. Nothing is changed: what a stream should be is `streams/topology.py`'s word, what a role may
do that of `permissions.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ..durable.clocks import MEND, told, verdict
from ..durable.stats import RunnerStats, decode_stats
from ..entities.clock import SystemClock
from ..entities.duration import seconds
from ..entities.settings import Settings, without_login
from ..streams.asks import TypeInfo, decode_info
from ..streams.codec import Undecodable
from ..streams.jetstream.api import parse_time
from ..streams.jetstream.consumer import OWNER
from ..streams.jetstream.errors import ENABLE, NO_STREAM
from ..streams.port import Incompatible, Unreachable
from ..streams.subjects import Sharding, Subjects
from ..streams.topology import (
    FIRST_GENERATION,
    RESTORING,
    Config,
    Difference,
    Stream,
    differences,
    halted_by,
    sharding_of,
    shared_streams,
    type_streams,
)
from .finding import Finding, bad, good, odd
from .fleet import Fleet, Layout
from .permissions import Need, Role, creating, needs, role_told, stats_need
from .probe import Nobody, Probe, Silent

SENDS = 20
"""Questions that are timed: enough that one of them would meet what delays one in a hundred now
and then, and done in some milliseconds."""
COLLECT_S = 0.5
"""How long runners' answers are collected, in seconds: one that isn't stuck answers at once."""
ACCOUNT = Need("publish", "$JS.API.INFO", "look at the account", "$JS.API.INFO", "INFO")
"""No role needs it: where it isn't allowed, streams and permissions tell enough."""
AGAIN_S = 0.5
"""After how long what is wrong with shards and members is looked at again, in seconds."""
SHARDS_TOLD = 4
"""Shards told one by one in a finding, which is one line."""
RUN = "start a runner, which creates what is missing: perdure run APP"
RESTART = "restart the runner {}, which creates what is missing when it starts"
CAREFUL = (
    "not before the quarantined entities are seen to: perhaps the newer code is the wrong one"
)
ALLOW = "allow it in the server's configuration for this login"


class Checks:
    """The checks over one open probe, for one role."""

    def __init__(self, probe: Probe, settings: Settings, role: Role) -> None:
        self._probe, self._settings = probe, settings
        self._role: Role = role
        self._subjects = Subjects(settings.namespace)
        self._clock = SystemClock()
        self._ahead_s: float | None = None  # this machine's clock, before the server's

    async def run(self, entities: Sequence[str]) -> AsyncIterator[Finding]:
        """All findings, for these types, or those that the server has if none is given."""
        jetstream = await self.jetstream()
        yield jetstream
        if not jetstream.ok:
            return
        if not entities:
            found = await self.types()
            entities = [] if isinstance(found, Finding) else found
            if isinstance(found, Finding):
                yield found
            elif not found:
                what = f"no entity type in the namespace {self._settings.namespace!r}"
                yield bad("types", what, f"{RUN}; or choose another --namespace")
        for entity in entities:
            async for finding in self.entity(entity):
                yield finding
        if self._role in ("runner", "operator"):
            async for finding in self.fleet(entities):
                yield finding

    async def jetstream(self) -> Finding:
        """Whether this account has JetStream. A caller needs none: it may have another account."""
        if self._role == "caller":
            return good("jetstream", "not asked: a caller needs none in its own account")
        try:
            if await self._probe.denied([ACCOUNT.below(self._settings.api_prefix)]):
                return good("jetstream", "not asked: this login may not, and needs not to")
            answer = await self._probe.api("INFO")
        except Nobody:
            return bad("jetstream", "this server has none", ENABLE)
        except Silent as error:
            return bad("jetstream", f"what the account has: {error}", f"{ENABLE}; or {ALLOW}")
        problem = _problem(answer)
        if problem is not None:
            return bad("jetstream", problem, ENABLE)
        return good("jetstream", "on in this account")

    async def types(self) -> list[str] | Finding:
        """The entity types that have a log here; a finding if the server doesn't tell."""
        query = {"subject": self._subjects.log("*", "*"), "offset": 0}
        names: list[str] = []
        try:
            while True:
                answer = await self._probe.api("STREAM.NAMES", {**query, "offset": len(names)})
                problem = _problem(answer)
                if problem is not None:
                    raise Silent(problem)
                page: list[str] = answer.get("streams") or []
                names += page
                if not page or len(names) >= int(answer.get("total", 0)):
                    break
        except (Nobody, Silent) as error:
            what = f"can't list the streams: {error}"
            return bad("types", what, "name them: perdure check APP, or --type account")
        return types_among(self._subjects, names)

    async def entity(self, entity: str) -> AsyncIterator[Finding]:
        """Streams, permissions and runners of one type."""
        sharding: Sharding | None = None
        missing: list[str] = []
        if self._role == "runner":
            configs = await self._configs(entity)
            sharding = _sharding(self._subjects, entity, configs)
            wanted = self._wanted(entity, sharding)
            missing = [s.name for s in wanted if configs.get(s.name, "") is None]
            runner = await self._info(entity)
            create = RUN if isinstance(runner, Finding) else RESTART.format(runner.runner)
            for finding in clocks_found(self._settings, self._clocks(runner)):
                yield finding
            halted = halted_found(self._subjects, entity, configs, sharding)
            if halted is not None:
                yield halted
                return
            for finding in streams_found(entity, wanted, configs, create):
                yield finding
            for finding in settings_found(entity, self._settings, wanted, configs, sharding):
                yield finding
        async for finding in self._permissions(entity, missing):
            yield finding
        if self._role == "reader":  # it reads without a runner, and may not talk to one
            return
        runner_says = await self._runner(entity, sharding)
        yield runner_says
        if runner_says.ok:
            yield await self._send(entity)

    # -- parts ------------------------------------------------------------------------------------
    def _wanted(self, entity: str, sharding: Sharding | None) -> list[Stream]:
        cut = sharding or Sharding(FIRST_GENERATION, self._settings.shards)
        shared = shared_streams(self._settings, self._subjects)
        return [*type_streams(self._settings, self._subjects, entity, cut), *shared]

    async def _configs(self, entity: str) -> dict[str, Config | None]:
        """Each stream's configuration; None: it doesn't exist; left out: it can't be read."""
        found: dict[str, Config | None] = {}
        for stream in self._wanted(entity, None):
            try:
                answer = await self._probe.api(f"STREAM.INFO.{stream.name}")
            except (Nobody, Silent):
                continue
            now = self._clock.now_ns()
            if "ts" in answer:  # of the last stream: the server's time, late by the answer's way
                self._ahead_s = (now - parse_time(str(answer["ts"]))) / 1e9
            config: Any = answer.get("config")
            if isinstance(config, dict):
                found[stream.name] = config
            elif _code(answer) == NO_STREAM:
                found[stream.name] = None
        return found

    async def _permissions(self, entity: str, missing: Sequence[str]) -> AsyncIterator[Finding]:
        prefixes = self._settings.reply_prefixes
        timers = self._settings.timers
        inbox, api = self._settings.inbox_prefix, self._settings.api_prefix
        wanted = needs(
            self._role, self._subjects, entity, prefixes, timers=timers, inbox=inbox, api=api
        )
        wanted += [need.below(api) for need in creating(missing, "CREATE")]
        try:
            denied = await self._probe.denied(wanted)
        except Silent as error:
            yield bad("permissions", str(error), "check again")
            return
        for finding in permissions_found(entity, self._role, wanted, denied):
            yield finding

    async def _runner(self, entity: str, sharding: Sharding | None) -> Finding:
        info = await self._info(entity)
        if isinstance(info, Finding):
            return info
        owners = await self.owners(entity) if self._role == "runner" else {}
        return runner_found(info, sharding, owners)

    async def owners(self, entity: str) -> dict[str, int]:
        """How many shards each runner holds, by its id; empty if that can't be known."""
        path = f"CONSUMER.LIST.{self._subjects.command_stream(entity)}"
        held: Counter[str] = Counter()
        seen = 0
        try:
            while True:
                answer = await self._probe.api(path, {"offset": seen})
                page: list[dict[str, Any]] = answer.get("consumers") or []
                held.update(str(c["config"].get("metadata", {}).get(OWNER, "?")) for c in page)
                seen += len(page)
                if not page or seen >= int(answer.get("total", 0)):
                    return dict(held)
        except (Nobody, Silent):
            return {}

    def _clocks(self, runner: TypeInfo | Finding) -> dict[str, float]:
        """Whose clock is how many seconds ahead of the server's, as far as that is known."""
        if self._ahead_s is None:
            return {}
        found = {"this machine": self._ahead_s}
        if isinstance(runner, TypeInfo):
            off_s = runner.time / 1e3 - self._clock.now_ns() / 1e9
            found[f"runner {runner.runner}"] = self._ahead_s + off_s
        return found

    async def _send(self, entity: str) -> Finding:
        """How long a few questions to the type's runners take, one after the other."""
        loop = asyncio.get_running_loop()
        slowest_s = 0.0
        for _ in range(SENDS):
            began = loop.time()
            found = await self._info(entity)
            if isinstance(found, Finding):
                return found
            slowest_s = max(slowest_s, loop.time() - began)
        return send_found(entity, slowest_s, seconds(self._settings.send_sla))

    async def fleet(self, entities: Sequence[str]) -> AsyncIterator[Finding]:
        """Whether all runners see the same, and each shard has one owner.

        Nothing where this login may not ask for statistics, or nobody answers. What is wrong must
        be so at a second look, too: while shards move, each is nobody's for a moment.
        """
        try:
            if await self._probe.denied([stats_need(self._subjects)]):
                return
            first = second = await self._look()
            if not all(finding.ok for finding in fleet_found(first, first, entities)):
                await asyncio.sleep(AGAIN_S)
                second = await self._look()
        except Silent:
            return
        for finding in fleet_found(first, second, entities):
            yield finding

    async def _look(self) -> Fleet:
        told: list[RunnerStats] = []
        for answer in await self._probe.collect(self._subjects.stats, COLLECT_S):
            with contextlib.suppress(msgspec.DecodeError):  # of another release
                told.append(decode_stats(answer))
        return Fleet(told, None)

    async def _info(self, entity: str) -> TypeInfo | Finding:
        """What a runner says of the type, or what is wrong with that."""
        try:
            return decode_info(await self._probe.request(self._subjects.info(entity)))
        except Nobody:
            return bad("runner", f"no runner hosts {entity}", RUN)
        except Silent as error:
            return bad("runner", f"{entity}: {error}", "look at its runners' logs, or permissions")
        except Undecodable as error:
            return bad("runner", f"{entity}: {error}", "somebody else answers there: who?")


# -- pure -------------------------------------------------------------------------------------
def types_among(subjects: Subjects, streams: Iterable[str]) -> list[str]:
    """The entity types whose logs are among these streams, by name."""
    head = subjects.log_stream("")
    return sorted(name.removeprefix(head) for name in streams if name.startswith(head))


def halted_found(
    subjects: Subjects,
    entity: str,
    configs: Mapping[str, Config | None],
    sharding: Sharding | None,
) -> Finding | None:
    """That the type takes no tells, since a resize isn't at its end; None if it takes them."""
    config = configs.get(subjects.command_stream(entity))
    token = None if config is None else halted_by(subjects, entity, config)
    if token is None or sharding is None:
        return None
    if token.startswith(RESTORING):
        what = f"{entity} is being restored, or that didn't end; no runner can start"
        return bad("streams", what, f"if nobody is at it: perdure restore {entity} FOLDER --again")
    what = f"{entity} is halted: it is being resized, or that didn't end; no runner can start"
    step = f"perdure shards resize {entity} {sharding.shards}, which leaves it as it was"
    return bad("streams", what, step)


def streams_found(
    entity: str, wanted: Sequence[Stream], configs: dict[str, Config | None], create: str = RUN
) -> list[Finding]:
    """What the streams' configurations say; a left-out stream couldn't be read.

    `create` is how a missing one comes to be.
    """
    findings: list[Finding] = []
    changes: list[Difference] = []
    missing = [stream.name for stream in wanted if configs.get(stream.name, ...) is None]
    if missing:
        how = "don't exist" if missing[1:] else "doesn't exist"
        findings.append(bad("streams", f"{', '.join(missing)} {how}", create))
    for stream in wanted:
        if stream.name not in configs:
            findings.append(bad("streams", f"{stream.name} can't be read", ALLOW))
            continue
        config = configs[stream.name]
        if config is None:
            continue
        found = differences(stream, config)
        refused = [str(d) for d in found if d.treatment == "refuse"]
        if refused:
            step = f"if {stream.name} is perdure's: nats stream edit; else choose a --namespace"
            findings.append(bad("streams", "; ".join(refused), step))
        changes += [d for d in found if d.treatment == "update"]
    if findings:
        return findings
    text = "".join(f"; a runner with these settings would change {d}" for d in changes)
    return [good("streams", f"{entity}: {len(wanted)} streams are as they must be{text}")]


def settings_found(
    entity: str,
    settings: Settings,
    wanted: Sequence[Stream],
    configs: dict[str, Config | None],
    sharding: Sharding | None,
) -> list[Finding]:
    """Settings that count only when a type is first hosted, and now differ from what is there.

    Into how many shards a type is cut that was resized, somebody has decided since.
    """
    findings: list[Finding] = []
    resized = sharding is not None and sharding.generation > FIRST_GENERATION
    if sharding is not None and sharding.shards != settings.shards and not resized:
        what = f"{entity} has {sharding.shards} shards, the settings say {settings.shards}"
        step = f"nothing, it keeps them; to have no doubt: shards = {sharding.shards}"
        findings.append(odd("settings", what, step))
    replicas = settings.replicas
    found = {s.name: (configs.get(s.name) or {}).get("num_replicas", replicas) for s in wanted}
    for name, number in found.items():
        if number != replicas:
            what = f"{name} has {number} replicas, the settings say {replicas}"
            step = f"nats stream edit {name} --replicas {replicas}, or replicas = {number}"
            findings.append(odd("settings", what, step))
    return findings


def permissions_found(
    entity: str, role: Role, wanted: Sequence[Need], denied: Sequence[Need]
) -> list[Finding]:
    """Each denied need by name."""
    if not denied:
        whose = f"{role_told(role)}'s"
        return [good("permissions", f"{entity}: {whose} {len(wanted)} permissions are there")]
    return [
        bad("permissions", f"{entity}: this login, as {role_told(role)}, may not {need}", ALLOW)
        for need in denied
    ]


def runner_found(
    info: TypeInfo, sharding: Sharding | None, owners: Mapping[str, int] | None = None
) -> Finding:
    """What a runner's answer says, held against its command stream where that is known.

    `owners` are the shards that each runner holds, where known: who answers may have none.
    """
    says = Sharding(info.generation, info.shards)
    if sharding is not None and says != sharding:
        what = (
            f"runner {info.runner} has {info.entity} in {says.shards} shards (generation "
            f"{says.generation}), its stream in {sharding.shards} (generation "
            f"{sharding.generation})"
        )
        return bad("runner", what, "restart that runner")
    nobodys = info.shards - sum(owners.values()) if owners else 0
    if not owners or (set(owners) == {info.runner} and not nobodys):
        return good("runner", f"{info.runner} hosts {info.entity}, {info.shards} shards")
    held = ", ".join(f"{owner} owns {number}" for owner, number in sorted(owners.items()))
    what = f"{info.entity}: of {info.shards} shards {held}"
    if nobodys <= 0:
        return good("runner", what)
    step = f"nothing, if they just move: perdure shards {info.entity}"
    return odd("runner", f"{what}, nobody owns {nobodys}", step)


def fleet_found(first: Fleet, second: Fleet, entities: Sequence[str]) -> list[Finding]:
    """What two looks have in common; none if there is nobody."""
    if not first.told or not second.told:
        return []
    found = members_found(first, second)
    for entity in entities:
        if entity in first.types and entity in second.types:
            found.append(shards_found(first.layout(entity), second.layout(entity)))
    return found


def members_found(first: Fleet, second: Fleet) -> list[Finding]:
    """Whether all runners know the same ones, and have the same code."""
    found: list[Finding] = []
    silent = min(look.there - len(look.told) for look in (first, second))
    if silent:
        what = f"{len(second.told)} of {second.there} runners answer, the rest is dead or frozen"
        found.append(bad("members", what, "see which, and its log: perdure runners"))
    for name, one in second.told.items():
        before = first.told.get(name)
        if before is not None and first.blind(before) and second.blind(one):
            what = f"runner {name} {second.blind(one)[0]} runners"
            found.append(bad("members", what, "see its log; if it stays so, restart it"))
    broken = quarantined_found(second)
    for name, one in second.told.items():
        if other := second.other_code(one):
            what = f"runner {name} differs from the one that started last: {', '.join(other)}"
            step = f"go on with the deployment: perdure drain {name}"
            found.append(odd("members", what, CAREFUL if broken else step))
    found += broken + machines_found(second)
    number = len(second.told)
    well = "one runner, which sees no other"
    if number > 1:
        well = f"{number} runners, each sees all of them"
    return found or [good("members", well)]


def machines_found(fleet: Fleet) -> list[Finding]:
    """Runners with one machine number: both may make the same snowflake."""
    by_machine: dict[int, list[str]] = {}
    for name, one in fleet.told.items():
        if one.machine is not None:
            by_machine.setdefault(one.machine, []).append(name)
    step = "give each its own PERDURE_MACHINE_ID, or none of them any: then each leases one"
    return [
        bad("members", f"runners {' and '.join(names)} both make snowflakes of machine {n}", step)
        for n, names in sorted(by_machine.items())
        if len(names) > 1
    ]


def quarantined_found(fleet: Fleet) -> list[Finding]:
    """Entities that their owners can't fold."""
    found: list[Finding] = []
    for name, one in fleet.told.items():
        for type in one.types:
            if type.quarantined:
                what = f"runner {name} can't fold {type.quarantined} of its entities of"
                step = "see its log (entity.quarantined); perdure verify --app APP with its code"
                found.append(bad("entities", f"{what} {type.entity}: they are quarantined", step))
    return found


def shards_found(first: Layout, second: Layout) -> Finding:
    """Whether each shard has one owner."""
    entity = second.entity
    wrong = second.faulty(first)
    if wrong and first.lacked and second.lacked:
        label = second.lacked
        what = f"{entity}: no runner that hosts it has the label {label}, so nobody may own"
        step = f"start one that has it: PERDURE_LABELS={label} perdure run APP"
        return bad("shards", f"{what} its {second.shards} shards: its tells wait", step)
    if not wrong:
        held = ", ".join(f"{owner} {number}" for owner, number in second.owners.items())
        return good("shards", f"{entity}: each of {second.shards} shards has one owner: {held}")
    told = [
        f"shard {place.shard} is owned by {' and '.join(place.owners) or 'nobody'}"
        for place in wrong[:SHARDS_TOLD]
    ]
    more = f", and so on: {len(wrong)} in all" if len(wrong) > SHARDS_TOLD else ""
    step = f"perdure shards {entity}, perdure runners, and the owners' logs"
    return bad("shards", f"{entity}: {', '.join(told)}{more}", step)


def clocks_found(settings: Settings, clocks: Mapping[str, float]) -> list[Finding]:
    """What each clock is worth, by how many seconds it is ahead of the server's."""
    findings: list[Finding] = []
    for whose, ahead_s in clocks.items():
        what = f"the clock of {whose} is {told(ahead_s)}"
        match verdict(ahead_s, settings):
            case "good":
                findings.append(good("clock", what))
            case "odd":
                findings.append(odd("clock", what, MEND))
            case "bad":
                findings.append(bad("clock", what, f"{MEND}; a runner refuses to start"))
    return findings


def send_found(entity: str, slowest_s: float, sla_s: float) -> Finding:
    """The slowest of SENDS questions with their answers, held against a send's objective.

    Of a send alone only the sender and the receiver together could tell how long it took; a
    question takes two, so what it keeps, a send keeps too.
    """
    what = (
        f"{entity}: the slowest of {SENDS} questions was answered after {slowest_s * 1e3:.1f} ms, "
        f"the objective of a send, one way, is {sla_s * 1e3:g} ms"
    )
    if slowest_s <= sla_s:
        return good("send", what)
    return odd("send", what, "look for load, and for distance; or set another send_sla")


def _sharding(
    subjects: Subjects, entity: str, configs: dict[str, Config | None]
) -> Sharding | None:
    config = configs.get(subjects.command_stream(entity))
    return None if config is None else sharding_of(subjects, entity, config)


def _problem(answer: dict[str, Any]) -> str | None:
    error: dict[str, Any] | None = answer.get("error")
    return f"{error.get('description', 'refused')} ({_code(answer)})" if error else None


def _code(answer: dict[str, Any]) -> int | None:
    error: dict[str, Any] = answer.get("error") or {}
    return error.get("err_code", error.get("code"))


# -- all of it --------------------------------------------------------------------------------
async def check(settings: Settings, entities: Sequence[str], role: Role) -> AsyncIterator[Finding]:
    """Connect, and run all checks; `entities` empty: those that the server has."""
    try:
        probe = Probe(settings)
    except Incompatible as error:
        yield bad("server", str(error), "correct the settings")
        return
    try:
        await probe.open()
    except Unreachable as error:
        step = "start a server (perdure dev APP), or correct --url and the login"
        yield bad("server", str(error), step)
        return
    except Incompatible as error:
        yield good("server", f"{without_login(settings.url)} answers")
        yield bad("version", str(error), "upgrade nats-server")
        return
    try:
        yield good("server", f"{without_login(settings.url)} answers")
        yield good("version", f"nats-server {probe.version}")
        async for finding in Checks(probe, settings, role).run(entities):
            yield finding
    finally:
        await probe.close()
