"""docs/settings.md against entities/settings.py: every setting, its default, unit and meaning.

The meaning is the setting's own docstring, word for word, so a new setting or another default
fails here until the page says it; `row` is what the page must hold.
"""

from __future__ import annotations

import ast
import inspect
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from perdure import Retry, Settings, load_with_sources

DOC = (Path(__file__).resolve().parents[2] / "docs" / "settings.md").read_text()
FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}
NUMBERS = {"machine_id", "weight"}
"""Whose default doesn't tell that they are."""


def meanings() -> dict[str, str]:
    """What the class says below each field, in one line."""
    (cls,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(cls, ast.ClassDef)
    found: dict[str, str] = {}
    for field, prose in zip(cls.body, cls.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(prose, ast.Expr):
            assert isinstance(field.target, ast.Name)
            text = ast.literal_eval(prose.value)
            found[field.target.id] = " ".join(text.split()).replace("|", "\\|")
    return found


def shown(value: Any) -> str:
    """A default as the page shows it."""
    if value is None or value == ():
        return "none"
    if isinstance(value, timedelta):
        return f"{value.total_seconds():,.0f}"
    if isinstance(value, Retry):
        return f"{value.attempts} times, {value.base} s, factor {value.factor:g}"
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in cast("tuple[str, ...]", value))
    if isinstance(value, str):
        return f"`{value}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}"


def unit(name: str, value: Any) -> str:
    if name in NUMBERS:
        return "number"
    if isinstance(value, (float, timedelta)):
        return "seconds"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "bytes" if name.endswith("_bytes") else "number"
    if isinstance(value, Retry):
        return "retry"
    return "list of text" if isinstance(value, tuple) else "text"


def row(name: str) -> str:
    default = FIELDS[name].default
    return f"| `{name}` | {shown(default)} | {unit(name, default)} | {meanings()[name]} |"


def rows() -> list[str]:
    return [line for line in DOC.splitlines() if re.match(r"\| `[a-z_]+` \|", line)]


def test_every_setting_is_there_in_order() -> None:
    assert [line.split("`")[1] for line in rows()] == list(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_default_unit_and_meaning(name: str) -> None:
    assert row(name) in rows()


def test_the_example_file_is_good(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
    file = tmp_path / "perdure.toml"
    file.write_text(example)
    settings, sources = load_with_sources(file, environ={})
    assert settings.dedup_window == timedelta(days=7)
    assert settings.ask_timeout == 10
    assert settings.defect_retry == Retry(attempts=3, base=0.2)
    assert sources["url"] == str(file)


def test_the_example_variables_are_good() -> None:
    (example,) = re.findall(r"^```sh\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
    pairs = re.findall(r"^export (\w+)=(?:'(.*?)'|(\S+))", example, re.MULTILINE)
    environ = {name: quoted or plain for name, quoted, plain in pairs}
    settings, sources = load_with_sources(environ=environ)
    named = {name for name in environ if name.startswith("PERDURE_")}
    assert {source for source in sources.values() if source.startswith("PERDURE_")} == named
    assert settings.passivate_after == timedelta(minutes=5)
