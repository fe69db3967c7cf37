"""The retry budget: a few repeats are free, repeats in masses are not."""

from __future__ import annotations

import asyncio

import pytest

from perdure import MailboxFull, SendTimeout, Settings
from perdure.streams.budget import MOST, PER_CALL, PER_S, Budget
from tests.bank import Account, Balance, Deposit
from tests.unit.streams.owner import World, error, reply
from tests.unit.streams.virtual import run

FIVE = Balance(5)


def drain(budget: Budget, now: float = 0.0) -> int:
    """How many repeats may go out at that moment."""
    count = 0
    while budget.take(now):
        count += 1
    return count


def test_it_is_full_at_first_and_holds_no_more() -> None:
    budget = Budget()
    for _ in range(10_000):
        budget.call()
    assert drain(budget, now=1e6) == MOST
    assert repr(budget) == "Budget(0 of 500)"


def test_calls_and_time_fill_it() -> None:
    budget = Budget()
    drain(budget)
    for _ in range(100):
        budget.call()
    assert drain(budget) == pytest.approx(100 * PER_CALL, abs=1)
    assert drain(budget, now=2.0) == pytest.approx(2 * PER_S, abs=1)
    assert drain(budget, now=1.0) == 0, "a clock that steps back gives nothing"


def test_a_lasting_load_repeats_a_fraction() -> None:
    """A thousand calls a second, each of which would be repeated."""
    budget, repeats = Budget(), 0
    for n in range(20_000):
        budget.call()
        repeats += budget.take(n / 1_000)
    assert repeats == pytest.approx(MOST + 20_000 * PER_CALL + 20 * PER_S, rel=0.01)


def test_what_comes_back_was_spent_before() -> None:
    budget = Budget()
    budget.give()
    assert drain(budget) == MOST
    budget.give()
    assert drain(budget) == 1


# -- in calls ---------------------------------------------------------------------------------
def test_many_silent_calls_repeat_no_more_than_the_budget() -> None:
    calls = 3_000

    async def main() -> None:
        world = await World.hosted()
        a1 = world.cluster.at(Account, "a-1")
        outcomes = await asyncio.gather(
            *(a1.ask(Deposit(5), timeout=4) for _ in range(calls)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {SendTimeout}
        repeats = len(world.owner.asked) - calls
        assert MOST < repeats <= MOST + PER_CALL * calls + PER_S * 4
        early = [asked for asked in world.owner.asked if asked.at < 0.4]
        assert len(early) - calls >= MOST, "the first of them at once"

    run(main())


def test_a_few_silent_calls_repeat_as_ever() -> None:
    async def main() -> None:
        world = await World.hosted()
        a1 = world.cluster.at(Account, "a-1")
        outcomes = await asyncio.gather(
            *(a1.ask(Deposit(5), timeout=4) for _ in range(50)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {SendTimeout}
        assert len(world.owner.asked) == 50 * 5

    run(main())


def test_a_repeat_that_was_put_off_still_finds_its_answer() -> None:
    async def main() -> None:
        world = await World.hosted(lambda n, asked: None if asked.at < 2 else reply(FIVE))
        a1 = world.cluster.at(Account, "a-1")
        got = await asyncio.gather(*(a1.ask(Deposit(5)) for _ in range(2_000)))
        assert got == [FIVE] * 2_000
        assert max(asked.at for asked in world.owner.asked) < 5

    run(main())


def test_who_finds_nobody_pays_nothing() -> None:
    """The server's word, or another runner's: no owner is overloaded by that."""
    calls = 2 * int(MOST)

    async def main() -> None:
        world = await World.hosted()
        a1 = world.cluster.at(Account, "a-1")
        world.owner.says = lambda n, asked: reply(FIVE)
        await a1.ask(Deposit(5))
        await world.owner.stop()
        await world.owner.start_info()
        asked = [asyncio.ensure_future(a1.ask(Deposit(5))) for _ in range(calls)]
        await asyncio.sleep(1)
        await world.owner.start_asks()
        began = asyncio.get_running_loop().time()
        assert await asyncio.gather(*asked) == [FIVE] * calls
        assert asyncio.get_running_loop().time() - began < 0.5

    run(main())


def test_refusals_in_masses_are_told_at_once() -> None:
    """As long as there is a token, MailboxFull is tried again, up to three times."""
    calls = 2_000

    async def main() -> None:
        full = error(MailboxFull(capacity=100, may_have_taken_effect=False))
        world = await World.hosted(full, Settings())
        a1 = world.cluster.at(Account, "a-1")
        outcomes = await asyncio.gather(
            *(a1.ask(Deposit(5)) for _ in range(calls)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {MailboxFull}
        assert len(world.owner.asked) <= calls + MOST + PER_CALL * calls + PER_S
        few = await World.hosted(full, Settings())
        with pytest.raises(MailboxFull):
            await few.cluster.at(Account, "a-1").ask(Deposit(5))
        assert len(few.owner.asked) == 3

    run(main())
