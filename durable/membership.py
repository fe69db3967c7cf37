"""Membership: this runner among the others.

It keeps its own record alive, knows who else is there, watches its two successors in the ring, and
tells all of them what it finds.

Nothing that it does is needed for safety (the append condition is), so it only has to be quick and
to agree with the others soon: news go to all at once, and now and then the bucket is listed, in
case that some were lost. Whoever learns that it was taken for dead joins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from ..entities.duration import seconds
from ..entities.settings import Settings
from ..streams.asks import reply_allowed
from ..streams.codec import Undecodable
from ..streams.members import (
    HEAD,
    NEWEST,
    Gone,
    Member,
    Ping,
    Release,
    View,
    Word,
    decode_word,
    encode_word,
    member_key,
)
from ..streams.port import Entry, Message, Session, Subscription, Unreachable
from .machine import MachineLease
from .ring import NOBODY_PINGS, Health, health, successors
from .term import is_gone

logger: logging.Logger = logging.getLogger("perdure.members")

PINGS = 4
"""Pings that fit into `frozen_after`, each with its own time for an answer: some may be lost."""

DIFFERENT = 2
"""Pings with one and the same other view until the bucket is listed: news are on their way."""
VIEWS = 16
"""Other views that are counted at a time, at most."""
LIST_AGAIN_S = 1.0
"""Between two listings because views differ, in seconds."""

AGAIN_S = 0.05
"""After "nobody listens there": how soon to ask again, in seconds."""

LAG_S = 0.5
"""By how much this process may be late, in seconds, until it doubts its own watch instead of
those it watches: it was frozen, or busy."""

LISTINGS = 5
"""Heartbeats from one listing of the bucket to the next."""


@dataclass(slots=True)
class _Watch:
    """One watched member; times are the loop's."""

    heard: float
    nobody: int = 0  # pings in a row that nobody listened to
    task: asyncio.Task[None] | None = None


