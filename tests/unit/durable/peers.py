"""Runners among each other on the memory backend in virtual time, and what breaks their lines."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec

from perdure import Settings
from perdure.durable.membership import Membership
from perdure.streams.members import Hosting, Member, Word, encode_word
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.ports import MemoryMembers
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Message, Unreachable

from ..streams.virtual import VirtualClock, run

PATIENCE_S = 60.0
"""Of the virtual time that a test waits for what must come."""

P = ParamSpec("P")


def virtually(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test whose time jumps: what takes a minute takes as long as the machine computes."""

    @functools.wraps(test)
    def jumping(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return jumping


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(condition: Callable[[], bool], within_s: float = PATIENCE_S) -> float:
    """Wait for something; how long it took, in virtual seconds."""
    began = now()
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 (any condition)
            await asyncio.sleep(0.001)
    return now() - began


async def holds(condition: Callable[[], bool], for_s: float) -> None:
    """Something stays as it is for so long."""
    end = now() + for_s
    while now() < end:
        assert condition()
        await asyncio.sleep(0.01)


class Line:
    """A session's line from the broker, which may fall silent: nothing arrives at its end.

    What should have comes later, in order, as for a process that was stopped and goes on. Nor does
    it show that it is there meanwhile.
    """

    def __init__(self, session: MemorySession) -> None:
        self._connection: Any = vars(session)["_connection"]
        self._held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._members: Any = session.members
        self._thawed = asyncio.Event()

    def freeze(self) -> None:
        def hold(callback: Callable[..., None], *args: Any) -> None:
            self._held.append((callback, args))

        async def put(*args: Any, **more: Any) -> Any:
            await self._thawed.wait()
            return await MemoryMembers.put(self._members, *args, **more)

        self._connection.post, self._members.put = hold, put
        self._thawed.clear()

    def thaw(self) -> None:
        del self._connection.post, self._members.put
        self._thawed.set()
        held, self._held = self._held, []
        for callback, args in held:
            self._connection.post(callback, *args)

    def lose(self) -> None:
        """What should have come meanwhile never comes."""
        self._held.clear()
        self.thaw()


def stop_the_process(for_s: float) -> None:
    """As if this whole process had been stopped: the time is another one at once."""
    jump: Any = vars(asyncio.get_running_loop())["_jump"]
    jump.now += for_s


class Peer:
    """One membership without a runner, and all that it was told."""

    def __init__(self, broker: MemoryBroker, settings: Settings, runner: str) -> None:
        self.session = broker.session(name=runner, settings=settings)
        self.line = Line(self.session)
        self.changes = 0
        self.expelled = 0
        self.words: list[tuple[Word, Message]] = []
        self.membership = Membership(
            self.session,
            settings,
            Member(runner=runner, edition=1, types=(Hosting(entity="keeper", generation=1),)),
            on_change=self._changed,
            on_expelled=self._expelled,
            on_word=lambda word, message: self.words.append((word, message)),
        )

    @property
    def names(self) -> str:
        """Who is there by its view; the tests' names are single letters."""
        return "".join(member.runner for member in self.membership.view.members())

    def edition_of(self, runner: str) -> int:
        found = self.membership.view.get(runner)
        return 0 if found is None else found.edition

    async def dies(self) -> None:
        """As a process does that is killed."""
        await self.session.close()
        await self.membership.abandon()

    def _changed(self) -> None:
        self.changes += 1

    def _expelled(self) -> None:
        self.expelled += 1


class Ring:
    """A broker, some peers, and somebody who talks to them."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.broker = MemoryBroker(VirtualClock(), self.settings)
        self.stranger = self.broker.session(name="stranger")
        self.peers: dict[str, Peer] = {}

    def __getitem__(self, runner: str) -> Peer:
        return self.peers[runner]

    async def join(self, runners: str, **settings: Any) -> None:
        for runner in runners:
            await self.make(runner, **settings).membership.join()

    def make(self, runner: str, **settings: Any) -> Peer:
        made = Settings(**{**self.given, **settings}) if settings else self.settings
        self.peers[runner] = peer = Peer(self.broker, made, runner)
        return peer

    @property
    def given(self) -> dict[str, Any]:
        return {name: getattr(self.settings, name) for name in self.settings.__struct_fields__}

    async def all_see(self, names: str, within_s: float = PATIENCE_S) -> float:
        """Until everybody of `names` sees just these."""
        return await until(lambda: all(self[n].names == names for n in names), within_s)

    def tell_all(self, word: Word | bytes) -> None:
        data = word if isinstance(word, bytes) else encode_word(word)
        self.stranger.asks.send(self.stranger.subjects.members, data)

    def tell(self, runner: str, word: Word | bytes, reply: str = "") -> None:
        data = word if isinstance(word, bytes) else encode_word(word)
        subject = self.stranger.subjects.member(runner)
        self.stranger.asks.send(subject, data, reply=reply)

    async def answers(self, runner: str) -> bool:
        """Whether a ping is answered."""
        subject = self.stranger.subjects.member(runner)
        try:
            answer = await self.stranger.asks.request(subject, b"", timeout_s=1)
        except Unreachable:
            return False
        return not answer.no_responders


@asynccontextmanager
async def ring(runners: str = "", **settings: Any) -> AsyncGenerator[Ring]:
    """Peers that see each other."""
    made = Ring(**settings)
    await made.join(runners)
    await made.all_see(runners)
    try:
        yield made
    finally:
        for peer in made.peers.values():
            await peer.membership.abandon()
            await peer.session.close()
        await made.stranger.close()
