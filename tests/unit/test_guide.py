"""The pages for users run: docs/guide.md and docs/evolving.md, block by block, as printed.

The blocks of a page are one program. A comment behind a `print` is what it must print; `cluster`,
which a page speaks of, is a connection that hosts the page's `account`.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from perdure import connect
from perdure.streams.memory.registry import forget

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page: str) -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)
    assert found
    return found


def promised(block: str) -> list[str]:
    """What the comments behind top-level and nested `print`s say, where they say something."""
    return re.findall(r"^ *print\(.*\) +# (.+)$", block, re.MULTILINE)


async def run(block: str, module: ModuleType) -> list[str]:
    """Run one block; what it printed."""
    printed: list[str] = []

    def show(*values: object) -> None:
        printed.append(" ".join(map(str, values)))

    vars(module)["print"] = show
    code = compile(block, module.__name__, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result: Any = eval(code, vars(module))
    if inspect.iscoroutine(result):
        await result
    return printed


@pytest.fixture
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Annotations are resolved in the module that a class says it is from."""
    name = f"page_{request.node.name}".replace("[", "_").replace("]", "")
    made = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    return made


@pytest.mark.parametrize("page", ["guide.md", "evolving.md"])
async def test_the_page_runs_as_printed(page: str, module: ModuleType) -> None:
    names = vars(module)
    forget("evolving")
    async with AsyncExitStack() as stack:
        for block in blocks(page):
            if "cluster" not in names and "account" in names and "cluster" in block:
                served = connect("memory:", serving=[names["account"]])
                names["cluster"] = await stack.enter_async_context(served)
            printed = await run(block, module)
            expected = promised(block)
            assert printed == expected or not expected, block


def test_a_wrong_comment_is_found() -> None:
    assert promised('print(1)  # 2\nprint("a")\n  print(x(1))    # b, c\n') == ["2", "b, c"]
