"""A shard of one entity type in this runner: its activations, its term, its place among owners.

The members' view says whose a shard is (`assign`). While it is ours, the loop in `_run` asks
whoever still holds it to give it back, takes a term, waits for its end and takes the next; asks
come by core NATS, tells by the term. When it is another's, it is handed over: what is in hand is
finished, the term is given back, and who waits for it is told. None of this is needed for safety:
two runners that both believe to own a shard waste work, and the append condition lets one write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from ..entities.address import Address
from ..entities.duration import seconds
from ..entities.errors import MailboxFull
from ..streams.asks import NULL
from ..streams.commit import At
from ..streams.port import Delivery, Message, Outdated, Subscription, Taken, Unreachable
from ..streams.subjects import Sharding, unescape
from .activation import Activation, loop_time
from .answers import Answers
from .claim import Claim
from .deadletter import bury_unaddressed
from .host import Host
from .intake import Refusal, bad_id, elsewhere, take_ask, take_tell
from .item import Asker, Item
from .notices import Notices
from .reads import Read
from .term import Term, give_back, take

logger: logging.Logger = logging.getLogger("perdure.shard")

BACKOFF_S = 0.05
BACKOFF_MAX_S = 2.0
"""Between tries to take a shard: at first at once, then no faster than its users would notice."""

HELD = 10_000
"""Un-acked tells whose bodies are not in memory, a shard: about 10 MB. Beyond it a shard takes no
more until some are settled, since credit bounds bodies only."""

LASTING_S = 5.0
CLAIM_TRIES = 2
"""Who waits for a shard to be given back asks again soon: callers wait, too."""

STANDBY_TRIES = 3
"""A term taken from us after that many seconds was no quarrel about who begins: the first look
whether its new owner is gone again comes soon. A shorter one backs off more with each."""

FINISH_S = 0.005
FINISH_MAX_S = 0.05
"""How soon a shard that is handed over looks again whether all is finished, in seconds: most is at
once; each look goes through all its entities."""

LINGER_S = 0.3
"""How long asks are still heard after a shard was handed over, to be sent elsewhere at once: as
long as the next owner may need to hear them, in seconds."""

ASIDE_S = 0.05
"""How often asks are looked at that wait for a tell which the term was not given yet, seconds."""

OTHER_SHARD = "the subject names another shard than the entity's"


class Shard:
    """One shard of one type."""

    def __init__(
        self, host: Host, sharding: Sharding, number: int, answers: Answers, notices: Notices
    ) -> None:
        self.host: Host = host
        self.sharding: Sharding = sharding
        self.number: int = number
        self.answers: Answers = answers
        self.notices: Notices = notices
        self.activations: dict[str, Activation] = {}
        self.term: Term | None = None
        self.assigned: bool = False  # by the members' view
        self.owned: bool = False  # asks are taken
        self.running: bool = True
        self.outdated: bool = False  # the type was cut anew: there is no such shard any more
        self.ready: asyncio.Event = asyncio.Event()  # the first term began, or it is another's
        self.away: asyncio.Event = asyncio.Event()  # nothing of it is here
        self.away.set()
        self._change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._former = ""  # the runner that had it by the view before
        self._claim = Claim(host, sharding, number)
        self._asks: Subscription | None = None
        self._caught_up_at = -1.0  # loop time at which the server had nothing more for the term
        self._aside: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._held = 0  # tells without a body in memory that are un-acked
        self._owed = 0  # credits kept back since too many are held
        self._released = False
        self._suspects = 0  # tells up to this sequence may have killed a process
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return (
            f"Shard({self.host.entity.name}/{self.number}, owned={self.owned}, {self.term}, "
            f"{len(self.activations)} activations)"
        )

    @property
    def name(self) -> str:
        """How logs name it."""
        return f"shard {self.number} of {self.host.entity.name}"

    # -- life -----------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to look after the shard; it is held only while it is assigned."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def assign(self, mine: bool, *, former: str = "") -> None:
        """By the members' view the shard is this runner's, or isn't; `former`: whose it was."""
        self._former = former
        if not mine:
            self.ready.set()
        if mine == self.assigned:
            return
        self.assigned = mine
        self._changes()

    @property
    def leaving(self) -> bool:
        """Whether it is another's, and not yet handed over."""
        return not self.assigned and not self.away.is_set()

    def _changes(self) -> None:
        """Wake whoever waits for a change."""
        change, self._change = self._change, asyncio.get_running_loop().create_future()
        change.set_result(None)

    async def _run(self) -> None:
        tries = 0  # in a row without a term that lasted
        while self.running:
            change = self._change
            try:
                if not self.assigned:
                    await self._hand_over()
                    tries = 0
                    await asyncio.wait((change,))
                    continue
                if tries:
                    await self._pause(tries, change)
                if self.assigned and await self._free():
                    tries = await self._hold_once(tries)
                else:
                    tries = min(tries + 1, CLAIM_TRIES)
            except (Taken, Unreachable) as error:
                logger.debug(
                    "no term of %s yet: %s", self.name, error, extra={"action": "term.refused"}
                )
                tries += 1
            except Outdated as error:
                self.outdated = True
                self.notices.outdated(str(error))
                self._step_down()
                return
            except Exception:
                logger.exception("%s failed", self.name, extra={"action": "shard.failed"})
                self.drop("an internal error")
                tries += 1

    async def _pause(self, tries: int, change: asyncio.Future[None]) -> None:
        longest = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(tries, 10))
        pause_s = longest * self.host.session.entropy.uniform(0.5, 1.0)
        await asyncio.wait((change,), timeout=pause_s)

    async def _free(self) -> bool:
        """Whether the shard can be taken. Raises Unreachable.

        Asks need no term: where the owner before is gone, they are heard at once.
        """
        if self._former and self._former not in self.host.view:
            await self._own()
        return await self._claim.free()

    async def _hold_once(self, tries: int) -> int:
        """Hold the shard for one term; how many tries in a row were in vain, with this one."""
        began = loop_time()
        reason = await self._hold()
        if reason == "restarted":  # the stream came back, on the same connection
            self.host.restarts += 1
        if reason == "deleted":
            self._step_down()
            lasted = loop_time() - began > LASTING_S
            return STANDBY_TRIES if lasted else max(tries + 1, STANDBY_TRIES)
        return tries + 1 if reason == "dropped" else 0

    async def _hold(self) -> str:
        """One term, from taking it until it ends or the shard is assigned to another; why it
        ended, "" if it didn't. Raises Taken, Unreachable."""
        host = self.host
        await self._own()
        term = await take(
            host.session,
            host.entity.name,
            self.sharding,
            self.number,
            runner=host.runner,
            suspects=self._suspects,
            on_tell=self._tell,
        )
        while not self.owned:  # the others took this runner for dead while it took the shard
            await self._own()
        self._suspects = term.suspects
        host.counts.terms += 1
        self.term, self._caught_up_at, self._owed = term, -1.0, 0
        term.grant(host.settings.term_credit)
        self.ready.set()
        self.notices.taken(self.number)
        for activation in self._all():
            activation.begin_term()
        while self.assigned and self.running and not term.ended.done():
            await asyncio.wait((term.ended, self._change), return_when=asyncio.FIRST_COMPLETED)
        if not term.ended.done():
            return ""
        self.notices.ended(self.number)
        if self.term is term:
            self.term = None
        if term.consumer is not None:
            await term.consumer.stop()
        host.counts.end(term.ended.result())
        return term.ended.result()

    async def _own(self) -> None:
        """Listen to asks. They need no term: the append condition is the only fence."""
        self.owned = True
        self.away.clear()
        if self._asks is None:
            subject = self.host.session.subjects.ask_shard(
                self.host.entity.name, self.sharding.generation, self.number, "*"
            )
            self._asks = await self.host.session.asks.subscribe(subject, self.ask)

    def _step_down(self) -> None:
        """Another runner has the shard, whatever the members' view says."""
        self.ready.set()
        if not self.owned:
            return
        self.notices.lost(self.number)
        self.owned = False
        self.drop("another runner took the shard")
        self._stop_asks()
        self._is_away()

    def expelled(self) -> None:
        """The others took this runner for dead: whatever it holds is theirs by now."""
        if self.term is not None:
            self.term.end("deleted")
        else:
            self._step_down()
        self._changes()

    def asked_back(self, runner: str, asker: str) -> None:
        """Another runner waits for the shard: it is told at `asker` once it is to be had."""
        self._claim.asked_by(runner, asker, away=self.away.is_set(), ours=self.assigned)

    def _is_away(self) -> None:
        """Nothing of the shard is here any more."""
        self.away.set()
        self._claim.released()

    async def _hand_over(self) -> None:
        """Take nothing more, finish what is in hand, and give the shard back.

        Asks that still come are told to go elsewhere; the subscription ends a little later, so
        that none is lost between this owner and the next.
        """
        if self.away.is_set():
            return
        self._claim.withdraw()
        self.owned, term = False, self.term
        if term is not None and term.consumer is not None:
            await term.consumer.stop()
        for activation in self._all():
            activation.let_go("the shard goes to another runner")
        until, pause_s = loop_time() + seconds(self.host.settings.drain_timeout), FINISH_S
        while self._busy and loop_time() < until and not self.assigned:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, FINISH_MAX_S)
        if self._busy and not self.assigned:
            logger.warning(
                "%s wasn't finished in time: what is left goes to the next owner",
                self.name,
                extra={"action": "shard.late"},
            )
        if term is not None:
            self.notices.ended(self.number)
        self.drop("the shard goes to another runner")
        self.term = None
        if term is not None:
            await self._give_back(term)
        self._stop_asks()
        self._is_away()

    @property
    def _busy(self) -> bool:
        return any(activation.busy for activation in self._all())

    async def _give_back(self, term: Term) -> None:
        """End its consumer. One that stays is deleted by the next owner."""
        host = self.host
        try:
            await give_back(host.session, host.entity.name, self.sharding, self.number, term)
        except Unreachable as error:
            logger.warning(
                "%s was not given back: %s", self.name, error, extra={"action": "term.kept"}
            )

    def _stop_asks(self) -> None:
        """Listen a little longer, to send asks elsewhere that are on their way."""
        if self._asks is not None:
            self.spawn(self._stop_listening(self._asks))

    async def _stop_listening(self, asks: Subscription) -> None:
        await asyncio.wait((self._change,), timeout=LINGER_S)
        if not self.owned and self._asks is asks:
            self._asks = None
            await asks.stop()

    async def release(self) -> None:
        """Leave: whatever is still un-acked goes to the next owner."""
        if self._released:
            return
        self._released = True
        self.running = self.owned = False
        self._changes()
        term, self.term = self.term, None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._asks is not None:
            asks, self._asks = self._asks, None
            await asks.stop()
        for activation in self._all():
            activation.drop("the runner leaves")
        self.activations.clear()
        if term is not None:
            term.end("released")
            if term.consumer is not None:
                await term.consumer.stop()
            await self._give_back(term)
        self._is_away()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def abandon(self) -> None:
        """End without a word."""
        self.running = self.owned = False
        tasks = [t for t in (self._task, self._aside, *self._background) if t is not None]
        for activation in self._all():
            tasks += activation.abandon()
        self.activations.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _all(self) -> list[Activation]:
        return list(self.activations.values())

    # -- what arrives ---------------------------------------------------------------------------
    def ask(self, message: Message) -> None:
        """An ask for an entity of this shard, by either subject."""
        token = message.subject.rpartition(".")[2]
        if not self.owned:
            self._elsewhere(message, token)
            return
        found = self.activations.get(token)
        load = self.host.load
        if found is None and (load.full() or load.residents.crowded):
            self._overload(message, token)
            return
        taken = take_ask(self.host, message, self.host.loop_time())
        address, taken = self._addressed(token, taken) if found is None else (found.address, taken)
        match taken:
            case Item():
                if not self._answerable(taken, address):
                    return
                (found or self._activation(token, address)).ask(taken)
                if taken.after is not None:
                    self._watch_aside()
            case Read():
                (found or self._activation(token, address)).read(taken)
            case Refusal(asker, error, key):
                if asker is not None:
                    self.answers.error([asker], error, address, key)

    def _elsewhere(self, message: Message, token: str) -> None:
        """The shard is another's: its caller asks there."""
        why = "its shard goes to another runner"
        address, runner = Address(self.host.entity.name, token), self.host.runner
        match elsewhere(take_ask(self.host, message, loop_time()), runner, why):
            case Refusal(Asker() as asker, error, key):
                self.answers.error([asker], error, address, key)
            case _:
                pass

    def _addressed(
        self, token: str, taken: Item | Read | Refusal
    ) -> tuple[Address, Item | Read | Refusal]:
        """The entity that a token names; what was taken is refused if it names none of ours."""
        try:
            id = unescape(token)
        except ValueError as why:
            return Address(self.host.entity.name, token), bad_id(taken, why)
        if self.sharding.shard(token) != self.number:
            taken = elsewhere(taken, self.host.runner, OTHER_SHARD)
        return Address(self.host.entity.name, id), taken

    def _overload(self, message: Message, token: str) -> None:
        """Refuse before anything is decoded or kept."""
        error = MailboxFull(capacity=self.host.load.capacity, may_have_taken_effect=True)
        address = Address(self.host.entity.name, token)
        self.answers.error([Asker(message.reply, plain=True)], error, address, None)

    def _answerable(self, item: Item, address: Address) -> bool:
        """A bare ask whose answer may go nowhere is not executed: its name would be a weapon."""
        reply = item.askers[0].reply if item.askers else item.name
        if item.key is None and not self.answers.allowed(reply):
            self.answers.not_answered(f"an ask of {str(address)[:100]} was not executed", reply)
            return False
        return True

    def _tell(self, delivery: Delivery, suspect: bool) -> None:
        try:
            id = unescape(delivery.token)
        except ValueError as why:
            self.spawn(self._bury(delivery, str(why)))
            return
        item = take_tell(self.host, delivery, self.sharding.generation, loop_time())
        item.suspect, item.credit = suspect, True
        address = Address(self.host.entity.name, id)
        activation = self._activation(delivery.token, address)
        assert item.at is not None
        assert item.cause is not None
        known = activation.waiting_tell(item.at, item.cause)
        if known is None:
            activation.tell(item)
            return
        self.host.counts.redelivered += 1
        self._grant(known)  # what its earlier delivery used, if this term made that one, too
        known.handle, known.consumer, known.credit = item.handle, item.consumer, True
        if known.evicted:
            self._grant(known)

    def _activation(self, token: str, address: Address) -> Activation:
        found = self.activations.get(token)
        if found is None:
            found = Activation(self.host, self, self.answers, address)
            self.activations[token] = found
            self.host.load.residents.use(found)
        return found

    # -- for activations --------------------------------------------------------------------------
    def settled(self, item: Item, *, ack: bool) -> None:
        """A tell has a recorded outcome: ack it, if the term that delivered it still runs."""
        if ack and self.term is not None and item.consumer == self.term.name:
            self.term.ack(item.handle)
        if item.held:
            self._held -= 1
        self._grant(item)
        if self._owed and self._held < HELD and self.term is not None:
            self._owed -= 1
            self.term.grant(1)

    def evict(self, item: Item) -> None:
        """A tell's body leaves memory; its credit is free."""
        item.command, item.raw, item.evicted = None, NULL, True
        if not item.held:
            item.held = True
            self._held += 1
        if self._held <= HELD:
            self._grant(item)
        elif item.credit:
            item.credit = False
            self._owed += 1

    def _grant(self, item: Item) -> None:
        if item.credit and self.term is not None and item.consumer == self.term.name:
            self.term.grant(1)
        item.credit = False

    async def load(self, item: Item) -> bool:
        """Read an evicted tell's body again; False if the stream has it no more."""
        assert item.at is not None
        found = await self.host.session.commands.by_sequence(
            self.host.entity.name, item.at.sequence
        )
        if found is None or found.time_ns != item.at.time_ns:
            return False
        again = take_tell(self.host, found, item.at.generation, item.since)
        if again.cause != item.cause:
            return False
        item.command, item.raw, item.evicted = again.command, again.raw, False
        return True

    def told(self, activation: Activation, item: Item) -> bool:
        """Whether the tell that an ask waits for has taken effect.

        The watermark can't tell: after a duplicate it never gets there. What counts is that this
        term was given everything up to it, and that none of it is queued any more.
        """
        after = item.after or 0
        if self.term is None or self.term.ended.done():
            return False
        if self.term.delivered < after and self._caught_up_at <= item.since:
            return False
        return not any(i.at is not None and i.at.sequence <= after for i in activation.ahead)

    def drop(self, reason: str) -> None:
        """End the term and every activation: what was not processed is delivered again.

        An unprocessed tell must not be dropped alone: the term would go on behind it, and its
        successors would take effect before it.
        """
        if self.term is not None:
            self.term.end("dropped")
        dropped = self._all()
        self.activations.clear()  # first: whatever an answer does, they are gone
        self._held = 0
        for activation in dropped:
            activation.drop(reason)

    # -- now and then -----------------------------------------------------------------------------
    def _watch_aside(self) -> None:
        if self._aside is None:
            self._aside = asyncio.get_running_loop().create_task(self._promote())

    async def _promote(self) -> None:
        """As long as asks stand aside: ask the server whether it has more for this term."""
        try:
            while any(a.mailbox.aside for a in self._all()):
                asked, term = loop_time(), self.term
                try:
                    if term is not None and await term.caught_up() and self.term is term:
                        self._caught_up_at = asked
                except Unreachable:
                    logger.debug(
                        "%s: can't ask for its term", self.name, extra={"action": "term.info"}
                    )
                for activation in self._all():
                    activation.promote()
                await asyncio.sleep(ASIDE_S)
        finally:
            self._aside = None

    def progress(self) -> None:
        """Tell the server that what is held is being worked on."""
        if self.term is None:
            return
        for activation in self._all():
            for item in activation.queued:
                if item.consumer == self.term.name:
                    self.term.progress(item.handle)

    def sweep(self, now: float, now_ms: int, idle_s: float) -> None:
        """Let entities leave memory that nobody used for a while; end questions out of time."""
        for token, activation in list(self.activations.items()):
            activation.reading.expire(now, now_ms)
            activation.reconsider()
            activation.expire(now)
            if activation.live and activation.idle and now - activation.used >= idle_s:
                self.passivate(token)

    def passivate(self, token: str) -> None:
        """An idle entity leaves memory."""
        activation = self.activations.pop(token)
        activation.live = False
        self.host.load.residents.forget(activation)
        last_words = activation.last_words()
        if last_words is not None:
            self.spawn(last_words)
        activation.part()
        logger.debug(
            "%s leaves memory",
            activation.address,
            extra={"action": "entity.passivated", "address": str(activation.address)},
        )

    # -- what no log can take ---------------------------------------------------------------------
    async def _bury(self, delivery: Delivery, why: str) -> None:
        """A tell whose id can't be: the dead letter is the record, stored before the ack."""
        at = At(self.sharding.generation, delivery.sequence, delivery.time_ns)
        stored = await bury_unaddressed(self.host, delivery, at, why)
        term = self.term
        if stored and term is not None and term.name == delivery.consumer:
            term.ack(delivery.handle)
        if term is not None and term.name == delivery.consumer:
            term.grant(1)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the background; leaving waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
