"""What flows' code does wrong, or what it calls: the entity goes on, and is told what it was."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager

import msgspec
import pytest

from perdure import (
    Decision,
    Entity,
    Failure,
    Flow,
    Retry,
    RpcClientError,
    Settings,
    StepFailed,
    Suspended,
    memory,
)
from perdure.deploy.dead import letter_of
from perdure.durable.testing import TestCluster
from perdure.durable.timers import Forgetting, burial_due_ms
from perdure.entities.address import Address
from perdure.entities.record import Armed
from perdure.streams.jetstream.direct import Record
from perdure.streams.memory.ports import MemoryDeadLetters

from .case import Case, Denied, Note, Noted, Open, Read, decide, evolve
from .test_flows import publish

Body = Callable[[Flow[Case, Noted], Open], Awaitable[Decision[Noted]]]
ONCE = Retry(attempts=1)
SETTINGS = Settings(defect_retry=Retry(attempts=2, base=0.001))


class PanicError(BaseException):
    """As extensions written in Rust raise it."""


class Undeclared(Failure):
    pass


def kit(body: Body) -> AbstractAsyncContextManager[TestCluster]:
    async def opens(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        return await body(flow, command)

    return memory(Entity(Case(), decide, evolve, flows=[opens]), settings=SETTINGS)


async def outcome(cluster: TestCluster) -> object:
    """What is told of the flow."""
    try:
        return await cluster.at(Case, "c").ask(Open(), key="k", on_suspend="raise", timeout=5)
    except (Failure, RpcClientError, Suspended) as error:
        return error


async def goes_on(cluster: TestCluster) -> bool:
    """Whether the entity still takes commands."""
    return await cluster.at(Case, "c").ask(Note("x"), timeout=5) == 1


async def done() -> None:
    pass


async def panics() -> None:
    raise PanicError("as it happens")


def finds_nothing() -> int:
    return next(iter(()))


async def cancels() -> None:
    raise asyncio.CancelledError


async def refuses() -> None:
    raise Denied("no refund")


async def raises_undeclared() -> None:
    raise Undeclared


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (panics, "PanicError: as it happens"),
        (finds_nothing, "StopIteration"),
        (cancels, "CancelledError"),
        (raises_undeclared, "Undeclared"),
    ],
)
async def test_whatever_a_step_raises_is_an_error_of_that_step(
    step: Callable[[], Awaitable[None]], why: str
) -> None:
    async def body(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        try:
            await flow.step("s", retry=ONCE).run(step)
        except StepFailed as error:
            return command.accept(str(error))
        return command.accept("nothing was raised")

    async with kit(body) as cluster:
        assert why in str(await outcome(cluster))
        assert await goes_on(cluster)


async def test_whatever_a_flow_raises_is_a_defect() -> None:
    async def body(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        raise PanicError("as it happens")

    async with kit(body) as cluster:
        assert "PanicError: as it happens" in str(await outcome(cluster))
        assert await goes_on(cluster)


async def test_whatever_decide_raises_is_a_defect() -> None:
    def panicking(state: Case, command: Note | Read) -> Decision[Noted]:
        if isinstance(command, Read) or command.text == "bad":
            raise PanicError("as it happens")
        return decide(state, command)

    async with memory(Entity(Case(), panicking, evolve), settings=SETTINGS) as cluster:
        with pytest.raises(RpcClientError, match="defect: PanicError"):
            await cluster.at(Case, "c").ask(Note("bad"), timeout=5)
        with pytest.raises(RpcClientError, match="defect: PanicError"):
            await cluster.at(Case, "c").query(Read(), timeout=5)
        assert await goes_on(cluster)


async def test_an_undo_that_is_refused_is_not_done() -> None:
    async def body(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await flow.step("s", retry=ONCE).undo(refuses).run(done)
        return command.reject(Denied("no"))

    async with kit(body) as cluster:
        told = await outcome(cluster)
        assert isinstance(told, RpcClientError)
        assert "the flow is parked: StepFailed: step 'undo s': Denied" in str(told)


async def test_a_step_with_the_longest_name_is_undone() -> None:
    async def body(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await flow.step("x" * 200).undo(done).run(done)
        return command.reject(Denied("no"))

    async with kit(body) as cluster:
        assert await outcome(cluster) == Denied("no")


async def test_parts_of_a_flow_in_another_task_are_refused_however_fast_they_are() -> None:
    async def body(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        await asyncio.gather(flow.step("a").run(done), flow.step("b").run(done))
        return command.accept("")

    async with kit(body) as cluster:
        assert "in one task" in str(await outcome(cluster))
        assert await goes_on(cluster)


async def test_what_is_never_awaited_is_no_outcome() -> None:
    async def body(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        _ = flow.step("pay").run(done)
        return command.accept("")

    async with kit(body) as cluster:
        assert "step 'pay' was called and never awaited" in str(await outcome(cluster))
        assert await goes_on(cluster)


async def test_what_a_step_refers_to_leaves_memory_with_its_flow() -> None:
    class Large:
        pass

    left: list[weakref.ref[Large]] = []

    async def body(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        large = Large()
        left.append(weakref.ref(large))

        async def looks() -> bool:
            return bool(large)

        await flow.step("s").run(looks)
        return command.accept("")

    async with kit(body) as cluster:
        assert await outcome(cluster) == ""
        await cluster.quiet()
        gc.collect()
        assert [ref() for ref in left] == [None]


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The copies of dead letters, as they are stored."""
    stored: list[bytes] = []

    async def put(self: MemoryDeadLetters, address: Address, data: bytes) -> bool:
        stored.append(data)
        return True

    monkeypatch.setattr(MemoryDeadLetters, "put", put)
    return stored


