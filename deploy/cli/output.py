"""Output: what a command prints, for people or (`--json`) for programs.

For programs it is one JSON value a line on standard output, troubles included, so that whoever
reads the output needs no second stream; for people results go to standard output and troubles to
standard error, each on one line with the next step. Rich colours only where somebody looks at it,
and never wraps: a line that a person copies must stay one line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ...entities.clock import SystemClock, to_datetime
from ...entities.errors import ClusterError
from ...entities.tagged import to_wire
from .trouble import Trouble, UsageError, one_line

UNBOUNDED = 100_000
"""Columns of a table at most: a line that a person copies must stay one line."""

_encoder = msgspec.json.Encoder(decimal_format="number")


def compact(value: object) -> str:
    """A value as JSON on one line."""
    return _encoder.encode(value).decode()


class Output:
    """Prints results and troubles in the form that was asked for."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self._out = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._err = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)

    def result(self, value: object, text: str | Text | None = None) -> None:
        """A result: `value` for programs; for people `text`, or the value on one line."""
        if self.json:
            _write(compact(value))
        else:
            self.line(compact(value) if text is None else text)

    def line(self, text: str | Text = "") -> None:
        """A line for people on standard output; programs don't see it."""
        if not self.json:
            self._out.print(text, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Rows for people, each on one line however wide; a `#` before a name: to the right."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name in columns:
            right = name.startswith("#")
            table.add_column(name.lstrip("#"), justify="right" if right else "left", no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))
        if not self.json:  # a console cuts what is wider than itself
            Console(file=self._out.file, width=UNBOUNDED, highlight=False).print(table)

    def again(self) -> None:
        """What is watched follows anew: on a clear screen, or in a file or pipe below the time."""
        if self.json:
            return
        if self._out.is_terminal:
            self._out.clear()
        else:
            self.line(f"--- {stamp(to_datetime(SystemClock().now_ns()))}")

    @property
    def watched(self) -> bool:
        """Whether a person looks at standard error, so that progress is worth showing."""
        return self._err.is_terminal

    def progress(self) -> Progress:
        """A bar on standard error, to be used in `with`; it stays away where nobody looks."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._err,
            transient=True,
            disable=not self.watched,
        )

    def confirm(self, question: str, option: str) -> bool:
        """A person's yes. Raises UsageError where nobody can answer, which names the option."""
        if not sys.stdin.isatty():
            raise UsageError(f"nobody here to ask: {question}", f"add {option} if you are sure")
        self._err.print(Text(f"{question} [y/N] "), end="")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def note(self, text: str | Text) -> None:
        """Something beside the result, on standard error in both forms."""
        self._err.print(text, soft_wrap=True)

    def trouble(self, trouble: Trouble) -> None:
        """What is wrong, and the next step; the user's own traceback before it."""
        if trouble.trace:
            self._err.print(trouble.trace, soft_wrap=True, end="")
        if self.json:
            error = {"type": trouble.kind, "message": trouble.what, "next": trouble.next_step}
            _write(compact({"error": error}))
        else:
            self._complain(trouble.what, trouble.next_step)

    def cluster_error(self, error: ClusterError, next_step: str) -> None:
        """A cluster error: tag, address, key, cause, effect, advice; in JSON as on the wire."""
        if self.json:
            fields: dict[str, Any] = msgspec.to_builtins(to_wire(error))
            _write(compact({"error": {**fields, "next": next_step}}))
        else:
            self._complain(told(error), next_step)

    def refusal(self, value: object, text: str) -> None:
        """A declared failure: the entity's own refusal, which is a result and not a trouble."""
        if self.json:
            _write(compact(value))
        else:
            self._err.print(Text.assemble(("refused: ", "bold yellow"), text), soft_wrap=True)

    def _complain(self, what: str, next_step: str) -> None:
        self._err.print(
            Text.assemble(("error: ", "bold red"), what, (f"; next: {next_step}", "dim")),
            soft_wrap=True,
        )


def counted(number: int, what: str) -> str:
    """So many of something: `1 id`, `2 ids`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def stamp(time: datetime) -> str:
    """A time for people: UTC, to the millisecond."""
    return time.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds")[:23]


def told(error: ClusterError) -> str:
    """A cluster error for people: tag, cause, whom it concerns, and its effect.

    Where there is no cause, its kind's meaning stands for it.
    """
    meaning = (type(error).__doc__ or "").partition("\n")[0].rstrip(".")
    known = {"": error.address, "key ": error.key, "request ": error.request_id}
    about = ", ".join(f"{name}{value}" for name, value in known.items() if value)
    whom = f" ({about})" if about else ""
    effect = "may have taken effect" if error.may_have_taken_effect else "has had no effect"
    return one_line(f"{error.tag}: {error.cause or meaning}{whom}; it {effect}")


def _write(line: str) -> None:
    """Straight to the stream, as rich would replace what a terminal can't show."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
