"""Reads a stored message in either notation, JSON or MessagePack, with the standard library alone.

A second reader of MessagePack on purpose: the checker shares no code with what it checks.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
SIZED = {
    0xC4: (">B", "bytes"),
    0xC5: (">H", "bytes"),
    0xC6: (">I", "bytes"),
    0xD9: (">B", "text"),
    0xDA: (">H", "text"),
    0xDB: (">I", "text"),
    0xDC: (">H", "array"),
    0xDD: (">I", "array"),
    0xDE: (">H", "map"),
    0xDF: (">I", "map"),
}
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


def read(data: bytes) -> Any:
    """What was written. Raises ValueError for what is neither."""
    if data[:1] == b"{":
        return json.loads(data)
    reader = Reader(data)
    value = reader.value()
    if reader.place != len(data):
        raise ValueError(f"{len(data) - reader.place} bytes behind the end")
    return value


class Reader:
    """MessagePack, from one byte to the next."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0
        self._of: dict[str, Callable[[int], Any]] = {
            "bytes": self._bytes,
            "text": lambda size: self._bytes(size).decode(),
            "array": lambda size: [self.value() for _ in range(size)],
            "map": lambda size: {self.value(): self.value() for _ in range(size)},
        }

    def value(self) -> Any:
        """The next one."""
        (first,) = self._bytes(1)
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 256
        if first < 0xC0:
            kind = "map" if first < 0x90 else "array" if first < 0xA0 else "text"
            return self._of[kind](first & (0x1F if kind == "text" else 0x0F))
        if first in CONSTANTS:
            return CONSTANTS[first]
        if first in NUMBERS:
            return self._number(NUMBERS[first])
        if first in SIZED:
            form, kind = SIZED[first]
            return self._of[kind](self._number(form))
        raise ValueError(f"unknown first byte {first:#x}")

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

    def _bytes(self, size: int) -> bytes:
        taken = self.data[self.place : self.place + size]
        if len(taken) < size:
            raise ValueError("cut off")
        self.place += size
        return taken
