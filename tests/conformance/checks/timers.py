"""Timers: armed, given at their time, to one of those who relay."""

from __future__ import annotations

from perdure.entities.address import Address
from perdure.streams.port import Firing, Relay, Session

from ..backend import TYPE, Backend, address, until

SOON_MS = 250
"""After which a timer fires here, in milliseconds."""


class Taken:
    """What one who relays was given."""

    def __init__(self) -> None:
        self.firings: list[Firing] = []
        self.lost: list[str] = []
        self.relay: Relay

    @property
    def texts(self) -> list[str]:
        """What they carry, in the order of arrival."""
        return [firing.data.decode() for firing in self.firings]


async def _relaying(session: Session, credit: int) -> Taken:
    taken = Taken()
    taken.relay = await session.schedules.relay(taken.firings.append, taken.lost.append)
    taken.relay.grant(credit)
    return taken


async def _armed(session: Session, timer: str, due_ms: int, id: str = "a-1") -> None:
    assert await session.schedules.arm(address(id), timer, due_ms, timer.encode())


async def _session(backend: Backend) -> Session:
    session = await backend.session()
    await session.provision(TYPE)
    await session.schedules.provision()
    return session


async def a_timer_fires_at_its_time_and_not_before(backend: Backend) -> None:
    session = await _session(backend)
    taken = await _relaying(session, 10)
    due_ms = session.schedules.now_ms() + SOON_MS
    await _armed(session, "t", due_ms, "a b")
    await until(backend, lambda: bool(taken.firings), "a firing")
    await session.schedules.measure()
    assert session.schedules.now_ms() >= due_ms
    (firing,) = taken.firings
    assert (firing.entity, firing.token, firing.data) == (TYPE, "a=20b", b"t")


async def what_is_due_already_fires_at_once(backend: Backend) -> None:
    session = await _session(backend)
    await _armed(session, "past", session.schedules.now_ms() - 3_600_000)
    await _armed(session, "epoch", 1)
    taken = await _relaying(session, 10)
    await until(backend, lambda: len(taken.firings) == 2, "both firings")


async def the_far_future_is_no_reason_to_fire(backend: Backend) -> None:
    session = await _session(backend)
    taken = await _relaying(session, 10)
    await _armed(session, "y5000", 95_617_584_000_000)
    await _armed(session, "beyond-all-dates", 10**15)
    await _armed(session, "soon", session.schedules.now_ms() + SOON_MS)
    await until(backend, lambda: bool(taken.firings), "a firing")
    assert taken.texts == ["soon"]


async def a_disarmed_timer_never_fires(backend: Backend) -> None:
    session = await _session(backend)
    taken = await _relaying(session, 10)
    due_ms = session.schedules.now_ms() + SOON_MS
    await _armed(session, "first", due_ms)
    await _armed(session, "second", due_ms + SOON_MS)
    await session.schedules.disarm(address(), "first")
    await session.schedules.disarm(address(), "unknown")
    await until(backend, lambda: bool(taken.firings), "a firing")
    assert taken.texts == ["second"]


async def a_firing_waits_for_credit(backend: Backend) -> None:
    session = await _session(backend)
    taken = await _relaying(session, 1)
    now_ms = session.schedules.now_ms()
    await _armed(session, "one", now_ms)
    await until(backend, lambda: bool(taken.firings), "a firing")
    await _armed(session, "two", now_ms)
    other = await _relaying(await _session(backend), 1)
    await until(backend, lambda: bool(other.firings), "the other's")
    assert (taken.texts, other.texts) == (["one"], ["two"])
    await _armed(session, "three", now_ms)
    taken.relay.ack(taken.firings[0].handle)
    taken.relay.grant(1)
    await until(backend, lambda: len(taken.firings) == 2, "the next")
    assert (taken.texts, other.texts) == (["one", "three"], ["two"])


async def each_firing_goes_to_one_of_those_who_relay(backend: Backend) -> None:
    session = await _session(backend)
    one, two = await _relaying(session, 20), await _relaying(await _session(backend), 20)
    now_ms = session.schedules.now_ms()
    wanted = [f"t{n}" for n in range(20)]
    for timer in wanted:
        await _armed(session, timer, now_ms)
    await until(backend, lambda: len(one.firings) + len(two.firings) >= 20, "all firings")
    assert sorted(one.texts + two.texts) == sorted(wanted)


async def who_stopped_is_given_nothing(backend: Backend) -> None:
    session = await _session(backend)
    one = await _relaying(session, 10)
    await one.relay.stop()
    await _armed(session, "t", session.schedules.now_ms())
    two = await _relaying(await _session(backend), 10)
    await until(backend, lambda: bool(two.firings), "a firing")
    assert one.texts == []


async def without_a_connection_nothing_is_armed(backend: Backend) -> None:
    session = await _session(backend)
    taken = await _relaying(session, 10)
    now_ms = session.schedules.now_ms()
    async with backend.offline(session):
        assert not await session.schedules.arm(address(), "lost", now_ms, b"lost")
    await until(backend, lambda: bool(taken.lost), "on_lost")
    again = await _relaying(session, 10)
    await _armed(session, "kept", now_ms)
    await until(backend, lambda: bool(again.firings), "a firing")
    assert again.texts == ["kept"]


async def _listed(session: Session, after: int = 0) -> list[tuple[str, bytes]]:
    """Whose timers wait, and what they carry, read page by page."""
    found: list[tuple[str, bytes]] = []
    while page := await session.schedules.pending(TYPE, after=after):
        assert [pending.place for pending in page] == sorted({p.place for p in page})
        assert page[0].place > after
        found += [(pending.token, pending.data) for pending in page]
        after = page[-1].place
    return found


async def those_that_wait_are_listed_in_the_order_of_their_arming(backend: Backend) -> None:
    session = await _session(backend)
    assert await _listed(session) == []
    far_ms = session.schedules.now_ms() + 3_600_000
    for n in range(130):
        await _armed(session, f"t{n}", far_ms, f"a {n}")
    await _armed(session, "t3", far_ms + 1, "a 3")
    await session.schedules.disarm(address("a 5"), "t5")
    assert await session.schedules.arm(Address("other", "x"), "t", far_ms, b"another type's")
    order = [n for n in range(130) if n not in (3, 5)] + [3]
    assert await _listed(session) == [(f"a=20{n}", b"t%d" % n) for n in order]


async def one_that_has_fired_waits_no_more(backend: Backend) -> None:
    session = await _session(backend)
    await _armed(session, "soon", session.schedules.now_ms() + SOON_MS)
    await _armed(session, "far", session.schedules.now_ms() + 3_600_000)
    taken = await _relaying(session, 10)
    await until(backend, lambda: bool(taken.firings), "a firing")
    assert await _listed(session) == [("a-1", b"far")]
