"""The tour that demo.py gives: nine orders, one crash, and the books."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import books
import desk
import outside
from order import Cancel, Order, Place, Verdict, Withdrawal
from stock import Receive, Stock

from perdure import (
    Cluster,
    ClusterError,
    Failure,
    Incompatible,
    RunnerNotRegistered,
    RunnerUnavailable,
    Suspended,
    Token,
    connect,
)
from perdure.deploy.server import EmbeddedServer, ServerFailed, ServerMissing
from perdure.deploy.tied import tie

HERE = Path(__file__).resolve().parent
RECEIVED = {"lamp": 12, "table": 4}
LAMP, TABLE = 49_00, 380_00  # cents
WAIT_S = 30.0  # how long one thing may take, on a busy machine
POLL_S = 0.02
Say: TypeAlias = Callable[[str], object]
CANNOT_RUN = (ServerMissing, ServerFailed, Incompatible, ClusterError, OSError, TimeoutError)


@dataclass(frozen=True)
class Customer:
    """One order, and what there is to say about it."""

    id: str
    place: Place
    story: str


SMALL = (
    Customer("o-1", Place("Ann", "good", {"lamp": 2}, 2 * LAMP), "a small order"),
    Customer("o-2", Place("Bo", "declined", {"lamp": 1}, LAMP), "a card without money"),
    Customer("o-3", Place("Cy", "good", {"lamp": 1, "table": 9}, 99_00), "more than there is"),
    Customer("o-4", Place("Di", "flaky", {"lamp": 1}, LAMP), "the provider's answer is lost"),
    Customer("o-5", Place("Ed", "down", {"lamp": 1}, LAMP), "the provider doesn't answer"),
    Customer("o-6", Place("Flo", "good", {"lamp": 1}, LAMP), "cancelled later"),
)
LARGE = (
    Customer("o-7", Place("Gil", "good", {"table": 1}, TABLE), "to be approved"),
    Customer("o-8", Place("Hal", "good", {"table": 1}, TABLE), "to be refused"),
    Customer("o-9", Place("Ida", "good", {"table": 1}, TABLE), "to be taken back"),
)


def main(about: str, arguments: Sequence[str] | None = None) -> int:
    """Give the tour; its exit code."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, metavar="DIR", help="keep everything there")
    parser.add_argument("--json", action="store_true", help="print one JSON value instead of text")
    options = parser.parse_args(arguments)
    if options.store is not None and options.store.exists() and any(options.store.iterdir()):
        parser.error(f"{options.store} isn't empty: a tour begins with nothing")
    say: Say = quiet if options.json else aloud
    with ExitStack() as stack:
        folder = options.store or stack.enter_context(tempfile.TemporaryDirectory())
        try:
            found, wrong = asyncio.run(tour(Path(folder).resolve(), say))
        except CANNOT_RUN as error:
            print(" ".join(f"{error!s}".split()) or repr(error), file=sys.stderr)
            return 1
        except (KeyboardInterrupt, asyncio.CancelledError):
            print("stopped", file=sys.stderr)
            return 130
    if options.json:
        orders = {id: order.why or order.status for id, order in found.orders.items()}
        print(json.dumps({"orders": orders, "income": found.income, "contradictions": wrong}))
    return 1 if wrong else 0


def aloud(line: str) -> None:
    """At once, also into a pipe."""
    print(line, flush=True)


def quiet(line: str) -> None:
    """Of --json: nothing but the value is printed."""


async def tour(folder: Path, say: Say) -> tuple[books.Books, list[str]]:
    """All of it; the books and what is wrong with them. Everything is down when it returns."""
    loop, here = asyncio.get_running_loop(), asyncio.current_task()
    assert here is not None
    loop.add_signal_handler(signal.SIGTERM, here.cancel)
    os.environ[outside.FILE] = str(folder / "outside.db")
    async with (
        EmbeddedServer(folder / "nats", tied=True) as server,
        connect(server.url) as cluster,
    ):
        async with runner(server.url) as first:
            say(f"a runner, process {first.pid}, on {server.url}")
            await receive(cluster)
            await place_all(cluster)
            await tell_outcomes(cluster, SMALL, say)
            for customer in LARGE:
                say(f"  {customer.id} {customer.story}: waits")
            first.kill()
            say(f"kill -9: the runner ended with {await first.wait()}")
        async with runner(server.url) as second:
            say(f"another runner, process {second.pid}, goes on; now people decide")
            await decide_all(cluster)
            await tell_outcomes(cluster, LARGE, say)
            returned = await cluster.at(Order, "o-6").outcome(Cancel(), key="cancel")
            say(f"  o-6 is cancelled: {told(returned)} back")
            found = await books.read(cluster)
    wrong = books.contradictions(found, RECEIVED)
    show(found, wrong, say)
    return found, wrong


