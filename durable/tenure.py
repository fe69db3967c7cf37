"""A tenure: which runner a singleton is with, by a record whose number only grows.

The record `singleton.<name>` in the members bucket names the number and the runner. It has no time
to live: numbers fence what a runner writes that doesn't know that it was replaced, so they must
never begin anew. Who wants it asks the runner that the record names, then writes the next number
on the condition that the record is still the one that it asked about; of two the server lets one.
One that answers is never overruled, since it can end its run and say so. One that doesn't is:
after a while, or at once if nobody listens there.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import Enum

import msgspec
from msgspec import Struct

from ..streams.codec import Undecodable
from ..streams.members import HandOver, Released, View, decode_word, encode_word
from ..streams.port import Session, Unreachable
from .claim import PATIENCE_S, STRANGER_S
from .membership import AGAIN_S
from .ring import NOBODY_PINGS
from .term import RELEASE_S

logger: logging.Logger = logging.getLogger("perdure.singleton")

HEAD = "singleton"
"""Of the keys of records in the members bucket."""


class Record(Struct, frozen=True, array_like=True):
    """What the members bucket keeps of a singleton."""

    term: int  # the last one: they only grow
    owner: str  # the runner that began it; empty once it gave the singleton back


@dataclass(frozen=True, slots=True)
class Found:
    """A record as it was read."""

    record: Record
    revision: int  # 0: there is none


_record = msgspec.json.Decoder(Record)


class Standing(Enum):
    """What a record says of a term that a runner believes to have."""

    OURS = "ours"
    LOST = "lost"  # another one was begun
    BEHIND = "behind"  # the bucket lost what was written: it knows of earlier ones only


def standing(record: Record, own: Record) -> Standing:
    """What a record says of the term that `own` was written for. Pure."""
    if record.term < own.term:
        return Standing.BEHIND
    return Standing.OURS if record == own else Standing.LOST


class Answer(Enum):
    """What came of asking a runner for a singleton."""

    RELEASED = "released"
    KEPT = "kept"  # it has it by its view, or its run still ends
    SILENT = "silent"
    NOBODY = "nobody"  # listens there: its process is gone


def vacated(answer: Answer, *, silent_s: float, member: bool) -> bool:
    """Whether a singleton is to be had from who answered so, or was silent so long. Pure.

    A member may be slow; one that isn't was silent before, else it would be a member.
    """
    if answer is Answer.SILENT:
        return silent_s >= (PATIENCE_S if member else STRANGER_S)
    return answer is not Answer.KEPT


class Tenure:
    """One singleton's record, as one runner reads and writes it."""

    def __init__(self, session: Session, view: View, runner: str, name: str) -> None:
        self._session, self._view, self._runner, self._name = session, view, runner, name
        self._asked = ""  # the runner that is asked for it
        self._silent_s = 0.0  # of how many seconds of asking nothing came

    def __repr__(self) -> str:
        return f"Tenure({self._name!r}, asks {self._asked or 'nobody'})"

    @property
    def _key(self) -> str:
        return f"{HEAD}.{self._name}"

    async def read(self) -> Found:
        """The record. Raises Unreachable."""
        entry = await self._session.members.get(self._key)
        if entry is None:
            return Found(Record(0, ""), 0)
        try:
            return Found(_record.decode(entry.value), entry.revision)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # Not made anew: terms would begin anew, too, and fence nobody.
            logger.error(
                "the record %s in the members bucket isn't readable: %s", self._key, error,
                extra={"action": "singleton.unreadable", "singleton": self._name},
            )  # fmt: skip
            raise Unreachable(f"{self._key} isn't readable") from None

    def withdraw(self) -> None:
        """The singleton isn't wanted any more: what an owner didn't say counts no longer."""
        self._asked, self._silent_s = "", 0.0

    async def vacant(self) -> Found | None:
        """The record, if the singleton is to be had; None: not yet. Raises Unreachable."""
        found = await self.read()
        owner = found.record.owner
        if owner in ("", self._runner):
            return found
        if not await self._vacated_by(owner):
            return None
        again = await self.read()  # giving it back changes the record, too
        return again if again.record.term == found.record.term else None

    async def take(self, found: Found) -> int | None:
        """Begin the next term; None if somebody else did. Raises Unreachable."""
        record = Record(found.record.term + 1, self._runner)
        return record.term if await self._write(record, found.revision) else None

    async def check(self, term: int) -> Standing:
        """Whether a term holds; what the bucket lost is written again. Raises Unreachable."""
        own, found = Record(term, self._runner), await self.read()
        stands = standing(found.record, own)
        if stands is Standing.BEHIND:
            await self._write(own, found.revision)  # who was faster is seen at the next look
        return stands

    async def give_back(self, term: int) -> None:
        """Let the next one begin without asking. Raises Unreachable."""
        found = await self.read()
        if found.record == Record(term, self._runner):
            await self._write(Record(term, ""), found.revision)

    async def _write(self, record: Record, expected: int) -> bool:
        value = msgspec.json.encode(record)
        return await self._session.members.put(self._key, value, expected=expected) is not None

    async def _vacated_by(self, owner: str) -> bool:
        """Ask a runner for the singleton; whether it is to be had, by its word or by force."""
        if owner != self._asked:
            self._asked, self._silent_s = owner, 0.0
        epoch = self._session.epoch
        answer = await self._ask(owner)
        if not self._session.connected or self._session.epoch != epoch:
            self._silent_s = 0.0  # our silence, not the other's
            return False
        # Counted and not measured: this process may have been frozen meanwhile.
        self._silent_s = self._silent_s + RELEASE_S if answer is Answer.SILENT else 0.0
        if not vacated(answer, silent_s=self._silent_s, member=owner in self._view):
            return False
        if answer is not Answer.RELEASED:
            logger.warning(
                "singleton %s is taken from runner %s: %s",
                self._name,
                owner,
                answer.value,
                extra={"action": "singleton.forced", "owner": owner, "singleton": self._name},
            )
        self._asked = ""
        return True

    async def _ask(self, owner: str) -> Answer:
        asks, subject = self._session.asks, self._session.subjects.member(owner)
        word = encode_word(HandOver(self._name, self._runner))
        for attempt in range(NOBODY_PINGS):
            if attempt:  # the one before may have come while a connection was made anew
                await asyncio.sleep(AGAIN_S)
            try:
                answer = await asks.request(subject, word, timeout_s=RELEASE_S)
                if answer.no_responders:
                    continue
                said = decode_word(answer.data)
            except Unreachable:
                return Answer.SILENT
            except Undecodable:
                return Answer.KEPT  # of another release, which lives
            return Answer.RELEASED if isinstance(said, Released) else Answer.KEPT
        return Answer.NOBODY
