"""What a process holds: memory and descriptors seen from outside, tasks and objects from inside.

From outside it is /proc, so these benchmarks need Linux. From inside a process answers a `look`
between two loads, after a full garbage collection: what is left then is really referred to.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from perdure.durable.runner import Runner

LOOK: str = "look"
"""The order that asks a process what it holds."""
LOOK_S = 60.0
"""How long the answer may take: collecting some millions of objects takes seconds."""
TYPES = 12
"""Types of objects that are told, the most numerous ones."""
KIB = 1024


class Inside(msgspec.Struct, frozen=True):
    """What a process says of itself."""

    tasks: int
    """asyncio's, done ones left out."""
    objects: int
    """That the garbage collector knows, after a collection."""
    types: dict[str, int]
    """The most numerous types of them."""
    entities: int = 0
    """In memory, of a runner."""
    cached: int = 0
    """Bytes that these hold, by the runner's own estimate."""


def look() -> Inside:
    """What this process holds."""
    gc.collect()
    objects: list[Any] = gc.get_objects()
    runners = [found.statistics() for found in objects if type(found) is Runner]
    return Inside(
        len(asyncio.all_tasks()),
        len(objects),
        dict(Counter(type(found).__name__ for found in objects).most_common(TYPES)),
        sum(found.entities for found in runners),
        sum(found.cached for found in runners),
    )


def rss_bytes(pid: int) -> int:
    """Resident memory of a process. Raises OSError without /proc, or if it ended."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most that it ever had: the kernel's own mark. Raises as `rss_bytes`."""
    return _status(pid, "VmHWM")


def descriptors(pid: int) -> int:
    """Files, sockets and pipes that a process has open. Raises as `rss_bytes`."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * KIB
    raise OSError(f"/proc/{pid}/status has no {name}")
