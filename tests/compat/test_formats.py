"""Today's code reads what format 1 wrote: an entity's log, and what caller and owner said.

The files beside this one were written when format 1 was fixed and are never written again. A
change of code that breaks a test here would make stored logs unreadable, or callers and runners of
two releases misunderstand each other. A new format gets new files; the old ones stay.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, Raw

from perdure import (
    ClusterError,
    Command,
    Decision,
    Entity,
    EntityNotAssignedToRunner,
    Event,
    Failure,
    MailboxFull,
    MalformedMessage,
    Query,
    RunnerNotRegistered,
    RunnerUnavailable,
    SendTimeout,
    State,
    Suspended,
    Value,
)
from perdure.entities.address import Address
from perdure.entities.clock import SystemClock
from perdure.entities.errors import REASONS
from perdure.streams.asks import (
    Answer,
    Envelope,
    TypeInfo,
    decode_answer,
    decode_info,
    encode_answer,
    encode_envelope,
    encode_info,
    open_body,
)
from perdure.streams.client import Cluster
from perdure.streams.codec import payload_hash, raw_hash
from perdure.streams.commands import cause_of
from perdure.streams.commit import (
    GENESIS,
    At,
    Commit,
    Damaged,
    Sealed,
    Stored,
    check_link,
    seal,
    unseal,
)
from perdure.streams.incoming import outcome_of
from perdure.streams.memory.broker import MemoryBroker
from perdure.streams.outgoing import birth_of, contract_for

HERE = Path(__file__).parent


# -- the entity of the files, as it was ---------------------------------------------------------
class Account(State):
    balance: int = 0


class Balance(Value):
    cents: int


class InsufficientFunds(Failure):
    balance: int
    wanted: int


class Deposit(Command[Account, Balance]):
    cents: int


class Withdraw(Command[Account, Balance, InsufficientFunds]):
    cents: int


class GetBalance(Query[Account, Balance]):
    pass


class Deposited(Event):
    cents: int


class Withdrawn(Event):
    cents: int


def decide(
    state: Account, command: Deposit | Withdraw | GetBalance
) -> Decision[Deposited | Withdrawn]:
    match command:
        case Deposit(cents):
            return command.accept(Balance(state.balance + cents), Deposited(cents))
        case Withdraw(cents) if cents > state.balance:
            return command.reject(InsufficientFunds(state.balance, cents))
        case Withdraw(cents):
            return command.accept(Balance(state.balance - cents), Withdrawn(cents))
        case GetBalance():
            return command.answer(Balance(state.balance))


def evolve(state: Account, event: Deposited | Withdrawn) -> Account:
    sign = 1 if isinstance(event, Deposited) else -1
    return state.replace(balance=state.balance + sign * event.cents)


account = Entity(Account(), decide, evolve)


def lines(name: str) -> list[bytes]:
    return (HERE / name).read_bytes().splitlines()


def golden_log() -> list[Stored]:
    log: list[Stored] = []
    for line in lines("commits-1.tsv"):
        mark, data = line.split(b"\t")
        log.append(Stored(len(log) + 1, 0, data, mark.decode()))
    return log


def commits() -> list[Commit]:
    found = [unseal(stored) for stored in golden_log()]
    assert len(found) == 5
    return [commit for commit in found if commit is not None]


def plain(value: Any) -> Any:
    """With raw JSON as bytes, which compare."""
    found = {n: getattr(value, n) for n in value.__struct_fields__}
    return {n: bytes(v) if isinstance(v, Raw) else v for n, v in found.items()}


# -- commits ----------------------------------------------------------------------------------
def test_every_commit_is_read_and_links_to_the_one_before() -> None:
    prev, version = GENESIS, 0
    for stored, commit in zip(golden_log(), commits(), strict=True):
        check_link(commit, prev=prev, version=version, sequence=stored.sequence)
        prev, version = stored.mark or "", commit.version
    assert version == 5


def test_the_log_folds_to_the_same_state() -> None:
    states = [account.initial]
    for commit in commits():
        for outcome in commit.outcomes:
            for event in outcome.events:
                states.append(account.evolve(states[-1], account.log.decode(event)))
    assert [s.balance for s in states] == [0, 500, 400, 405, 407, 410]


def test_every_field_of_a_commit_means_the_same() -> None:
    time = datetime(2026, 11, 24, 10, 0, 0, 123456, tzinfo=UTC)
    for index, commit in enumerate(commits()):
        assert (commit.v, commit.runner) == (1, "7f2cf0026a2a")
        assert commit.id == f"c{index:031d}"
        assert commit.time == time + timedelta(seconds=index)
    first, second, third, fourth, fifth = (c.outcomes for c in commits())
    assert (first[0].name, first[0].request) == ("order-17", "r-0011223344556677")
    assert second[0].birth == 1795515106564 == birth_of(second[0].name)
    assert second[0].trace == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert second[1].name == "_INBOX.Xy1.3"
    assert second[1].reply is UNSET
    failed = Answer(failure=second[1].failure)
    contract = contract_for(Withdraw, Account, writes=True)
    assert outcome_of(contract, failed) == InsufficientFunds(400, 9000)
    assert [o.at for o in third] == [
        At(1, 7, 1_795_515_106_564_789_123),
        At(1, 8, 1_795_515_106_564_789_124),
    ]
    dead = fourth[0].dead
    assert dead is not None
    assert (dead.reason, dead.key, dead.raw) == ("malformed", "order-18", b"\xffoops")
    assert ClusterError.decode(bytes(dead.error)) == MalformedMessage(cause="not JSON")
    assert isinstance(fifth[0].reply, Raw)
    assert bytes(fifth[0].reply) == b"null"


def test_payloads_and_causes_still_have_their_hashes() -> None:
    """Else every recorded key would look as if it was used again with another payload."""
    checked = 0
    for commit in commits():
        for outcome in commit.outcomes:
            if outcome.command is UNSET:
                assert outcome.payload_hash == raw_hash(b"\xffoops")
            else:
                command = account.messages.decode(outcome.command)
                assert payload_hash(command) == outcome.payload_hash
            if outcome.name.startswith("@"):
                assert outcome.at is not None
                assert outcome.name == cause_of(outcome.at, outcome.payload_hash)
                checked += 1
    assert checked == 2


def test_todays_code_writes_the_same_bytes() -> None:
    """As long as the format is called 1: a reader of the same release may compare hashes."""
    for stored, commit in zip(golden_log(), commits(), strict=True):
        assert seal(commit) == Sealed(commit.id, stored.data, stored.mark or "")


def test_a_flipped_byte_anywhere_in_the_file_is_found() -> None:
    for stored in golden_log():
        for index in range(0, len(stored.data), 7):
            data = bytearray(stored.data)
            data[index] ^= 0x20
            with pytest.raises(Damaged):
                unseal(Stored(stored.sequence, 0, bytes(data), stored.mark))


async def test_the_history_of_the_file() -> None:
    broker = MemoryBroker(SystemClock())
    session = broker.session()
    await session.provision("account")
    for stored, commit in zip(golden_log(), commits(), strict=True):
        sealed = Sealed(commit.id, stored.data, stored.mark or "")
        expected = stored.sequence - 1
        await session.log.append(Address("account", "a-1"), sealed, expected=expected)
    cluster = Cluster(session, broker.settings)
    records = [r async for r in cluster.history(account, "a-1")]
    assert [(r.version, r.key, r.sequence) for r in records] == [
        (1, "order-17", 1),
        (2, "m-1795515106564-51634a3d028381231d0bcc0f412b2d5a", 2),
        (2, None, 2),
        (3, None, 3),
        (5, "t-f33298628ea6c5a6c321d6b9650e1e2e", 3),
        (5, "order-18", 4),
        (5, "nothing", 5),
    ]
    assert records[4].events == (Deposited(2), Deposited(3))
    assert records[5].dead == "malformed"


# -- envelopes --------------------------------------------------------------------------------
WITHDRAW, DEPOSIT = Raw(b'{"type":"withdraw","cents":500}'), Raw(b'{"type":"deposit","cents":5}')
MADE = "m-1795515106564-51634a3d028381231d0bcc0f412b2d5a"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NULL = Raw(b"null")
ENVELOPES = [
    Envelope(1, "ask", WITHDRAW, key="order-17", request="r-0011223344556677"),
    Envelope(1, "ask", WITHDRAW, key=MADE, birth=1795515106564, request="r-1", after=42),
    Envelope(1, "tell", DEPOSIT, key="t-1", request="r-2", reply_to="_INBOX.Xy1.0", trace=TRACE),
    Envelope(1, "ask", Raw(b'{"type":"get_balance"}'), request="r-3", seen=17, fresh=True),
    Envelope(1, "result", NULL, key="order-17", request="r-4", deadline=1795515136564),
    Envelope(1, "status", NULL, request="r-5"),
    Envelope(1, "state", Raw(b'{"version":3}'), request="r-6"),
]


@pytest.mark.parametrize("index", range(len(ENVELOPES)))
def test_an_envelope_is_read_and_written_as_ever(index: int) -> None:
    data = lines("envelopes-1.jsonl")[index]
    assert plain(open_body(data, None, limit=4096)) == plain(ENVELOPES[index])
    assert encode_envelope(ENVELOPES[index]) == data


def test_every_envelope_of_the_file_is_tested() -> None:
    assert len(lines("envelopes-1.jsonl")) == len(ENVELOPES)


# -- answers ----------------------------------------------------------------------------------
def test_outcomes_are_read_as_ever() -> None:
    balance, nothing, failure = [decode_answer(line) for line in lines("answers-1.jsonl")[:3]]
    contract = contract_for(Withdraw, Account, writes=True)
    assert outcome_of(contract, balance) == Balance(400)
    assert (balance.seq, balance.version) == (7, 3)
    assert isinstance(nothing.reply, Raw)
    assert outcome_of(contract, failure) == InsufficientFunds(400, 500)
    assert (failure.seq, failure.version) == (8, 3)


OWN: dict[type[ClusterError], dict[str, Any]] = {
    EntityNotAssignedToRunner: {"runner": "r1"},
    MailboxFull: {"capacity": 100},
    RunnerNotRegistered: {"entity": "account"},
    RunnerUnavailable: {"runner": "r1"},
    SendTimeout: {"after_s": 30.0},
    Suspended: {"waits_for": ("approval",), "resume_token": "tok"},
}


@pytest.mark.parametrize("reason", REASONS)
def test_every_error_is_read_as_ever(reason: type[ClusterError]) -> None:
    answers = [decode_answer(line) for line in lines("answers-1.jsonl")[3:]]
    errors = [ClusterError.decode(bytes(a.error)) for a in answers if isinstance(a.error, Raw)]
    assert len(errors) == len(REASONS)
    (found,) = [e for e in errors if type(e) is reason]
    assert found == reason(
        address="account/a-1",
        key="order-17",
        request_id="r-1",
        cause="why",
        may_have_taken_effect=True,
        advice="check",
        **OWN.get(reason, {}),
    )


def test_answers_are_written_as_ever() -> None:
    for line in lines("answers-1.jsonl"):
        assert encode_answer(decode_answer(line)) == line


def test_info_is_read_and_written_as_ever() -> None:
    (line,) = lines("info-1.json")
    info = decode_info(line)
    schemas = Raw(b'{"commands":{},"events":{}}')
    usual = TypeInfo("account", 1, 16, "7f2cf0026a2a", 1795515106564, schemas)
    assert plain(info) == plain(usual)
    assert encode_info(info) == line


def test_the_first_byte_tells_the_forms_apart() -> None:
    assert all(line[:1] == b"[" for line in lines("envelopes-1.jsonl"))
    assert all(
        msgspec.json.decode(line.split(b"\t")[1])["v"] == 1 for line in lines("commits-1.tsv")
    )
