"""What runners count, by what really happens to them; in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from perdure import Decision, Entity, Flow, RpcClientError, SendTimeout, Settings
from perdure.durable.connect import opened
from perdure.durable.runner import Runner
from perdure.durable.stats import TypeStats
from perdure.entities.address import Address
from perdure.entities.retry import Retry
from perdure.streams.asks import raw
from perdure.streams.client import Cluster
from perdure.streams.codec import digest
from perdure.streams.commit import Outcome, seal, unseal
from perdure.streams.connect import open_session
from perdure.streams.port import Appended, Delivery, Session

from ...support.server import PATIENCE_S
from .case import Case, Note, Noted, Open, decide, evolve
from .keeper import Add, Keeper, keeper


class Watched:
    """A runner, a caller and a session of somebody else."""

    def __init__(self, runner: Runner, cluster: Cluster, other: Session) -> None:
        self.runner, self.cluster, self.other = runner, cluster, other

    async def until(self, wanted: Callable[[TypeStats], bool]) -> TypeStats:
        """The statistics of its type once they are so."""
        async with asyncio.timeout(PATIENCE_S):
            while not wanted(found := self.runner.stats().types[0]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return found

    async def counted(self, *answered: tuple[str, str, str, int]) -> None:
        """Wait until so much was answered, and nothing else."""

        def so(type: TypeStats) -> bool:
            return {(a.way, a.result, a.tag, a.count) for a in type.counts.commands} == {*answered}

        await self.until(so)


@asynccontextmanager
async def watched(name: str, entity: Entity[Any, Any], **changes: Any) -> AsyncGenerator[Watched]:
    settings = Settings(url=f"memory:{name}", shards=2, **changes)
    runners: list[Runner] = []
    async with opened(serving=[entity], settings=settings, on_runner=runners.append) as cluster:
        other = await open_session(settings, name="other")
        yield Watched(runners[0], cluster, other)
        await other.close()


async def test_a_fencing() -> None:
    async with watched("fencing", keeper) as at:
        a = at.cluster.at(Keeper, "a")
        assert await a.ask(Add(1)) == 1
        assert (await at.until(lambda type: type.entities == 1)).counts.fenced == 0
        address = Address("keeper", "a")
        last = await at.other.log.last(address)
        assert last is not None
        before = unseal(last)
        assert before is not None
        outcome = Outcome(name="k", payload_hash="0" * 32, reply=raw(0))
        theirs = msgspec.structs.replace(
            before, id="theirs", prev=digest(last.data), runner="other", outcomes=(outcome,)
        )
        stored = await at.other.log.append(address, seal(theirs), expected=last.sequence)
        assert isinstance(stored, Appended)
        assert await a.ask(Add(1)) == 2
        found = await at.until(lambda type: type.counts.fenced == 1)
        assert found.counts.activated == 2  # folded again
        await at.counted(("ask", "reply", "", 2))


async def test_a_gap_ends_a_term_and_another_begins() -> None:
    async with watched("gap", keeper) as at:
        await at.until(lambda type: type.counts.terms == 2)
        (hosted,) = vars(at.runner)["_hosted"]
        term = hosted.shards[0].term
        term.deliver(Delivery(term.name, 99, 99, 0, "a", b"{}", None, ""))
        found = await at.until(lambda type: type.counts.terms == 3)
        assert found.counts.ended == {"gap": 1}


async def test_errors_by_their_tag() -> None:
    async with watched("errors", keeper) as at:
        asks, subject = at.other.asks, at.other.subjects.ask("keeper", "a")
        for _ in range(2):
            answer = await asks.request(subject, b'{"type": "unknown"}', timeout_s=5)
            assert b"MalformedMessage" in answer.data
        with pytest.raises(SendTimeout):
            await at.cluster.at(Keeper, "a").result(Add, "never", timeout=0.3)
        await at.counted(
            ("ask", "error", "MalformedMessage", 2), ("control", "error", "SendTimeout", 1)
        )


async def test_batches_by_their_size() -> None:
    async with watched("batches", keeper, appends="batch") as at:
        refs = [at.cluster.at(Keeper, f"e-{n}") for n in range(20)]
        for _ in range(2):  # the first time each is registered before
            await asyncio.gather(*(ref.ask(Add(1)) for ref in refs))
        found = await at.until(lambda type: type.single + type.batched == 40)
        counts = found.counts
        assert counts.in_batches == found.batched > 0
        assert sum(counts.batch_sizes) == found.batches > 0
        assert counts.batch_sizes[0] == 0  # one alone is no batch


async def test_a_parked_flow() -> None:
    async def mistaken(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        flow.deferred("answer", int)
        await flow.step("sent").run(asyncio.sleep, 0)  # stored, so it isn't as if it never was
        raise ValueError("a mistake")

    broken = Entity(Case(), decide, evolve, flows=[mistaken])
    async with watched("parked", broken, defect_retry=Retry(attempts=1)) as at:
        c = at.cluster.at(Case, "c")
        with pytest.raises(RpcClientError, match="the flow is parked"):
            await c.ask(Open(), key="k", timeout=5)
        found = await at.until(lambda type: type.counts.parked == 1)
        assert (found.flows, found.parked) == (1, 1)
        assert await c.ask(Note("others go on")) == 1
