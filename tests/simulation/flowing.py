"""The clients of the flows: they begin them, give them their values, and cancel some."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec

from perdure.entities.address import Address
from perdure.entities.errors import ClusterError
from perdure.entities.flow import Token
from perdure.entities.tagged import Failure, to_wire
from perdure.streams.asks import Envelope, encode_envelope, raw
from perdure.streams.port import Appended

from .mending import Mending
from .mischief import Mischief
from .ports import EPOCH_NS
from .saga import FAIL, TWO, Outside, Poke, Run, Saga, saga
from .sagas import Answered, FlowCall, Sagas
from .world import Caller, World

ENTITIES = ("s-1", "s 2", "s=3")
FLOWS = 14
"""That each client begins."""
CLIENTS = 2
ENDS_S = 100.0
"""How long all flows may take to end once all is calm, in virtual seconds."""


class Flowing:
    """All that is done about flows in one world."""

    def __init__(self, world: World, sagas: Sagas, outside: Outside) -> None:
        self.world, self.sagas, self.outside = world, sagas, outside
        self.random = Random(f"flowing {world.scenario.seed}")
        self.mischief = Mischief(world, sagas, outside)
        self.mending = Mending(world, sagas, outside)
        self._open = 0

    @property
    def busy(self) -> bool:
        """Whether a client still begins flows, or waits."""
        return self._open > 0

    def start(self) -> None:
        """Let the clients begin."""
        for _ in range(CLIENTS):
            self._begin(FLOWS)

    def _begin(self, flows: int) -> None:
        caller = self.world.start_caller()
        self._open += 1
        caller.process.spawn(self._life(caller, flows))

    async def _life(self, caller: Caller, flows: int) -> None:
        running: list[asyncio.Task[None]] = []
        for _ in range(flows):
            work = self._one(caller)
            running.append(asyncio.get_running_loop().create_task(work))
            await asyncio.sleep(self.random.expovariate(1 / self.world.scenario.pause_s) * 2)
            if self.random.random() < 0.5:
                await self._resume(caller)
            await self.mischief.make(caller)
            await self.mending.make(caller)
        await asyncio.gather(*running)
        self._open -= 1

    async def _one(self, caller: Caller) -> None:
        roll, entity = self.random.random(), self.random.choice(ENTITIES)
        if roll < 0.2:
            await self._poke(caller, entity)
        elif roll < 0.3 and self.sagas.calls:
            await self._again(caller)
        else:
            await self._run(caller, entity)

    async def _poke(self, caller: Caller, entity: str) -> None:
        uid, ref = self.world.uid(), caller.cluster.at(Saga, entity)
        self.sagas.pokes[uid] = entity
        way = ref.tell if self.random.random() < 0.5 else ref.ask
        own = Random(f"later {self.world.scenario.seed} {uid}")
        if own.random() < 0.4:
            now_s = EPOCH_NS / 1e9 + self.world.loop.time()
            at = datetime.fromtimestamp(now_s + own.uniform(-0.5, 5.0), UTC)
            await self._quietly(ref.tell(Poke(uid), key=f"poke-{uid}", at=at))
            return
        await self._quietly(way(Poke(uid), key=f"poke-{uid}"))

    async def _run(self, caller: Caller, entity: str) -> None:
        uid = self.world.uid()
        script = self.random.getrandbits(5) | (FAIL if self.random.random() < 0.2 else 0)
        script |= TWO if self.random.random() < 0.3 else 0
        wait_s = self.random.choice([0.3, 1.0, 4.0])
        other = self.random.choice([e for e in ENTITIES if e != entity])
        call = FlowCall(entity, uid, f"run-{uid}", script)
        self.sagas.calls.append(call)
        self.mending.begin(uid)
        command = Run(uid, script, wait_s, other)
        await self.mischief.use_up_key(caller, call, command)
        await self._send(caller, call, command)
        if self.random.random() < 0.08:
            await asyncio.sleep(self.random.choice([0.0, 0.5, 2.0]))
            self.sagas.cancelled.add(call.key)
            cancel = caller.cluster.at(Saga, entity).cancel(call.key)
            await self._recorded(cancel, self.sagas.ended, uid)

    async def _again(self, caller: Caller) -> None:
        """Who began a flow asks for its outcome."""
        call = self.random.choice(self.sagas.calls)
        ref: Any = caller.cluster.at(Saga, call.entity)
        await self._listen(caller, call, ref.result(Run, call.key))

    async def _send(self, caller: Caller, call: FlowCall, command: Run) -> None:
        ref: Any = caller.cluster.at(Saga, call.entity)
        roll = self.random.random()
        if roll < 0.15:
            await self._tell_in_time(caller, call, command)
        elif roll < 0.5:
            if await self._quietly(ref.tell(command, key=call.key)) is not None:
                call.stored = True
        else:
            await self._listen(caller, call, ref.ask(command, key=call.key))

    async def _tell_in_time(self, caller: Caller, call: FlowCall, command: Run) -> None:
        """As any program tells a command that has to have its outcome by a time."""
        within_ms = self.random.choice([1_000, 3_000, 10_000])
        call.deadline_ms = self.world.clock.now_ns() // 1_000_000 + within_ms
        envelope = Envelope(1, "tell", raw(command), call.key, deadline=call.deadline_ms)
        address = Address(saga.name, call.entity)
        body = encode_envelope(envelope)
        call.stored = isinstance(await caller.session.commands.publish(address, body), Appended)

    async def _listen(self, caller: Caller, call: FlowCall, work: Any) -> None:
        self.world.say(caller.process.name, "FLOW", call)
        try:
            call.reply = msgspec.json.decode(msgspec.json.encode(await work))
        except Failure as failure:
            call.failure = msgspec.to_builtins(to_wire(failure))
        except ClusterError as error:
            call.error, call.cause = error.tag, error.cause or ""
        except Exception as error:
            self.sagas.untagged.append(repr(error))
        self.world.say(caller.process.name, "FLOW ENDS", call)

    async def _resume(self, caller: Caller) -> None:
        """Give one its value; some get several, of which the first counts."""
        if not self.outside.tokens:
            return
        uid = self.random.choice(sorted(self.outside.tokens))
        token = Token[int](self.outside.tokens[uid])
        values = self.random.sample(range(100), self.random.choice([1, 1, 3]))
        self.world.say(caller.process.name, "RESUMES", uid, values)
        await asyncio.gather(*(self._give(caller, uid, token, value) for value in values))

    async def _give(self, caller: Caller, uid: int, token: Token[int], value: int) -> None:
        self.sagas.given.setdefault(uid, set()).add(value)
        await self._recorded(caller.cluster.resume(token, value), self.sagas.resumed, uid)

    async def _recorded(self, work: Any, answered: list[Answered], uid: int) -> None:
        """What is answered is in the log by then."""
        sent_ms = self.world.clock.now_ns() // 1_000_000
        try:
            await work
        except ClusterError:
            return
        except Exception as error:
            self.sagas.untagged.append(repr(error))
            return
        at_ms = self.world.clock.now_ns() // 1_000_000
        answered.append(Answered(uid, sent_ms, at_ms))

    async def _quietly(self, work: Any) -> Any:
        try:
            return await work
        except ClusterError:
            return None
        except Exception as error:
            self.sagas.untagged.append(repr(error))
            return None

    # -- the end ----------------------------------------------------------------------------------
    async def finish(self) -> None:
        """In calm weather each flow ends: what it waits for comes."""
        caller = self.world.start_caller()
        until = self.world.loop.time() + ENDS_S
        while self.world.loop.time() < until and (self.busy or self.world.open_flows()):
            await caller.process.spawn(self.mending.finish(caller))
            for uid in sorted(self.outside.tokens):
                token = Token[int](self.outside.tokens[uid])
                await caller.process.spawn(self._give(caller, uid, token, 7))
            for entity in ENTITIES:
                ref: Any = caller.cluster.at(Saga, entity)
                uid = self.world.uid()
                work = self._quietly(ref.ask(Poke(uid), key=f"poke-{uid}"))
                await caller.process.spawn(work)
            await asyncio.sleep(2.0)

    async def settled(self, most_s: float) -> None:
        """Return when no tell waits at this moment: a timer that asks again may just have fired
        for a flow that has long ended."""
        until = self.world.loop.time() + most_s
        while self.world.loop.time() < until and self.world.saga_tells():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
