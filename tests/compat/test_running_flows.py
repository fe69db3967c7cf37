"""Flows that earlier releases began go on under today's code, from wherever they wait.

The files `flows-*.jsonl` hold what is stored of running flows, as the code of their time wrote it
(images.py): one for each kind of wait, and some in the middle of a turn. A release that reads them
otherwise would lose flows that run for months. After a deliberate change of what is stored, which
has to read the old files, too, write new ones beside them by `python -m tests.compat.writing N`;
the old ones are never written again.

flows-1: before there were chains and tells for later.
flows-2: a flow that is asked records the chain of those that wait for it, and one that waits for
no time arms a timer by which it is listed.
flows-3: a question that was answered leaves no timer armed.
flows-4: what was emitted is known by a hash of which new fields with defaults are no part.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from perdure.durable.waker import OPEN
from perdure.entities.record import Record
from perdure.streams.commit import FlowPart, Form, Sealed, Stored, seal, unseal
from perdure.streams.token import ASK
from tests.simulation.notation import read as plain

from .images import Line, cluster_of, data_of, hosting, read, restore
from .trips import shop, trip_of
from .waits import CASES, SETTINGS
from .writing import FORMS, image_of_case

HERE = Path(__file__).parent
FILES = {path.name: read(path.read_bytes()) for path in sorted(HERE.glob("flows-*.jsonl"))}
NEWEST = "flows-4"
"""What today's code writes."""

ENDS = [
    pytest.param(file, name, end, id=f"{file}-{name}-{end}")
    for file, images in FILES.items()
    for name in images
    for end in CASES[name].ends
]

VARIES = frozenset({"id", "prev", "runner", "nonce", "asker", "request"})
"""Fields that are random, or made of what is."""

RANDOM = re.compile("^([fmt]-[0-9a-f-]{30,}|answer-[0-9a-f]+|@.*)$")
"""Names and keys that are."""


def of(form: Form) -> dict[str, list[Line]]:
    """The newest file of a notation."""
    return FILES[f"{NEWEST}{FORMS[form]}.jsonl"]


def stored(image: list[Line]) -> Iterator[Stored]:
    """The messages of its logs."""
    for line in image:
        if line["what"] == "log":
            yield Stored(line["sequence"], line["time_ns"], data_of(line), line["mark"])


def comparable(value: Any) -> Any:
    """Without what is another each time."""
    if isinstance(value, list):
        found: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return [comparable(one) for one in found]
    if isinstance(value, str):
        return RANDOM.sub("any", value)
    if not isinstance(value, dict):
        return value
    fields: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
    kept = {key: comparable(one) for key, one in fields.items() if key not in VARIES}
    if "payload_hash" in kept and "command" not in kept:  # of a token, perhaps
        kept["payload_hash"] = "any"
    return kept


def shape(image: list[Line]) -> list[Any]:
    """What an image says, but for what is another each time."""
    commits = [comparable(plain(message.data)) for message in stored(image)]
    timers: list[Any] = []
    for line in image:
        if line["what"] == "timer":
            fired = comparable(plain(data_of(line)))
            # How soon one asks again, or is listed anew, is no matter of format.
            if fired["timer"] == OPEN or fired["timer"].startswith(ASK):
                fired["due_ms"] = "any"
            timers.append([line["type"], fired])
    return [commits, sorted(timers, key=repr)]


# -- today's code reads them ----------------------------------------------------------------------
@pytest.mark.parametrize("snapshots", [True, False], ids=["snapshot", "log"])
@pytest.mark.parametrize(("file", "name", "end"), ENDS)
async def test_a_running_flow_goes_on(
    file: str, name: str, end: str, snapshots: bool, caplog: pytest.LogCaptureFixture
) -> None:
    image = FILES[file][name]
    restored = cluster_of(SETTINGS)
    world = restore(restored, image, snapshots=snapshots)
    vars(restored)["_entities"] = (trip_of(world), shop)
    with caplog.at_level(logging.DEBUG, logger="perdure.recovery"):
        async with hosting(restored) as cluster:
            await CASES[name].ends[end](cluster, world)
    written = {line["name"]: line["key"] for line in image if line["what"] == "step"}
    again = written.keys() & world.keys.keys()
    assert {step: world.keys[step] for step in again} == {step: written[step] for step in again}
    actions = [getattr(record, "action", "") for record in caplog.records]
    kept = any(line["what"] == "snapshot" for line in image)
    if snapshots and kept and file.startswith(NEWEST):
        assert "snapshot.loaded" in actions
        assert "snapshot.ignored" not in actions


def test_every_case_is_in_the_newest_files() -> None:
    for form in FORMS:
        assert list(of(form)) == list(CASES)


# -- and writes the same --------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
async def test_todays_code_writes_what_the_newest_file_has(name: str, form: Form) -> None:
    """Else write a new file, and see that the old ones are still read."""
    assert shape(await image_of_case(CASES[name], form)) == shape(of(form)[name])


@pytest.mark.parametrize("form", FORMS)
def test_commits_of_flows_are_written_as_ever(form: Form) -> None:
    for image in of(form).values():
        for message in stored(image):
            commit = unseal(message)
            assert commit is not None
            assert seal(commit, form) == Sealed(commit.id, message.data, message.mark or "")


def test_every_field_of_every_record_is_in_the_newest_file() -> None:
    """A new kind of record, or a new field, comes with a new file that has it."""
    parts = [
        outcome["flow"]
        for image in of("json").values()
        for message in stored(image)
        for outcome in plain(message.data)["outcomes"]
        if "flow" in outcome
    ]
    records = [record for part in parts for record in part.get("records", [])]
    for kind in get_args(Record):
        tag = kind.__struct_config__.tag
        found = {field for record in records if record["type"] == tag for field in record}
        assert found == {"type", *_fields(kind)}, tag
    assert {field for part in parts for field in part} == _fields(FlowPart)


def _fields(of: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(of)}
