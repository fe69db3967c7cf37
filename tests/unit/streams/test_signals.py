"""Signals: who hears them, what is lost, and what is refused; in memory and on a real server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest

from perdure import (
    Cluster,
    MalformedMessage,
    RpcClientError,
    Settings,
    Signal,
    Signals,
    State,
    connect,
    memory,
)
from perdure.deploy.server import EmbeddedServer
from perdure.streams.signals import KEPT, KEPT_BYTES

from ...support.server import PATIENCE_S, settings_for
from ..deploy.counter import Add, Counter, counter


class PricesChanged(Signal[Counter]):
    version: int


class Flushed(Signal[Counter]):
    pass


class AlsoFlushed(Signal[Counter], tag="flushed"):
    pass


class Other(State):
    pass


class OtherSignal(Signal[Other]):
    pass


class Open(Signal[Counter]):
    what: Any


Connects = Callable[..., AbstractAsyncContextManager[Cluster]]


@pytest.fixture(params=["memory", "nats"])
def connects(request: pytest.FixtureRequest, namespace: str) -> Connects:
    """Makes connections to one cluster; `serving` is given where one hosts."""
    if request.param == "memory":
        return partial(connect, settings=Settings(url=f"memory:{namespace}"))
    server: EmbeddedServer = request.getfixturevalue("nats_server")
    return partial(connect, settings=settings_for(server, namespace))


async def take(signals: Signals[Any], count: int) -> list[Any]:
    """The next few."""
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(signals) for _ in range(count)]


async def test_every_runner_that_hosts_the_type_hears_it_in_order(connects: Connects) -> None:
    async with (
        connects(serving=[counter]) as one,
        connects(serving=[counter]) as two,
        connects() as caller,
        one.signals(PricesChanged) as first,
        two.signals(Flushed, PricesChanged) as second,
        two.signals(Flushed) as third,
    ):
        told: list[Any] = [PricesChanged(0), PricesChanged(1), PricesChanged(2)]
        for signal in (*told, Flushed()):
            await caller.signal(signal)
        await one.signal(PricesChanged(9))
        # The order holds for one sender.
        for signals, heard in ((first, told), (second, [*told, Flushed()])):
            both = await take(signals, len(heard) + 1)
            assert [x for x in both if x != PricesChanged(9)] == heard
            assert PricesChanged(9) in both
        assert await take(third, 1) == [Flushed()]
        assert (first.dropped, second.dropped, third.dropped) == (0, 0, 0)


async def test_what_is_not_decodable_is_ignored(connects: Connects) -> None:
    async with connects(serving=[counter]) as host, host.signals(PricesChanged) as signals:
        session = host._caller.session  # pyright: ignore[reportPrivateUsage]
        for data in (
            b"",
            b"{}",
            b"[]",
            b"\xff",
            b'{"version":1}',
            b'{"type":"prices_changed"}',
            b'{"type":"prices_changed","version":"1"}',
            b'{"type":"flushed"}',
            b"[" * 100_000,
            b'{"type":"prices_changed","version":1,"more":"%b"}' % (b"x" * 600_000),
        ):
            session.asks.send(session.subjects.signal("counter"), data)
        await host.signal(PricesChanged(2))
        assert await take(signals, 1) == [PricesChanged(2)]


async def test_who_is_slow_loses_the_oldest(
    connects: Connects, caplog: pytest.LogCaptureFixture
) -> None:
    async with connects(serving=[counter]) as host, connects() as caller:
        with caplog.at_level(logging.WARNING, "perdure.signals"):
            async with host.signals(PricesChanged) as signals:
                for version in range(KEPT + 10):
                    await caller.signal(PricesChanged(version))
                async with asyncio.timeout(PATIENCE_S):
                    while signals.dropped < 10:  # noqa: ASYNC110 (no event: it isn't taken)
                        await asyncio.sleep(0.01)
                assert repr(signals) == f"<Signals of counter: {KEPT} wait, 10 dropped>"
                assert await take(signals, KEPT) == [PricesChanged(v + 10) for v in range(KEPT)]
    told = [getattr(record, "action", "") for record in caplog.records]
    assert told == ["signal.dropped"]


async def test_few_large_ones_wait(connects: Connects) -> None:
    async with connects(serving=[counter]) as host, host.signals(Open) as signals:
        for _ in range(20):
            await host.signal(Open("x" * 500_000))
        await host.signal(Open("last"))
        kept = KEPT_BYTES // 500_000
        async with asyncio.timeout(PATIENCE_S):
            while signals.dropped < 20 - kept:  # noqa: ASYNC110 (no event: it isn't taken)
                await asyncio.sleep(0.01)
        assert await take(signals, kept + 1) == [*[Open("x" * 500_000)] * kept, Open("last")]
        assert signals.dropped == 20 - kept


async def test_the_loop_ends_with_its_block_and_with_the_cluster(connects: Connects) -> None:
    async with connects(serving=[counter]) as host:
        async with host.signals(Flushed) as signals:
            await host.signal(Flushed())
            assert await take(signals, 1) == [Flushed()]
        assert [x async for x in signals] == []
        last = host.signals(Flushed)
        await last.__aenter__()
        heard = asyncio.create_task(collected(last))
    async with asyncio.timeout(PATIENCE_S):
        assert await heard == []
    await last.__aexit__(None, None, None)
    with pytest.raises(RpcClientError) as closed:
        await host.signal(Flushed())
    assert not closed.value.may_have_taken_effect
    with pytest.raises(RpcClientError):
        await host.signals(Flushed).__aenter__()


async def collected(signals: Signals[Any]) -> list[Any]:
    """All until the end."""
    return [signal async for signal in signals]


async def test_a_test_cluster_hears_them_over_a_crash() -> None:
    async with memory(counter) as cluster, cluster.signals(PricesChanged) as signals:
        await cluster.signal(PricesChanged(1))
        await cluster.crash()
        await cluster.signal(PricesChanged(2))
        assert await take(signals, 2) == [PricesChanged(1), PricesChanged(2)]


@pytest.mark.parametrize(
    ("signal", "told"),
    [
        (Add(1), "signal: Add isn't the class of a signal"),
        (Flushed, "signal takes a signal, not the class Flushed"),
        (PricesChanged("x"), "prices_changed: signal: Expected `int`"),  # type: ignore[arg-type]
        (Open(object()), "signal open: "),
        (Open("x" * 600_000), "bytes, allowed are 524288"),
    ],
)
async def test_what_is_no_signal_is_refused(signal: Any, told: str) -> None:
    async with memory(counter) as cluster:
        with pytest.raises(MalformedMessage) as refused:
            await cluster.signal(signal)
        assert told in (refused.value.cause or "")
        assert len(refused.value.cause or "") <= 200


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        ((), "signals takes classes for one entity type, not none"),
        ((Flushed, OtherSignal), "signals takes classes for one entity type, not counter, other"),
        ((Flushed, AlsoFlushed), "signals: Flushed and AlsoFlushed have the same tag 'flushed'"),
        ((Add,), "signal: Add isn't the class of a signal"),
        ((OtherSignal,), "signals: no runner hosts other here; connect with serving=[...]"),
    ],
)
async def test_what_cannot_be_heard_is_refused(classes: tuple[Any, ...], told: str) -> None:
    async with memory(counter) as cluster:
        with pytest.raises(MalformedMessage) as refused:
            cluster.signals(*classes)
        assert refused.value.cause == told


async def test_a_mere_client_hears_none(connects: Connects) -> None:
    async with connects() as caller:
        with pytest.raises(MalformedMessage, match="connect with serving"):
            caller.signals(Flushed)
        await caller.signal(Flushed())  # nobody is there
