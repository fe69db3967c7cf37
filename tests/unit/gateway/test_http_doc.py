"""docs/http.md says what is so: its examples run as printed, its table is the code's."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from perdure import Token
from perdure.deploy.gateway.problems import FAILURE_STATUS, STATUSES
from perdure.deploy.server import EmbeddedServer

from ... import bank
from ...support.server import PATIENCE_S, until
from .house import house

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "http.md").read_text()


def examples() -> list[tuple[str, str]]:
    """Each command with what it prints."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```\n(curl .*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("curl "):
                found.append((line, ""))
            else:
                command, printed = found[-1]
                found[-1] = (command, f"{printed}{line[2:]}\n")
    return found


async def typed(command: str, **variables: str) -> str:
    process = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, env={**os.environ, **variables}
    )
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate()
    late = 28  # curl's, by --max-time
    assert process.returncode in ((0, late) if "--max-time" in command else (0,)), command
    return out.decode()


async def test_the_examples_run_as_printed(
    nats_server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: list[str] = []

    async def mail(token: Token[bank.Verdict], cents: int, *, idempotency_key: str) -> None:
        tokens.append(str(token))

    monkeypatch.setattr(bank, "mail_approver", mail)
    ran = 0
    async with house(nats_server, namespace, entities=[bank.account]) as made:
        for command, printed in examples():
            if "$TOKEN" in command:
                await until(lambda: bool(tokens), "the token")
            out = await typed(command, AT=made.at, TOKEN="".join(tokens))
            there = re.escape(printed.rstrip("\n")).replace("…", ".*")
            shown = re.sub(r"\n+", "\n", out).rstrip("\n")  # events are divided by empty lines
            assert re.fullmatch(there, shown, re.DOTALL), f"{command}\n{out}"
            ran += 1
    assert ran == 13


def test_the_table_is_the_codes() -> None:
    table = PAGE.partition("<!-- check: statuses -->")[2].partition("\n\n")[0]
    rows = [[c.strip() for c in line.split("|")[1:4]] for line in table.splitlines()[3:]]
    told = {row[0].strip("`"): (row[1], row[2]) for row in rows}
    assert told.pop("a declared failure") == (str(FAILURE_STATUS), "")
    assert told == {
        kind.tag: (str(status.code), str(status.retry_after_s or ""))
        for kind, status in STATUSES.items()
    }
