"""NACK: streams as the custom resources of NATS's JetStream controller for Kubernetes. Pure.

Each is made once and then left alone (`preventUpdate`, `preventDelete`): a resize changes how a
command stream is cut, which the controller would undo, and nobody should lose a log with a
manifest. Its names and fields are those of the controller's CRD, `jetstream.nats.io/v1beta2`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..streams.topology import Stream

API_VERSION = "jetstream.nats.io/v1beta2"

FIELDS = {
    "allow_atomic": "allowAtomicPublish",
    "allow_direct": "allowDirect",
    "allow_msg_counter": "allowMsgCounter",
    "allow_msg_schedules": "allowMsgSchedules",
    "allow_msg_ttl": "allowMsgTtl",
    "allow_rollup_hdrs": "allowRollup",
    "deny_delete": "denyDelete",
    "deny_purge": "denyPurge",
    "discard": "discard",
    "discard_new_per_subject": "discardPerSubject",
    "max_bytes": "maxBytes",
    "max_consumers": "maxConsumers",
    "max_msg_size": "maxMsgSize",
    "max_msgs": "maxMsgs",
    "max_msgs_per_subject": "maxMsgsPerSubject",
    "name": "name",
    "no_ack": "noAck",
    "num_replicas": "replicas",
    "retention": "retention",
    "storage": "storage",
    "subjects": "subjects",
}
"""What the server calls an entry, and what the controller does."""
UNSAID: dict[str, object] = {
    "allow_batched": False,
    "consumer_limits": {},
    "first_seq": 0,
    "max_age": 0,
    "persist_mode": "default",
    "republish": None,
    "sealed": False,
    "subject_delete_marker_ttl": 0,
}
"""Entries that the controller need not be told: the server has these values by itself."""


class Untold(Exception):
    """A stream needs what the controller has no field for."""


def resources(streams: Iterable[Stream]) -> dict[str, Any]:
    """All of them as one list, for `kubectl apply -f`. Raises Untold."""
    return {"apiVersion": "v1", "kind": "List", "items": [resource(one) for one in streams]}


def resource(stream: Stream) -> dict[str, Any]:
    """One stream. Raises Untold."""
    spec: dict[str, Any] = {"preventDelete": True, "preventUpdate": True}
    for entry, value in stream.config.items():
        if entry in FIELDS:
            spec[FIELDS[entry]] = value
        elif entry == "duplicate_window":
            spec["duplicateWindow"] = f"{value // 1_000_000}ms"
        elif entry == "subject_transform" and value:
            spec["subjectTransform"] = {"source": value["src"], "dest": value["dest"]}
        elif UNSAID.get(entry, ...) != value:
            raise Untold(f"{stream.name}: {entry} = {value!r}")
    return {
        "apiVersion": API_VERSION,
        "kind": "Stream",
        "metadata": {"name": object_name(stream.name)},
        "spec": spec,
    }


def object_name(stream: str) -> str:
    """A name that Kubernetes takes, another one for each stream."""
    plain = stream.lower().replace("-", ".2d").replace("_", "-")
    return plain[:-1] + ".5f" if plain.endswith("-") else plain