class Membership:
    """This runner's record, its view of the others, and its part of the ring."""

    def __init__(
        self,
        session: Session,
        settings: Settings,
        member: Member,
        *,
        on_change: Callable[[], None],
        on_expelled: Callable[[], None],
        on_word: Callable[[Word, Message], None],
    ) -> None:
        self.view: View = View()
        self.own: Member = member
        self._session = session
        self._settings = settings
        self._on_change, self._on_expelled, self._on_word = on_change, on_expelled, on_word
        self._machine: MachineLease | None = None
        self.stored_at: float | None = None  # loop time of the last renewal of its record
        self._revision = 0  # of its record in the bucket; 0: not there, or not known
        self._joined = False
        self._heard: list[Subscription] = []
        self._timers: list[asyncio.Task[None]] = []
        self._background: set[asyncio.Task[None]] = set()
        self._watches: dict[str, _Watch] = {}
        self._compared = ""  # our view's digest when these were counted
        self._others: dict[str, int] = {}  # pings by views that aren't ours
        self._listed_at = float("-inf")
        self._epoch = session.epoch
        self._ticked = 0.0
        self._doubted_until = 0.0  # until then nobody is taken for dead
        self._impersonated_before = False

    def __repr__(self) -> str:
        return f"Membership({self.own.runner}, {self.view!r}, watches {sorted(self._watches)})"

    @property
    def ttl_s(self) -> int:
        """How long a record lasts that nobody renews, in whole seconds."""
        return max(1, round(seconds(self._settings.member_ttl)))

    # -- coming and going -----------------------------------------------------------------------
    async def join(self) -> None:
        """Be known, and know the others. Raises Unreachable."""
        session = self._session
        subjects = session.subjects
        self._heard = [
            await session.asks.subscribe(subjects.member(self.own.runner), self._directly),
            await session.asks.subscribe(subjects.members, self._news),
        ]
        if self._settings.machine_id is None:
            self._machine = MachineLease(session, self.own.runner, self.ttl_s)
            self.own = msgspec.structs.replace(self.own, machine=await self._machine.take())
        self.view.add(self.own)
        self._joined = True
        await self._put()
        await self._list()
        await asyncio.gather(*(self._probe(member) for member in self.view.members()))
        self._tell(self.own)
        create = asyncio.get_running_loop().create_task
        self._ticked = _now()
        self._timers = [create(self._lasting(self._beat)), create(self._lasting(self._watch))]

    async def change(self, **fields: Any) -> None:
        """Tell all that something about this runner is different from now on."""
        self._renew(**fields)
        self._on_change()
        with contextlib.suppress(Unreachable):  # the next heartbeat does it
            await self._put()

    async def leave(self) -> None:
        """Be gone; those who stay have its shards from now on."""
        self._joined = False
        await self._stop()
        self._tell(Gone(self.own.runner, self.own.edition))
        try:
            if self._machine is not None:
                await self._machine.give_back()
            await self._session.members.delete(member_key(self.own.runner))
        except Unreachable as error:
            logger.debug("its record stays: %s", error, extra={"action": "member.kept"})

    async def abandon(self) -> None:
        """End without a word."""
        self._joined = False
        await self._stop()

    async def _stop(self) -> None:
        pings = [watch.task for watch in self._watches.values() if watch.task is not None]
        tasks = [*self._timers, *self._background, *pings]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watches.clear()
        for subscription in self._heard:
            await subscription.stop()
        self._heard = []

    # -- its own record -------------------------------------------------------------------------
    def _renew(self, **fields: Any) -> None:
        """A new edition of the record, for those who are there."""
        edition = 1 + max(self.own.edition, self.view.gone(self.own.runner))
        self.own = msgspec.structs.replace(self.own, edition=min(edition, NEWEST), **fields)
        self.view.add(self.own)
        self._tell(self.own)

    async def _put(self) -> None:
        """Store the record, or renew it. Raises Unreachable."""
        members, key = self._session.members, member_key(self.own.runner)
        for _ in range(3):  # lost acknowledgements, or somebody who just removed it
            body, ttl_s = encode_word(self.own), self.ttl_s
            revision = await members.put(key, body, expected=self._revision, ttl_s=ttl_s)
            if revision is not None:
                self._revision, self.stored_at = revision, _now()
                return
            found = await members.get(key)
            self._revision = 0 if found is None else found.revision
            stored = None if found is None else _member(found)
            if found is None and self._joined:
                # Removed, or it went by itself: others may have taken this runner for dead.
                self._renew()
            elif stored is not None and stored.runner == self.own.runner:
                self._spoken_for(stored)
        raise Unreachable(f"{key} changes all the time")

    async def _beat(self) -> None:
        """Show again and again that it is there."""
        beats = 0
        while True:
            await asyncio.sleep(seconds(self._settings.heartbeat))
            beats += 1
            try:
                await self._put()
                if self._machine is not None and await self._machine.renew():
                    await self.change(machine=self._machine.number)
                if beats <= 2 or beats % LISTINGS == 0:
                    await self._list()
            except Unreachable as error:
                logger.debug("no heartbeat: %s", error, extra={"action": "member.no_heartbeat"})

    # -- the others -----------------------------------------------------------------------------
    async def _list(self) -> None:
        """Compare the view with the bucket. Raises Unreachable."""
        entries = await self._session.members.entries(HEAD)
        if not self._joined:
            return
        listed = [member for entry in entries.values() if (member := _member(entry)) is not None]
        for member in listed:
            if member.runner == self.own.runner:
                self._spoken_for(member)
            else:
                self._remind(member)
        if self.own.runner not in [member.runner for member in listed]:
            await self._put()  # somebody removed it, or it wasn't stored yet
        if self.view.compare(listed, self.own.runner):
            self._on_change()

    def _remind(self, member: Member) -> None:
        """Tell one that is listed, but known to be gone, that it was taken for dead: it may live,
        and not have heard of that. Its record was to be removed: while it stays, who joins later
        believes it, and leaves shards to one that isn't there."""
        gone = self.view.gone(member.runner)
        if member.edition <= gone:
            self._say_gone(member.runner, gone)
            self._spawn(partial(self._remove, member))

    def _say_gone(self, runner: str, edition: int) -> None:
        subject = self._session.subjects.member(runner)
        self._session.asks.send(subject, encode_word(Gone(runner, edition)))

    def _news(self, message: Message) -> None:
        """Something that all runners are told."""
        try:
            word = decode_word(message.data)
        except Undecodable as error:
            logger.debug("not readable: %s", error, extra={"action": "member.strange"})
            return
        if isinstance(word, Member):
            self._is_there(word)
        elif isinstance(word, Gone):
            self._went(word)

    def _directly(self, message: Message) -> None:
        """Something that this runner alone is told; nothing at all is a ping, too."""
        if not message.data:
            self._pong(message)
            return
        try:
            word = decode_word(message.data)
        except Undecodable as error:
            logger.debug("not readable: %s", error, extra={"action": "member.strange"})
            return
        match word:
            case Member():
                self._is_there(word)
            case Gone():
                self._went(word)
            case Ping(view):
                self._pong(message)
                self._compare(view)
            case _:
                if isinstance(word, Release) and word.runner not in self.view:
                    self._is_alive(word.runner)
                self._on_word(word, message)

    def _pong(self, message: Message) -> None:
        if reply_allowed(message.reply, self._settings.reply_prefixes):
            self._session.asks.send(message.reply, encode_word(Ping(self.view.digest)))

    def _compare(self, view: str) -> None:
        """Somebody else's view: news may have been lost, here or there.

        Each is counted by itself: those who agree say so in between, as often as one who doesn't.
        """
        if self._compared != self.view.digest:
            self._compared = self.view.digest
            self._others.clear()
        if view == self._compared or (view not in self._others and len(self._others) >= VIEWS):
            return
        self._others[view] = self._others.get(view, 0) + 1
        if self._others[view] >= DIFFERENT and self._list_soon():
            self._others.clear()

    def _is_alive(self, runner: str) -> None:
        """A runner that isn't in the view wants a shard. Two that took each other for dead, and
        heard of nothing, ping each other no more: by this they meet again."""
        gone = self.view.gone(runner)
        if gone:
            self._say_gone(runner, gone)
        self._list_soon()

    def _list_soon(self) -> bool:
        """List the bucket, unless that was done a moment ago."""
        now = _now()
        if now - self._listed_at < LIST_AGAIN_S:
            return False
        self._listed_at = now
        self._spawn(self._list)
        return True

    def _is_there(self, member: Member) -> None:
        if self._joined and member.runner == self.own.runner:
            self._spoken_for(member)
            return
        new = member.runner not in self.view
        if not self._joined or not self.view.add(member):
            return
        if new:
            logger.info(
                "runner %s is there", member.runner,
                extra={"action": "member.joined", "runner": member.runner},
            )  # fmt: skip
            subject = self._session.subjects.member(member.runner)
            self._session.asks.send(subject, encode_word(self.own))
        self._on_change()

    def _spoken_for(self, member: Member) -> None:
        """A record of this runner that may not be its own: the others believe the newest."""
        if member.edition < self.own.edition or member == self.own:
            return  # what it said itself
        logger.log(
            logging.DEBUG if self._impersonated_before else logging.ERROR,
            "somebody else speaks as runner %s: look who may publish to the members' subjects",
            self.own.runner,
            extra={"action": "member.impersonated", "runner": self.own.runner},
        )
        self._impersonated_before = True
        self.own = msgspec.structs.replace(self.own, edition=min(member.edition, NEWEST - 1))
        self._renew()  # it is stored by who found this, or by the next heartbeat

    def _went(self, gone: Gone) -> None:
        if not self._joined:
            return
        if gone.runner == self.own.runner:
            if gone.edition >= self.own.edition:
                self.view.remove(gone)  # so that the next edition is beyond that one
                self._expelled()
        elif self.view.remove(gone):
            self._watch_no_more(gone.runner)
            logger.info(
                "runner %s is gone", gone.runner,
                extra={"action": "member.gone", "runner": gone.runner},
            )  # fmt: skip
            self._on_change()

    def _expelled(self) -> None:
        """Others took this runner for dead, and its shards: it begins anew."""
        logger.warning(
            "the other runners took this one for dead: it joins again",
            extra={"action": "member.expelled", "runner": self.own.runner},
        )
        self._on_expelled()
        self._revision = 0
        self._renew()
        self._on_change()
        self._spawn(self._put)

    # -- the ring -------------------------------------------------------------------------------
    async def _watch(self) -> None:
        """Ping who stands next, and tell all who doesn't answer."""
        while True:
            await asyncio.sleep(seconds(self._settings.ping_every))
            now = _now()
            late = now - self._ticked > seconds(self._settings.ping_every) + LAG_S
            self._ticked = now
            session = self._session
            if late or session.epoch != self._epoch or not session.connected:
                self._doubt(now)
                continue
            self._ping_all(now)
            await self._judge(now)

    def _doubt(self, now: float) -> None:
        """This process was away, so what it doesn't know of others says nothing."""
        if self._session.epoch != self._epoch:
            # They may have lost the same server, and come back a little later.
            self._epoch = self._session.epoch
            self._doubted_until = now + seconds(self._settings.frozen_after)
        for watch in self._watches.values():
            watch.heard, watch.nobody = now, 0

    def _ping_all(self, now: float) -> None:
        names = successors(self.own.runner, [member.runner for member in self.view.members()])
        for name in [name for name in self._watches if name not in names]:
            self._watch_no_more(name)
        for name in names:
            watch = self._watches.setdefault(name, _Watch(now))
            if watch.task is None or watch.task.done():
                watch.task = asyncio.get_running_loop().create_task(self._ping(name, watch))

    def _watch_no_more(self, name: str) -> None:
        watch = self._watches.pop(name, None)
        if watch is not None and watch.task is not None:
            watch.task.cancel()

    async def _ping(self, name: str, watch: _Watch) -> None:
        try:
            while (answer := await self._request(name)).no_responders:
                watch.nobody += 1
                if watch.nobody >= NOBODY_PINGS:
                    return
                await asyncio.sleep(AGAIN_S)
            watch.heard, watch.nobody = _now(), 0
            word = decode_word(answer.data)
        except (Unreachable, Undecodable):
            return  # silence, which has its time
        if isinstance(word, Ping):
            self._compare(word.view)

    async def _request(self, name: str) -> Message:
        """Ping a member. Raises Unreachable."""
        session = self._session
        timeout_s = seconds(self._settings.frozen_after) / PINGS
        ping = encode_word(Ping(self.view.digest))
        return await session.asks.request(session.subjects.member(name), ping, timeout_s=timeout_s)

    async def _judge(self, now: float) -> None:
        """Tell all who is dead or frozen."""
        frozen_s = seconds(self._settings.frozen_after)
        for name, watch in list(self._watches.items()):
            found = health(
                nobody=watch.nobody, silent_s=now - watch.heard, frozen_after_s=frozen_s
            )
            if found is Health.WELL or now < self._doubted_until:
                continue
            member, epoch = self.view.get(name), self._session.epoch
            if found is Health.SILENT and not await self._hears_itself():
                continue
            same = self._watches.get(name) is watch and self._session.epoch == epoch
            if member is not None and same and now >= max(watch.heard, self._doubted_until):
                self._expel(member, found)

    async def _probe(self, member: Member) -> None:
        """Whether one that is listed still runs: after a crash the dead are listed for a while,
        and a runner that is started again shall not wait for itself."""
        if member.runner == self.own.runner:
            return
        for again in range(NOBODY_PINGS):
            if again:
                await asyncio.sleep(AGAIN_S)
            if not await is_gone(self._session, member.runner):
                return  # silence is for the ring to judge
        self._expel(member, Health.DEAD)

    async def _hears_itself(self) -> bool:
        """Whether the server carries anything to this process."""
        try:
            return not (await self._request(self.own.runner)).no_responders
        except Unreachable:
            return False

    def _expel(self, member: Member, found: Health) -> None:
        logger.warning(
            "runner %s is %s: others take its shards",
            member.runner,
            found.value,
            extra={"action": f"member.{found.value}", "runner": member.runner},
        )
        gone = Gone(member.runner, member.edition)
        self._watch_no_more(member.runner)
        self._tell(gone)
        if self.view.remove(gone):
            self._on_change()
        self._spawn(partial(self._remove, member))

    async def _remove(self, member: Member) -> None:
        """Remove the record of one that is gone, unless it joined again."""
        key = member_key(member.runner)
        found = await self._session.members.get(key)
        stored = None if found is None else _member(found)
        if found is not None and (stored is None or stored.edition <= member.edition):
            await self._session.members.delete(key, upto=found.revision)

    # -- small things ---------------------------------------------------------------------------
    def _tell(self, word: Word) -> None:
        self._session.asks.send(self._session.subjects.members, encode_word(word))

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def quietly() -> None:
            with contextlib.suppress(Unreachable):  # the next heartbeat or listing mends it
                await work()

        task = asyncio.get_running_loop().create_task(quietly())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _lasting(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Work that has no end; a bug in it must not be its end either."""
        while True:
            try:
                await work()
            except Exception:  # it sleeps before it does anything, so this doesn't spin
                logger.exception("%s failed", work.__name__, extra={"action": "member.failed"})


def _member(entry: Entry) -> Member | None:
    """The record in an entry; None for what another release, or somebody else, wrote there."""
    try:
        word = decode_word(entry.value)
    except Undecodable:
        return None
    return word if isinstance(word, Member) else None


def _now() -> float:
    return asyncio.get_running_loop().time()
