"""A flow that goes on elsewhere sees at each line what that line saw first, whatever came since.

Each runner hosts the same entity, whose flow notes what it sees, by runner and run. Between its
waits others change the entity a thousand times, and the runner that had the flow dies, so each
time the whole flow is run again by one that never saw the entity as it was.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from perdure import Command, Decision, Entity, Event, Flow, State, Token
from perdure.streams.commit import unseal

from .peers import now, until, virtually
from .runners import Runners, runners

COMMANDS = 1_000
"""Of others, between two waits."""
NAP_S = 30.0
MODULUS = 1_000_003
AT_ONCE = 50


class Shelf(State):
    n: int = 0
    digest: int = 0
    last: str = ""


class Put(Command[Shelf, int]):
    what: str


class Count(Command[Shelf, str]):
    pass


class Came(Event):
    what: str


def decide(state: Shelf, command: Put) -> Decision[Came]:
    return command.accept(state.n + 1, Came(command.what))


def evolve(state: Shelf, event: Came) -> Shelf:
    digest = (state.digest * 31 + sum(event.what.encode())) % MODULUS
    return Shelf(state.n + 1, digest, event.what)


@dataclass
class Run:
    """One run of the flow's code: what it saw, line by line."""

    runner: str
    seen: list[tuple[str, Shelf]] = field(default_factory=list[tuple[str, Shelf]])


@dataclass
class Watch:
    """All runs, and what the steps did outside."""

    runs: list[Run] = field(default_factory=list[Run])
    tokens: dict[str, Token[int]] = field(default_factory=dict[str, Token[int]])
    steps: list[str] = field(default_factory=list[str])

    async def note(self, line: str, state: Shelf) -> Shelf:
        self.steps.append(line)
        return state

    async def hand_out(self, name: str, token: Token[int]) -> None:
        self.tokens[name] = token


def shelf_of(watch: Watch, runner: str) -> Entity[Shelf, Came]:
    """The entity as this runner hosts it."""

    async def count(flow: Flow[Shelf, Came], command: Count) -> Decision[Came]:
        run = Run(runner)
        watch.runs.append(run)

        async def see(line: str) -> None:
            """Note it outside at each run, and by a step, which the log has from the first."""
            run.seen.append((line, flow.state))
            first = await flow.step(f"see {line}").run(watch.note, line, flow.state)
            assert first == flow.state, f"{line}: {flow.state}, and {first} the first time"

        async def wait(name: str) -> int:
            answer = flow.deferred(name, int)
            await flow.step(f"hand out {name}").run(watch.hand_out, name, answer.token)
            await see(f"before {name}")
            return await answer

        await see("begin")
        assert await flow.emit(Came("counting"), Came("begins")) == flow.state
        await see("emitted")
        numbers = [await wait("one")]
        await see("after one")
        await flow.emit(Came("one"))
        await see("emitted again")
        await flow.sleep("nap", NAP_S)
        await see("after the nap")
        numbers.append(await wait("two"))
        await see("after two")
        await flow.emit(Came("two"))
        await see("end")
        return command.accept(f"{numbers} {flow.state.last}", Came("counted"))

    return Entity(Shelf(), decide, evolve, flows=[count])


LINES = (
    *("begin", "emitted", "before one", "after one", "emitted again"),
    *("after the nap", "before two", "after two", "end"),
)


async def others(r: Runners, name: str) -> None:
    """A thousand commands of others take effect meanwhile."""
    ref = r.cluster.at(Shelf, "s")
    before = (await ref.state()).n
    for begin in range(0, COMMANDS, AT_ONCE):
        puts = (ref.ask(Put(f"{name} {n}")) for n in range(begin, begin + AT_ONCE))
        await asyncio.gather(*puts)
    assert (await ref.state()).n == before + COMMANDS


async def moved(r: Runners, watch: Watch, old: str, new: str) -> None:
    """The only runner dies, and another one is there."""
    await r[old].dies()
    r.entity = shelf_of(watch, new)
    await r.start(new)
    await r.shared(new)


async def recorded_steps(r: Runners) -> list[str]:
    """The steps in the log, in order."""
    stranger, address = r.stranger, r.cluster.at(Shelf, "s").address
    last = await stranger.log.last(address)
    assert last is not None
    read = stranger.log.read(address, after=0, upto=last.sequence)
    commits = [unseal(stored) async for stored in read]
    outcomes = [o for commit in commits if commit is not None for o in commit.outcomes]
    records = [record for o in outcomes if o.flow is not None for record in o.flow.records]
    return [str(getattr(r, "name", "")) for r in records if type(r).__name__ == "Ran"]


@pytest.mark.timeout(120)
@virtually
async def test_each_line_sees_on_other_runners_what_it_saw_first() -> None:
    watch = Watch()
    async with runners("a", entity=shelf_of(watch, "a")) as r:
        ref = r.cluster.at(Shelf, "s")
        await ref.tell(Count(), key="k")
        await until(lambda: "one" in watch.tokens)
        await others(r, "before one")
        await moved(r, watch, "a", "b")
        await r.cluster.resume(watch.tokens["one"], 1)
        await until(lambda: "emitted again" in watch.steps)
        slept = now()
        await others(r, "in the nap")
        assert now() - slept < NAP_S / 2
        await moved(r, watch, "b", "c")
        await until(lambda: "two" in watch.tokens)
        await others(r, "before two")
        await moved(r, watch, "c", "d")
        await r.cluster.resume(watch.tokens["two"], 2)
        assert await ref.result(Count, "k") == "[1, 2] two"
        steps = await recorded_steps(r)
    saw = {line: state for run in reversed(watch.runs) for line, state in run.seen}
    assert set(saw) == set(LINES)
    for run in watch.runs:
        assert [line for line, _ in run.seen] == list(LINES[: len(run.seen)])
        for line, state in run.seen:
            assert state == saw[line], f"{line} of {run.runner}"
    assert [(run.runner, len(run.seen)) for run in watch.runs] == [
        *(("a", 3), ("b", 5), ("c", 7), ("d", 9)),
    ]
    assert [saw[line].n for line in LINES] == [0, 2, 2, 1002, 1003, 2003, 2003, 3003, 3004]
    assert watch.steps == list(LINES)
    assert len(steps) == len(set(steps)) == len(LINES) + 2
