"""The OpenAPI document: valid, complete, and what the gateway really does."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from perdure.deploy.gateway.document import document
from perdure.deploy.gateway.limits import Limits
from perdure.deploy.gateway.served import types_of
from perdure.deploy.server import EmbeddedServer

from ... import bank
from . import till as tills
from .house import house

FUZZ_S = int(os.environ.get("PERDURE_FUZZ_S", "0"))
"""How long to fuzz by chance, in seconds. 0: a few cases of each operation, always the same, since
what a busy machine gets done in some seconds is no measure."""

LIMIT_S = 60
"""How long the few cases may take on a busy machine."""

FEW = ("--phases", "fuzzing", "--max-examples", "2", "--generation-deterministic", "--no-shrink")
MANY = (
    *("--phases", "coverage,fuzzing,stateful", "--generation-database", "none"),
    *("--max-time", str(FUZZ_S)),
)

QUICK = Limits(call_s=1.0, wait_s=1.0, outcome_s=0.02, stream_s=0.2)


def made(*entities: Any, require_key: bool = False) -> dict[str, Any]:
    types = types_of(entities)
    return dict(json.loads(document(types, Limits(), require_key=require_key, root="")))


@pytest.mark.parametrize("entities", [(tills.till,), (bank.account, tills.till)])
def test_it_is_valid(entities: tuple[Any, ...]) -> None:
    told: Any = made(*entities)
    validate(told)
    assert told["openapi"].startswith("3.1")


def test_it_tells_every_command_with_its_failures() -> None:
    told = made(tills.till)
    paths = told["paths"]
    for tag, contract in tills.till.contracts.items():
        path = paths[f"/entities/till/{{id}}/{tag}"]
        assert "post" in path
        assert (f"/entities/till/{{id}}/outcomes/{tag}/{{key}}" in paths) is contract.writes
    close = paths["/entities/till/{id}/close"]["post"]["responses"]["409"]
    kinds = close["content"]["application/problem+json"]["schema"]["anyOf"]
    assert [k["properties"]["type"]["const"] for k in kinds[:-1]] == ["short", "refused"]
    put = paths["/entities/till/{id}/put"]["post"]
    body = put["requestBody"]["content"]["application/json"]["schema"]
    assert (body["required"], body["additionalProperties"]) == (["cents"], False)
    assert put["summary"] == "Put money in."


def test_a_query_whose_name_or_field_is_taken_is_posted() -> None:
    history = made(tills.till)["paths"]["/entities/till/{id}/history"]
    assert history["get"]["operationId"] == "till.history"
    assert history["post"]["operationId"] == "till.history.post"


def test_a_key_may_be_required() -> None:
    told = made(tills.till, require_key=True)["paths"]["/entities/till/{id}/put"]["post"]
    (key,) = [p for p in told["parameters"] if p["name"] == "Idempotency-Key"]
    assert key["required"] is True


CONFIG = "[generation]\nallow-extra-parameters = false\n"
"""Headers that nobody knows are to be ignored, not refused."""


async def fuzz(folder: Path, *arguments: str) -> tuple[int, str]:
    """How schemathesis ended, and what it said."""
    (folder / "schemathesis.toml").write_text(CONFIG)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
        *("run", "--no-color", "--checks", "all"),
        # What is valid may be refused all the same: a forged token, a key that is used already.
        *("--exclude-checks", "positive_data_acceptance", *arguments),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(FUZZ_S + LIMIT_S):
        out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_it_says_what_the_gateway_does(
    nats_server: EmbeddedServer,
    namespace: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With one mistake in it, on purpose, that one and nothing else is found."""
    tills.released.set()
    caplog.set_level(logging.INFO, "perdure.gateway")
    async with house(nats_server, namespace, QUICK) as there:
        told: Any = json.loads(there.gateway.document)
        if not FUZZ_S:
            del told["paths"]["/entities/till/{id}/put"]["post"]["responses"]["200"]
        (tmp_path / "openapi.json").write_text(json.dumps(told))
        code, said = await fuzz(
            tmp_path, *(MANY if FUZZ_S else FEW), "--url", there.at, "openapi.json"
        )
    assert "Selected: 18/18\n  Tested: 18\n" in said, said
    if FUZZ_S:
        assert code == 0, said
    else:
        found = said.partition("\nFailures:\n")[2].partition("\n\n")[0]
        assert (code, found.strip()) == (1, "❌ ST103 Undocumented status code: 1"), said
        assert "✅ 17 passed  ❌  1 failed" in said
    seen = [r for r in caplog.records if vars(r).get("action") == "http.request"]
    assert len(seen) > 18
