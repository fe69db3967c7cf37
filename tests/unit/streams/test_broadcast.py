"""Broadcasts on virtual time: whom they tell, how fast, what they wait out, how they go on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest

from perdure import (
    BroadcastProgress,
    ClusterError,
    MailboxFull,
    MalformedMessage,
    PersistenceError,
    RpcClientError,
    RunnerNotRegistered,
    SendTimeout,
    SerializationError,
    Settings,
)
from perdure.entities.address import Address
from perdure.streams import broadcast
from perdure.streams.broadcast import BURST_S, OPEN, RATE, RATE_MAX
from perdure.streams.listing import Listing
from perdure.streams.memory.ids import MemoryIds
from perdure.streams.port import (
    Appended,
    Full,
    NoAck,
    NoStream,
    PublishAnswer,
    Refused,
    Unreachable,
)
from perdure.streams.registration import encode
from tests.bank import Account, Deposit, GetBalance
from tests.unit.durable.peers import virtually
from tests.unit.streams.owner import World

Answers = Callable[[str], PublishAnswer | None]
"""By an id: what the command stream answers; None: it stores."""


def ids(count: int) -> list[str]:
    return [f"a-{n:04}" for n in range(count)]


class Line:
    """The command stream as its callers find it: each publish takes a while, some are refused."""

    def __init__(self, world: World, *, within_s: float = 0.0) -> None:
        self._real: Any = world.session.commands
        self._chance, self._within_s = random.Random(7), within_s
        self.says: Answers = lambda _: None
        self.begun: list[tuple[float, str]] = []
        self.stored: list[str] = []
        self.open = self.most = 0
        self.holds = False
        session: Any = world.session
        session.commands = self

    async def publish(
        self, address: Address, data: bytes, headers: Mapping[str, str] | None = None
    ) -> PublishAnswer:
        self.begun.append((now(), address.id))
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await asyncio.sleep(self._chance.uniform(0, self._within_s))
            while self.holds:  # noqa: ASYNC110 (in virtual time)
                await asyncio.sleep(0.01)
            answer = self.says(address.id)
            if answer is None or isinstance(answer, NoAck):
                stored: PublishAnswer = await self._real.publish(address, data, headers)
                self.stored.append(address.id)
                return answer or stored
            return answer
        finally:
            self.open -= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def now() -> float:
    return asyncio.get_running_loop().time()


class Place:
    """A type with entities, a command stream, and what a broadcast told of itself."""

    def __init__(self, world: World, count: int, line: Line) -> None:
        self.world, self.ids, self.line = world, ids(count), line
        self.told: list[BroadcastProgress] = []

    async def tell(self, **more: Any) -> int:
        given: dict[str, Any] = {"rate": RATE_MAX, "on_progress": self.told.append, **more}
        return await self.world.cluster.broadcast(Account, Deposit(5), **given)

    async def keys(self) -> dict[str | None, int]:
        """How many tells are stored under each key."""
        found: dict[str | None, int] = {}
        for envelope in await self.world.tells():
            found[envelope.key] = found.get(envelope.key, 0) + 1
        return found


async def place(count: int, *, within_s: float = 0.0, **settings: Any) -> Place:
    world = await World.hosted(settings=Settings(**settings))
    for start in range(0, count, 10):
        page = encode(ids(count)[start : start + 10])
        added = await world.session.ids.add("account", f"p-{start}", page, whole=False)
        assert isinstance(added, Appended)
    return Place(world, count, Line(world, within_s=within_s))


# -- whom it tells ------------------------------------------------------------------------------
@virtually
async def test_each_listed_entity_is_told_under_the_key() -> None:
    p = await place(25)
    assert await p.tell(key="gift-1") == 25
    assert p.line.stored == p.ids
    assert await p.keys() == {"gift-1": 25}
    first, *_, last = p.told
    assert first == BroadcastProgress(key="gift-1", told=0, place="0.0")
    assert (last.key, last.told) == ("gift-1", 25)
    assert await p.tell(key="gift-1", after=last.place) == 0


@virtually
async def test_without_a_key_it_makes_one_and_tells_it_before_anybody_is_told() -> None:
    p = await place(3)

    def seen(progress: BroadcastProgress) -> None:
        assert p.told or not p.line.begun
        p.told.append(progress)

    await p.tell(on_progress=seen)
    (key,) = {progress.key for progress in p.told}
    assert await p.keys() == {key: 3}
    await p.tell()
    assert len(await p.keys()) == 2


@virtually
async def test_a_prefix_chooses_and_the_last_place_is_behind_what_it_left_out() -> None:
    p = await place(25)
    assert await p.tell(prefix="a-000") == 10
    assert p.line.stored == p.ids[:10]
    assert await p.tell(key=p.told[-1].key, after=p.told[-1].place) == 0


@virtually
async def test_a_type_without_entities() -> None:
    p = await place(0)
    assert await p.tell(key="k") == 0
    assert [progress.told for progress in p.told] == [0, 0]


class Other(Account, tag="account"):
    pass


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"key": "not a key"}, "not an idempotency key"),
        ({"key": 5}, "not an idempotency key"),
        ({"after": "x", "key": "k"}, "isn't the place"),
        ({"after": "1.0"}, "without the key"),
        ({"prefix": 5}, "isn't text"),
        ({"rate": 0}, "rate=0 isn't"),
        ({"rate": -1.0}, "rate=-1.0 isn't"),
        ({"rate": RATE_MAX * 1.01}, "isn't more than 0 and up to 100000 a second"),
        ({"rate": float("nan")}, "rate=nan isn't"),
        ({"rate": True}, "rate=True isn't"),
        ({"rate": "5"}, "rate='5' isn't"),
    ],
)
@virtually
async def test_what_makes_no_sense_is_refused(changes: dict[str, Any], why: str) -> None:
    p = await place(2)
    with pytest.raises(MalformedMessage, match=why) as caught:
        await p.tell(**changes)
    assert not caught.value.may_have_taken_effect
    assert (p.line.begun, p.told) == ([], [])


@virtually
async def test_queries_and_other_entities_commands_are_refused() -> None:
    p = await place(2)
    cluster: Any = p.world.cluster
    for of, command, why in (
        (Account, GetBalance(), "a query is asked with query"),
        (Other, Deposit(5), "Deposit"),
        (Account, Account(), "neither a Command nor a Query"),
        ("account", Deposit(5), "broadcast takes the state's class"),
    ):
        with pytest.raises(MalformedMessage, match=why):
            await cluster.broadcast(of, command)
    with pytest.raises(MalformedMessage, match="cents"):
        await cluster.broadcast(Account, Deposit("5"))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(MalformedMessage, match=r"has no place 99\.0") as caught:
        await p.tell(key="k", after="99.0")
    assert (caught.value.key, caught.value.may_have_taken_effect) == ("k", False)
    assert p.line.begun == []


# -- how fast -----------------------------------------------------------------------------------
@pytest.mark.parametrize("rate", [RATE, 40.0, 0.5])
@virtually
async def test_the_rate_is_kept_over_any_time(rate: float) -> None:
    p = await place(60, within_s=0.2)
    began = now()
    await p.tell(rate=rate)
    burst = 1 + rate * BURST_S
    assert (60 - burst) / rate <= now() - began <= 60 / rate + 5
    times = [at for at, _ in p.line.begun]
    for n, start in enumerate(times):
        within = sum(start <= at < start + 1 for at in times[n:])
        assert within <= rate + burst + 1e-6


@virtually
async def test_what_was_missed_is_not_made_up_for() -> None:
    p = await place(200)
    p.line.holds = True
    telling = asyncio.create_task(p.tell(rate=100))
    await asyncio.sleep(20)
    p.line.holds = False
    goes_on = now()
    await telling
    late = [at for at, _ in p.line.begun if at >= goes_on]
    assert len(late) == 200 - OPEN
    assert late[-1] - late[0] >= (len(late) - 1) / 100 - BURST_S - 0.02


@virtually
async def test_few_are_on_their_way_at_once() -> None:
    p = await place(300, within_s=5.0)
    assert await p.tell() == 300
    assert p.line.most == OPEN


# -- the place ----------------------------------------------------------------------------------
@virtually
async def test_a_place_is_told_only_when_all_before_it_are_stored() -> None:
    p = await place(300, within_s=3.0)
    checked = 0

    def seen(progress: BroadcastProgress) -> None:
        nonlocal checked
        assert set(p.ids[: progress.told]) <= set(p.line.stored)
        checked += len(p.line.stored) > progress.told  # some are stored behind it
        p.told.append(progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broadcast, "REPORT_S", 0.0)
        await p.tell(on_progress=seen)
    assert checked > 20
    assert p.line.stored != p.ids  # in any order
    for progress in p.told[::17]:
        rest = [id async for id in p.world.cluster.ids(Account, after=progress.place)]
        assert rest == p.ids[progress.told :]


@virtually
async def test_progress_comes_every_second() -> None:
    p = await place(100)
    times: list[float] = []

    def seen(progress: BroadcastProgress) -> None:
        times.append(now())

    await p.tell(rate=10, on_progress=seen)
    gaps = [b - a for a, b in pairwise(times)]
    assert len(gaps) >= 8
    assert all(1.0 <= gap <= 1.2 for gap in gaps[:-1])


@virtually
async def test_cancelled_in_the_middle_and_gone_on_with() -> None:
    p = await place(300, within_s=1.0)
    telling = asyncio.create_task(p.tell(key="gift-1"))
    await asyncio.sleep(2.5)
    reports = len(p.told)
    telling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await telling
    assert len(p.told) == reports + 1
    last, begun = p.told[-1], len(p.line.begun)
    assert 0 < last.told < 300
    await asyncio.sleep(10)
    assert (len(p.line.begun), p.line.open) == (begun, 0)  # nothing goes on by itself
    assert await p.tell(key=last.key, after=last.place) == 300 - last.told
    assert set(p.line.stored) == set(p.ids)
    assert set(await p.keys()) == {"gift-1"}


@virtually
async def test_what_on_progress_raises_ends_it() -> None:
    p = await place(300, within_s=1.0)

    def seen(progress: BroadcastProgress) -> None:
        p.told.append(progress)
        if progress.told:
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        await p.tell(on_progress=seen)
    assert (len(p.told), p.line.open) == (2, 0)


# -- what it waits out, and what ends it ----------------------------------------------------------
@virtually
async def test_a_full_mailbox_is_waited_out() -> None:
    p = await place(100)
    p.line.says = lambda id: Full() if id == "a-0007" and now() < 20 else None
    telling = asyncio.create_task(p.tell())
    await asyncio.sleep(19)
    assert set(p.line.stored) == {*p.ids[:7], *p.ids[8 : 7 + OPEN]}  # neighbours don't wait
    assert max(progress.told for progress in p.told) <= 7
    assert await telling == 100
    assert sorted(p.line.stored) == p.ids
    assert 20 <= now() < 23
    tries = [at for at, id in p.line.begun if id == "a-0007"]
    assert len(tries) < 60  # three of a tell in 0.1 s, then rarer and rarer


@pytest.mark.parametrize(
    ("answer", "kind", "for_s"),
    [
        (Full(), MailboxFull, 30),
        (NoAck("lost"), SendTimeout, 30),
        (NoStream(), RunnerNotRegistered, 30),
        (Refused(10077, "no space"), PersistenceError, 0),
    ],
)
@virtually
async def test_what_stays_so_ends_it_and_says_how_to_go_on(
    answer: PublishAnswer, kind: type[ClusterError], for_s: float
) -> None:
    p = await place(100)
    await p.world.owner.stop()  # nobody tells that the type has a stream
    p.line.says = lambda id: answer if id == "a-0007" else None
    began = now()
    with pytest.raises(kind) as caught:
        await p.tell(key="gift-1")
    error, last = caught.value, p.told[-1]
    assert (error.address, error.key) == ("account/a-0007", "gift-1")
    assert error.may_have_taken_effect  # on others
    assert last.told == 7
    told = f"the broadcast told 7 before; go on with after={last.place!r}"
    assert (error.cause or "").endswith(told)
    assert max(0, for_s - 2) <= now() - began <= for_s + 1
    neighbours = set(p.line.stored) - {"a-0007"}
    assert len(neighbours) == (OPEN - 1 + 7 if for_s else 7)
    p.line.says = lambda id: None
    assert await p.tell(key="gift-1", after=last.place) == 93
    assert set(p.line.stored) == set(p.ids)


@virtually
async def test_where_nobody_was_told_the_error_says_no_more_than_a_tells() -> None:
    p = await place(1, ask_timeout=2)
    p.line.says = lambda id: Full()
    with pytest.raises(MailboxFull) as caught:
        await p.tell(key="k")
    assert not caught.value.may_have_taken_effect
    p = await place(1, ask_timeout=2)
    p.line.says = lambda id: NoAck("lost") if len(p.line.begun) == 1 else Full()
    with pytest.raises(MailboxFull) as caught:
        await p.tell(key="k")
    assert caught.value.may_have_taken_effect  # an earlier try may be stored


@virtually
async def test_what_an_earlier_try_may_have_stored_is_told_with_whatever_ends_it() -> None:
    p = await place(1)
    p.line.says = lambda id: NoAck("lost") if now() < 5 else Refused(10077, "no space")
    with pytest.raises(PersistenceError) as caught:
        await p.tell(key="k")
    assert caught.value.may_have_taken_effect


@virtually
async def test_a_tell_that_is_out_while_the_registry_fails_may_have_taken_effect() -> None:
    p = await place(1)
    p.line.holds = True
    real = Listing.__anext__

    async def fails(listing: Listing) -> str:
        await asyncio.sleep(0.1)
        if p.line.open:
            raise SerializationError(cause="of a newer release", may_have_taken_effect=False)
        return await real(listing)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Listing, "__anext__", fails)
        with pytest.raises(SerializationError) as caught:
            await p.tell(key="k")
    assert p.told[-1].told == 0
    assert caught.value.may_have_taken_effect


class Registry:
    """The registry, unreachable as often as it is told."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch) -> None:
        self.away_until = 0.0
        real = MemoryIds.read

        async def read(ids: MemoryIds, *args: Any, **more: Any) -> Any:
            if now() < self.away_until:
                raise Unreachable("no leader")
            found = await real(ids, *args, **more)
            return found[:1]

        patch.setattr(MemoryIds, "read", read)


