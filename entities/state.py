"""State and Value: the plain data that users declare, apart from what they send and store.

Both are bare bases: subclass, list fields, done. They are frozen, since a state that could be
changed in place would differ from the fold of its log, and tagged, so that unions of them decode.
"""

from __future__ import annotations

from typing import Any, Self

import msgspec
from typing_extensions import dataclass_transform

from .naming import Tags, snake


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class State(msgspec.Struct, metaclass=Tags, frozen=True, tag=snake):
    """What an entity is at one version: the fold of its events.

    The tag is the entity type's name: `Account` gives `account`, `class Account(State,
    tag="acct")` gives `acct`. It must be 1-32 characters of a-z, 0-9, `_` and `-`, a letter first.

    Gotchas: every field needs a default value if the entity's first state is to be written as
    `Account()`. The name stands in the subjects of stored data, so keep the tag when you rename
    the class.
    """

    def replace(self, **changes: Any) -> Self:
        """A copy with other values in the named fields.

        Gotcha: names are checked when it runs (TypeError for one that doesn't exist), not by the
        type checker; values are not checked at all.
        """
        return msgspec.structs.replace(self, **changes)


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Value(msgspec.Struct, metaclass=Tags, frozen=True, tag=snake):
    """Any other plain data: a reply, a verdict, a part of a state. Frozen and tagged."""
