"""What the benchmark of a cluster hosts, in processes of their own.

`busy` is the account whose handler takes 5 ms of a core, as an app for `perdure run`. Run as a
program it hosts what its parent wants: `prompt` answers how long a command took to get to its
handler; `idle` are four types, for which nobody has anything to do.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from perdure import Command, Decision, Entity, Event, State, connect
from perdure.deploy.process import collecting_seldom

from .account import Account, Deposit, Deposited, account, evolve
from .child import Parent, run
from .host import settings_of
from .orders import Perdure
from .purse import purse

BUSY_S = 0.005
"""How long the handler computes, in seconds of a core and not of the clock: waiting isn't work."""


def decide_busily(state: Account, command: Deposit) -> Decision[Deposited]:
    """The account's, after some computing."""
    until = time.thread_time() + BUSY_S
    while time.thread_time() < until:
        pass
    return command.accept(state.balance + command.cents, Deposited(command.cents))


busy = Entity(Account(), decide_busily, evolve)


class Prompt(State):
    taken: int = 0


class Take(Command[Prompt, int]):
    """Answered with the nanoseconds from `sent_ns` to the handler's start."""

    sent_ns: int
    """The monotonic clock, which all processes of a machine share."""


class Taken(Event):
    pass


def decide_promptly(state: Prompt, command: Take) -> Decision[Taken]:
    """Looks at a clock, which no handler should: here the clock is the point."""
    return command.accept(time.monotonic_ns() - command.sent_ns, Taken())


def evolve_prompt(state: Prompt, event: Taken) -> Prompt:
    return state.replace(taken=state.taken + 1)


prompt = Entity(Prompt(), decide_promptly, evolve_prompt)


class Idle(State):
    pass


class Idler(State):
    pass


class Nothing(Event):
    pass


class Rest(Command[Idle, None]):
    pass


class RestMore(Command[Idler, None]):
    pass


def decide_idle(state: Idle, command: Rest) -> Decision[Nothing]:
    return command.accept(None)


def decide_idler(state: Idler, command: RestMore) -> Decision[Nothing]:
    return command.accept(None)


def evolve_idle(state: Idle, event: Nothing) -> Idle:
    return state


def evolve_idler(state: Idler, event: Nothing) -> Idler:
    return state


IDLE: tuple[Entity[Any, Any], ...] = (
    account,
    purse,
    Entity(Idle(), decide_idle, evolve_idle),
    Entity(Idler(), decide_idler, evolve_idler),
)


class Hosted(msgspec.Struct, frozen=True):
    """What such a process needs to know."""

    perdure: Perdure
    idle: bool
    """The four types; else `prompt`."""


async def main(parent: Parent, spec: Hosted) -> None:
    """Host until the parent leaves."""
    serving = IDLE if spec.idle else (prompt,)
    with collecting_seldom():
        async with connect(serving=serving, settings=settings_of(spec.perdure)):
            parent.say("ready")
            await parent.leave()


if __name__ == "__main__":
    run(main, Hosted)
