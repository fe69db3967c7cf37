"""Trouble: how a command ends when it doesn't succeed, as one line and an exit code.

Every mistake of the user and every refusal passes through here, so that no command prints a
traceback for something that a person can put right, and all of them say what to do next. What is
a bug in the user's own code carries that traceback in `trace`: there it is the answer.
"""

from __future__ import annotations

from ...entities.errors import ClusterError

SUCCESS = 0
FAILED = 1
"""Refused or failed: the command was understood."""
USAGE = 2
"""Not understood: a wrong argument, option, APP or setting. Nothing was sent."""


class Trouble(Exception):
    """One line of what is wrong, one of what to do. `code` is the exit code."""

    code = FAILED
    kind = "failed"
    """The `type` in JSON; cluster errors have their tag there instead."""

    def __init__(self, what: str, next_step: str, *, trace: str = "") -> None:
        super().__init__(what)
        self.what: str = one_line(what)
        self.next_step: str = one_line(next_step)
        self.trace = trace


class UsageError(Trouble):
    """The command line, APP or the settings are wrong."""

    code = USAGE
    kind = "usage"


class Failed(Trouble):
    """It was understood, and could not be done."""


class Advised(Exception):
    """A cluster error with a better next step than its kind tells."""

    def __init__(self, error: ClusterError, next_step: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.next_step: str = one_line(next_step)


def one_line(text: object) -> str:
    """The text with every run of white space as one blank, so that it stays on one line."""
    return " ".join(str(text).split())