@virtually
async def test_an_unreachable_registry_is_waited_out() -> None:
    p = await place(100)
    with pytest.MonkeyPatch.context() as patch:
        registry = Registry(p.world, patch)
        telling = asyncio.create_task(p.tell(rate=20))
        await asyncio.sleep(1)
        registry.away_until = now() + 20
        assert await telling == 100
    assert p.line.stored == p.ids
    assert now() > 20


@virtually
async def test_a_registry_that_stays_unreachable_ends_it() -> None:
    p = await place(100)
    with pytest.MonkeyPatch.context() as patch:
        registry = Registry(p.world, patch)
        telling = asyncio.create_task(p.tell(rate=20, key="k"))
        await asyncio.sleep(1)
        registry.away_until = now() + 1000
        with pytest.raises(RpcClientError, match=r"no leader; the broadcast told .* go on") as e:
            await telling
    assert (e.value.key, e.value.may_have_taken_effect) == ("k", True)
    assert now() < 40
    last = p.told[-1]
    assert last.told == len(p.line.stored) > 0
    assert await p.tell(key="k", after=last.place) == 100 - last.told


@virtually
async def test_a_client_that_is_closed_tells_nobody_any_more() -> None:
    p = await place(300, within_s=1.0)
    telling = asyncio.create_task(p.tell(rate=100, key="k"))
    await asyncio.sleep(1)
    closed = now()
    await p.world.cluster.close()
    with pytest.raises(RpcClientError, match="closed") as caught:
        await telling
    assert now() - closed < 1
    assert caught.value.key == "k"
    assert p.told[-1].told > 0


@virtually
async def test_a_client_that_is_closed_waits_for_no_registry() -> None:
    p = await place(100)
    with pytest.MonkeyPatch.context() as patch:
        registry = Registry(p.world, patch)
        telling = asyncio.create_task(p.tell(rate=20))
        await asyncio.sleep(1)
        registry.away_until = now() + 1000
        await asyncio.sleep(5)
        closed = now()
        await p.world.cluster.close()
        with pytest.raises(RpcClientError):
            await telling
        assert now() - closed < 3
