"""The walk along a command stream: only what nobody can be given is taken out of it."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Settings
from perdure.durable import undelivered
from perdure.durable.host import Host, Load
from perdure.durable.residents import Residents
from perdure.durable.term import Term
from perdure.durable.undelivered import AGE_S, Undelivered
from perdure.streams.commands import TermName
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.memory.session import MemorySession
from perdure.streams.port import Incompatible
from tests.bank import account

HIDDEN = "perdure.to.account.a\x7fb"
OTHERWISE = "perdure.to.account.a=2e"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_790_000_000.0

    def now_ns(self) -> int:
        return int(self.now_s * 1e9)


class Stream:
    """A command stream, and a walk along it that is a minute late."""

    def __init__(self, session: MemorySession, clock: Clock, broker: MemoryBroker) -> None:
        self.session, self.clock, self.broker = session, clock, broker
        host = Host(session, account, session.settings, "r", Load(10, Residents(10**6, 10**12)))
        self.walk = Undelivered(host, broker.provision(session.settings, "account"))
        self.term = term(1)

    def publish(self, *subjects: str) -> None:
        for subject in subjects:
            self.broker.publish_foreign(subject, b"{}")

    async def look(self) -> bool:
        self.clock.now_s += AGE_S
        return await self.walk.look(self.term)

    @property
    def left(self) -> int:
        return self.broker.waiting("account")

    @property
    def letters(self) -> list[str]:
        return [letter.token for letter in self.broker.dead_letters()]


def term(number: int) -> Term:
    return Term(TermName(1, 0, number, "n"), 0, lambda delivery, suspect: None)


@pytest.fixture
async def stream() -> Stream:
    clock = Clock()
    settings = Settings(url="memory:", shards=4)
    broker = MemoryBroker(clock, settings)
    return Stream(broker.session(), clock, broker)


async def test_what_no_id_has_is_buried_and_removed(stream: Stream) -> None:
    valid = [f"perdure.to.account.{token}" for token in ("a", "caf=C3=A9", "=7F")]
    stream.publish(HIDDEN, *valid, OTHERWISE, HIDDEN)
    assert not await stream.look()
    assert (stream.left, stream.letters) == (3, ["=", "=", "="])
    stream.publish(HIDDEN)
    assert not await stream.look()
    assert (stream.left, len(stream.letters)) == (3, 4)


async def test_what_is_young_may_be_on_its_way(stream: Stream) -> None:
    stream.publish(HIDDEN)
    stream.clock.now_s += AGE_S - 1
    assert not await stream.walk.look(stream.term)
    assert (stream.left, stream.letters) == (1, [])


async def test_what_is_not_buried_stays(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object) -> bool:
        return False

    stream.publish(HIDDEN)
    with monkeypatch.context() as patch:
        patch.setattr(stream.session.dead, "put_raw", full)
        assert not await stream.look()
        assert stream.left == 1
    assert not await stream.look()
    assert stream.left == 0


async def test_nothing_is_removed_under_a_term_that_ended(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_raw = stream.session.dead.put_raw

    async def ending(entity: str, token: str, data: bytes) -> bool:
        stream.term.end("reconnected")
        return await put_raw(entity, token, data)

    stream.publish(HIDDEN)
    monkeypatch.setattr(stream.session.dead, "put_raw", ending)
    assert not await stream.look()
    assert stream.left == 1


async def test_a_new_term_begins_anew(stream: Stream) -> None:
    """The stream was set back: what was walked over may be another tell now."""
    stream.publish("perdure.to.account.a")
    await stream.look()
    stream.broker.rewind("account", 0)
    stream.publish(HIDDEN)
    await stream.look()
    assert stream.left == 1, "not looked at twice in a term"
    stream.term = term(2)
    await stream.look()
    assert stream.left == 0


@pytest.mark.parametrize(("name", "bound"), [("TELLS", 2), ("TELL_BYTES", 4)])
async def test_a_look_is_bounded(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, name: str, bound: int
) -> None:
    monkeypatch.setattr(undelivered, name, bound)
    stream.publish(*["perdure.to.account.a"] * 3, HIDDEN)
    assert await stream.look()
    assert stream.left == 4
    assert await asyncio.wait_for(stream.look(), 1)
    assert stream.left == 3
    assert not await stream.look()


async def test_what_may_not_be_removed_is_said_and_passed_by(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def kept(*_: object) -> None:
        raise Incompatible("its messages can't be deleted")

    stream.publish(HIDDEN, "perdure.to.account.a")
    monkeypatch.setattr(stream.session.commands, "remove", kept)
    assert not await stream.look()
    assert not await stream.look()
    assert (stream.left, stream.letters) == (2, ["="]), "buried once in a term"
    assert "can't be deleted" in caplog.text
