"""Figures beside their targets: the report of those benchmarks that can be missed."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from nats.errors import Error
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from perdure.deploy.server import ServerFailed, ServerMissing

from .process import ROOT, ChildFailed
from .report import number

FAILED = (ServerFailed, ServerMissing, ChildFailed, Error, OSError, RuntimeError)
STOPPED = 130
WIDTH = 100
MIB = 1024**2


class Figure(msgspec.Struct, frozen=True):
    """Something that was measured."""

    name: str
    value: float
    unit: str = ""
    most: float | None = None
    """What it may be at most."""
    least: float | None = None
    """What it must be at least. Nothing is asked of a figure without both."""

    @property
    def missed(self) -> bool:
        """Whether it is beyond its target."""
        above = self.most is not None and not self.value <= self.most
        return above or (self.least is not None and not self.value >= self.least)

    @property
    def target(self) -> str:
        """What is asked of it, for people."""
        bounds = (("≤", self.most), ("≥", self.least))
        told = [f"{sign} {number(bound)}" for sign, bound in bounds if bound is not None]
        return f"{' '.join(told)} {self.unit}".rstrip() if told else ""


def table(title: str, figures: Sequence[Figure]) -> Table:
    """Each figure beside its target."""
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    shown.add_column("", no_wrap=True)
    for name in ("figure", "target", ""):
        shown.add_column(name, justify="right", no_wrap=True)
    for one in figures:
        told = ("missed" if one.missed else "ok") if one.target else ""
        shown.add_row(one.name, f"{number(one.value)} {one.unit}", one.target, told)
    return shown


async def judged(
    work: Callable[[list[Figure]], Coroutine[Any, Any, None]],
    title: str,
    json: Path | None,
    errors: Console,
) -> int:
    """Run it, and report what it found, also when it is stopped; the exit code.

    0: each target was met. 1: one was missed, or something failed. 130: it was stopped.
    """
    figures: list[Figure] = []
    code = 0
    try:
        await work(figures)
    except FAILED as error:
        errors.print(f"{type(error).__name__}: {error}")
        code = 1
    except asyncio.CancelledError:
        errors.print("stopped")
        code = STOPPED
    if figures:
        Console(width=WIDTH, highlight=False).print(table(title, figures))
    if json is not None:
        _write(json, figures)
    return code or int(any(one.missed for one in figures))


def new_folder(store: Path, prefix: str) -> Path:
    """A folder for a server's data; whoever asked for it removes it."""
    store.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=store.resolve()))


def _write(file: Path, figures: list[Figure]) -> None:
    file.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")


@contextmanager
def progress_bar(console: Console, total: int, doing: str) -> Generator[Callable[[int], None]]:
    """Shows how much is done, how fast, and how long it still takes."""
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn())
    rate, left = TextColumn("{task.fields[rate]}/s"), TimeRemainingColumn()
    with Progress(*columns, rate, left, console=console) as progress:
        task = progress.add_task("", total=total, rate="-")
        began = time.perf_counter()

        def advance(count: int) -> None:
            progress.advance(task, count)
            took_s = max(1e-9, time.perf_counter() - began)
            progress.update(task, rate=f"{progress.tasks[0].completed / took_s:,.0f}")

        yield advance


def add_files(parser: argparse.ArgumentParser) -> None:
    """The options that all of these benchmarks have."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument(
        "--store",
        type=Path,
        default=ROOT / ".bench",
        metavar="DIR",
        help="where the server keeps its data, removed again; default: .bench/ in the checkout",
    )
