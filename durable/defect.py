"""Defects: what user code raised, in words that can travel."""

from __future__ import annotations

ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What ends a process or a coroutine. All else that user code raises is a defect of it, also what
isn't an `Exception`, as a panic of an extension's Rust."""

DESCRIBED_CHARS = 1000
"""The longest description of a defect: it is a hint, the whole is in the log of the process."""


def described(error: BaseException) -> str:
    """An exception's type and text; never raises, and can always be encoded."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # user code: its __str__ has a defect, too
        text = type(error).__name__
    return text[:DESCRIBED_CHARS].encode("utf-8", "replace").decode()
