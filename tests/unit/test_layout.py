"""The house: four layers at the top, joined by links under src/perdure, and nothing left out.

A new layer file is found by itself, but links, packaging lists and checkers each name the layers
once, and forgetting one shows late: an editable install without links, a wheel that lacks a layer,
a checker that skips one in silence.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import perdure

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("entities", "streams", "durable", "deploy")
FRONT = {"__init__.py", "containers.py", "py.typed", "testing.py"}
"""What stands beside the layers: the front door, and what tests of others import."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_relative_link_joins_each_layer(layer: str) -> None:
    link = ROOT / "src" / "perdure" / layer
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{layer}"


def test_nothing_else_is_beside_the_front_door() -> None:
    found = {path.name for path in (ROOT / "src" / "perdure").iterdir()} - {"__pycache__"}
    assert found == {*FRONT, *LAYERS}, "add it to the lists in pyproject.toml"


def test_packaging_names_every_layer() -> None:
    build = PROJECT["tool"]["hatch"]["build"]
    front = {f"src/perdure/{name}" for name in FRONT}
    assert set(build["only-include"]) == {*front, *LAYERS}
    assert {*front, *LAYERS} <= set(build["targets"]["sdist"]["only-include"])
    sources = build["targets"]["wheel"]["sources"]
    assert sources == {"src/perdure": "perdure", **{x: f"perdure/{x}" for x in LAYERS}}


def test_checkers_see_every_layer() -> None:
    tools = PROJECT["tool"]
    assert {f"src/perdure/{layer}" for layer in LAYERS} <= set(tools["pyright"]["include"])
    assert set(tools["coverage"]["run"]["source"]) == {"src/perdure", *LAYERS}
    arrows = tools["importlinter"]["contracts"][0]
    assert arrows["layers"] == ["testing", "containers", *reversed(LAYERS)]


def test_every_folder_of_a_layer_is_a_package() -> None:
    folders = {path.parent for layer in LAYERS for path in (ROOT / layer).rglob("*.py")}
    missing = [folder for folder in folders if not (folder / "__init__.py").exists()]
    assert not missing


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_cannot_be_imported_by_its_bare_name(layer: str) -> None:
    """A second copy of each module would be made, with classes that are not the same."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {layer}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert f"import perdure.{layer}" in done.stderr


def test_the_version_is_told_once() -> None:
    heads = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert PROJECT["project"]["version"] in heads
    assert Path(perdure.__file__ or "").resolve() == ROOT / "src" / "perdure" / "__init__.py"


def test_every_target_of_the_makefile_is_explained() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    explained = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)
    assert sorted(phony[1].split()) == sorted(explained)


def test_ci_runs_the_whole_check() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"^make test\b", script.read_text(), re.MULTILINE)
    later = re.search(r"^LATER := (.*)$", MAKEFILE, re.MULTILINE)
    assert later is not None
    assert "tests $(LATER:%=--ignore=tests/%)" in MAKEFILE
    for folder in later[1].split():
        assert re.search(rf"PYTEST\).* tests/{folder}\b", MAKEFILE), f"nothing runs tests/{folder}"
