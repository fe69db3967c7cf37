"""Values of the members bucket that a server gives back though their time was up."""

from __future__ import annotations

import pytest

from perdure.deploy.server import EmbeddedServer
from perdure.streams.jetstream.direct import Record, records
from perdure.streams.jetstream.members import OVERDUE_S, is_overdue

from ...support.server import nats_session

S = 1_000_000_000


def record(age_s: int, ttl_s: int | None) -> Record:
    return Record(1, (10_000 - age_s) * S, "x", b"", None, ttl_s=ttl_s)


@pytest.mark.parametrize(
    ("age_s", "ttl_s", "overdue"),
    [
        (0, 15, False),
        (15, 15, False),
        (15 + OVERDUE_S, 15, False),
        (16 + OVERDUE_S, 15, True),
        (9_000, 15, True),
        (9_000, None, False),
    ],
)
def test_what_should_have_been_removed(age_s: int, ttl_s: int | None, overdue: bool) -> None:
    assert is_overdue(record(age_s, ttl_s), 10_000 * S) is overdue


async def test_a_values_time_is_read_back(nats_server: EmbeddedServer, namespace: str) -> None:
    async with nats_session(nats_server, namespace) as session:
        await session.provision("account")
        await session.members.put("runner.a", b"1", ttl_s=7)
        await session.members.put("runner.b", b"2")
        stream, subjects = f"KV_{session.subjects.members_bucket}", session.subjects
        subject = f"$KV.{subjects.members_bucket}.runner.*"
        found = await records(session.connection, stream, subject, after=0)
        assert [(one.data, one.ttl_s) for one in found] == [(b"1", 7), (b"2", None)]
        assert sorted(await session.members.entries("runner")) == ["runner.a", "runner.b"]
