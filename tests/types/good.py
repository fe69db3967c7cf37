"""What must not be refused: callers as they are written, in mypy strict and pyright strict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from typing_extensions import TypeVar

import perdure
from perdure import (
    Address,
    BroadcastProgress,
    Cluster,
    ClusterError,
    Command,
    Context,
    Decision,
    Entity,
    EntityStatus,
    Flow,
    IdempotencyKey,
    Ref,
    Retry,
    Settings,
    Signal,
    Signals,
    Singleton,
    Snowflake,
    State,
    given,
)
from tests.bank import (
    Account,
    AccountEvent,
    Balance,
    Deposit,
    Deposited,
    GetBalance,
    InsufficientFunds,
    NotApproved,
    Verdict,
    Withdraw,
    WithdrawLarge,
    Withdrawn,
    account,
    decide,
    evolve,
    withdraw_large,
)

S = TypeVar("S", bound=State)
R = TypeVar("R")


# -- a service -----------------------------------------------------------------------------------
@asynccontextmanager
async def lifespan() -> AsyncGenerator[dict[str, Cluster]]:
    async with perdure.connect() as cluster:
        yield {"cluster": cluster}


async def withdraw(cluster: Cluster, id: str, cents: int, key: str) -> int:
    match await cluster.at(Account, id).outcome(Withdraw(cents), key=key):
        case Balance(cents=left):
            return left
        case InsufficientFunds(balance=left):
            raise LookupError(f"only {left} left")


# -- errors: all three ways ----------------------------------------------------------------------
def status(error: ClusterError) -> int:
    return perdure.handle_error(
        error,
        on_already_processing_message=lambda e: 409,
        on_entity_not_assigned_to_runner=lambda e: 503,
        on_mailbox_full=lambda e: 429,
        on_malformed_message=lambda e: 400,
        on_persistence_error=lambda e: 503,
        on_runner_not_registered=lambda e: 503,
        on_runner_unavailable=lambda e: 503,
        on_send_timeout=lambda e: 504,
        on_suspended=lambda e: 202,
        on_rpc_client_error=lambda e: 502,
        on_serialization_error=lambda e: 500,
    )


async def pay(cluster: Cluster) -> str:
    a1 = cluster.at(Account, "a-1")
    try:
        assert_type(await a1.ask(Withdraw(500), key="order-17"), Balance)
    except InsufficientFunds as failure:
        return f"{failure.balance} of {failure.wanted}"
    except perdure.Suspended as error:
        return f"waiting for {error.waits_for}"
    except ClusterError as error:
        return f"{error.tag}, try again: {error.advice}, {status(error)}"
    assert_type(await a1.query(GetBalance(), fresh=True), Balance)
    assert_type(await a1.outcome(WithdrawLarge(5)), Balance | InsufficientFunds | NotApproved)
    assert_type(await a1.result(WithdrawLarge, "order-17"), Balance)
    assert_type(await a1.tell(Deposit(5)), IdempotencyKey)
    assert_type(await a1.state(version=3), Account)
    assert_type(await a1.is_local(), bool)
    assert_type(a1.address, Address)
    assert_type(await a1.status(), EntityStatus)
    return (await a1.status()).status


def reasons(error: ClusterError) -> int:
    match error.reason:
        case perdure.MailboxFull(capacity=capacity):
            return capacity or 0
        case perdure.SendTimeout(after_s=after_s):
            return int(after_s or 0)
        case _:
            return int(error.may_have_taken_effect)


# -- singletons ----------------------------------------------------------------------------------
async def sweep(singleton: Singleton) -> None:
    assert_type(singleton.term, int)
    assert_type(singleton.held(), bool)


async def sweeping(cluster: Cluster) -> None:
    assert_type(await cluster.singleton("sweep", sweep), None)


# -- history -------------------------------------------------------------------------------------
async def total(cluster: Cluster) -> int:
    cents = 0
    async for commit in cluster.history(account, "a-1", after=3):
        for event in commit.events:
            assert_type(event, AccountEvent)
            cents += event.cents
    async for id in cluster.ids(Account, prefix="a-", after=""):
        assert_type(id, str)
    async for commit in cluster.watch(account, "a-1"):
        assert_type(commit.at, datetime)
        return cents
    return cents


# -- signals -------------------------------------------------------------------------------------
class PricesChanged(Signal[Account]):
    version: int


class Flushed(Signal[Account], tag="cache_flushed"):
    pass


async def hearing(cluster: Cluster) -> int:
    assert_type(await cluster.signal(PricesChanged(7)), None)
    async with cluster.signals(PricesChanged) as prices:
        assert_type(prices, Signals[PricesChanged])
        async for changed in prices:
            assert_type(changed.version, int)
            return prices.dropped
    both: Signals[PricesChanged | Flushed] = cluster.signals(PricesChanged, Flushed)
    async with both as signals:
        async for signal in signals:
            match signal:
                case PricesChanged(version):
                    return version
                case Flushed():
                    return 0
    return 0


# -- broadcasts ----------------------------------------------------------------------------------
async def pay_all(cluster: Cluster, places: list[str]) -> int:
    def seen(progress: BroadcastProgress) -> None:
        assert_type(progress.told, int)
        places.append(progress.place)

    assert_type(await cluster.broadcast(Account, Deposit(5)), int)
    return await cluster.broadcast(
        Account, Deposit(5), key="gift-1", prefix="a-", rate=50, after="", on_progress=seen
    )


# -- contexts wider than the reply, narrow flows, helpers -----------------------------------------
async def wider(cluster: Cluster, flow: Flow[Account]) -> object:
    a1, a2 = cluster.at(Account, "a-1"), cluster.at(Account, str(Snowflake(7)))
    a3 = cluster.at(Account, Snowflake.new())
    print(await a1.ask(Deposit(5)), await a1.query(GetBalance()), await a1.result(Withdraw, "k"))
    maybe: Balance | None = await a3.ask(Deposit(5), timeout=timedelta(seconds=5))
    data: dict[str, object] = {"maybe": maybe, "now": await a1.outcome(Withdraw(5))}
    assert_type(
        await asyncio.gather(a1.ask(Deposit(5)), a2.outcome(Withdraw(5))),
        tuple[Balance, Balance | InsufficientFunds],
    )
    either: Deposit | Withdraw = Deposit(5) if data else Withdraw(5)
    assert_type(await a1.ask(either), Balance)
    assert_type(await twice(a1, Withdraw(5)), Balance)
    assert_type(await flow.at(Account, "b-2").ask(Deposit(5)).within(60), Balance | None)
    assert_type(
        await flow.first(flow.deferred("a", Verdict | int), flow.sleep("s", 5)),
        Verdict | int | None,
    )
    print(await flow.first(flow.deferred("b", Verdict), flow.sleep("t", 5)))
    return await a1.ask(Deposit(5))


async def twice(ref: Ref[S], command: Command[S, R, Any]) -> R:
    await ref.ask(command)
    return await ref.ask(command)


# -- flows ---------------------------------------------------------------------------------------
class Close(Command[Account, None]):
    pass


async def close(flow: Flow[Account], command: Close) -> Decision:
    await flow.sleep("cooling off", timedelta(days=14))
    return command.accept(None)


class Empty(Command[Account, None]):
    pass


async def empty(flow: Flow[Account, Withdrawn], command: Empty) -> Decision[Withdrawn]:
    await flow.emit(Withdrawn(flow.state.balance))
    step = flow.step("pay", retry=Retry(attempts=9)).undo(unpay, "x")
    assert_type(await step.run(unpay, "x"), int)
    async with flow.exclusive():
        outcome = await flow.at(Account, "b-2").outcome(Withdraw(5))
        assert_type(outcome, Balance | InsufficientFunds)
    return command.accept(None, Withdrawn(0))


async def unpay(what: str) -> int:
    return len(what)


other = Entity(Account(), decide, evolve, flows=[close, empty, withdraw_large])


# -- what else a `decide` may be ------------------------------------------------------------------
def dated(state: Account, command: Deposit, context: Context) -> Decision[Deposited]:
    if context.now.tzinfo is UTC and context.key is None:
        return command.accept(Balance(context.version))
    return command.accept(Balance(context.version), Deposited(command.cents))


def never(state: Account, query: GetBalance) -> Decision:
    return query.answer(Balance(state.replace(held=0).balance))


with_context = Entity(Account(), dated, evolve)
only_queries = Entity(Account(), never, evolve, revision=2)
placed = Entity(Account(), dated, evolve, label="gpu")
assert_type(placed.label, str | None)


# -- settings and the test kit -------------------------------------------------------------------
settings = Settings(ask_timeout=timedelta(seconds=5), passivate_after=30, shards=4)
loaded = Settings.load(environ={}, shards=8)


def test_withdrawals() -> None:
    given(account, Deposited(500)).when(Withdraw(200)).accepts(Balance(300), Withdrawn(200))
    given(account, Deposited(100)).when(Withdraw(200)).rejects(InsufficientFunds(100, 200))
    assert_type(given(account).query(GetBalance()), Balance)
