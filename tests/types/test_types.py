"""Both type checkers on the public API: good.py is clean, bad.py wrong on its marked lines only.

Strict mode of mypy and of pyright, with a configuration of their own, since the repository's
leaves bad.py out. perdure is seen as users see it: installed, with py.typed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHECKED = (ROOT / "tests" / "bank.py", HERE / "good.py", HERE / "bad.py")
MARK = re.compile(r"# (E\d+) ")

Errors = dict[str, dict[int, list[str]]]
"""The messages by file and line."""


def _run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, f"{command[0]} gave {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def _mypy(folder: Path) -> Errors:
    config = folder / "mypy.ini"
    config.write_text("[mypy]\nstrict = True\npython_version = 3.11\n")
    modules = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in CHECKED]
    arguments = [a for module in modules for a in ("-m", module)]
    errors: Errors = defaultdict(lambda: defaultdict(list))
    for line in _run("mypy", "--config-file", str(config), "-O", "json", *arguments).splitlines():
        found = json.loads(line)
        if found["severity"] == "error":
            errors[Path(found["file"]).name][found["line"]].append(found["message"])
    return errors


def _pyright(folder: Path) -> Errors:
    config = folder / "pyrightconfig.json"
    settings = {
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "include": [os.path.relpath(f, folder) for f in CHECKED],  # must be relative
        "extraPaths": [str(ROOT)],
    }
    config.write_text(json.dumps(settings))
    text = _run("pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(config))
    report = json.loads(text)
    assert report["summary"]["filesAnalyzed"] == len(CHECKED)
    errors: Errors = defaultdict(lambda: defaultdict(list))
    for found in report["generalDiagnostics"]:
        if found["severity"] == "error":
            line = found["range"]["start"]["line"] + 1
            errors[Path(found["file"]).name][line].append(found["message"])
    return errors


@pytest.fixture(scope="module", params=[_mypy, _pyright], ids=["mypy", "pyright"])
def errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Errors:
    """What one checker says."""
    found: Errors = request.param(tmp_path_factory.mktemp("types"))
    return found


def _marks() -> dict[int, str]:
    lines = (HERE / "bad.py").read_text().splitlines()
    found = ((n, MARK.search(line)) for n, line in enumerate(lines, 1))
    return {n: mark[1] for n, mark in found if mark}


def test_each_mark_is_used_once() -> None:
    marks = list(_marks().values())
    assert len(marks) == len(set(marks))
    assert len(marks) >= 43


def test_what_is_good_is_accepted(errors: Errors) -> None:
    assert not errors["good.py"]
    assert not errors["bank.py"]


def test_each_planted_mistake_is_an_error_and_nothing_else(errors: Errors) -> None:
    marks = _marks()
    missed = {mark for line, mark in marks.items() if line not in errors["bad.py"]}
    more = {line: texts for line, texts in errors["bad.py"].items() if line not in marks}
    assert (missed, more) == (set(), {})
