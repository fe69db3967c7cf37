"""The wanted configuration of streams, and how it is compared; no server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from perdure.entities.settings import Settings
from perdure.streams.subjects import Sharding, Subjects
from perdure.streams.topology import (
    Difference,
    Stream,
    advice,
    command_stream,
    dead_stream,
    differences,
    halted_by,
    log_stream,
    members_stream,
    sharding_of,
    shared_streams,
    snapshot_stream,
    time_stream,
    transform_of,
    type_streams,
    updated,
)

SUBJECTS = Subjects("bank")
CUT = Sharding(3, 16)
SETTINGS = Settings(namespace="bank", mailbox_capacity=7, command_stream_bytes=2**21, replicas=3)


def test_the_command_stream_lists_only_the_subjects_of_tells() -> None:
    config = command_stream(SETTINGS, SUBJECTS, "account", CUT).config
    assert config["name"] == "BANK_CMD_account"
    assert config["subjects"] == ["bank.to.account.*"]
    assert config["subject_transform"] == {
        "src": "bank.to.account.*",
        "dest": "bank.cmd.account.3.{{partition(16,1)}}.{{wildcard(1)}}",
    }
    assert config["retention"] == "workqueue"
    assert config["discard"] == "new"
    assert config["discard_new_per_subject"] is True
    assert config["max_msgs_per_subject"] == 7
    assert config["max_bytes"] == 2**21
    assert config["duplicate_window"] == 100_000_000
    assert config["num_replicas"] == 3


def test_the_log_forgets_nothing_and_can_be_appended_in_batches() -> None:
    config = log_stream(SETTINGS, SUBJECTS, "account").config
    assert config["subjects"] == ["bank.log.account.*"]
    wanted = {"deny_delete", "deny_purge", "allow_direct", "allow_atomic"}
    assert {entry for entry in wanted if config[entry] is True} == wanted
    for limit in ("max_msgs", "max_bytes", "max_msgs_per_subject", "max_msg_size"):
        assert config[limit] == -1
    assert config["max_age"] == 0
    assert not config["allow_msg_ttl"]
    assert not config["allow_rollup_hdrs"]


def test_snapshots_dead_letters_and_members() -> None:
    snapshots = snapshot_stream(SETTINGS, SUBJECTS, "account").config
    assert snapshots["subjects"] == ["bank.snap.account.>"]
    assert snapshots["max_msgs_per_subject"] == 1
    dead, members, timers = (stream.config for stream in shared_streams(SETTINGS, SUBJECTS))
    assert dead["subjects"] == ["bank.dead.*.*"]
    assert dead["discard"] == "new"
    assert members["name"] == "KV_BANK_MEMBERS"
    assert members["subjects"] == ["$KV.BANK_MEMBERS.>"]
    assert members["allow_msg_ttl"]
    assert timers["subjects"] == ["bank.later.*.*.*", "bank.due.*.*.*"]
    assert timers["allow_msg_schedules"]
    without = msgspec.structs.replace(SETTINGS, timers=False)
    assert len(shared_streams(without, SUBJECTS)) == 2


@pytest.mark.parametrize(
    "stream",
    [
        *type_streams(SETTINGS, SUBJECTS, "account", CUT),
        dead_stream(SETTINGS, SUBJECTS),
        members_stream(SETTINGS, SUBJECTS),
        time_stream(SETTINGS, SUBJECTS),
    ],
    ids=lambda stream: stream.name,
)
def test_each_entry_is_compared(stream: Stream) -> None:
    found = stream.config
    assert differences(stream, found) == []
    off = {k: v for k, v in found.items() if v not in (False, 0, {}, "default")}
    assert differences(stream, off) == []  # the server leaves out what is off
    for entry in (*stream.fixed, *stream.bounds):
        other: Any = not found[entry] if isinstance(found.get(entry), bool) else "other"
        changed = differences(stream, {**found, entry: other})
        assert [d.entry for d in changed] == [entry]
        assert changed[0].treatment == ("refuse" if entry in stream.fixed else "update")


def test_what_an_operator_chooses_is_left_alone() -> None:
    stream = log_stream(SETTINGS, SUBJECTS, "account")
    chosen = {"num_replicas": 5, "compression": "s2", "placement": {"tags": ["ssd"]}}
    assert differences(stream, {**stream.config, **chosen}) == []


def test_bounds_are_updated_and_nothing_else() -> None:
    stream = command_stream(SETTINGS, SUBJECTS, "account", CUT)
    found = {**stream.config, "max_msgs_per_subject": 100, "compression": "s2"}
    assert differences(stream, found) == [
        Difference("BANK_CMD_account", "max_msgs_per_subject", 7, 100, "update")
    ]
    assert updated(stream, found) == {**stream.config, "compression": "s2"}


def test_differences_say_what_is_wrong_and_the_advice_what_to_do() -> None:
    stream = log_stream(SETTINGS, SUBJECTS, "account")
    found = {**stream.config, "deny_purge": False, "max_age": 60, "republish": {"src": ">"}}
    wrong = differences(stream, found)
    assert [str(difference) for difference in wrong] == [
        "BANK_LOG_account: deny_purge is false, perdure needs true",
        "BANK_LOG_account: max_age is 60, perdure needs 0",
        'BANK_LOG_account: republish is {"src": ">"}, perdure needs not set',
    ]
    text = advice(wrong)
    assert all(str(difference) in text for difference in wrong)
    assert "nats stream edit" in text
    assert "another namespace" in text
    two = [*wrong, Difference("BANK_DEAD", "max_age", 0, 5, "refuse")]
    assert "each of BANK_DEAD, BANK_LOG_account" in advice(two)


@pytest.mark.parametrize("cut", [Sharding(1, 1), Sharding(3, 16), Sharding(999_999_999, 1024)])
def test_a_sharding_is_read_back_from_the_transform(cut: Sharding) -> None:
    source, target = transform_of(SUBJECTS, "account", cut)
    config = {"subject_transform": {"src": source, "dest": target}}
    assert sharding_of(SUBJECTS, "account", config) == cut
    spaced = {"src": source, "dest": target.replace(",1)", ", 1)")}
    assert sharding_of(SUBJECTS, "account", {"subject_transform": spaced}) == cut


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("", ""),
        ("bank.to.account.*", "bank.cmd.account.1.{{partition(0,1)}}.{{wildcard(1)}}"),
        ("bank.to.account.*", "bank.cmd.account.x.{{partition(4,1)}}.{{wildcard(1)}}"),
        ("bank.to.account.*", "bank.cmd.account.1.{{partition(4,2)}}.{{wildcard(1)}}"),
        ("bank.to.account.*", "bank.cmd.account.1.{{partition(4,1)}}.{{wildcard(1)}}.x"),
        ("bank.to.account.*", "bank.cmd.accounts.1.{{partition(4,1)}}.{{wildcard(1)}}"),
        ("bank.to.*.*", "bank.cmd.account.1.{{partition(4,1)}}.{{wildcard(1)}}"),
        ("bank.to.account.*", "bank.cmd.account.01.{{partition(4,1)}}.{{wildcard(1)}}"),
        ("bank.to.account.*", "bank.cmd.account.1.{{partition(0004,1)}}.{{wildcard(1)}}"),
    ],
)
def test_a_transform_that_is_not_ours(source: str, target: str) -> None:
    config = {"subject_transform": {"src": source, "dest": target}}
    assert sharding_of(SUBJECTS, "account", config) is None


def test_no_transform() -> None:
    assert sharding_of(SUBJECTS, "account", {}) is None
    assert sharding_of(SUBJECTS, "account", {"subject_transform": None}) is None


@pytest.mark.parametrize(
    ("listed", "token"),
    [
        (["bank.to.account.*"], None),
        (["bank.resize.account.x1"], "x1"),
        (["bank.resize.order.x1"], None),
        (["bank.resize.account.x1", "bank.to.account.*"], None),
        ([], None),
        (None, None),
    ],
)
def test_who_halted_a_command_stream(listed: list[str] | None, token: str | None) -> None:
    """A halted one is still cut as its transform says, and it isn't as it should be."""
    config = {**command_stream(SETTINGS, SUBJECTS, "account", CUT).config, "subjects": listed}
    assert halted_by(SUBJECTS, "account", config) == token
    assert sharding_of(SUBJECTS, "account", config) == CUT
    wanted = command_stream(SETTINGS, SUBJECTS, "account", CUT)
    refused = [d.entry for d in differences(wanted, config) if d.treatment == "refuse"]
    assert refused == ([] if listed == ["bank.to.account.*"] else ["subjects"])
