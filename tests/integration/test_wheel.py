"""The built wheel in an empty environment, outside the checkout: the README's program runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .quickstart import Page, commands, fits

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("entities", "streams", "durable", "deploy")


def run(*command: str | Path, cwd: Path) -> str:
    """What the command prints; the test fails with all of its output if it fails."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by way of the source distribution, as a release is."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


def test_it_holds_every_module(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    wanted = {
        f"perdure/{path.relative_to(ROOT).as_posix()}"
        for layer in LAYERS
        for path in (ROOT / layer).rglob("*.py")
    }
    wanted |= {f"perdure/{path.name}" for path in (ROOT / "src" / "perdure").glob("*.py")}
    assert held == wanted
    assert "perdure/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_the_program_of_the_readme_runs_from_it(wheel: Path, tmp_path: Path) -> None:
    """With nothing but what every install has."""
    program = re.search(r"```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.S | re.M)
    assert program is not None
    (tmp_path / "bank.py").write_text(program[1])
    run(sys.executable, "-m", "venv", "fresh", cwd=tmp_path)
    python = tmp_path / "fresh" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    assert run(python, "bank.py", cwd=tmp_path) == "700\n200\n200\n"
    where = run(python, "-c", "import perdure; print(perdure.__file__)", cwd=tmp_path)
    assert str(tmp_path / "fresh") in where


def test_the_quickstart_is_right(wheel: Path, tmp_path: Path) -> None:
    page = Page(tmp_path, PERDURE=str(wheel))
    page.run((ROOT / "docs" / "quickstart.md").read_text())
    assert page.typed == 15


def test_what_the_quickstart_is_compared_with() -> None:
    block = "a\n# one …\n# two\nb\n"
    assert list(commands(block)) == [("a", ["one …", "two"]), ("b", [])]
    assert fits(["one x", "two"], ["one …", "two"])
    assert not fits(["one x", "two", "three"], ["one …", "two"])
    assert not fits(["two"], ["one …", "two"])
