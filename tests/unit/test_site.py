"""The site of the documentation builds without a warning, and has every public name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import perdure

ROOT = Path(__file__).resolve().parents[2]


def test_it_builds_without_a_warning_and_has_every_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    reference = (tmp_path / "site" / "reference.html").read_text()
    assert set(re.findall(r'<h3[^>]* id="perdure\.(\w+)"', reference)) == set(perdure.__all__)
    pages = {page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")}
    built = {page.relative_to(tmp_path / "site") for page in (tmp_path / "site").rglob("*.html")}
    assert {page.with_suffix(".html") for page in pages} <= built
    assert len({str(page).lower() for page in built}) == len(built), "as some file systems see it"
