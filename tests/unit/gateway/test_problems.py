"""Every error as a problem: its status, what it tells and what it keeps."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from perdure import MailboxFull, MalformedMessage, RpcClientError, Suspended
from perdure.deploy.gateway.problems import STATUSES, of_cluster, of_failure, problem
from perdure.entities.errors import REASONS, ClusterError

from .till import Short


def body(response: Any) -> dict[str, Any]:
    return dict(json.loads(response.body))


def test_all_eleven_have_a_status() -> None:
    assert set(STATUSES) == set(REASONS)
    assert STATUSES[MailboxFull].code == 429


@pytest.mark.parametrize("kind", REASONS)
def test_each_tells_what_to_do(kind: type[ClusterError]) -> None:
    given: dict[str, Any] = {"advice": "fix"} if kind is RpcClientError else {}  # a defect
    error = kind(address="till/a", key="k", request_id="r-1", cause="why not", **given)
    response = of_cluster(error)
    told = body(response)
    assert response.status_code == told["status"] == STATUSES[kind].code
    assert response.headers["content-type"] == "application/problem+json"
    assert (told["type"], told["address"], told["key"]) == (kind.tag, "till/a", "k")
    assert told["may_have_taken_effect"] is error.may_have_taken_effect
    assert told["advice"] == error.advice
    again = response.headers.get("retry-after")
    assert (again is not None) is (STATUSES[kind].code in (202, 409, 429, 503, 504))


def test_a_lost_connection_may_be_repeated() -> None:
    response = of_cluster(RpcClientError(cause="no connection"))
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


def test_what_lies_beneath_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "perdure.gateway"):
        response = of_cluster(RpcClientError(cause="ValueError: card 4111", request_id="r-9"))
    assert b"4111" not in response.body
    assert b"r-9" in response.body
    assert "card 4111" in caplog.text
    assert vars(caplog.records[0])["action"] == "http.error"


def test_a_client_hears_why_its_message_is_refused() -> None:
    assert body(of_cluster(MalformedMessage(cause="too large")))["detail"] == "too large"


def test_a_problem_holds_no_token() -> None:
    assert b"lwSECRET" not in of_cluster(Suspended(resume_token="lwSECRET")).body


def test_a_failure_keeps_its_fields_apart() -> None:
    response = of_failure(Short(5), "k")
    assert response.status_code == 409
    assert body(response) == {
        "type": "short",
        "title": "short",
        "status": 409,
        "key": "k",
        "failure": {"type": "short", "status": 5},
    }


def test_a_problem_of_http_itself() -> None:
    told = problem(HTTPException(405, headers={"Allow": "GET"}))
    assert body(told) == {"type": "about:blank", "title": "Method Not Allowed", "status": 405}
    assert told.headers["allow"] == "GET"
