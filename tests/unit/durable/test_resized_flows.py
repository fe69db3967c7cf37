"""Flows that wait, timers and commands for later outlive it that their type is cut anew."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from perdure import (
    Cluster,
    Command,
    Decision,
    Entity,
    Event,
    Flow,
    State,
    Suspended,
    Suspension,
    Token,
    connect,
)
from perdure.deploy.server import EmbeddedServer
from perdure.durable.resizing import InUse, resize
from perdure.streams.subjects import Sharding
from tests.support.server import nats_session, settings_for

IDS = tuple(f"visit-{n}" for n in range(6))
NAP = timedelta(seconds=4)
"""Longer than it takes to begin them all and to stop the runner, on a busy machine too: what ends
before is resized all the same, and its outcome is then read from the log."""


class Visit(State):
    notes: tuple[str, ...] = ()


class Noted(Event):
    text: str


class Note(Command[Visit, int]):
    text: str


class Open(Command[Visit, str]):
    pass


class Nap(Command[Visit, str]):
    pass


def decide(state: Visit, command: Note) -> Decision[Noted]:
    return command.accept(len(state.notes) + 1, Noted(command.text))


def evolve(state: Visit, event: Noted) -> Visit:
    return state.replace(notes=(*state.notes, event.text))


def visit_of(tokens: dict[str, Token[int]]) -> Entity[Visit, Noted]:
    """The type; its tokens get into that dict."""

    async def opens(flow: Flow[Visit, Noted], command: Open) -> Decision[Noted]:
        answer = flow.deferred("answer", int)
        tokens[str(flow.address.id)] = answer.token
        number = await answer
        return command.accept(f"told {number}", Noted(f"answer {number}"))

    async def naps(flow: Flow[Visit, Noted], command: Nap) -> Decision[Noted]:
        await flow.sleep("nap", NAP)
        return command.accept("slept", Noted("awake"))

    return Entity(Visit(), decide, evolve, flows=[opens, naps])


@asynccontextmanager
async def hosting(
    server: EmbeddedServer, namespace: str, visit: Entity[Visit, Noted]
) -> AsyncGenerator[Cluster]:
    async with connect(settings=settings_for(server, namespace), serving=[visit]) as cluster:
        yield cluster


async def begin(cluster: Cluster) -> None:
    """Each of them waits for an answer, for a time, and for a command."""
    at = datetime.now(UTC) + NAP
    for id in IDS:
        visit = cluster.at(Visit, id)
        await visit.tell(Nap(), key="nap")
        await visit.tell(Note("later"), at=at, key="later")
        with pytest.raises(Suspended):
            await visit.ask(Open(), key="open", on_suspend="raise")


async def waiting(cluster: Cluster) -> set[tuple[str, str]]:
    """Whose answers are awaited, as it is listed."""
    listed: list[Suspension] = [flow async for flow in cluster.suspended(Visit)]
    return {(one.address.partition("/")[2], one.key) for one in listed if one.key == "open"}


async def texts(cluster: Cluster, visit: Entity[Visit, Noted], id: str) -> list[str]:
    """What its log says."""
    commits = [commit async for commit in cluster.history(visit, id)]
    return [event.text for commit in commits for event in commit.events]


async def test_they_outlive_it(nats_server: EmbeddedServer, namespace: str) -> None:
    tokens: dict[str, Token[int]] = {}
    visit = visit_of(tokens)
    async with nats_session(nats_server, namespace) as operator:
        async with hosting(nats_server, namespace, visit) as cluster:
            await begin(cluster)
            with pytest.raises(InUse, match="hosts visit"):
                await resize(operator, "visit", 9)
        assert await resize(operator, "visit", 9) == (Sharding(1, 4), Sharding(2, 9))
        async with hosting(nats_server, namespace, visit) as cluster:
            assert await waiting(cluster) == {(id, "open") for id in IDS}
            for n, id in enumerate(IDS[:3]):
                await cluster.resume(tokens[id], n)
                assert await cluster.at(Visit, id).result(Open, "open") == f"told {n}"
            for id in IDS:
                assert await cluster.at(Visit, id).result(Nap, "nap") == "slept"
                assert await cluster.at(Visit, id).result(Note, "later") > 0
        assert await resize(operator, "visit", 2) == (Sharding(2, 9), Sharding(3, 2))
        async with hosting(nats_server, namespace, visit) as cluster:
            assert await waiting(cluster) == {(id, "open") for id in IDS[3:]}
            for n, id in enumerate(IDS):
                await cluster.resume(tokens[id], n)  # some for the second time
                assert await cluster.at(Visit, id).result(Open, "open") == f"told {n}"
                found = await texts(cluster, visit, id)
                assert sorted(found) == [f"answer {n}", "awake", "later"]
            assert await waiting(cluster) == set()
