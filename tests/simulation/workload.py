"""The clients' side: what is asked and told, by whom, how often again, and what came of it.

Three Python clients use the real `Cluster`; a fourth speaks the plain protocol, as a program would
that knows nothing of perdure but the subjects. Every call is written into the evidence, its end
too, if the process lives to see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from perdure.entities.address import Address
from perdure.entities.errors import ClusterError
from perdure.entities.tagged import Failure, to_wire
from perdure.streams.asks import Envelope, encode_envelope, raw
from perdure.streams.port import Appended, Message
from perdure.streams.subjects import escape

from .evidence import Call, Way
from .till import (
    Add,
    Boom,
    Look,
    Mute,
    Poison,
    Sour,
    Split,
    Stamp,
    Till,
    TillCommand,
    Touch,
    till,
)
from .world import Caller, World

RECENT = 8
"""Keys that a client may use again."""

LONG_SLEEP_S = 40.0
"""Longer than any call lasts, and than a made key lives where that is short."""

PLAIN_WAIT_S = 4.0
"""How long a plain client waits for an answer."""


@dataclass(frozen=True, slots=True)
class Used:
    """A keyed command that was sent before."""

    entity: str
    key: str
    command: TillCommand


class Workload:
    """All clients of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = Random(f"workload {world.scenario.seed}")
        self.recent: list[Used] = []
        self.newest: dict[str, int] = {}  # by entity, the newest version that was told
        self.poisons = 0
        self.sleeps = 2 if "client freeze" in world.scenario.troubles else 0
        self._keys = itertools.count(1)
        self._open = 0

    @property
    def busy(self) -> bool:
        """Whether a client still has commands to send, or waits for an answer."""
        return self._open > 0

    # -- who does what ----------------------------------------------------------------------------
    def start(self) -> None:
        """Let all clients begin."""
        scenario = self.world.scenario
        for _ in range(scenario.clients):
            self.spawn(self.world.start_caller(), scenario.commands)
        plain = self.world.start_caller()
        self._open += 1
        watched = self.random.choice(scenario.entities)
        if "damage" not in scenario.troubles:  # a damaged log can't be watched
            plain.process.spawn(self.watch(plain, watched))
        plain.process.spawn(self._plain_life(plain, scenario.plain_commands))

    def spawn(self, caller: Caller, commands: int) -> None:
        """Let a Python client begin."""
        self._open += 1
        caller.commands_left = commands
        caller.process.spawn(self._life(caller))

    def crashed(self, caller: Caller) -> None:
        """A client's process died: another goes on with what it had left."""
        self._open -= 1
        if caller.commands_left:
            self.spawn(self.world.start_caller(), caller.commands_left)

    async def _life(self, caller: Caller) -> None:
        running: dict[asyncio.Task[None], None] = {}
        while caller.commands_left:
            size = self._burst()
            for _ in range(min(size, caller.commands_left)):
                caller.commands_left -= 1
                work = self._one(caller)
                if size > 1 or self.random.random() < 0.3:
                    task = asyncio.get_running_loop().create_task(work)
                    running[task] = None
                    task.add_done_callback(running.pop)
                else:
                    await work
            await asyncio.sleep(self.random.expovariate(1 / self.world.scenario.pause_s))
        await asyncio.gather(*running)
        self._open -= 1

    def _burst(self) -> int:
        if "burst" in self.world.scenario.troubles and self.random.random() < 0.1:
            return 12
        return 1

    # -- one command of a Python client -----------------------------------------------------------
    async def _one(self, caller: Caller) -> None:
        roll = self.random.random()
        entity = self.random.choice(self.world.scenario.entities)
        if roll < 0.10:
            await self._query(caller, entity)
        elif roll < 0.15 and self.recent:
            await self._result(caller)
        elif roll < 0.17:
            await self._status(caller, entity)
        elif roll < 0.19:
            await self._state(caller, entity)
        elif roll < 0.29 and self.recent:
            await self._again(caller)
        else:
            command = self.command()
            key = f"k{next(self._keys)}" if self.random.random() < 0.5 else None
            way: Way = "tell" if self.random.random() < 0.45 else "ask"
            await self.send(caller, way, entity, command, key)

    def command(self) -> TillCommand:
        """Some command; harmful ones where the scenario has them."""
        world, roll = self.world, self.random.random()
        uid, amount = world.uid(), self.random.randint(1, 99)
        if "defects" in world.scenario.troubles and roll < 0.06:
            times = self.random.choice([1, 1, 2, 99])
            world.evidence.boom_times[uid] = times
            if roll < 0.03:
                return Boom(uid, times)
            return Sour(uid) if roll < 0.045 else Mute(uid)
        if roll < 0.70:
            return Add(uid, amount)
        if roll < 0.80:
            return Split(uid, amount)
        return Touch(uid) if roll < 0.90 else Stamp(uid)

    async def send(
        self, caller: Caller, way: Way, entity: str, command: TillCommand, key: str | None
    ) -> Call:
        """Ask or tell, and write down what came of it."""
        ref: Any = caller.cluster.at(Till, entity)
        call = self._begin(caller, way, entity, command, key)
        if key is not None:
            self._remember(Used(entity, key, command))
        if way == "ask":
            if key is None and self.sleeps and self.random.random() < 0.1:
                # It falls asleep with an ask under way, and wakes up with repeats that are far
                # too late.
                self.sleeps -= 1
                delay_s = self.random.choice([0.003, 0.3])
                self.world.at(delay_s, self.world.freeze, caller, LONG_SLEEP_S)
            durable = self.random.random() < 0.1
            await self._finish(caller, call, lambda: ref.ask(command, key=key, durable=durable))
        else:
            await self._finish(caller, call, lambda: ref.tell(command, key=key))
            if call.told is not None and key is None:
                call.key = call.told
                if not isinstance(command, Poison):  # each copy would end as many processes
                    self._remember(Used(entity, call.told, command))
        return call

    async def _again(self, caller: Caller) -> None:
        """A key that was used before: usually with the same payload, by either way."""
        used = self.random.choice(self.recent)
        other = self.random.random() < 0.2
        command = Add(self.world.uid(), 7) if other else used.command
        ref: Any = caller.cluster.at(Till, used.entity)
        way: Way = self.random.choice(["ask", "tell"])
        call = self._begin(caller, way, used.entity, command, used.key)
        call.again, call.other = True, other
        if way == "ask":
            await self._finish(caller, call, lambda: ref.ask(command, key=used.key))
        else:
            await self._finish(caller, call, lambda: ref.tell(command, key=used.key))

    async def _query(self, caller: Caller, entity: str) -> None:
        ref: Any = caller.cluster.at(Till, entity)
        question = Look(self.world.uid())
        call = self._begin(caller, "query", entity, question, None)
        call.fresh = self.random.random() < 0.3
        await self._finish(caller, call, lambda: ref.query(question, fresh=call.fresh))

    async def _result(self, caller: Caller) -> None:
        used = self.random.choice(self.recent)
        ref: Any = caller.cluster.at(Till, used.entity)
        call = self._begin(caller, "result", used.entity, used.command, used.key)
        call.again = True
        await self._finish(caller, call, lambda: ref.result(type(used.command), used.key))

    async def _status(self, caller: Caller, entity: str) -> None:
        ref: Any = caller.cluster.at(Till, entity)
        call = self._begin(caller, "status", entity, Look(0), None)
        await self._finish(caller, call, ref.status)

    async def _state(self, caller: Caller, entity: str) -> None:
        """A state of the past, at a version that somebody was told of."""
        ref: Any = caller.cluster.at(Till, entity)
        call = self._begin(caller, "state", entity, Look(0), None)
        call.version = self.random.randint(0, self.newest.get(entity, 0))
        await self._finish(caller, call, lambda: ref.state(version=call.version))

    async def watch(self, caller: Caller, entity: str) -> None:
        """Read all that happens to an entity, for ever."""
        seen = self.world.evidence.watched.setdefault(entity, [])
        while True:
            seen.clear()  # a version doesn't say which outcomes without events were seen
            try:
                async for record in caller.cluster.watch(till, entity):
                    command: Any = msgspec.json.decode(record.command or b"{}")
                    seen.append((record.sequence, command.get("uid")))
            except ClusterError as error:
                self.world.say(caller.process.name, "WATCHES AGAIN", error)
                await asyncio.sleep(0.5)

    # -- a plain client ---------------------------------------------------------------------------
    async def _plain_life(self, caller: Caller, count: int) -> None:
        for _ in range(count):
            entity = self.random.choice(self.world.scenario.entities)
            roll = self.random.random()
            if roll < 0.2 and "garbage" in self.world.scenario.troubles:
                await self._garbage(caller, entity)
            elif roll < 0.3:
                await self._plain_query(caller, entity)
            elif roll < 0.6:
                await self._plain_ask(caller, entity)
            else:
                await self._plain_tell(caller, entity)
            await asyncio.sleep(self.random.expovariate(1 / self.world.scenario.pause_s) * 2)
        self._open -= 1

    async def _plain_ask(self, caller: Caller, entity: str) -> None:
        command = self.command()
        key = f"p{next(self._keys)}" if self.random.random() < 0.4 else None
        call = self._begin(caller, "plain ask", entity, command, key)
        headers = self._headers(caller, command, key)
        await self.plain_ask(caller, call, msgspec.json.encode(command), headers)

    async def _plain_query(self, caller: Caller, entity: str) -> None:
        question = Look(self.world.uid())
        call = self._begin(caller, "plain query", entity, question, None)
        await self.plain_ask(caller, call, msgspec.json.encode(question), {})

    def _headers(self, caller: Caller, command: TillCommand, key: str | None) -> dict[str, str]:
        """The headers of a plain command: its key, sometimes a deadline."""
        headers = {"Idempotency-Key": key} if key else {}
        if self.random.random() < 0.15:
            within_ms = self.random.choice([-1000, 20, 3000])
            deadline = caller.session.clock.now_ns() // 1_000_000 + within_ms
            self.world.evidence.deadlines[command.uid] = deadline
            headers["Perdure-Deadline"] = str(deadline)
        return headers

    async def plain_ask(
        self, caller: Caller, call: Call, data: bytes, headers: dict[str, str]
    ) -> None:
        """What `nats request` does: one message, and one answer or none."""
        answers: asyncio.Queue[Message] = asyncio.Queue()
        inbox = caller.session.asks.inbox(answers.put_nowait)
        subject = caller.session.subjects.ask(till.name, escape(call.entity))
        caller.session.asks.send(subject, data, reply=inbox.subject("x"), headers=headers)
        try:
            async with asyncio.timeout(PLAIN_WAIT_S):
                _take_answer(call, await answers.get())
        except TimeoutError:
            call.error, call.may = "SendTimeout", True
        finally:
            inbox.close()
            self._end(caller, call)

    async def _plain_tell(self, caller: Caller, entity: str) -> None:
        """What `nats publish` does; sometimes with a place for the answer."""
        command = self.command()
        roll = self.random.random()
        key = f"p{next(self._keys)}" if roll < 0.4 else None
        data, headers = msgspec.json.encode(command), self._headers(caller, command, key)
        if roll > 0.7:  # as a client would that repeats a tell under a name of its own
            key, headers = f"m-{command.uid:032x}", {}
            birth = caller.session.clock.now_ns() // 1_000_000
            self.world.evidence.births[command.uid] = birth
            data = encode_envelope(Envelope(1, "tell", raw(command), key=key, birth=birth))
        call = self._begin(caller, "plain tell", entity, command, key)
        answers: asyncio.Queue[Message] = asyncio.Queue()
        inbox = caller.session.asks.inbox(answers.put_nowait)
        waits = roll < 0.2
        if waits:
            headers["Perdure-Reply-To"] = inbox.subject("t")
        address = Address(till.name, entity)
        answer = await caller.session.commands.publish(address, data, headers or None)
        if isinstance(answer, Appended):
            call.told = key or "-"
        else:
            call.error, call.may = "SendTimeout", True
        if waits:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PLAIN_WAIT_S):
                    _take_answer(call, await answers.get())
        inbox.close()
        self._end(caller, call)

    def _end(self, caller: Caller, call: Call) -> None:
        call.end = self.world.tick()
        self.world.say(caller.process.name, "ENDS", call)

    async def _garbage(self, caller: Caller, entity: str) -> None:
        """Bytes that are no command; a poor copy of one; a copy that is far too old."""
        uid = self.world.uid()
        kind = self.random.choice(["bytes", "tag", "field", "token", "old", "weapon"])
        address = Address(till.name, entity)
        self.world.evidence.garbage.add(uid)
        if kind == "token":
            subject = f"perdure.to.{till.name}.a=5F"  # another way to write a_
            caller.session.asks.send(subject, b'{"type":"touch","uid":0}')
        elif kind == "weapon":
            subject = caller.session.subjects.ask(till.name, escape(entity))
            victim = caller.session.subjects.log(till.name, escape(entity))
            body = msgspec.json.encode(Touch(uid))
            caller.session.asks.send(subject, body, reply=victim)
        elif kind == "old":
            await self._aged(caller, entity, uid)
        else:
            body = {
                "bytes": b"\xff\x00{",
                "tag": b'{"type":"nonsense","uid":%d}' % uid,
                "field": b'{"type":"touch","uid":%d,"extra":1}' % uid,
            }[kind]
            if self.random.random() < 0.5:
                await caller.session.commands.publish(address, body)
            else:
                call = self._begin(caller, "plain ask", entity, Touch(uid), None)
                call.kind = "garbage"
                await self.plain_ask(caller, call, body, {})

    async def _aged(self, caller: Caller, entity: str, uid: int) -> None:
        """A tell under a made key that was born long ago."""
        self.world.evidence.garbage.discard(uid)
        age_s = self.random.choice([1, 20, 60, 1000])
        birth = caller.session.clock.now_ns() // 1_000_000 - age_s * 1000
        self.world.evidence.births[uid] = birth
        envelope = Envelope(1, "tell", raw(Add(uid, 3)), key=f"m-{uid:032x}", birth=birth)
        await caller.session.commands.publish(
            Address(till.name, entity), encode_envelope(envelope)
        )

    # -- poison -----------------------------------------------------------------------------------
    async def poison(self, caller: Caller, entity: str, way: Way) -> None:
        """A command that kills every process that runs it."""
        self.poisons += 1
        await self.send(caller, way, entity, Poison(self.world.uid()), None)

    # -- the end ----------------------------------------------------------------------------------
    async def farewell(self, caller: Caller, entity: str) -> None:
        """When all is healthy again, an entity must answer."""
        call = await self.send(caller, "ask", entity, Add(self.world.uid(), 1), None)
        call.calm = True
        question = Look(self.world.uid())
        query = self._begin(caller, "query", entity, question, None)
        query.fresh = query.calm = True
        ref: Any = caller.cluster.at(Till, entity)
        await self._finish(caller, query, lambda: ref.query(question, fresh=True))

    # -- evidence ---------------------------------------------------------------------------------
    def _begin(
        self, caller: Caller, way: Way, entity: str, command: TillCommand, key: str | None
    ) -> Call:
        world = self.world
        kind = type(command).__struct_config__.tag
        call = Call(
            caller.process.name, way, entity, command.uid, str(kind), key, begin=world.tick()
        )
        world.evidence.calls.append(call)
        world.say(caller.process.name, "BEGINS", way, entity, command, key or "")
        return call

    async def _finish(
        self, caller: Caller, call: Call, work: Callable[[], Awaitable[Any]]
    ) -> None:
        began = self.world.loop.time() - caller.process.slept_s
        try:
            value = await work()
        except Failure as failure:
            call.failure = msgspec.to_builtins(to_wire(failure))
        except ClusterError as error:
            call.error, call.may = error.tag, error.may_have_taken_effect
            call.cause = error.cause or ""
        except Exception as error:
            call.untagged = repr(error)
        else:
            _take_value(call, value)
        call.end = self.world.tick()
        call.lasted_s = self.world.loop.time() - caller.process.slept_s - began
        if call.reply is not None and "n" in call.reply:
            known = self.newest.get(call.entity, 0)
            self.newest[call.entity] = max(known, call.reply["n"])
        self.world.say(call.client, "ENDS", call)

    def _remember(self, used: Used) -> None:
        self.recent = [*self.recent, used][-RECENT:]


def _take_value(call: Call, value: Any) -> None:
    if call.way in ("tell", "plain tell"):
        call.told = str(value)
    else:
        call.reply = msgspec.to_builtins(value)


def _take_answer(call: Call, message: Message) -> None:
    """A plain answer, read as a plain client reads it."""
    if message.no_responders:
        call.error, call.may = "RunnerUnavailable", False
        return
    answer = msgspec.json.decode(message.data)
    if "reply" in answer:
        call.reply = answer["reply"]
    elif "failure" in answer:
        call.failure = answer["failure"]
    else:
        error = answer["error"]
        call.error = error["type"]
        call.may = error["may_have_taken_effect"]
        call.cause = error.get("cause") or ""
