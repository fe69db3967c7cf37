"""docs/security.md: its commands do what it says, its settings exist, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import msgspec
import pytest

from perdure import Settings
from perdure.deploy.grants import layout

from .commands import APP, Shell

ROOT = Path(__file__).resolve().parents[3]
DOC = ROOT / "docs" / "security.md"
TEXT = DOC.read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.S)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.startswith("perdure ")]


@pytest.mark.parametrize("line", LINES)
def test_a_command(line: str, tmp_path: Path) -> None:
    words = shlex.split(line, comments=True)[1:]
    target = words[words.index(">") + 1] if ">" in words else None
    arguments = words[: words.index(">")] if target else words
    (tmp_path / "bank.py").write_text(APP)
    ran = Shell(tmp_path).type(*arguments)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out


def test_there_are_commands() -> None:
    assert len(LINES) >= 5


def test_links_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", TEXT, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (DOC.parent / target.partition("#")[0]).exists(), target


def test_the_settings_that_it_names_exist() -> None:
    names = {field.name for field in msgspec.structs.fields(Settings)}
    for row in re.findall(
        r"^\| (?:NKEY|JWT|certificate|user|token)[^|]*\| ([^|]*) \|", TEXT, re.M
    ):
        wanted = re.findall(r"`([a-z_]+)`", row.partition(";")[0])
        assert wanted
        assert set(wanted) <= names


def test_the_accounts_are_those_of_the_layout() -> None:
    printed = layout(Settings(), ["account"], ["shop", "desk"])
    for account in re.findall(r"^\| `([A-Z]+)`", TEXT, re.M):
        assert f"{account} {{" in printed
    assert "PERDURE_SHOP_NKEY" in TEXT
    assert "PERDURE_SHOP_NKEY" in printed
    assert 'inbox_prefix = "perdure.reply.shop"' in printed
