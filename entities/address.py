"""Address: which entity.

Plain data, and any text of 1-255 bytes may be an id; how an id is written into a subject is the
business of streams/.
"""

from __future__ import annotations

import re
from typing import Self

import msgspec

_TYPE = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def is_type(name: str) -> bool:
    """Whether it can be an entity type's name: it is a part of subjects as it is."""
    return _TYPE.fullmatch(name) is not None


class Address(msgspec.Struct, frozen=True):
    """Which entity, as plain data; `str()` gives `account/a-1`."""

    entity: str
    """The entity type's name: the tag of its state."""
    id: str
    """The entity's id: any text of 1-255 bytes."""

    def __str__(self) -> str:
        return f"{self.entity}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that `str()` wrote; ValueError if the text has no `/` or an empty part.

        The type's name never contains a `/`, so the first one divides; the id may contain more.
        """
        entity, slash, id = text.partition("/")
        if not (entity and slash and id):
            raise ValueError(f"not an address: {text[:60]!r} (write account/a-1)")
        return cls(entity, id)
