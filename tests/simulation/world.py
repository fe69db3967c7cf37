"""One world: a broker, runners that come and go, clients, and the evidence of what they did.

The real runner and the real client run here, unchanged, on simulated sessions (`ports.py`) over
the memory backend. The world starts, kills, freezes and cuts processes when `nemesis.py` says so,
and writes down what the checker needs; it judges nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, TypeAlias

import msgspec
from msgspec import structs

from perdure.durable.runner import Runner
from perdure.streams.client import Cluster
from perdure.streams.commit import Stored
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.queue import Queue
from perdure.streams.port import (
    Append,
    AppendAnswer,
    Appended,
    Delivery,
    PublishAnswer,
    Unreachable,
    WrongLast,
)
from perdure.streams.subjects import unescape

from .evidence import Accepted, Evidence, Logged
from .loop import PROCESS, Process, SimulatedLoop
from .ports import SeededEntropy, SimulatedClock, SimulatedSession
from .saga import OUTSIDE, Outside, saga
from .sagacheck import SagaLog
from .scenario import Scenario
from .staging import Staging
from .till import HAZARDS, Hazards, till
from .weather import Weather
from .wire import Wire, world_context

RESTART_S = (0.1, 1.5)
"""How long a dead runner's machine takes to start another."""

NAME = till.name

PLACES = re.compile(rb'"at":\[\d+,(\d+),(\d+)\]')
"""The places of tells in the bytes of a commit in JSON: sequence and time."""

TOLD = {
    b"too old to tell": "made key too old, ask refused",
    b'"AlreadyProcessingMessage"': "ask attached to one in progress",
    b'"MailboxFull"': "ask refused: mailbox full",
}
"""What an answer tells about a situation."""

Headers: TypeAlias = Mapping[str, str] | None


class Member:
    """One process with its session: a client, or a runner."""

    def __init__(self, process: Process, session: SimulatedSession, clock: SimulatedClock) -> None:
        self.process = process
        self.session = session
        self.clock = clock
        self.wakes_at = 0.0  # if it is frozen

    @property
    def wire(self) -> Wire:
        return self.session.wire


class Owner(Member):
    """A process with a runner in it."""

    runner: Runner
    leaving = False
    was_away = False  # it was frozen or cut off


class Caller(Member):
    """A process with a client in it."""

    cluster: Cluster
    commands_left = 0


