"""The eleven cluster errors: closed, travelling, honest about their effect."""

from __future__ import annotations

import functools
import inspect
import json
import pickle
from typing import Any

import pytest

import perdure as p
from perdure.entities.errors import REASONS
from tests.bank import InsufficientFunds

CLASSES: list[Any] = list(REASONS)


def test_eleven_and_closed() -> None:
    assert len(CLASSES) == len({r.tag for r in CLASSES}) == 11
    with pytest.raises(TypeError, match="the eleven reasons are closed"):
        type("Twelfth", (p.ClusterError,), {})
    with pytest.raises(TypeError, match="one of its eleven reasons"):
        p.ClusterError()


def test_fields_are_named() -> None:
    full: Any = p.MailboxFull
    with pytest.raises(TypeError, match="positional"):
        full("account/a-1")


def _pair(reason: Any, error: Any) -> Any:
    return reason, error


@pytest.mark.parametrize("reason", CLASSES)
def test_each_reason_travels(reason: Any) -> None:
    error = reason(address="account/a-1", key="k", request_id="7", cause="why", advice="check")
    assert p.ClusterError.decode(error.encode()) == error
    assert pickle.loads(pickle.dumps(error)) == error
    assert p.error_tag(error) == reason.__name__ == error.tag
    assert error.reason is error
    assert isinstance(error.may_have_taken_effect, bool)


@pytest.mark.parametrize("reason", CLASSES)
def test_each_reason_is_handled_by_its_own_handler(reason: Any) -> None:
    error = reason()
    handlers: dict[str, Any] = {
        f"on_{p.snake(r.tag)}": functools.partial(_pair, r) for r in CLASSES
    }
    assert p.handle_error(error, **handlers) == (reason, error)
    del handlers["on_suspended"]
    with pytest.raises(TypeError, match="required keyword-only argument: 'on_suspended'"):
        p.handle_error(error, **handlers)


def test_handlers_are_named_by_rule() -> None:
    names = set(inspect.signature(p.handle_error).parameters) - {"error"}
    assert names == {f"on_{p.snake(r.tag)}" for r in CLASSES}


@pytest.mark.parametrize(
    ("reason", "effect", "advice"),
    [
        (p.AlreadyProcessingMessage, True, "wait"),
        (p.EntityNotAssignedToRunner, True, "retry"),
        (p.MailboxFull, False, "retry with the same key"),
        (p.MalformedMessage, False, "fix"),
        (p.PersistenceError, True, "retry with the same key"),
        (p.RunnerNotRegistered, False, "wait"),
        (p.RunnerUnavailable, True, "retry with the same key"),
        (p.SendTimeout, True, "retry with the same key"),
        (p.Suspended, True, "wait"),
        (p.RpcClientError, True, "retry with the same key"),
        (p.SerializationError, True, "fix"),
    ],
)
def test_defaults(reason: Any, effect: bool, advice: str) -> None:
    error = reason()
    assert (error.may_have_taken_effect, error.advice) == (effect, advice)
    wire = json.loads(error.encode())
    assert (wire["type"], wire["advice"]) == (reason.__name__, advice)
    assert wire["may_have_taken_effect"] is effect


def test_effect_is_a_field_that_travels() -> None:
    error = p.MailboxFull(may_have_taken_effect=True, address="account/a-1")
    assert p.ClusterError.decode(error.encode()) == error


def test_a_newer_runners_fields_are_ignored() -> None:
    decoded = p.ClusterError.decode(b'{"type":"MailboxFull","capacity":100,"colour":"red"}')
    assert decoded == p.MailboxFull(capacity=100)


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"Twelfth"}',
        b'{"type":"insufficient_funds"}',
        b"{}",
        b"[]",
        b"",
        b"\xff",
        b'{"type":"MailboxFull","capacity":"many"}',
        b'{"type":"MailboxFull","cause":"\xff"}',
        b'{"type":"MailboxFull","advice":"panic"}',
        b'{"type":"MailboxFull","colour":' + b"[" * 100_000,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_anything_else_is_a_serialization_error(data: bytes) -> None:
    with pytest.raises(p.SerializationError, match="not a cluster error"):
        p.ClusterError.decode(data)


def test_the_text_says_what_happened_to_whom_and_what_to_do() -> None:
    error = p.MailboxFull(address="account/a-1", capacity=100)
    assert str(error) == (
        "The entity's mailbox, or the runner, is at capacity (address='account/a-1', "
        "capacity=100); it has had no effect; advice: retry with the same key"
    )
    assert str(p.SendTimeout()) == (
        "No acknowledgement or no reply in time; it may have taken effect; "
        "advice: retry with the same key"
    )


def test_the_cause_comes_first_and_in_place_of_all_that_the_class_stands_for() -> None:
    error = p.RpcClientError(
        address="account/a-1", key="k", cause="can't connect to nats://localhost:4222"
    )
    assert str(error) == (
        "can't connect to nats://localhost:4222 (address='account/a-1', key='k'); "
        "it may have taken effect; advice: retry with the same key"
    )
    assert str(p.MalformedMessage(cause="no.")) == "no; it has had no effect; advice: fix"


def test_with_details_copies_and_keeps_the_origin() -> None:
    with pytest.raises(p.SendTimeout) as caught:
        raise p.SendTimeout(key="k") from OSError("cable")
    error = caught.value
    more = p.with_details(error, address="account/a-1", advice="check")
    assert more == p.SendTimeout(key="k", address="account/a-1", advice="check")
    assert error == p.SendTimeout(key="k")
    assert more.__cause__ is error.__cause__
    assert more.__traceback__ is error.__traceback__
    with pytest.raises(TypeError, match="colour"):
        p.with_details(p.SendTimeout(), colour="red")


def test_error_tag_of_the_others() -> None:
    assert p.error_tag(InsufficientFunds(1, 2)) == "insufficient_funds"
    assert p.error_tag(ZeroDivisionError()) == "defect"
