"""What the site needs beyond docs/: pages that stand beside it, and links that lead out of it.

The pages are written for the repository, where README.md is above docs/. In the site all are in
one folder, so `docs/x.md` in the one and `../README.md` in the other lose what leads there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files  # type: ignore[import-not-found]

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
REPORTING = "reporting.md"
"""SECURITY.md in the site: beside security.md it would be the same file on some file systems."""
CODE = re.compile(r"\[([^]]*)\]\((?!\w+:)[^)#\s]*(?:\.py|\.mjs|\.sh|\.yaml|\.json|LICENSE|/)\)")
"""A link to code, which isn't in the site."""


def on_config(config: Any) -> Any:
    """Every decision is in the navigation, without being listed there."""
    decisions = [f"adr/{page.name}" for page in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    for section in config.nav:
        for pages in section.values():
            if isinstance(pages, list):
                pages[:] = [{"Decisions": decisions} if page == "adr" else page for page in pages]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that stand elsewhere, and the page of names."""
    pages = [ROOT / name for name in BESIDE] + sorted(ROOT.glob("examples/*/*.md"))
    for page in pages:
        uri = page.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(page)))
    security = str(ROOT / "SECURITY.md")
    files.append(File.generated(config, REPORTING, abs_src_path=security))
    files.append(File.generated(config, "reference.md", content=reference()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are in the site."""
    text = markdown.replace("](docs/", "](").replace("SECURITY.md)", f"{REPORTING})")
    for up in ("../", "../../"):
        text = text.replace(f"]({up}docs/", f"]({up}")
    if "/" not in page.file.src_uri:
        text = text.replace("](../", "](")
    return CODE.sub(r"\1", text)


def reference() -> str:
    """A heading for each public name, from its docstring."""
    names = re.search(r"__all__ = \[(.*?)\]", (ROOT / "src/perdure/__init__.py").read_text(), re.S)
    assert names is not None
    found = re.findall(r'"(\w+)"', names[1])
    parts = [f"::: perdure.{name}" for name in found]
    return "# Reference\nAll that is imported from `perdure`.\n\n" + "\n\n".join(parts) + "\n"
