"""Output: what a command prints, for people or (`--json`) for programs.

For programs it is one JSON value a line on standard output, troubles included, so that whoever
reads the output needs no second stream; for people results go to standard output and troubles to
standard error, each on one line with the next step. Rich colours only where somebody looks at it,
and never wraps: a line that a person copies must stay one line.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from ...entities.errors import ClusterError
from ...entities.tagged import to_wire
from .trouble import Trouble, one_line

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


def told(error: ClusterError) -> str:
    """A cluster error for people: tag, meaning, cause, whom it concerns, and its effect."""
    meaning = (type(error).__doc__ or "").partition("\n")[0].rstrip(".")
    known = {"": error.address, "key ": error.key, "request ": error.request_id}
    about = ", ".join(f"{name}{value}" for name, value in known.items() if value)
    whom = f" ({about})" if about else ""
    cause = f": {error.cause}" if error.cause else ""
    effect = "may have taken effect" if error.may_have_taken_effect else "has had no effect"
    return one_line(f"{error.tag}: {meaning}{cause}{whom}; it {effect}")


def _write(line: str) -> None:
    """Straight to the stream, as rich would replace what a terminal can't show."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