def show(found: books.Books, wrong: list[str], say: Say) -> None:
    """The books, and whether they balance."""
    for sku, stock in found.stocks.items():
        say(f"{sku}: {RECEIVED[sku]} came in, {stock.sold} sold, {stock.on_hand} there")
    say(f"{len(found.confirmed)} orders are confirmed, for {money(found.income)}")
    say(f"the provider has {money(sum(found.provider.values()))}")
    for line in wrong:
        say(f"wrong: {line}")
    say("the books don't balance" if wrong else "the books balance")


async def receive(cluster: Cluster) -> None:
    """Goods come in, once the runner is there to note it."""
    end = time.monotonic() + WAIT_S
    for sku, count in RECEIVED.items():
        while True:
            try:
                await cluster.at(Stock, sku).ask(Receive(count), key="first-delivery")
                break
            except (RunnerNotRegistered, RunnerUnavailable):
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(POLL_S)


async def place_all(cluster: Cluster) -> None:
    """Place all orders. Once that has returned they will happen, whoever dies."""
    for customer in (*LARGE, *SMALL):
        await cluster.at(Order, customer.id).tell(customer.place, key="place")
    await until(lambda: len(desk.requests()) == len(LARGE), "the requests on the desk")


async def decide_all(cluster: Cluster) -> None:
    """What people do: approve, refuse, change their mind."""
    gil, hal, ida = LARGE
    waiting = desk.requests()
    for customer, approved in ((gil, True), (hal, False)):
        token = Token[Verdict](waiting[customer.id].token)
        await cluster.resume(token, Verdict(approved=approved, by="Kim"))
    await cluster.resume(await withdrawal_of(cluster, ida), Withdrawal())


async def withdrawal_of(cluster: Cluster, customer: Customer) -> Token[Withdrawal]:
    """The token by which who placed an order may take it back, while it waits for approval."""
    order, end = cluster.at(Order, customer.id), time.monotonic() + WAIT_S
    while time.monotonic() < end:
        try:
            await order.ask(customer.place, key="place", on_suspend="raise")
        except Suspended as waits:
            if waits.resume_token is not None:
                return Token[Withdrawal](waits.resume_token)
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"{customer.id} doesn't come to wait for its approval")


async def tell_outcomes(cluster: Cluster, customers: Sequence[Customer], say: Say) -> None:
    """What became of these. The same command under the same key is the same order: each waits for
    its outcome, and none is placed again."""
    for customer in customers:
        found = await cluster.at(Order, customer.id).outcome(customer.place, key="place")
        say(f"  {customer.id} {customer.story}: {told(found)}")


@asynccontextmanager
async def runner(url: str) -> AsyncGenerator[Process]:
    """A runner in a process of its own, drained on leaving if it still runs."""
    ours = {"PERDURE_URL": url, "PYTHONUNBUFFERED": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "shop.py")),
        env={**os.environ, **ours},
        stdin=DEVNULL,
        stderr=DEVNULL,  # it logs each attempt of a step that fails, as it should
        preexec_fn=tie(signal.SIGKILL),  # it ends at the latest with this process
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), WAIT_S)
            except TimeoutError:
                process.kill()
                await process.wait()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what nothing announces. Raises TimeoutError."""
    end = time.monotonic() + WAIT_S
    while not await asyncio.to_thread(condition):
        if time.monotonic() > end:
            raise TimeoutError(f"{what} didn't come within {WAIT_S:g} s")
        await asyncio.sleep(POLL_S)


def told(outcome: int | Failure) -> str:
    """An outcome in words."""
    return f"refused, {outcome}" if isinstance(outcome, Failure) else money(outcome)


def money(cents: int) -> str:
    return f"{cents / 100:,.2f}"
