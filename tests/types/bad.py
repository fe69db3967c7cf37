"""Planted mistakes: each line with a mark must be an error in mypy strict and in pyright strict.

test_types.py holds both to it; the repository's own runs leave this file out. The marks are the
names of the mistakes; a number that is missing belongs to a call that doesn't exist yet.
"""

# pyright: reportUnusedVariable=false, reportUnusedFunction=false, reportUnusedClass=false
# pyright: reportMatchNotExhaustive=false
# (strict's last rule reports E16 a second time, on the `match`)
# ruff: noqa: F841
# fmt: off
from __future__ import annotations

from datetime import timedelta
from typing import assert_never

import perdure as p
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
    mail_approver,
)


class Order(p.State):
    total: int = 0


class Place(p.Command[Order, int]):
    total: int


class Shipped(p.Event):
    pass


class Plain(Exception):
    pass


class Bad1(p.Command[Account, int, Plain]):  # E1 an error type that isn't a Failure
    pass


class Bad2(p.Command[int, int]):  # E2 the first parameter isn't a State
    pass


def frozen(
    command: Withdraw, event: Deposited, failure: InsufficientFunds, state: Account
) -> None:
    command.cents = 6  # E3 a command is frozen
    event.cents = 6  # E4 an event is frozen
    failure.wanted = 6  # E5 a failure is frozen
    state.balance = 6  # E6 state is frozen
    Withdraw("500")  # E7 wrong field type
    Withdraw()  # E8 missing field
    InsufficientFunds(1)  # E9 missing field of a failure


def decisions(state: Account, command: Withdraw, query: GetBalance) -> p.Decision[AccountEvent]:
    if state.balance == 1:
        return command.accept("oops", Withdrawn(1))  # E10 wrong reply
    if state.balance == 2:
        return command.reject(NotApproved(by=None))  # E11 undeclared failure
    if state.balance == 3:
        return command.accept(Balance(1), Balance(2))  # E12 not an event
    if state.balance == 4:
        return command.accept(Balance(1), Shipped())  # E13 another entity's event
    if state.balance == 5:
        return query.answer(Balance(1), Deposited(1))  # E14 a query can't emit
    return Balance(1)  # E15 the reply alone isn't a decision


Some = Deposit | Withdraw


def forgot_one(state: Account, command: Some) -> p.Decision[AccountEvent]:  # E16 one is forgotten
    match command:
        case Deposit(cents):
            return command.accept(Balance(cents), Deposited(cents))


def not_all_events(state: Account, event: Deposited | Withdrawn) -> Account:
    return state


p.Entity(Account(), decide, not_all_events)  # E17 evolve doesn't take every event
p.Entity(Order(), decide, evolve)  # E18 the first state of another entity


async def calls(cluster: p.Cluster) -> None:
    a1 = cluster.at(Account, "a-1")
    await a1.ask(Place(5))  # E19 another entity's command
    n: str = await a1.ask(Deposit(5))  # E20 wrong reply type
    await a1.tell(GetBalance())  # E21 a query can't be told
    await a1.ask(GetBalance())  # E22 a query isn't asked
    await a1.query(Withdraw(5))  # E23 a command isn't queried
    cluster.at("account", "a-1")  # E24 a name isn't a State
    m: str = await a1.result(Withdraw, "order-17")  # E25 wrong reply type
    match await a1.outcome(Withdraw(5)):
        case Balance():
            pass
        case _ as other:
            assert_never(other)  # E26 a failure was forgotten
    s: Order = await a1.state()  # E27 wrong state
    await cluster.broadcast(Account, Place(5))  # E28 another entity's command


async def flow_mistakes(
    flow: p.Flow[Account, AccountEvent], command: WithdrawLarge
) -> p.Decision[AccountEvent]:
    approval = flow.deferred("approval", Verdict)
    mail, token = flow.step("mail"), approval.token
    await mail.run(mail_approver, token, "5", idempotency_key="k")  # E31 wrong argument
    await mail.run(mail_approver, token, 5)  # E32 missing argument
    await flow.emit(Shipped())  # E33 another entity's event
    verdict = await approval.within(timedelta(hours=24))
    print(verdict.approved)  # E34 None when the time has passed
    await flow.at(Account, "b-2").ask(Place(5))  # E35 another entity's command
    mail.run(mail_approver, token, 5, idempotency_key="k")  # E36 not awaited
    return command.accept(Balance(flow.state.balance))


async def not_a_decision(flow: p.Flow[Account, AccountEvent], command: WithdrawLarge) -> int:
    return 1


async def other_flow(flow: p.Flow[Order, Shipped], command: Place) -> p.Decision[Shipped]:
    return command.accept(1, Shipped())


p.Entity(Account(), decide, evolve, flows=[not_a_decision])  # E37 a flow returns a decision
p.Entity(Account(), decide, evolve, flows=[other_flow])  # E38 another entity's flow


def errors(error: p.ClusterError) -> str:
    match error.reason:
        case p.MailboxFull(capacity=capacity):
            return str(capacity)
        case p.AlreadyProcessingMessage() | p.EntityNotAssignedToRunner() | p.MalformedMessage():
            return ""
        case p.PersistenceError() | p.RunnerNotRegistered() | p.RunnerUnavailable():
            return ""
        case p.SendTimeout() | p.RpcClientError() | p.SerializationError():
            return ""
        case _ as never:
            assert_never(never)  # E39 Suspended was forgotten


def text(error: p.ClusterError) -> str:
    return error.tag


def some(error: p.ClusterError) -> str:
    return p.handle_error(  # E40 on_suspended is missing
        error,
        on_already_processing_message=text,
        on_entity_not_assigned_to_runner=text,
        on_mailbox_full=text,
        on_malformed_message=text,
        on_persistence_error=text,
        on_runner_not_registered=text,
        on_runner_unavailable=text,
        on_send_timeout=text,
        on_rpc_client_error=text,
        on_serialization_error=text,
    )


def testing() -> None:
    p.given(account).when(Withdraw(200)).accepts("300", Withdrawn(200))  # E41 wrong reply
    p.given(account, Shipped())  # E42 another entity's event
    p.given(account).when(Withdraw(9)).rejects(NotApproved(by=None))  # E43 undeclared failure


def not_ours(state: Account, command: int) -> p.Decision[AccountEvent]:
    raise NotImplementedError


p.Entity(Account(), not_ours, evolve)  # E44 decide takes what isn't a command
p.MailboxFull("account/a-1")  # E45 the fields of an error are named


def wants_wrong(state: Account, command: Deposit, context: int) -> p.Decision[Deposited]:
    return command.accept(Balance(context), Deposited(command.cents))


p.Entity(Account(), wants_wrong, evolve)  # E46 the third parameter isn't a Context


async def more(cluster: p.Cluster) -> None:
    p.Settings(shards="4")  # E47 wrong type of a setting
    p.Retry(tries=4)  # E48 no such field
    async for commit in cluster.history(account, "a-1"):
        events: tuple[Shipped, ...] = commit.events  # E49 another entity's events
    p.IdempotencyKey(5)  # E50 a key is text
    cluster.at(Account, 5)  # E51 an id is text or a snowflake
    p.given(account).query(Deposit(5))  # E52 a command isn't queried
    p.Entity(Account(), decide, evolve, label=["gpu"])  # E53 a label is one text
    await cluster.broadcast(Account, GetBalance())  # E54 a query can't be broadcast
    await cluster.broadcast(Account, Deposit(5), on_progress=len)  # E55 it takes progress
    await cluster.signal(Deposit(5))  # E56 a command isn't a signal
    cluster.signals(Deposit)  # E57 nor is its class