async def breaks_later(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
    await flow.sleep("a while", 1)
    await flow.step("t", retry=ONCE).run(panics)
    return command.accept("")


@pytest.mark.parametrize("how", ["its owner dies", "none is taken", "none is taken at first"])
async def test_the_dead_letter_of_a_flow_gets_its_copy_whoever_dies(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Its verdict was in the log alone, for ever, where its owner died before it copied that."""

    async def body(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        if how.endswith("first"):  # in its only commit
            raise Undeclared
        await flow.sleep("a while", 1)
        await flow.step("t", retry=ONCE).run(panics)
        return command.accept("")

    copies: list[bytes] = []
    tries, stuck, tried = 0, how == "its owner dies", asyncio.Event()

    async def put(self: MemoryDeadLetters, address: Address, data: bytes) -> bool:
        nonlocal tries
        tries += 1
        tried.set()
        if stuck:
            await asyncio.Event().wait()
        if tries > 4:
            copies.append(data)
        return tries > 4

    monkeypatch.setattr(MemoryDeadLetters, "put", put)
    async with kit(body) as cluster:
        await cluster.at(Case, "c").tell(Open(7))
        if stuck:
            advancing = asyncio.create_task(cluster.advance(2))
            await asyncio.wait_for(tried.wait(), 5)
            advancing.cancel()
            await cluster.crash()
            stuck = False
        await cluster.advance(600)  # the later the less often
        while how.endswith("first") and not copies:
            await cluster.crash()  # it is delivered again
            await cluster.quiet()
    (letter,) = [letter_of(Record(1, 0, "perdure.dead.case.c", data, None)) for data in copies]
    assert (letter.command, msgspec.json.decode(letter.payload())["n"]) == ("open", 7)
    assert letter.cause is not None


@pytest.mark.parametrize(
    "said",
    [
        '"after":-5',
        '"after":0,"command":{"type":"open","n":9}',
        '"after":0,"command":{"type":"\xff"}',
        '"after":0,"command":7',
        '"after":99999999',
    ],
)
async def test_a_burial_that_somebody_made_up_changes_nothing(
    copies: list[bytes], said: str
) -> None:
    forged = f'{{"type":"$fired","flow":"k","timer":"(burial)","due_ms":0,{said}}}'
    async with kit(breaks_later) as cluster:
        await publish(cluster, forged.encode("latin-1"))
        await cluster.at(Case, "c").tell(Open(7), key="k")
        await cluster.advance(2)
        await publish(cluster, forged.encode("latin-1"))
        await cluster.quiet()
        await cluster.crash()
        await publish(cluster, forged.encode("latin-1"))
        await cluster.quiet()
        assert await cluster.at(Case, "c").query(Read()) == ()
    letters = [letter_of(Record(1, 0, "perdure.dead.case.c", data, None)) for data in copies]
    flows = [letter for letter in letters if letter.key == "k"]
    assert {letter.command for letter in flows} <= {"open", ""}
    assert [msgspec.json.decode(one.payload())["n"] for one in flows if one.command] == [7]


async def test_a_burial_that_comes_late_makes_no_second_copy(
    copies: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(self: Forgetting, address: Address, flow: str, armed: Iterable[Armed]) -> None:
        """Nothing is disarmed, as where the server has no time for that."""

    monkeypatch.setattr(Forgetting, "add", add)
    async with kit(breaks_later) as cluster:
        await cluster.at(Case, "c").tell(Open(7))
        await cluster.advance(200)
    assert len(copies) == 1


async def test_the_dead_letter_of_a_flow_has_the_command_that_began_it(
    copies: list[bytes],
) -> None:
    async def body(flow: Flow[Case, Noted], command: Open) -> Decision[Noted]:
        if command.n:
            await flow.sleep("a while", 1)
        await flow.step("t", retry=ONCE).run(panics)
        return command.accept("")

    async with kit(body) as cluster:
        for n in (0, 1):
            await cluster.at(Case, "c").tell(Open(n))
            await cluster.quiet()
            await cluster.advance(2)
    letters = [letter_of(Record(1, 0, "perdure.dead.case.c", data, None)) for data in copies]
    assert [letter.command for letter in letters] == ["open", "open"]
    assert [msgspec.json.decode(letter.payload())["n"] for letter in letters[1:]] == [1]


def test_a_letter_that_is_not_taken_is_tried_less_and_less_often() -> None:
    assert burial_due_ms(100_000, 100_000) == 130_000
    assert burial_due_ms(190_000, 100_000) == 280_000
    assert burial_due_ms(86_500_000, 100_000) == 90_100_000
    assert burial_due_ms(100_000, 900_000) == 130_000  # by another clock
