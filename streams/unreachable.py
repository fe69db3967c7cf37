"""Unreachable: what callers and readers are told who can't reach the server, or may not ask it."""

from __future__ import annotations

from ..entities.errors import RpcClientError
from .port import Forbidden, Unreachable


def unreachable(error: Unreachable) -> RpcClientError:
    """It had no effect; to try again helps whoever is allowed to."""
    allowed = not isinstance(error, Forbidden)
    return RpcClientError(
        cause=str(error), may_have_taken_effect=False, advice="retry" if allowed else "fix"
    )
