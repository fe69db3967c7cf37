"""Those who must not move a flow, and try: what they send is well formed, and counts for nothing.

They may publish to entities, read the logs, and have kept every token that was ever given to
them. They haven't the secret: where a token is signed with it here, it stands for one of an
earlier flow of the same key, which the ledger has forgotten since.
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from msgspec import Raw

from perdure.durable.secret import SECRET_KEY
from perdure.entities.address import Address
from perdure.entities.flowrun import flow_key
from perdure.entities.record import Opened
from perdure.streams.asks import Envelope, encode_envelope
from perdure.streams.token import ASK, Tokens

from .saga import ASK as ASKS
from .saga import Outside, Poke, Run, saga
from .sagacheck import FlowLog, SagaLog
from .sagas import FlowCall, Sagas
from .world import Caller, World

OFTEN = 0.35
"""How probable something bad is after each flow that a client began."""

NOBODYS = 1_000
"""Values from here on are given by nobody who may."""


class Mischief:
    """What is tried in one world."""

    def __init__(self, world: World, sagas: Sagas, outside: Outside) -> None:
        self.world, self.sagas, self.outside = world, sagas, outside
        self.random = Random(f"mischief {world.scenario.seed}")
        self._values = NOBODYS

    async def use_up_key(self, caller: Caller, call: FlowCall, command: Run) -> None:
        """Tell who will be asked something else first, under the key that the question would
        have if there were nothing in it that can't be guessed."""
        if not command.script & ASKS or self.random.random() > OFTEN:
            return
        uid, address = self.world.uid(), Address(saga.name, call.entity)
        self.sagas.pokes[uid] = command.other
        key = flow_key(address, call.key, f"{ASK}poke")
        await self._tell(caller, command.other, msgspec.json.encode(Poke(uid)), key)

    async def make(self, caller: Caller) -> None:
        """Try something, now and then."""
        if self.random.random() > OFTEN:
            return
        logs = self.world.saga_logs()
        found = [
            flow
            for entity in sorted(logs)
            for flow in SagaLog(entity, logs[entity]).flows.values()
            if flow.final is None
        ]
        if found:
            flow = self.random.choice(found)
            ways = [self._fire, self._resume, self._answer, self._retry]
            await self.random.choice(ways)(caller, flow)

    async def _retry(self, caller: Caller, flow: FlowLog) -> None:
        """Let a flow go on that isn't parked."""
        self.sagas.retried.add(flow.key)
        said = {"type": "$retry", "flow": flow.key}
        await self._tell(caller, flow.entity, msgspec.json.encode(said))

    async def _fire(self, caller: Caller, flow: FlowLog) -> None:
        """Say that a timer's time has come."""
        armed = flow.all("armed")
        if not armed:
            return
        timer = self.random.choice(armed)
        due_ms = timer["due_ms"] - self.random.choice([0, 0, 60_000])
        said = {"type": "$fired", "flow": flow.key, "timer": timer["name"], "due_ms": due_ms}
        await self._tell(caller, flow.entity, msgspec.json.encode(said))

    async def _resume(self, caller: Caller, flow: FlowLog) -> None:
        """Give a deferred a value, with something like its token."""
        opened = flow.all("opened")
        if opened:
            name, nonce = opened[-1]["name"], opened[-1]["nonce"]
            said = {"type": "$resume", "token": self._token(flow, name, nonce)}
            value = {"value": self._value()}
            await self._tell(caller, flow.entity, msgspec.json.encode(said | value))

    async def _answer(self, caller: Caller, flow: FlowLog) -> None:
        """Answer what another entity was asked."""
        asked = flow.all("asked")
        if not asked:
            return
        name, nonce = f"{ASK}{asked[-1]['name']}", asked[-1]["nonce"]
        own = sorted(self.outside.tokens)
        token = self._token(flow, name, nonce)
        if own and self.random.random() < 0.3:
            token = self.outside.tokens[self.random.choice(own)]  # genuine, of a deferred
        said = {"type": "$answer", "token": token, "answer": {"reply": self._value()}}
        await self._tell(caller, flow.entity, msgspec.json.encode(said))

    def _token(self, flow: FlowLog, name: str, nonce: str) -> str:
        """Of the right nonce and another secret, or of another nonce and the right secret."""
        namespace = self.world.scenario.settings.namespace
        kept = self.world.broker.streams(namespace).members.get(SECRET_KEY)
        secret = b"guessed"
        if kept is not None and self.random.random() < 0.5:
            secret, nonce = bytes.fromhex(kept.value.decode()), self.random.randbytes(16).hex()
        tokens = Tokens([secret], namespace)
        return tokens.of(Address(saga.name, flow.entity), flow.key, Opened(name, nonce))

    def _value(self) -> int:
        self._values += 1
        return self._values

    async def _tell(
        self, caller: Caller, entity: str, payload: bytes, key: str | None = None
    ) -> None:
        """As any program may."""
        self.world.say(caller.process.name, "MISCHIEF", entity, payload)
        body: Any = encode_envelope(Envelope(1, "tell", Raw(payload), key))
        await caller.session.commands.publish(Address(saga.name, entity), body)
