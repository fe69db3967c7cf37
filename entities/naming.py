"""How a class's name becomes the tag under which it travels and is stored.

Tags are for ever: they stand in every stored event. So the rule is fixed here, once, and changing
it would orphan every log. Whoever renames a class keeps its old tag with `tag="old_name"`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

TYPE_FIELD = "a field can't be called 'type', where the wire has the message's tag: call it 'kind'"

_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake(name: str) -> str:
    """The tag of a class by its name: `GetBalance` gives `get_balance`, `HTTPCall` `http_call`."""
    return _WORD_STARTS.sub("_", name).lower()


if TYPE_CHECKING:
    Tags = msgspec.StructMeta
else:

    class Tags(msgspec.StructMeta):
        """Makes tagged classes, and says what to do about a field in the tag's place.

        Type checkers see msgspec's own, which knows the keywords of a class.
        """

        def __new__(mcls, name: str, bases: Any, namespace: Any, **config: Any) -> Any:
            """Raises TypeError where msgspec names only what it was given itself."""
            try:
                return super().__new__(mcls, name, bases, namespace, **config)
            except ValueError as error:
                if "tag_field" not in str(error):
                    raise
                raise TypeError(f"{name}: {TYPE_FIELD}") from None
