"""Readiness: whether a runner can do what it is there for, as checks that each have a name. Pure.

It is decided from what the runner tells of itself anyway (durable/stats.py), so that to ask costs
no request, and asking often no more than asking now and then.

**The write canary** is the runner's own heartbeat: every `heartbeat` its record in the members
bucket is written anew, on condition, and acknowledged by the stream's leader once it is stored.
That is the same kind of write as a commit (same account, same JetStream, same way), it happens
anyway, and it needs no permission that a runner hasn't got. What it can't tell is trouble of one
type's log stream alone: that shows as `perdure_commands_total` with `PersistenceError`.
"""

from __future__ import annotations

from msgspec import Struct

from ..durable.stats import RunnerStats, TypeStats

BEATS = 2
"""Heartbeats until the canary counts as dead: one may be lost."""

ACK_S = 2.0
"""And this, in seconds: what an acknowledgement may take."""

CHECKS = ("loop", "connected", "hosting", "write_canary", "shards", "not_draining")
"""The names of all checks, in their order."""


class Check(Struct, frozen=True, omit_defaults=True):
    """One check."""

    name: str
    ok: bool
    why: str = ""
    """What is wrong, for people; empty if nothing is."""


def canary_limit_s(heartbeat_s: float) -> float:
    """How old the last stored heartbeat may be, in seconds."""
    return BEATS * heartbeat_s + ACK_S


def stuck(why: str) -> tuple[Check, ...]:
    """Nothing is known but that the loop doesn't answer."""
    return (Check("loop", False, why),)


def checks(
    stats: RunnerStats | None, *, hosting: bool, connected: bool, limit_s: float
) -> tuple[Check, ...]:
    """All checks. `stats` are None as long as there is no runner, `hosting`: it has started, for
    which its types' topology was right; `limit_s`: how old its last heartbeat may be."""
    if stats is None:
        return (Check("loop", True), Check("hosting", False, "it hasn't connected yet"))
    return (
        Check("loop", True),
        _check("connected", "" if connected else "no connection to a server"),
        _check("hosting", "" if hosting else "it is starting, or has stopped"),
        _check("write_canary", _canary(stats, limit_s)),
        _check("shards", "; ".join(filter(None, map(_shards, stats.types)))),
        _check("not_draining", "it drains" if stats.leaving else ""),
    )


def _check(name: str, why: str) -> Check:
    return Check(name, not why, why)


def _canary(stats: RunnerStats, limit_s: float) -> str:
    if stats.renewed_s is None:
        return "its heartbeat was never stored"
    if stats.renewed_s <= limit_s:
        return ""
    return f"its heartbeat was last stored {stats.renewed_s:.1f} s ago, the limit is {limit_s:g} s"


def _shards(type: TypeStats) -> str:
    """Why it isn't well with a type. One that has no shards, and is to have none, stands by."""
    if type.outdated:
        return f"{type.entity} was resized while this runner was cut off: restart it"
    if type.owned < type.assigned:
        return f"{type.entity}: it has {type.owned} of the {type.assigned} shards that are its own"
    return ""
