"""Event: what happened, stored for ever.

An event is read back by every later release, so unlike a command it ignores fields that it does
not know (a newer release wrote them), and a field added later needs a default.
"""

from __future__ import annotations

import msgspec
from typing_extensions import dataclass_transform

from .naming import Tags, snake


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, metaclass=Tags, frozen=True, tag=snake):
    """What happened, in the past tense: `Deposited`, `Withdrawn`.

    Gotchas: it is stored for ever under its tag. Rename the class, keep `tag="old_name"`; add
    fields only with a default; never change what a field means.
    """
