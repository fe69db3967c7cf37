"""deploy/Dockerfile and what it installs, as far as that can be told without building it.

tests/integration/test_image.py builds and runs it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pinned(file: str) -> dict[str, str]:
    """The version of each library; each has its hashes."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / file).read_text(), flags=re.MULTILINE)
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        name, version = re.match(r"([\w.-]+)==(\S+)", block).groups()  # type: ignore[union-attr]
        assert "--hash=sha256:" in block, name
        found[canonicalize_name(name)] = version
    return found


def extras() -> list[str]:
    """What the image has of perdure's extras."""
    found = re.search(r'"perdure\[([\w,]+)\]"', DOCKERFILE)
    assert found is not None
    return found[1].split(",")


def instructions() -> list[str]:
    """The Dockerfile's instructions, each on one line."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [re.sub(r"\s+", " ", line) for line in lines.splitlines() if line.strip()]


def test_what_is_pinned_is_what_the_project_asks_for() -> None:
    project = PROJECT["project"]
    asked = list(project["dependencies"])
    for extra in extras():
        asked += project["optional-dependencies"][extra]
    have = pinned("requirements.txt")
    for text in asked:
        wanted = Requirement(text)
        version = have.get(canonicalize_name(wanted.name))
        assert version is not None, f"make requirements: {wanted.name} isn't pinned"
        assert version in wanted.specifier, f"make requirements: {wanted} isn't {version}"
    build = pinned("requirements-build.txt")
    for text in PROJECT["build-system"]["requires"]:
        wanted = Requirement(text)
        assert build[canonicalize_name(wanted.name)] in wanted.specifier


def test_the_makefile_pins_the_same_extras() -> None:
    found = re.search(r"^IMAGE_EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    assert found[1].split() == extras()


def test_nothing_needs_a_shell() -> None:
    for line in instructions():
        word, _, rest = line.partition(" ")
        if word in ("RUN", "CMD", "ENTRYPOINT"):
            assert isinstance(json.loads(rest), list), line


def test_what_runs_has_no_rights_and_is_ended_by_sigterm() -> None:
    last = "\n".join(instructions()).rpartition("FROM ")[2]
    assert re.findall(r"^USER (.*)$", last, re.MULTILINE) == ["10001:10001"]
    assert "STOPSIGNAL SIGTERM" in last.splitlines()
    assert not re.search(r"^RUN ", last, re.MULTILINE), "it only gets what was built"
    assert re.findall(r"^COPY (.*)$", last, re.MULTILINE) == [
        "--from=build /opt/perdure /opt/perdure"
    ]


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-build.txt"])
def test_every_library_is_installed_by_its_hash(file: str) -> None:
    (line,) = (line for line in instructions() if f'"{file}"' in line and line.startswith("RUN"))
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(json.loads(line[4:]))


def test_the_context_has_all_that_is_copied_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = {
        name.rstrip("/").partition("/")[0]
        for line in instructions()
        if line.startswith("COPY") and "--from" not in line
        for name in line.split()[1:-1]
    }
    assert copied == allowed
    needed = {Path(path).parts[0] for path in PROJECT["tool"]["hatch"]["build"]["only-include"]}
    assert needed <= allowed


def test_the_list_of_parts_has_every_library(tmp_path: Path) -> None:
    file = tmp_path / "parts.json"
    tool = [sys.executable, "-m", "cyclonedx_py", "requirements", "deploy/requirements.txt"]
    # `make sbom` also validates it, which takes seconds.
    options = ["--pyproject", "pyproject.toml", "--no-validate", "-o", str(file)]
    subprocess.run([*tool, *options], cwd=ROOT, check=True, timeout=60, capture_output=True)
    listed = json.loads(file.read_text())
    assert listed["metadata"]["component"]["name"] == "perdure"
    parts = {part["name"]: part for part in listed["components"]}
    assert {canonicalize_name(n): p["version"] for n, p in parts.items()} == pinned(
        "requirements.txt"
    )
    for part in parts.values():
        assert [ref for ref in part["externalReferences"] if ref.get("hashes")], part["name"]
