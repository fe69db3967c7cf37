"""Namespaces: delete all that one has stored."""

from __future__ import annotations

import re

from ..entities.settings import Settings
from .probe import Probe

PAGE = 1_024
"""Stream names in one answer of the server at most."""


async def forget(settings: Settings) -> list[str]:
    """Delete every stream of the settings' namespace, and all that is in them; their names.

    For tests: nothing asks before, and runners of that namespace lose what they host. Raises
    Unreachable, Incompatible, Silent, and RuntimeError for what the server refuses.
    """
    probe = Probe(settings)
    await probe.open()
    try:
        names = [name for name in await _names(probe) if _of(settings.namespace, name)]
        for name in names:
            answer = await probe.api(f"STREAM.DELETE.{name}")
            error = answer.get("error")
            if error is not None and error.get("code") != 404:
                raise RuntimeError(f"can't delete {name}: {error.get('description')}")
    finally:
        await probe.close()
    return names


async def _names(probe: Probe) -> list[str]:
    names: list[str] = []
    while True:
        answer = await probe.api("STREAM.NAMES", {"offset": len(names)})
        page = [str(name) for name in answer.get("streams") or ()]
        names += page
        if len(page) < PAGE:
            return names


def _of(namespace: str, stream: str) -> bool:
    """Whether a stream is that namespace's, and not one of a longer name."""
    head = re.escape(namespace.upper())
    own = rf"{head}_((CMD|LOG|SNAP|IDS)_[a-z][a-z0-9_-]*|TIME|DEAD)|KV_{head}_MEMBERS"
    return re.fullmatch(own, stream) is not None
