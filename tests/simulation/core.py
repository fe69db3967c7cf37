"""Core NATS with the weather in between; see ports.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Inbox, Message, Subscription, Unreachable

from .far import Broker
from .wire import Wire, fail


class SimulatedInbox:
    def __init__(self, inner: Inbox, wire: Wire) -> None:
        self._inner, self._wire = inner, wire

    def subject(self, suffix: str) -> str:
        return self._inner.subject(suffix)

    def close(self) -> None:
        self._wire.world.run(self._inner.close)


class SimulatedSubscription:
    """Deaf at once; the broker hears of it later, and always, since it forgets the deaf."""

    def __init__(self, on_message: Callable[[Message], None], wire: Wire) -> None:
        self.inner: Subscription | None = None
        self._on_message, self._wire = on_message, wire
        self.deaf = False

    def hear(self, message: Message) -> None:
        if not self.deaf:
            self._on_message(message)

    async def stop(self) -> None:
        self.deaf = True
        inner = self.inner
        assert inner is not None
        self._wire.process.loop.create_task(inner.stop(), context=self._wire.world)


class SimulatedAsks:
    def __init__(self, inner: MemorySession, wire: Wire, world: Broker) -> None:
        self._inner, self._wire, self._world = inner.asks, wire, world

    async def subscribe(self, subject: str, on_message: Callable[[Message], None]) -> Subscription:
        if subject.endswith(".members"):
            on_message = self._unless_deaf(on_message)
        subscription = SimulatedSubscription(on_message, self._wire)

        async def at_broker() -> Subscription:
            heard = self._hearing(subscription.hear)
            subscription.inner = await self._inner.subscribe(subject, heard)
            return subscription

        try:
            return await self._wire.call("subscribe", at_broker)
        except Unreachable:
            subscription.deaf = True  # nobody holds it
            raise

    def inbox(self, on_message: Callable[[Message], None]) -> Inbox:
        heard = self._hearing(on_message)
        return SimulatedInbox(self._wire.world.run(self._inner.inbox, heard), self._wire)

    def send(
        self,
        subject: str,
        data: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        def at_broker() -> None:
            self._inner.send(subject, data, reply=reply, headers=headers)

        weather = self._wire.weather
        if subject.endswith(".members") and self._wire.deaf:
            return
        self._wire.say("send", subject, data)
        self._world.sent(data)
        if not self._wire.up or weather.lost("core message"):
            return
        self._wire.at_broker(weather.delay_s(), at_broker)

    def denied(self, subject: str, since: float) -> str | None:
        """Nobody is denied anything here."""
        return None

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> Message:
        if not self._wire.up:
            raise Unreachable("no connection")
        answered: asyncio.Future[Message] = self._wire.process.loop.create_future()

        def on_message(message: Message) -> None:
            if not answered.done():
                answered.set_result(message)

        inbox, wire = self.inbox(on_message), self._wire
        why = f"no answer on {subject} in {timeout_s} s"
        timer = wire.process.loop.call_later(
            timeout_s, fail, answered, why, context=wire.process.context
        )
        try:
            self.send(subject, data, reply=inbox.subject("0"))
            return await answered
        finally:
            timer.cancel()
            inbox.close()

    def _unless_deaf(self, on_message: Callable[[Message], None]) -> Callable[[Message], None]:
        def heard(message: Message) -> None:
            if not self._wire.deaf:
                on_message(message)

        return heard

    def _hearing(self, on_message: Callable[[Message], None]) -> Callable[[Message], None]:
        def heard(message: Message) -> None:
            weather = self._wire.weather
            if weather.lost("core message at its end"):
                return
            self._wire.at_process(weather.delay_s(), on_message, message)
            # Repeated here and not where it is sent: "no responders" is the server's word that
            # nobody got a message, and nobody may get it then.
            if weather.strikes(weather.climate.repeat, "core message repeated"):
                self._wire.at_process(weather.delay_s() * 3, on_message, message)

        return heard
