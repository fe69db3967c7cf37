"""A month of flights, fed to aircraft that live in an embedded nats-server, and checked.

    python examples/flights/demo.py                        January 2013, 27,004 flights
    python examples/flights/demo.py --data march.csv.gz    any month's file of the same columns

It starts a nats-server with its store below .demo/ (every write is on the disk before it is
acknowledged) and a runner that hosts the aircraft, asks each aircraft to depart, arrive and cancel
as the records say, shows the ten with the most miles, and compares every total with totals.py,
which only reads the file. Run it again: every command has its key, so nothing changes. Stop it
with Ctrl-C: the next run goes on where this one stopped. README.md has the rules.

Exit codes: 0 the totals are equal, 1 they differ or something failed, 2 wrong usage or a file that
isn't one of flight records, 130 stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

# PYTHONSAFEPATH leaves a script's own folder out
sys.path.insert(0, str(Path(__file__).resolve().parent))

from aircraft import aircraft
from feed import Fed, feed, logbooks
from nats.aio.client import Client
from records import BadRecords, Plan, read
from report import Difference, Report, Totals, as_totals, differences, most_miles, summed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from perdure import ClusterError, Incompatible, Settings, connect
from perdure.deploy.server import EmbeddedServer, ServerFailed, ServerMissing

HERE = Path(__file__).resolve().parent
LOG = "PERDURE_LOG_aircraft"
NO_SUCH_STREAM = 10059
SETTINGS = Settings(dedup_window=timedelta(days=3_650))  # a rerun next year changes nothing either
CANNOT_RUN = (ServerMissing, ServerFailed, Incompatible, OSError, subprocess.SubprocessError)
CHECK_TIMEOUT_S = 600.0  # totals.py reads a month in a second


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; its exit code."""
    options = parse(arguments)
    try:
        plan, folder = read(options.data), store(options.store, options.data)
    except (BadRecords, OSError) as error:
        return trouble(f"{options.data}: {error}", 2)
    fed = Fed()
    try:
        report = asyncio.run(run(plan, options.data, folder, fed))
    except CANNOT_RUN as error:
        return trouble(error, 1)
    except ClusterError as error:
        return trouble(f"{error}; run it again, it goes on", 1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return trouble(f"stopped after {fed.rows:,} rows; run it again, it goes on", 130)
    if options.json:
        print(json.dumps(asdict(report)))
    else:
        report.show(Console(highlight=False, soft_wrap=True))
    return 1 if report.differences else 0


def trouble(what: object, code: int) -> int:
    """Say on one line what is wrong; the exit code."""
    print(" ".join(str(what).split()), file=sys.stderr)
    return code


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the process with code 2, or 0 for --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=HERE / "flights-2013-01.csv.gz",
        metavar="FILE",
        help="flight records, .csv or .csv.gz; default: January 2013, which comes with it",
    )
    parser.add_argument(
        "--store",
        type=Path,
        default=Path(".demo"),
        metavar="DIR",
        help="where the server keeps its data, a folder for each file; default: .demo",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON value instead of text")
    return parser.parse_args(arguments)


def store(folder: Path, data: Path) -> Path:
    """The store of one file's flights. Another file is another history: totals would mix."""
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return folder / f"{data.name.partition('.')[0]}-{digest[:8]}"


async def run(plan: Plan, data: Path, folder: Path, fed: Fed) -> Report:
    """Set everything up, feed the plan, compare. Everything is down again when it returns."""
    loop, here = asyncio.get_running_loop(), asyncio.current_task()
    assert here is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, here.cancel)
    async with (
        EmbeddedServer(folder) as server,
        connect(server.url, serving=[aircraft], settings=SETTINGS) as cluster,
    ):
        before, _ = await log_of(server.url)
        started = time.perf_counter()
        with progress(plan) as row_done:
            await feed(cluster, plan, fed, row_done)
        took = time.perf_counter() - started
        after, tails = await log_of(server.url)
        found = as_totals(await logbooks(cluster, plan))
    counted = await asyncio.to_thread(count, data)
    different = differences(found, counted)
    if tails != len(counted):
        different.append(Difference("all", "aircraft", tails, len(counted)))
    return Report(
        data=str(data),
        store=str(folder),
        rows=fed.rows,
        repeated_rows=plan.repeated,
        commands=fed.commands,
        refused=fed.refused,
        aircraft=tails,
        commits=after,
        new_commits=after - before,
        seconds=round(took, 3),
        commands_per_second=round(fed.commands / took, 1),
        most_miles=most_miles(found),
        totals=summed(found),
        differences=different,
    )


@contextmanager
def progress(plan: Plan) -> Generator[Callable[[], None]]:
    """A bar of the rows, on standard error; call what it gives once a row."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        bar = shown.add_task("rows", total=plan.rows)
        yield lambda: shown.advance(bar)


async def log_of(url: str) -> tuple[int, int]:
    """The last sequence of the log and how many aircraft stand in it, as the server says."""
    client = Client()
    await client.connect(url)
    try:
        answer = await client.request(f"$JS.API.STREAM.INFO.{LOG}", b'{"subjects_filter":">"}')
    finally:
        await client.close()
    found = json.loads(answer.data)
    if found.get("error", {}).get("err_code") == NO_SUCH_STREAM:
        return 0, 0
    state = found["state"]
    return state["last_seq"], len(state.get("subjects", ()))


def count(data: Path) -> Totals:
    """What totals.py counts, in a process that can't even import perdure."""
    command = [sys.executable, "-I", "-S", str(HERE / "totals.py"), str(data)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=CHECK_TIMEOUT_S)
    counted: Totals = json.loads(done.stdout)
    return counted


if __name__ == "__main__":
    sys.exit(main())
