"""A bank account, for all tests: deposit, withdraw, balance, and a withdrawal to be approved."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeAlias

from perdure import Command, Decision, Entity, Event, Failure, Flow, Query, State, Token, Value


# What it is
class Account(State):
    balance: int = 0
    held: int = 0


# What it may refuse
class InsufficientFunds(Failure):
    balance: int
    wanted: int


class NotApproved(Failure):
    by: str | None


# What it is asked, what it answers
class Balance(Value):
    cents: int


class Deposit(Command[Account, Balance]):
    cents: int


class Withdraw(Command[Account, Balance, InsufficientFunds]):
    cents: int


class WithdrawLarge(Command[Account, Balance, InsufficientFunds | NotApproved]):
    cents: int


class GetBalance(Query[Account, Balance]):
    pass


# What happened
class Deposited(Event):
    cents: int


class Withdrawn(Event):
    cents: int


class Held(Event):
    cents: int


class Released(Event):
    cents: int


AccountCommand: TypeAlias = Deposit | Withdraw | GetBalance
AccountEvent: TypeAlias = Deposited | Withdrawn | Held | Released


def decide(state: Account, command: AccountCommand) -> Decision[AccountEvent]:
    match command:
        case GetBalance():
            return command.answer(Balance(state.balance))
        case Deposit(cents):
            return command.accept(Balance(state.balance + cents), Deposited(cents))
        case Withdraw(cents) if cents > state.balance:
            return command.reject(InsufficientFunds(state.balance, cents))
        case Withdraw(cents):
            return command.accept(Balance(state.balance - cents), Withdrawn(cents))


def evolve(state: Account, event: AccountEvent) -> Account:
    match event:
        case Deposited(cents):
            return state.replace(balance=state.balance + cents)
        case Withdrawn(cents):
            return state.replace(balance=state.balance - cents)
        case Held(cents):
            return state.replace(balance=state.balance - cents, held=state.held + cents)
        case Released(cents):
            return state.replace(balance=state.balance + cents, held=state.held - cents)


# What takes a day: a `decide` that may wait
class Verdict(Value):
    approved: bool
    by: str


async def mail_approver(token: Token[Verdict], cents: int, *, idempotency_key: str) -> None:
    print(f"approve {cents}? https://bank.example/approvals/{token} ({idempotency_key})")


async def withdraw_large(
    flow: Flow[Account, AccountEvent], command: WithdrawLarge
) -> Decision[AccountEvent]:
    cents = command.cents
    if cents > flow.state.balance:
        return command.reject(InsufficientFunds(flow.state.balance, cents))
    await flow.emit(Held(cents))
    approval = flow.deferred("approval", Verdict)
    mail = flow.step("mail approver")
    await mail.run(mail_approver, approval.token, cents, idempotency_key=mail.key)
    verdict = await approval.within(timedelta(hours=24))
    if verdict is None or not verdict.approved:
        await flow.emit(Released(cents))
        return command.reject(NotApproved(by=verdict.by if verdict else None))
    return command.accept(Balance(flow.state.balance), Released(cents), Withdrawn(cents))


account = Entity(Account(), decide, evolve, flows=[withdraw_large])
