"""Leave that somebody has to grant: a flow that waits, and breaks where a test says so."""

from __future__ import annotations

from datetime import timedelta

from perdure import Command, Decision, Entity, Event, Failure, Flow, Retry, State, Token, Value


class Leave(State):
    days: int = 0


class Verdict(Value):
    granted: bool
    by: str


class Denied(Failure):
    by: str


class Held(Event):
    days: int


class Granted(Event):
    days: int


class Add(Command[Leave, int]):
    """No flow."""

    days: int


class Apply(Command[Leave, int, Denied]):
    """A flow."""

    days: int
    expires: float = 3600.0


def decide(state: Leave, command: Add) -> Decision[Granted]:
    return command.accept(state.days + command.days, Granted(command.days))


def evolve(state: Leave, event: Held | Granted) -> Leave:
    return state.replace(days=state.days + (event.days if isinstance(event, Granted) else 0))


class World:
    """What is outside of the flows."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        """All that were mailed."""
        self.recalled: int = 0
        """Mails."""
        self.wrong: str = ""
        """What is wrong with the flow's code after its wait."""
        self.cant_recall: bool = False


world = World()
ONCE = Retry(attempts=1)


async def mail(token: Token[Verdict]) -> str:
    """A careless one: it tells the token back."""
    world.tokens.append(str(token))
    return f"asked for {token}"


async def recall() -> None:
    if world.cant_recall:
        raise OSError("no mail today")
    world.recalled += 1


async def applies(flow: Flow[Leave, Held | Granted], command: Apply) -> Decision[Held | Granted]:
    await flow.emit(Held(command.days))
    verdict = flow.deferred("verdict", Verdict, expires=command.expires)
    await flow.step("mail", retry=ONCE).undo(recall).run(mail, verdict.token)
    given = await verdict.within(timedelta(days=9))
    if world.wrong:
        raise ValueError(world.wrong)
    if given is None or not given.granted:
        return command.reject(Denied("nobody" if given is None else given.by))
    return command.accept(flow.state.days + command.days, Granted(command.days))


leave = Entity(Leave(), decide, evolve, flows=[applies])
