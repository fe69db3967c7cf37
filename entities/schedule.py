"""Schedules: commands that come to an entity again and again, declared beside its handlers."""

from __future__ import annotations

import re
from datetime import UTC, timedelta, tzinfo
from hashlib import blake2b
from typing import Any, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from .clock import of_ms, to_ns
from .duration import Duration, seconds

Missed: TypeAlias = Literal["once", "all", "skip"]
"""What to do at a time at which nobody was there, as soon as somebody is: the command once,
however many times were missed; once for each; or nothing."""

SHORTEST_S = 1.0
"""Between two times, in seconds: each is a message and two commits, kept for good."""
LONGEST = timedelta(days=3660)
"""Between two times: what comes once in ten years is no schedule, but a tell for later."""
GRACE_MS = 60_000
"""How late a time that is skipped when missed may come, in milliseconds: a restart or a busy
moment isn't what is meant by missed."""

PREFIX = "schedule"
"""Begins the keys of its commands: `schedule:nightly:9f86d081:1798761600000`."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_EPOCH = of_ms(0)


class Schedule(msgspec.Struct, frozen=True):
    """One entity's command, and when it comes: a `cron`, or `every` so often."""

    name: str
    """Of its type's schedules only one has it: 1-32 of a-z, 0-9, _ and -, a letter first."""
    when: str
    """A cron expression, or the interval in milliseconds."""
    id: str
    """Of the entity whose command it is."""
    command: Any
    zone: str = "UTC"
    """In whose time the cron expression is meant, as `Europe/Berlin`."""
    missed: Missed = "once"

    def next_ms(self, after_ms: int) -> int:
        """The first of its times after one, in Unix milliseconds."""
        if self.when.isdigit():
            step_ms = int(self.when)
            return (after_ms // step_ms + 1) * step_ms
        after = of_ms(after_ms).astimezone(_zone(self.zone))
        return to_ns(next(CronSim(self.when, after))) // 1_000_000

    @property
    def digest(self) -> str:
        """Another one for each other definition: what an earlier one left is ended."""
        parts = [self.when, self.zone, self.missed, self.id, self.command]
        return blake2b(msgspec.json.encode(parts), digest_size=4).hexdigest()

    def key(self, due_ms: int) -> str:
        """The key of its command at a time: however often it is told, it is done once."""
        return f"{PREFIX}:{self.name}:{self.digest}:{due_ms}"


def cron(
    name: str,
    expression: str,
    *,
    id: str,
    command: Any,
    zone: str = "UTC",
    missed: Missed = "once",
) -> Schedule:
    """A command that comes to an entity at the times of a cron expression, as `0 3 * * *`.

    Five fields (minute, hour, day of the month, month, day of the week), or six with seconds
    first, as Debian's cron reads them, also where the zone's clock is put forward or back: what
    comes at a fixed hour comes once on such a day. `missed` says what becomes of times at which no
    runner was there.

    Gotcha: zones are the operating system's, or those of the package `tzdata`.

    Raises TypeError, in one line, for an expression that is none or never comes, and for a zone
    that isn't known.
    """
    label = f"schedule {name!r}: cron {expression!r}"
    try:
        times = CronSim(expression, _EPOCH.astimezone(_zone(zone)))
        first = next(times)
        near = next(times) - first < timedelta(seconds=SHORTEST_S)
    except (CronSimError, StopIteration) as error:
        raise TypeError(f"{label}: {str(error) or 'it never comes'}") from None
    except ZoneInfoNotFoundError:
        raise TypeError(f"{label}: no time zone {zone!r} is known here") from None
    if near or first - _EPOCH > LONGEST:
        raise TypeError(f"{label}: its times are too near or too far")
    return _checked(Schedule(name, expression, id, command, zone, missed))


def every(
    name: str, interval: Duration, *, id: str, command: Any, missed: Missed = "once"
) -> Schedule:
    """A command that comes to an entity every so often: at multiples of the interval since 1970,
    so that a deploy changes nothing. From one second to ten years.

    Raises TypeError, in one line, for another interval.
    """
    try:
        found_s = seconds(interval)
    except ValueError as error:
        raise TypeError(f"schedule {name!r}: every {error}") from None
    if not SHORTEST_S <= found_s <= LONGEST.total_seconds():
        raise TypeError(f"schedule {name!r}: every {found_s:g} s isn't 1 s to ten years")
    return _checked(Schedule(name, f"{round(found_s * 1000)}", id, command, "UTC", missed))


def parsed(key: str) -> tuple[str, str, int] | None:
    """Name, digest and time in the key of a schedule's command; None for any other key."""
    parts = key.split(":")
    if len(parts) != 4 or parts[0] != PREFIX or not parts[3].isdigit():
        return None
    return parts[1], parts[2], int(parts[3])


def _checked(schedule: Schedule) -> Schedule:
    label = f"schedule {repr(schedule.name)[:60]}"
    if not _NAME.fullmatch(schedule.name):
        raise TypeError(f"{label}: a name has 1-32 of a-z, 0-9, _ and -, a letter first")
    given: Any = schedule.id
    if not isinstance(given, str) or not 1 <= len(given.encode()) <= 255:
        raise TypeError(f"{label}: id={repr(given)[:60]} isn't text of 1-255 bytes")
    if schedule.missed not in ("once", "all", "skip"):
        raise TypeError(f"{label}: missed={schedule.missed!r} isn't once, all or skip")
    return schedule


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)
