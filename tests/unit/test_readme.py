"""The README says what is so: its program is examples/bank.py, and it runs as printed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from perdure import Settings, given, memory
from perdure.entities.errors import REASONS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PROGRAM = ROOT / "examples" / "bank.py"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_program_is_the_example() -> None:
    assert python_blocks(README)[0] == PROGRAM.read_text()


def test_the_program_runs_as_printed(tmp_path: Path) -> None:
    """Elsewhere, and with nothing but the installed package."""
    (tmp_path / "bank.py").write_text(python_blocks(README)[0])
    done = subprocess.run(
        [sys.executable, "-W", "error", "bank.py"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("700\n200\n200\n", "")
    expected = re.findall(r"print\(.*#\s*(\d+)", PROGRAM.read_text())
    assert done.stdout.split() == expected


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The program's own names, and what the pages import beside them."""
    spec = importlib.util.spec_from_file_location("readme_bank", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    bank = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "readme_bank", bank)
    spec.loader.exec_module(bank)
    return {**vars(bank), "given": given, "memory": memory, "timedelta": timedelta}


def test_its_test_passes(names: dict[str, Any]) -> None:
    """The one line that shows how to test."""
    line = python_blocks(README)[1]
    exec(line, names)
    with pytest.raises(AssertionError):
        exec(line.replace("Withdraw(200)", "Withdraw(50)"), names)


@pytest.mark.parametrize("block", python_blocks((ROOT / "docs" / "testing.md").read_text()))
async def test_the_testing_page_is_right(block: str, names: dict[str, Any]) -> None:
    exec(f"async def example():\n{textwrap.indent(block, '    ')}", names)
    await names["example"]()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in heads}
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in anchors, f"{page.name}: #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page: Path) -> None:
    for name in re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py|/))`", page.read_text()):
        assert (ROOT / name).exists(), f"{page.name}: {name}"


def rows(page: str, head: str) -> list[list[str]]:
    """The rows of the table in a page whose first cell is `head`."""
    text = (ROOT / "docs" / page).read_text()
    table = text.partition(f"| {head} |")[2].partition("\n\n")[0]
    found = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    assert found
    return [[cell.strip() for cell in row] for row in found]


def test_the_settings_and_their_defaults_are_right() -> None:
    usual = {f.name: f.default for f in msgspec.structs.fields(Settings)}
    for name, default, _ in rows("operating-quick.md", "setting"):
        assert default in as_written(usual[name.strip("`")]), name


def as_written(value: Any) -> tuple[str, ...]:
    """The forms in which a page may show a default."""
    if isinstance(value, timedelta):
        return (f"{value.days} days",)
    if isinstance(value, tuple):
        return (", ".join(f"`{item}`" for item in cast("tuple[str, ...]", value)),)
    return (f"`{value}`", str(value))


def test_the_actions_to_watch_are_logged() -> None:
    layers = ("streams", "durable", "deploy")
    code = "".join(p.read_text() for layer in layers for p in (ROOT / layer).rglob("*.py"))
    for names, _ in rows("operating-quick.md", "action"):
        for name in re.findall(r"`([a-z_.]+)`", names):
            assert f'"{name}"' in code, name


def test_the_errors_page_has_all_eleven() -> None:
    assert [row[0].strip("`") for row in rows("errors.md", "error")] == [
        reason.__name__ for reason in REASONS
    ]
