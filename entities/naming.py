"""How a class's name becomes the tag under which it travels and is stored.

Tags are for ever: they stand in every stored event. So the rule is fixed here, once, and changing
it would orphan every log. Whoever renames a class keeps its old tag with `tag="old_name"`.
"""

from __future__ import annotations

import re

_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake(name: str) -> str:
    """The tag of a class by its name: `GetBalance` gives `get_balance`, `HTTPCall` `http_call`."""
    return _WORD_STARTS.sub("_", name).lower()
