"""Calls that can't be made: each gets its tagged error, and nothing is sent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure import MalformedMessage, Settings, State
from tests.bank import Account, Balance, Deposit, GetBalance, account
from tests.unit.streams.owner import World, reply
from tests.unit.streams.virtual import run

FIVE = Balance(5)


class NoMessage(msgspec.Struct):
    """Not a message at all."""


class Order(State):
    """Another entity's."""


@pytest.mark.parametrize("id", ["", "x" * 256, "é" * 128, "\ud800", 7, None, b"a"])
def test_an_id_that_cant_be_one(id: Any) -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        a1 = world.cluster.at(Account, id)
        for call in (
            a1.ask(Deposit(5)),
            a1.tell(Deposit(5)),
            a1.query(GetBalance()),
            a1.result(Deposit, "k"),
            a1.status(),
            a1.state(),
        ):
            with pytest.raises(MalformedMessage) as caught:
                await call
            assert not caught.value.may_have_taken_effect
            assert caught.value.request_id
        assert world.owner.asked == []
        assert await world.tells() == []

    run(main())


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, "a.b", "a\r\nNats-Msg-Id: 1", 7, b"k"])
def test_a_key_that_cant_be_one(key: Any) -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        a1 = world.cluster.at(Account, "a-1")
        for call in (
            a1.ask(Deposit(5), key=key),
            a1.outcome(Deposit(5), key=key),
            a1.tell(Deposit(5), key=key),
            a1.result(Deposit, key),
        ):
            with pytest.raises(MalformedMessage, match="not an idempotency key"):
                await call
        assert world.owner.asked == []

    run(main())


@pytest.mark.parametrize(
    "command",
    [
        Deposit("five"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        Deposit(object()),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        Deposit(10**5000),
        GetBalance(),
        NoMessage(),
        5,
        None,
        Deposit,
    ],
    ids=range(8),
)
def test_a_command_that_cant_be_sent(command: Any) -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        a1: Any = world.cluster.at(Account, "a-1")
        for call in (a1.ask(command), a1.outcome(command), a1.tell(command)):
            with pytest.raises(MalformedMessage) as caught:
                await call
            assert caught.value.cause
        assert world.owner.asked == []
        assert await world.tells() == []

    run(main())


def test_a_command_of_another_entity_is_refused() -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        elsewhere: Any = world.cluster.at(Order, "o-1")
        with pytest.raises(MalformedMessage, match="Deposit"):
            await elsewhere.ask(Deposit(5))

    run(main())


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "soon", "5"])
def test_a_timeout_that_cant_be_one(timeout: Any) -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        a1 = world.cluster.at(Account, "a-1")
        for call in (
            a1.ask(Deposit(5), timeout=timeout),
            a1.query(GetBalance(), timeout=timeout),
            a1.result(Deposit, "k", timeout=timeout),
        ):
            with pytest.raises(MalformedMessage, match="timeout"):
                await call
        assert world.owner.asked == []

    run(main())


@pytest.mark.parametrize("id", [5, None, b"x"])
def test_an_id_that_is_no_text_is_shown(id: Any) -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        with pytest.raises(MalformedMessage) as caught:
            await world.cluster.at(Account, id).ask(Deposit(5))
        assert caught.value.cause == f"not an id: {id!r} (a str or a Snowflake)"

    run(main())


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (account, ": Account"),
        (Account(), ": Account"),
        ("account", ", not 'account'"),
        (int, ", not <class 'int'>"),
    ],
)
def test_at_takes_the_states_class(of: Any, says: str) -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        with pytest.raises(MalformedMessage, match=f"^at takes the state's class{says}"):
            world.cluster.at(of, "a-1")

    run(main())


@pytest.mark.parametrize("way", ["history", "watch"])
def test_history_takes_the_entity_and_a_version(way: str) -> None:
    async def main() -> None:
        world = await World.hosted(reply(FIVE))
        read: Any = getattr(world.cluster, way)
        for of, shown in ((Account, "Account"), ("account", "account"), (None, "None")):
            says = rf"^{way} takes the entity that Entity\(...\) made, not {shown}"
            with pytest.raises(MalformedMessage, match=says):
                read(of, "a-1")
        for after in (-5, "5", None, 1.0):
            with pytest.raises(MalformedMessage, match=f"{way}: after={after!r} isn't a version"):
                read(account, "a-1", after=after)

    run(main())


def test_a_large_payload_is_refused_before_it_is_sent() -> None:
    async def main() -> None:
        settings = Settings(max_payload_bytes=1024)
        world = await World.hosted(reply(FIVE), settings)
        a1: Any = world.cluster.at(Account, "a-1")
        with pytest.raises(MalformedMessage, match="allowed are 1024"):
            await a1.ask(Deposit(int("9" * 1100)))
        assert world.owner.asked == []

    run(main())
