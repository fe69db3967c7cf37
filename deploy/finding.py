"""Finding: one thing that `perdure check` looked at, and what it saw."""

from __future__ import annotations

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a check."""

    check: str
    """What was looked at: server, version, jetstream, types, clock, streams, settings,
    permissions, runner, send, members, shards."""
    ok: bool
    what: str
    """What was seen, on one line."""
    next: str = ""
    """What to do about it; empty where all is well."""
    warning: bool = False
    """Whether it works, but perhaps not as was meant; `ok` all the same."""


def good(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check=check, ok=True, what=what)


def odd(check: str, what: str, next: str) -> Finding:
    """It works, but not as the settings say."""
    return Finding(check=check, ok=True, what=what, next=next, warning=True)


def bad(check: str, what: str, next: str) -> Finding:
    """Something is wrong, and this is what to do."""
    return Finding(check=check, ok=False, what=what, next=next)
