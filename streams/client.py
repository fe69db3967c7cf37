"""Cluster: a connection, as callers see it.

Made by `connect` in durable/ (which may host a runner beside it) over any backend's session. It
needs no entity's handlers: the messages' classes say all that a caller has to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from weakref import WeakSet

from typing_extensions import TypeVar

from ..entities.address import Address
from ..entities.annotations import name_of, tag_of
from ..entities.entity import Entity
from ..entities.errors import MalformedMessage, RpcClientError
from ..entities.event import Event
from ..entities.flow import Token
from ..entities.message import Command
from ..entities.settings import Settings
from ..entities.signal import Signal
from ..entities.snowflake import Snowflake
from ..entities.state import State
from ..entities.suspension import Suspension
from .broadcast import RATE, Broadcast, BroadcastProgress
from .caller import Caller
from .history import Commit, history, watch
from .incoming import value_of
from .listing import Listing, place_of
from .outgoing import check_key, lasting_key, payload_of
from .port import Session
from .ref import Ref
from .resuming import RECORDED, resuming
from .signals import Sig, Signals, encode_signal
from .singleton import Declare, Run, check_singleton
from .suspended import suspended

S = TypeVar("S", bound=State)
Ev = TypeVar("Ev", bound=Event)
T = TypeVar("T")


class Cluster:
    """A connection to a cluster. Made by `connect`."""

    runner_id: str | None
    """The runner in this process that serves beside it; None for a mere client."""
    drained: asyncio.Event
    """Set when an operator told that runner to leave: its shards go to the others."""
    declare: Declare | None
    """How that runner is told of a singleton; None for a mere client."""
    hosting: frozenset[str]
    """The entity types that it hosts."""

    def __init__(self, session: Session, settings: Settings, runner_id: str | None = None) -> None:
        """Over a session that is closed with it. `settings` are those that the session has."""
        self.runner_id = runner_id
        self.drained = asyncio.Event()
        self.declare = None
        self.hosting = frozenset()
        self._signals: WeakSet[Signals[Any]] = WeakSet()
        self._caller = Caller(session, settings)

    def __repr__(self) -> str:
        return f"<Cluster {self._caller}>"

    def at(self, of: type[S], id: str | Snowflake) -> Ref[S]:
        """The entity with that id, by its state's class: callers need no handlers.

        Gotcha: an id that can't be one (1-255 bytes of text) is told by the first call, as a
        MalformedMessage. Each id exists: an entity without a log is in its first state.

        Raises MalformedMessage for anything but the class of a state.
        """
        _check_state(of, "at")
        return Ref(self._caller, of, _address(tag_of(of), id), self.runner_id)

    def history(
        self, entity: Entity[Any, Ev], id: str | Snowflake, *, after: int = 0
    ) -> AsyncIterator[Commit[Ev]]:
        """What happened to an entity after a version, oldest first, up to now.

        Needs the entity, which knows the events, and the right to read the log. Each link of the
        log's hash chain is verified on the way. Raises SerializationError for a log that is
        damaged or has unknown events, RpcClientError if it can't be reached, MalformedMessage for
        anything but an entity, an id and a version.

        Gotcha: a command without events leaves the version as it is, so refusals right after the
        version `after` are left out.
        """
        _check_reading("history", entity, after)
        target = self._caller.target(_address(entity.name, id))
        return history(self._caller, target, entity, after)

    def watch(
        self, entity: Entity[Any, Ev], id: str | Snowflake, *, after: int = 0
    ) -> AsyncIterator[Commit[Ev]]:
        """`history`, then live, without a gap, for ever. Raises what `history` raises; later, too,
        where it isn't permitted any more, the log is another, or the server refuses for minutes.
        """
        _check_reading("watch", entity, after)
        target = self._caller.target(_address(entity.name, id))
        return watch(self._caller, target, entity, after)

    def ids(self, of: type[State], *, prefix: str = "", after: str = "") -> Listing:
        """The ids of a type that have a log, by its state's class, oldest first.

        They come in the order in which they were first used, at a pace that those who publish
        hardly notice: a million in well under a minute. Stop whenever you like: `place` of the
        listing, given as `after`, goes on from there. Needs the right to read the registry.

        Gotcha: an id may be listed that has no log, if its runner ended right before its first
        commit. With a million ids and `prefix`, all of them are still read.

        Raises MalformedMessage for anything but a state's class, a text and a place; on the way
        RpcClientError if the registry can't be reached.
        """
        _check_state(of, "ids")
        if not isinstance(prefix, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise MalformedMessage(cause=f"ids: prefix={prefix!r} isn't text"[:100])
        return Listing(self._caller.session, tag_of(of), prefix, place_of(after))

    async def broadcast(
        self,
        of: type[S],
        command: Command[S, Any, Any],
        *,
        key: str | None = None,
        prefix: str = "",
        rate: float = RATE,
        after: str = "",
        on_progress: Callable[[BroadcastProgress], None] | None = None,
    ) -> int:
        """Tell every existing entity of a type a command; how many it told.

        A `tell` for each id that `ids` lists, with `key` as its idempotency key: the same
        broadcast repeated has no second effect on anybody within `dedup_window`. Without a key it
        makes one. `on_progress` is told key, count and place at the beginning, every second, and
        at the end, an error's or a cancellation's too: with that `key`, and that place as `after`,
        another call goes on, in another process too. `rate` is in tells a second. A full mailbox
        is waited out for `ask_timeout`. Who is registered meanwhile may be told or not.

        Gotchas: on return all of it is stored, not done. The key must be new to the entities:
        where another command has used it, and where the runners don't know the command, this one
        becomes a dead letter for each. An id that is listed and has no log yet is told, too. A
        client that told more than `told_addresses` entities asks them by the stream from then on,
        which is slower: broadcast from a client of its own.

        Raises MalformedMessage, before anybody is told, for a query, another entity's command, or
        what isn't a key, rate or place, and for a place without its key; else a ClusterError as
        `tell` and `ids` do, whose `key` and `cause` say how to go on.
        """
        _check_state(of, "broadcast")
        limit = self._caller.settings.max_payload_bytes
        _, payload = payload_of(command, of, writes=True, limit=limit)
        if after and key is None:  # with a new key some would be told again
            raise MalformedMessage(cause="broadcast: after=… without the key of the earlier one")
        name = lasting_key(self._caller.session.entropy) if key is None else check_key(key)
        listing = self.ids(of, prefix=prefix, after=after)
        more: Any = {"rate": rate, "on_progress": on_progress}
        return await Broadcast(self._caller, tag_of(of), listing, payload, name, **more).run()

    async def resume(self, token: Token[T], value: T) -> None:
        """Give a flow's deferred its value; returns when that is recorded, so that it can't be
        lost any more. The flow goes on by itself.

        The first value counts: to resume again, with any value, is answered like the first time,
        and changes nothing. Only while its flow is parked, and hasn't come to look at the first
        value, another one is refused, since either may count.

        Raises MalformedMessage for a token that isn't genuine or has expired, for a value that
        isn't of the deferred's type, and then; MailboxFull, after which the token is as good as
        before; or another ClusterError.
        """
        caller = self._caller
        payload, address = resuming(token, value, caller.settings.max_payload_bytes)
        target = caller.target(address)
        with caller.span("resume", "client", target, "flow") as call:
            answer = await caller.wake(call, payload)
        with caller.checking(target):
            value_of(RECORDED, answer, "resume")

    def suspended(self, of: type[State], *, prefix: str = "") -> AsyncIterator[Suspension]:
        """The flows of a type that have begun and not ended, in the order in which they came to
        wait, by its state's class; `prefix` of their entities' ids.

        They are found by the timers that they set, and then their owners are asked: so what comes
        is true when it comes, and each of the entities is in its owner's memory for a while. Needs
        the right to read the stream of timers.

        Gotcha: one that comes to wait meanwhile may be told or not.

        Raises MalformedMessage for anything but a state's class; on the way a ClusterError.
        """
        _check_state(of, "suspended")
        return suspended(self._caller, tag_of(of), prefix)

    async def singleton(self, name: str, run: Run) -> None:
        """Run a coroutine on exactly one of the runners that declare it under this name.

        Returns once the runner of this process is known to be able to; `run` is called in the
        background, with a `Singleton`, where and when it is this runner's turn. It is cancelled,
        and given time to end (`drain_timeout`), before another runner begins; if its runner dies,
        another one begins it within about a second. If it raises, that is logged, and it is begun
        again after a pause; if it returns, it is over until another runner gets it. What must be
        done once in all belongs into an entity.

        Gotcha: a runner that is frozen or cut off may go on for a while though another one has
        begun. So send `Singleton.term` along with what `run` writes, and let the other side refuse
        a smaller one than it has seen. Don't swallow `CancelledError`.

        Raises MalformedMessage for a mere client (`connect` without `serving`), for a bad name,
        one that this runner has already, or too many; RunnerUnavailable once the runner leaves.
        """
        if self.declare is None:
            raise MalformedMessage(
                cause="singleton: a mere client runs none; connect with serving=[...]"
            )
        check_singleton(name, run)
        await self.declare(name, run)

    async def signal(self, signal: Signal[Any]) -> None:
        """Tell every runner that hosts the signal's entity type something, at most once.

        It goes out at once and is kept nowhere: who isn't there, or just reconnects, never hears
        of it. Signals of one client come in their order.

        Raises MalformedMessage for what isn't a signal or is too large, RpcClientError without a
        connection.
        """
        entity, data = encode_signal(signal, self._caller.settings.max_payload_bytes)
        session = self._caller.session
        if self._caller.closed or not session.connected:
            why = "signal: there is no connection just now"
            raise RpcClientError(cause=why, may_have_taken_effect=False, advice="retry")
        session.asks.send(session.subjects.signal(entity), data)

    def signals(self, *classes: type[Sig]) -> Signals[Sig]:
        """What a runner hears of these classes of signals, all for one entity type it hosts.

        `async with cluster.signals(PricesChanged) as signals`, then `async for signal in signals`.
        Each such loop gets all of them. Up to 1,000 wait, or 4 MiB; `dropped` counts those lost.

        Raises MalformedMessage for other classes, and where no runner of this process hosts the
        type; on entering RpcClientError if the server can't be reached.
        """
        signals = Signals(self._caller.session, classes, self._caller.settings.max_payload_bytes)
        if signals.entity not in self.hosting:
            why = f"signals: no runner hosts {signals.entity} here; connect with serving=[...]"
            raise MalformedMessage(cause=why)
        self._signals.add(signals)
        return signals

    async def close(self) -> None:
        """End the connection. Calls that still wait fail with RpcClientError."""
        for signals in self._signals:
            signals.end()
        self._caller.close()
        await self._caller.session.close()


def _address(entity: str, id: Any) -> Address:
    return Address(entity, str(id) if isinstance(id, Snowflake) else id)


def _check_state(of: Any, way: str) -> None:
    given: object = of
    if isinstance(given, type) and issubclass(given, State):
        return
    first: object = getattr(of, "initial", of)  # of an entity, which is often given instead
    if isinstance(first, State):
        raise MalformedMessage(cause=f"{way} takes the state's class: {type(first).__name__}")
    raise MalformedMessage(cause=f"{way} takes the state's class, not {repr(first)[:60]}")


def _check_reading(way: str, entity: Any, after: Any) -> None:
    if not isinstance(entity, Entity):
        shown = name_of(entity)[:60]
        raise MalformedMessage(cause=f"{way} takes the entity that Entity(...) made, not {shown}")
    if type(after) is not int or after < 0:
        raise MalformedMessage(cause=f"{way}: after={after!r} isn't a version, 0 or more"[:100])
