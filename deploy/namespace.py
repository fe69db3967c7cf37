"""Namespaces: delete all that one has stored."""

from __future__ import annotations

from ..entities.address import is_type
from ..entities.settings import Settings
from ..streams.subjects import Subjects
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
        subjects = Subjects(settings.namespace)
        names = [name for name in await _names(probe) if _of(subjects, name)]
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


def _of(subjects: Subjects, stream: str) -> bool:
    """Whether a stream is that namespace's, and not one of a longer name."""
    if stream in (subjects.time_stream, subjects.dead_stream, f"KV_{subjects.members_bucket}"):
        return True
    kinds = (
        subjects.command_stream,
        subjects.log_stream,
        subjects.snapshot_stream,
        subjects.ids_stream,
    )
    heads = [kind("") for kind in kinds]
    return any(stream.startswith(head) and is_type(stream.removeprefix(head)) for head in heads)
