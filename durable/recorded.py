"""Recorded: an outcome read back from the log, where the ledger says that it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..entities.address import Address
from ..streams.commit import Outcome, unseal
from ..streams.port import Log
from .answers import versions


@dataclass(frozen=True, slots=True)
class Recorded:
    """An outcome and its place."""

    outcome: Outcome
    sequence: int  # of its commit in the log
    version: int  # of the entity after it


async def find_recorded(
    log: Log, address: Address, sequence: int, wanted: Callable[[Outcome], bool]
) -> Recorded | None:
    """The wanted outcome in the commit at a sequence; None if it isn't there.

    Raises Unreachable, Damaged.
    """
    stored = await log.by_sequence(address.entity, sequence)
    commit = None if stored is None else unseal(stored)
    if commit is None:
        return None
    for outcome, version in zip(commit.outcomes, versions(commit), strict=True):
        if wanted(outcome):
            return Recorded(outcome, sequence, version)
    return None
