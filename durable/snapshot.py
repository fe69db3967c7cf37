"""Snapshots: a fold kept so that loading is short. A cache, never the truth.

A snapshot is used only if the log still holds exactly the commit that it ends with; otherwise it
is reported and the log is folded from its start. Its form is private to perdure and may change
with any release: the fingerprint covers the state's and the events' types, `evolve`'s declared
revision and this format. A large one is stored in parts, whose hashes the head lists; the sealed
pages of its ledger are parts that are written once (durable/saving.py) and read when they are
needed (durable/paging.py).

It is taken when the tail since the last one has more bytes than the snapshot itself, and at least
`snapshot_min_commits`, and always after `snapshot_max_commits`: so its cost is amortised and
loading is bounded. And when an entity leaves memory with a tail: whoever loads it again reads one
message instead of commits that lie all over the log, each in another block of the server's files.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from ..entities.address import Address
from ..entities.entity import Entity
from ..entities.settings import Settings
from ..streams.codec import digest
from ..streams.commit import At
from ..streams.port import Snapshots
from .defect import described
from .folded import Folded
from .ledger import Ledger, LedgerHead, LedgerLimits
from .openflow import OpenFlow

FORMAT = 2
PART_BYTES = 256 * 1024
"""Well below a server's smallest usual limit of a message."""


LEAVING_COMMITS = 2
"""The shortest log that is worth its first snapshot when its entity leaves memory: many entities
have one commit and are never used again."""
LEAVING_BYTES = 4 * 1024
"""Of a snapshot then, always: less than what reading a few commits from the disk costs."""
LEAVING_FACTOR = 4
"""A larger one is at most so many times as large as the tail that it stands for."""


class Unusable(Exception):
    """A snapshot that can't be used; the text says why."""


class OtherCode(Unusable):
    """A snapshot made by other types, or by another revision of `evolve`: no damage."""


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    address: str
    fingerprint: str
    state: bytes  # JSON
    version: int
    sequence: int  # of the last commit folded; foreign messages after it are read again
    hash: str
    time: datetime
    watermark: At
    ledger: LedgerHead


class _WithFlows(_Snapshot, frozen=True, array_like=True):
    """The same of an entity that has open flows; most have none."""

    flows: bytes = b"[]"
    """In JSON, like the state: what they hold raw is."""


class _Head(msgspec.Struct, frozen=True, array_like=True):
    v: int
    hash: str  # of the whole body: a flipped bit must not become state
    parts: tuple[str, ...]  # hashes; empty if the body follows here
    body: bytes


_snapshots = msgspec.msgpack.Decoder(_WithFlows)
_flows = msgspec.json.Decoder(list[OpenFlow])
_heads = msgspec.msgpack.Decoder(_Head)


def due(folded: Folded, settings: Settings) -> bool:
    """Whether it is time for a snapshot."""
    commits = folded.tail_commits
    if commits < settings.snapshot_min_commits:
        return False
    return commits >= settings.snapshot_max_commits or folded.tail_bytes > folded.snapshot_bytes


def due_on_leaving(folded: Folded) -> bool:
    """Whether an entity that leaves memory should leave a snapshot behind.

    Not for the only commit that there is, nor one that is far larger than the tail.
    """
    least = 1 if folded.snapshot_bytes else LEAVING_COMMITS
    cheap = max(LEAVING_BYTES, LEAVING_FACTOR * folded.tail_bytes)
    return folded.tail_commits >= least and folded.snapshot_bytes <= cheap


def encode(entity: Entity[Any, Any], address: Address, folded: Folded) -> bytes:
    """A fold as bytes. Raises what msgspec raises on a state that can't be encoded."""
    fields = (
        str(address),
        entity.fingerprint,
        msgspec.json.encode(folded.state),
        folded.version,
        folded.commit_sequence,
        folded.hash,
        folded.time,
        folded.watermark,
        folded.ledger.pack(),
    )
    if not folded.flows:
        return msgspec.msgpack.encode(_Snapshot(*fields))
    flows = msgspec.json.encode(list(folded.flows.values()))
    return msgspec.msgpack.encode(_WithFlows(*fields, flows))


def decode(
    entity: Entity[Any, Any], address: Address, body: bytes, limits: LedgerLimits
) -> Folded:
    """The fold in a snapshot. Raises Unusable."""
    try:
        kept = _snapshots.decode(body)
        if kept.address != str(address):
            raise Unusable(f"it is of {kept.address[:300]}")
        if kept.fingerprint != entity.fingerprint:
            raise OtherCode("made by other types or another revision of evolve")
        state = entity.state_decoder.decode(kept.state)
        flows = _flows.decode(kept.flows)
        ledger = Ledger(limits)
        ledger.unpack(kept.ledger)
    except Unusable:
        raise
    except Exception as error:  # a damaged body, or user code in a state's __post_init__
        raise Unusable(f"can't be read: {described(error)}") from None
    return Folded(
        state,
        ledger,
        version=kept.version,
        sequence=kept.sequence,
        commit_sequence=kept.sequence,
        hash=kept.hash,
        end=kept.hash,
        time=kept.time,
        watermark=kept.watermark,
        snapshot_bytes=len(body),
        flows={flow.name: flow for flow in flows},
    )


async def put(snapshots: Snapshots, address: Address, body: bytes) -> bool:
    """Store a snapshot, its parts before its head; whether all of it was confirmed."""
    if len(body) <= PART_BYTES:
        return await snapshots.put(address, _head(body, (), body))
    parts = [body[i : i + PART_BYTES] for i in range(0, len(body), PART_BYTES)]
    for number, part in enumerate(parts):
        if not await snapshots.put(address, part, part=str(number)):
            return False
    return await snapshots.put(address, _head(body, tuple(digest(p) for p in parts), b""))


async def get(snapshots: Snapshots, address: Address) -> bytes | None:
    """A stored snapshot's body; None if there is none. Raises Unusable, Unreachable."""
    data = await snapshots.get(address)
    if data is None:
        return None
    try:
        head = _heads.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unusable(f"can't be read: {error}") from None
    if head.v != FORMAT:
        raise Unusable(f"format {head.v}")
    body = bytearray(head.body)
    for number, hash in enumerate(head.parts):
        part = await snapshots.get(address, part=str(number))
        if part is None or digest(part) != hash:
            raise Unusable(f"part {number} is missing or another one's")
        body += part
    if digest(bytes(body)) != head.hash:
        raise Unusable("its bytes don't match their hash")
    return bytes(body)


def _head(body: bytes, parts: tuple[str, ...], inline: bytes) -> bytes:
    return msgspec.msgpack.encode(_Head(FORMAT, digest(body), parts, inline))