class World:
    """See the module."""

    def __init__(
        self, scenario: Scenario, *, trace: bool = False, outside: Outside | None = None
    ) -> None:
        """`outside`: of the flows, where there are any."""
        self.scenario = scenario
        self.outside = outside
        self.types: list[Any] = [till] if outside is None else [till, saga]
        self.random = Random(f"world {scenario.seed}")
        self.loop = SimulatedLoop()
        self.weather = Weather(
            Random(f"weather {scenario.seed}"), scenario.climate, self.loop.time
        )
        self.clock = SimulatedClock(self.loop.time)
        self.broker = MemoryBroker(self.clock, scenario.settings)
        self.evidence = Evidence()
        self.situations: Counter[str] = Counter()
        self.lines: list[str] = []
        self.tracing = trace
        self.owners: list[Owner] = []
        self.callers: list[Caller] = []
        self.recorded: set[tuple[int, int]] = set()  # time and sequence of tells in the log
        self.log_refuses = False
        self.dead_letters_full = False
        self.tells_refused = False
        self.staging = Staging(
            self.loop, self.weather, Random(f"staging {scenario.seed}"), scenario.open_batches
        )
        self.older_snapshots: dict[tuple[str, str | None], list[bytes]] = {}
        self._context = world_context()
        self._undamaged: dict[int, tuple[str, Stored]] = {}
        self._ticks = 0
        self._uids = 0
        self._names = 0
        self._hazards = Hazards(self._killed_by_poison)
        self._provision()
        if outside is not None:
            self.broker.provision(scenario.settings, saga.name)

    # -- small things ---------------------------------------------------------------------------
    def say(self, *words: object) -> None:
        """One line of the trace."""
        if self.tracing:
            text = " ".join(
                w.decode(errors="replace") if isinstance(w, bytes) else str(w) for w in words
            )
            self.lines.append(f"{self.loop.time():9.4f} {text}")

    def tick(self) -> int:
        """The next moment: calls are ordered by these, not by the time that many may share."""
        self._ticks += 1
        return self._ticks

    def uid(self) -> int:
        """A number that no other command has."""
        self._uids += 1
        return self._uids

    def at(self, delay_s: float, action: Callable[..., object], *args: object) -> None:
        """Let something happen later, in no process."""
        self.loop.call_later(delay_s, action, *args, context=self._context)

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Do something in no process."""
        self.loop.create_task(work, context=self._context)

    # -- what passes the ports, for the situations ------------------------------------------------
    def appended(self, process: Process, answer: AppendAnswer, appends: Sequence[Append]) -> None:
        """Commits were stored, or refused."""
        if isinstance(answer, Appended):
            for one in appends:
                self.recorded.update((int(t), int(s)) for s, t in PLACES.findall(one.commit.data))
            if len(appends) > 1:
                self.met("batch acknowledged")
                if not process.alive:
                    self.met("batch of a dead sender stored")
        elif isinstance(answer, WrongLast):
            if len(appends) > 1:
                self.met("batch overtaken")
            if any(o.was_away for o in self.owners if o.process is process):
                self.met("zombie's append refused")

    def met(self, situation: str) -> None:
        """A situation that only the port can see."""
        self.situations[situation] += 1

    def delivered(self, delivery: Delivery) -> None:
        """The broker gave a tell to a consumer."""
        if (delivery.time_ns, delivery.sequence) in self.recorded:
            self.situations["redelivery after append, before ack"] += 1

    def sent(self, data: bytes) -> None:
        """A core message leaves a process."""
        if data[:9] in (b'{"reply":', b'{"failure'):
            self.evidence.told.append(data)
        elif data[:10] == b'{"error":{':
            for tag, situation in TOLD.items():
                if tag in data:
                    self.situations[situation] += 1

    # -- processes ------------------------------------------------------------------------------
    def _member(self, kind: str) -> tuple[Process, SimulatedSession, SimulatedClock]:
        self._names += 1
        name = f"{kind}{self._names}"
        process = Process(self.loop, name)
        process.context.run(HAZARDS.set, self._hazards)
        if self.outside is not None:
            process.context.run(OUTSIDE.set, self.outside)
        skew = 0.0
        if "skew" in self.scenario.troubles:
            skew = self.random.choice(self.scenario.skews_s)
            self.evidence.skew_ms = max(self.evidence.skew_ms, 2000 * abs(skew))
        clock = SimulatedClock(self.loop.time, skew)
        entropy = SeededEntropy(Random(f"{name} {self.scenario.seed}"))
        say = self.say if self.tracing else _nothing
        wire = Wire(process, self.weather, say)
        inner = self.broker.session(name, clock=clock, entropy=entropy)
        connection = inner._connection  # pyright: ignore[reportPrivateUsage]
        setattr(connection, "turn", _at_once)  # noqa: B010 (its wire decides how long all takes)
        session = SimulatedSession(
            inner, wire, clock=clock, entropy=entropy, world=self, random=self.random
        )
        return process, session, clock

    def start_runner(self) -> Owner:
        """A new process with a runner, which takes its share of the shards."""
        owner = Owner(*self._member("R"))
        self.owners.append(owner)
        name = owner.process.name
        self.say(name, "STARTS")
        form = self.random.choice(["json", "json", "msgpack"])  # one log may have both
        settings = structs.replace(self.scenario.settings, commit_format=form)
        owner.runner = owner.process.context.run(
            lambda: Runner(owner.session, self.types, settings, id=name, place=("simulated", 1))
        )
        owner.process.spawn(self._start(owner))
        return owner

    async def _start(self, owner: Owner) -> None:
        try:
            await owner.runner.start()
        except Unreachable:  # the process ends with an error, and is started again
            self.crash(owner)
            self.restart_later()

    def start_caller(self) -> Caller:
        """A new process with a client."""
        caller = Caller(*self._member("C"))
        self.callers.append(caller)
        caller.cluster = caller.process.context.run(
            lambda: Cluster(caller.session, self.scenario.settings)
        )
        return caller

    @property
    def alive(self) -> list[Owner]:
        """The runners whose process lives, frozen ones included, oldest first."""
        return [o for o in self.owners if o.process.alive]

    def crash(self, member: Member) -> None:
        """As kill -9: nothing of it runs any more; sooner or later the server notices."""
        if not member.process.alive:
            return
        self.say(member.process.name, "CRASHES")
        member.process.crash()  # what it sent may still arrive
        late = not self.weather.calm and self.random.random() < 0.3
        self.at(self.random.uniform(0.5, 4.0) if late else 0.0, self._close, member)

    def _close(self, member: Member) -> None:
        self.start(member.session.inner.close())

    def restart_later(self) -> None:
        """Some time after a runner died, another one is started in its place."""
        self.at(self.random.uniform(*RESTART_S), self.start_runner)

    def deafen(self, owner: Owner, seconds: float) -> None:
        """For a while a runner hears nothing of the others, and they nothing of it."""
        self.say(owner.process.name, "IS DEAF for", f"{seconds:.2f}")
        owner.session.wire.deaf_until = self.loop.time() + seconds

    def _killed_by_poison(self) -> None:
        """A command ends the process that runs it; called from inside that process."""
        process = PROCESS.get()
        for owner in self.owners:
            if owner.process is process:
                self.situations["process killed by poison"] += 1
                self.crash(owner)
                self.restart_later()

    def freeze(self, member: Member, seconds: float) -> None:
        """A process stops for a while, as with SIGSTOP; its connection stays open."""
        if self.weather.calm or not member.process.alive or member.process.frozen:
            return
        self.say(member.process.name, "FREEZES for", f"{seconds:.2f}")
        if isinstance(member, Owner):
            member.was_away = True
        member.process.freeze()
        member.wakes_at = self.loop.time() + seconds
        self.at(seconds, self.thaw, member)

    def thaw(self, member: Member) -> None:
        """It goes on, with all that came meanwhile."""
        if member.process.alive and member.process.frozen:
            self.say(member.process.name, "THAWS")
            member.process.thaw()

    def cut(self, member: Member, seconds: float) -> None:
        """A connection breaks, and is made anew after a while."""
        if not member.process.alive or not member.wire.up:
            return
        self.say(member.process.name, "IS CUT OFF for", f"{seconds:.2f}")
        if isinstance(member, Owner):
            member.was_away = True
        self.evidence.cut_off.add(member.process.name)
        member.wire.cut()
        # The server notices later, so that what was sent before may still be served.
        self.at(self.random.uniform(0.0, 0.004), self._disconnect, member, member.wire.epoch)
        self.at(seconds, self.restore, member)

    def _disconnect(self, member: Member, epoch: int) -> None:
        if member.wire.epoch == epoch and not member.wire.up:
            self.broker.disconnect(member.session.inner, reconnect=False)

    def restore(self, member: Member) -> None:
        """A connection is made anew."""
        if member.process.alive and not member.wire.up:
            self.say(member.process.name, "IS BACK")
            self.broker.disconnect(member.session.inner, reconnect=False)
            member.wire.restore()
            self.broker.reconnect(member.session.inner)

    # -- the broker -----------------------------------------------------------------------------
    def _provision(self) -> None:
        self.broker.provision(self.scenario.settings, NAME)
        queue = self.broker.streams("perdure").queues[NAME]
        store = queue.publish

        def publish(token: str, data: bytes, headers: Headers, size: int) -> PublishAnswer:
            answer = store(token, data, headers, size)
            if isinstance(answer, Appended):
                self._accepted(token, answer.sequence, data, headers)
            else:
                self.situations["tell refused: full"] += 1
            return answer

        setattr(queue, "publish", publish)  # noqa: B010 (a method is assigned: only watched)

    def _accepted(self, token: str, sequence: int, data: bytes, headers: Headers) -> None:
        uid, key = described(data, headers)
        told = Accepted(entity_of(token), sequence, self.clock.now_ns(), uid, key)
        self.evidence.accepted.append(told)
        self.say("STORED", sequence, token, data)

    def rewind(self, count: int) -> None:
        """The server restarts with an older command stream; every connection is made anew."""
        queue = self.broker.streams("perdure").queues[NAME]
        keep = max(0, queue.last_sequence - count)
        self.say("COMMAND STREAM REWOUND to", keep)
        self.evidence.rewound = True
        for told in self.evidence.accepted:
            told.lost = told.lost or (told.sequence > keep and _waits(queue, told))
        self._restart_server()
        self._context.run(self.broker.rewind, NAME, keep)

    def tear(self, count: int) -> None:
        """The server restarts with an older log; every connection is made anew."""
        log = self.broker.streams("perdure").logs[NAME]
        keep = max(0, len(log) - count)
        self.say("LOG REWOUND to", keep)
        for token in log.tokens():
            lost = [
                Logged(m.sequence, m.time_ns, m.data, m.mark)
                for m in log.between(token, keep, None, 1_000_000)
            ]
            if lost:
                self.evidence.torn.setdefault(entity_of(token), []).extend(lost)
        self._restart_server()
        log.rewind(keep)

    def _restart_server(self) -> None:
        self.staging.forget()
        members: list[Member] = [*self.owners, *self.callers]
        for member in members:
            member.wire.reset()
            if member.process.alive:
                self.evidence.cut_off.add(member.process.name)
                self.broker.disconnect(member.session.inner, reconnect=False)
                self.at(self.random.uniform(0.0, 0.5), self.restore, member)

    def foreign(self, subject: str, data: bytes) -> None:
        """A publish by somebody who isn't perdure."""
        self._context.run(self.broker.publish_foreign, subject, data)

    def damage(self, token: str, stored: Stored, data: bytes) -> None:
        """A bit of a stored commit flips. The checker is given what was there before."""
        self.say("DAMAGED", token, "at", stored.sequence)
        self.evidence.damaged.add(entity_of(token))
        self._undamaged[stored.sequence] = token, stored
        self.broker.streams("perdure").logs[NAME].tamper(token, stored.sequence, data)

    def repair(self) -> None:
        """The log is restored from a sound copy: what was kept back must go on."""
        log = self.broker.streams("perdure").logs[NAME]
        for token, stored in self._undamaged.values():
            self.say("REPAIRED", token, "at", stored.sequence)
            self.evidence.damaged.discard(entity_of(token))
            self.evidence.healed.add(entity_of(token))
            log.tamper(token, stored.sequence, stored.data)

    def quiet(self) -> bool:
        """Whether no tell waits any more, but those of entities that can't be."""
        queue = self.broker.streams("perdure").queues[NAME]
        tells = (queue.by_sequence(s) for s in range(1, queue.last_sequence + 1))
        return all(
            tell is None or entity_of(tell.token) in self.evidence.damaged for tell in tells
        )

    def saga_tells(self) -> list[int]:
        """The tells of flows that still wait."""
        queue = self.broker.streams("perdure").queues[saga.name]
        return [s for s in range(1, queue.last_sequence + 1) if queue.by_sequence(s) is not None]

    def open_flows(self) -> bool:
        """Whether a flow hasn't ended, or its dead letter has no copy, or a tell to one waits."""
        copies = [dead.data for dead in self.broker.streams("perdure").dead]
        logs = [SagaLog(entity, messages) for entity, messages in self.saga_logs().items()]
        ended = all(flow.final for log in logs for flow in log.flows.values())
        return bool(self.saga_tells()) or not ended or any(log.unburied(copies) for log in logs)

    def saga_logs(self) -> dict[str, list[Logged]]:
        """What the logs of flows say."""
        log = self.broker.streams("perdure").logs[saga.name]
        return {
            entity_of(token): [
                Logged(m.sequence, m.time_ns, m.data, m.mark)
                for m in log.between(token, 0, None, 1_000_000)
            ]
            for token in log.tokens()
        }

    def collect(self) -> None:
        """Read what is left at the broker into the evidence."""
        streams = self.broker.streams("perdure")
        log = streams.logs[NAME]
        for token in log.tokens():
            messages = [
                self._undamaged.get(m.sequence, (token, m))[1]
                for m in log.between(token, 0, None, 1_000_000)
            ]
            self.evidence.logs[entity_of(token)] = [
                Logged(m.sequence, m.time_ns, m.data, m.mark) for m in messages
            ]
        queue = streams.queues[NAME]
        for sequence in range(1, queue.last_sequence + 1):
            tell = queue.by_sequence(sequence)
            if tell is not None:
                self.evidence.waiting.setdefault(entity_of(tell.token), []).append(sequence)
        for dead in streams.dead:
            self.evidence.dead_copies.append((entity_of(dead.token), dead.data))
        self.evidence.uncaught += self.loop.unretrieved()
        self.evidence.killed = dict(self._hazards.killed)


def _waits(queue: Queue, told: Accepted) -> bool:
    tell = queue.by_sequence(told.sequence)
    return tell is not None and tell.time_ns == told.time_ns


async def _at_once() -> None:
    """How a broker answers whose answers take their time elsewhere."""


def _nothing(*words: object) -> None:
    """What `say` is where nobody listens."""


def entity_of(token: str) -> str:
    """The id of a token; the token itself, marked, if it is none of ours."""
    try:
        return unescape(token)
    except ValueError:
        return f"={token}"


def described(data: bytes, headers: Headers) -> tuple[int | None, str | None]:
    """The uid and the key in a tell of either form; None where there is none."""
    key = (headers or {}).get("Idempotency-Key")
    try:
        body: Any = msgspec.json.decode(data)
        if data[:1] == b"[":
            body, key = body[2], body[3]
        uid = body["uid"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        return None, key
    return (uid if isinstance(uid, int) else None), key
