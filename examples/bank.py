# bank.py: complete; `python bank.py` runs it in memory, without a server
import asyncio

from perdure import Command, Decision, Entity, Event, Failure, State, connect


class Account(State):  # what it is
    balance: int = 0


class InsufficientFunds(Failure):  # what it may refuse
    balance: int


class Deposit(Command[Account, int]):  # whom it asks, what comes back,
    cents: int


class Withdraw(Command[Account, int, InsufficientFunds]):  # and how it may be refused
    cents: int


class Deposited(Event):  # what happened
    cents: int


class Withdrawn(Event):
    cents: int


def decide(state: Account, command: Deposit | Withdraw) -> Decision[Deposited | Withdrawn]:
    match command:
        case Deposit(cents):
            return command.accept(state.balance + cents, Deposited(cents))
        case Withdraw(cents) if cents > state.balance:
            return command.reject(InsufficientFunds(state.balance))
        case Withdraw(cents):
            return command.accept(state.balance - cents, Withdrawn(cents))


def evolve(state: Account, event: Deposited | Withdrawn) -> Account:
    match event:
        case Deposited(cents):
            return state.replace(balance=state.balance + cents)
        case Withdrawn(cents):
            return state.replace(balance=state.balance - cents)


account = Entity(Account(), decide, evolve)


async def main() -> None:
    async with connect("memory:", serving=[account]) as cluster:
        a1 = cluster.at(Account, "a-1")
        print(await a1.ask(Deposit(700)))  # 700
        print(await a1.ask(Withdraw(500), key="order-17"))  # 200
        print(await a1.ask(Withdraw(500), key="order-17"))  # 200: same key, same outcome


if __name__ == "__main__":
    asyncio.run(main())
