"""All checks, and how they are found: every public coroutine function of `checks/`."""

from __future__ import annotations

import inspect
from types import ModuleType

from .backend import Check
from .checks import (
    asks,
    batches,
    commands,
    ids,
    logs,
    registers,
    resizing,
    rewinds,
    terms,
    timers,
)


def _of(module: ModuleType) -> list[Check]:
    return [
        function
        for name, function in vars(module).items()
        if inspect.iscoroutinefunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
    ]


ALONE: list[Check] = _of(rewinds)
"""Those that restart the server; each gets one of its own."""
ALL: list[Check] = [
    check
    for module in (logs, batches, commands, terms, resizing, asks, registers, ids, timers)
    for check in _of(module)
] + ALONE
