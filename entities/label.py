"""Labels: what a runner says it is, and what an entity type may ask of its owners: `gpu`.

The pattern is narrow so that a label is one word wherever it is told: in a log line, a table, an
environment variable.
"""

from __future__ import annotations

import re

LABELS = "1-64 of A-Z, a-z, 0-9, _, . and -"
"""What a label is, for errors."""

_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def is_label(text: object) -> bool:
    """Whether it is a text that can be a label."""
    return isinstance(text, str) and _PATTERN.fullmatch(text) is not None
