"""`perdure topology`: shown, made, brought up to the settings, and as a controller's resources."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from perdure import Settings
from perdure.deploy.nack import FIELDS, UNSAID, Untold, object_name, resource
from perdure.deploy.server import EmbeddedServer
from perdure.streams.jetstream.session import JetStreamSession, open_session
from perdure.streams.topology import Stream, planned

from ...support.server import plain_client, settings_for
from .commands import Shell

OF_A_TYPE = ("CMD", "LOG", "SNAP", "IDS")
KNOWN = frozenset(
    {"allowAtomicPublish", "allowDirect", "allowMsgCounter", "allowMsgSchedules", "allowMsgTtl"}
    | {"allowRollup", "compression", "consumerLimits", "denyDelete", "denyPurge", "description"}
    | {"discard", "discardPerSubject", "duplicateWindow", "firstSequence", "maxAge", "maxBytes"}
    | {"maxConsumers", "maxMsgSize", "maxMsgs", "maxMsgsPerSubject", "metadata", "mirror"}
    | {"mirrorDirect", "name", "noAck", "persistMode", "placement", "preventDelete"}
    | {"preventUpdate", "replicas", "republish", "retention", "sealed", "sources", "storage"}
    | {"subjectDeleteMarkerTtl", "subjectTransform", "subjects"}
)
"""The fields of a Stream's `spec` in the controller's CRD, jetstream.nats.io/v1beta2."""


@pytest.fixture
def shell(tmp_path: Any, nats_server: EmbeddedServer, namespace: str) -> Shell:
    return Shell(
        tmp_path,
        PERDURE_URL=nats_server.url,
        PERDURE_NAMESPACE=namespace,
        PERDURE_COMMAND_STREAM_BYTES=str(2**24),
        PERDURE_SHARDS="4",
    )


def test_the_streams_are_shown(shell: Shell) -> None:
    ran = shell.type("topology", "app", "--json")
    prefix = shell.env["PERDURE_NAMESPACE"].upper()
    names = [line["name"] for line in ran.lines]
    assert names[:4] == [f"{prefix}_{kind}_counter" for kind in OF_A_TYPE]
    assert names[4:] == [f"{prefix}_DEAD", f"KV_{prefix}_MEMBERS", f"{prefix}_TIME"]
    assert ran.lines[0]["max_bytes"] == 2**24
    table = shell.type("topology", "--type", "counter").out.splitlines()
    assert "max_msgs_per_subject=100" in table[1]
    assert [row.split()[0] for row in table] == ["STREAM", *names]
    assert "partition(4,1)" in json.dumps(ran.lines[0])


def test_they_are_made_and_brought_up_to_the_settings(shell: Shell) -> None:
    made = shell.type("topology", "app", "--apply", "--json")
    assert (made.code, {line["done"] for line in made.lines}) == (0, {"created"})
    assert len(made.lines) == 7
    again = shell.type("topology", "app", "--apply", "--json")
    assert (again.code, {line["done"] for line in again.lines}) == (0, {"kept"})
    larger = shell.at(PERDURE_MAILBOX_CAPACITY="200", PERDURE_SHARDS="16")
    updated = larger.type("topology", "app", "--apply")
    assert updated.code == 0
    first, *others = updated.out.splitlines()
    change = "max_msgs_per_subject 100 -> 200"
    assert re.fullmatch(rf"updated  \S+_CMD_counter: {change}", first), first
    assert {line.split()[0] for line in others} == {"kept"}
    checked = larger.type("check", "app").out
    assert checked.count("failed") == 1, "nobody hosts it; the rest is right"


async def test_what_is_somebody_elses_is_refused(
    shell: Shell, nats_server: EmbeddedServer, namespace: str
) -> None:
    client = await plain_client(nats_server)
    name = f"{namespace.upper()}_LOG_counter"
    await client.jetstream().add_stream(name=name, subjects=[f"{namespace}.log.counter.*"])
    ran = await asyncio.to_thread(shell.type, "topology", "app", "--apply")
    info = await client.jetstream().stream_info(name)
    await client.close()
    assert ran.code == 1
    assert name in ran.err
    assert "perdure check says what differs" in ran.err
    assert not info.config.deny_purge, "it is as it was"
    done = {line.split()[1] for line in ran.out.splitlines()}
    assert {line.split()[0] for line in ran.out.splitlines()} == {"created"}, "before, and told"
    assert name not in done
    assert f"{namespace.upper()}_CMD_counter" in done


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["topology"], "no entity type"),
        (["topology", "app", "--type", "counter"], "APP and --type together"),
        (["topology", "--type", "A"], "A"),
        (["topology", "app", "--apply", "--format", "nack"], "--apply together with --format"),
        (["topology", "app", "--url", "memory:"], "has no server"),
    ],
)
def test_what_is_not_understood(shell: Shell, words: list[str], said: str) -> None:
    ran = shell.type(*words)
    assert ran.code == 2
    assert said in ran.err


# -- resources of the controller ------------------------------------------------------------------
def as_controller(spec: dict[str, Any]) -> dict[str, Any]:
    """The configuration that the controller asks the server for."""
    assert spec["preventDelete"]
    assert spec["preventUpdate"]
    entries = {field: entry for entry, field in FIELDS.items()}
    config: dict[str, Any] = {}
    for field, value in spec.items():
        if field in entries:
            config[entries[field]] = value
        elif field == "duplicateWindow":
            config["duplicate_window"] = int(value.removesuffix("ms")) * 1_000_000
        elif field == "subjectTransform":
            config["subject_transform"] = {"src": value["source"], "dest": value["dest"]}
        else:
            assert field.startswith("prevent"), field
    return config


async def test_what_the_controller_makes_is_right(
    shell: Shell, nats_server: EmbeddedServer, namespace: str
) -> None:
    ran = await asyncio.to_thread(shell.type, "topology", "app", "--format", "nack")
    (listed,) = ran.lines
    client = await plain_client(nats_server)
    for item in listed["items"]:
        assert (item["apiVersion"], item["kind"]) == ("jetstream.nats.io/v1beta2", "Stream")
        assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", item["metadata"]["name"])
        assert set(item["spec"]) <= KNOWN
        config = as_controller(item["spec"])
        answer = await client.request(
            f"$JS.API.STREAM.CREATE.{config['name']}", json.dumps(config).encode(), timeout=20
        )
        assert "error" not in json.loads(answer.data), answer.data
    await client.close()
    settings = settings_for(nats_server, namespace)
    session = await open_session(settings, name="test")
    assert isinstance(session, JetStreamSession)
    assert await session.check("counter") == []
    assert {tuple(d or ()) for d in (await session.compared("counter")).values()} == {()}
    await session.close()


def test_a_stream_that_needs_more_is_told() -> None:
    for entry, value in UNSAID.items():
        resource(Stream("S", {entry: value}))
    with pytest.raises(Untold, match="S: max_age = 5"):
        resource(Stream("S", {"max_age": 5}))
    with pytest.raises(Untold, match="placement"):
        resource(Stream("S", {"placement": {"cluster": "c"}}))


def test_each_stream_has_a_name_of_its_own() -> None:
    types = ["a", "a-b", "a_b", "a-", "a_", "ab", "a--b", "a__b", "a_-b", "a-_b"]
    names = [object_name(stream.name) for stream in planned(Settings(), types)]
    assert len(set(names)) == len(names)
