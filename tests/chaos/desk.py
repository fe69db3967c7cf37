"""The entity of the flow loads: desks, where things wait for an approval or for a time.

What its steps do outside is one line each in a folder that all runners share, written at once, as
the process may be killed: so a test knows which tokens were handed out, and who was about to do
what.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec

from perdure import Command, Decision, Entity, Event, Flow, State, Token


class Desk(State):
    n: int = 0


class Done(Event):
    what: str


class Approve(Command[Desk, str]):
    """Waits for a value. A `fatal` one kills its process once, right after it got that."""

    name: str
    text: str = ""
    fatal: bool = False


class Nap(Command[Desk, int]):
    """Waits for a time."""

    seconds: float


class Look(Command[Desk, int]):
    pass


def decide(state: Desk, command: Look) -> Decision[Done]:
    return command.accept(state.n)


def evolve(state: Desk, event: Done) -> Desk:
    return Desk(state.n + 1)


def outside() -> Path:
    """Where steps leave something."""
    return Path(os.environ["CHAOS_OUTSIDE"])


class Handed(msgspec.Struct, frozen=True):
    """What a step handed out."""

    name: str
    key: str
    token: str


def handed_out(folder: Path) -> dict[str, Token[int]]:
    """The tokens by the flows' names. A step that ran again after a crash gave the same one, under
    the same key."""
    file, found = folder / "tokens", dict[str, Handed]()
    for line in file.read_bytes().splitlines() if file.exists() else ():
        handed = msgspec.json.decode(line, type=Handed)
        assert found.setdefault(handed.name, handed) == handed
    return {name: Token(handed.token) for name, handed in found.items()}


async def hand_out(token: Token[int], name: str, key: str) -> None:
    """Give the token to somebody outside."""
    line = msgspec.json.encode(Handed(name, key, str(token))) + b"\n"
    file = os.open(outside() / "tokens", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)


async def book(value: int, name: str, fatal: bool) -> int:
    """Do what was approved. A fatal one does nothing but to end its process, the first time."""
    if fatal:
        try:
            (outside() / f"killed-{name}").touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return value


async def approve(flow: Flow[Desk, Done], command: Approve) -> Decision[Done]:
    answer = flow.deferred("answer", int)
    hand = flow.step("hand out")
    await hand.run(hand_out, answer.token, command.name, hand.key)
    value = await answer
    booked = await flow.step("book").run(book, value, command.name, command.fatal)
    return command.accept(f"{booked} for {len(command.text)}", Done("approved"))


async def nap(flow: Flow[Desk, Done], command: Nap) -> Decision[Done]:
    await flow.sleep("nap", command.seconds)
    await flow.emit(Done("woken"))
    return command.accept(flow.state.n)


desk = Entity(Desk(), decide, evolve, flows=[approve, nap])
