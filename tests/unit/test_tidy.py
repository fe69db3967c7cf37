"""The house rules that a reader counts on, held over every file by `ast`.

Sizes (a file is one noun, a function fits a screen), a docstring that says what a module is, time
and randomness through their ports only (else a simulation could not own them), relative imports
inside the layers, and no error swallowed in silence. To change a rule, change it here; each
exception names its file and its reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("entities", "streams", "durable", "deploy")
FOLDERS = (*LAYERS, "src", "tests", "examples", "benchmarks")

FILE_LINES = 600
FUNCTION_LINES = 70
LINE_COLUMNS = 100

_PRAGMA = re.compile(r"  # (type: ignore|pyright: ignore|noqa).*")
"""What a checker must be told at the end of a line doesn't count."""

WITHOUT_DOCSTRING = {"examples/bank.py": "printed in the README, where a comment says it"}

PORTED_MODULES = frozenset({"time", "random", "secrets", "uuid"})
PORTED_CALLS = frozenset(
    {
        "datetime.now",
        "datetime.utcnow",
        "datetime.today",
        "date.today",
        "datetime.datetime.now",
        "datetime.datetime.utcnow",
        "datetime.date.today",
        "os.urandom",
        "asyncio.sleep",
    }
)
PORTS = {
    "entities/clock.py": "the clock port itself",
    "entities/entropy.py": "the entropy port itself",
}
SLEEPS = {
    "deploy/checks.py": "looks again at what may just be moving from one runner to another",
    "deploy/cli/survey.py": "looks at the runners now and then, as they announce nothing",
    "deploy/supervisor.py": "backs off before a worker that ended is started again",
    "durable/activation.py": "backs off while the backend can't be reached",
    "durable/append.py": "backs off before it asks the leader again after a lost acknowledgement",
    "durable/asking.py": "backs off while a mailbox is full or its stream can't be reached",
    "durable/effects.py": "backs off between attempts of a step, as its policy says",
    "durable/execution.py": "backs off between attempts: a defect's, a refusing log's",
    "durable/flows.py": "backs off between attempts of a flow with a defect",
    "durable/marks.py": "backs off while the members bucket can't be reached",
    "durable/membership.py": "heartbeats and pings come at intervals",
    "durable/post.py": "backs off before a singleton's run that failed is begun again",
    "durable/registrar.py": "backs off while the registry of ids takes nothing",
    "durable/relay.py": "backs off before it stores again, or takes part again",
    "durable/resizing.py": "lets a cluster's servers tell each other who listens",
    "durable/runner.py": "sweeps and progress reports come at intervals",
    "durable/scheduling.py": "looks now and then for schedules that nobody told",
    "durable/secret.py": "backs off while the members bucket can't be reached",
    "durable/shard.py": "backs off between attempts at a term; the server must be asked for news",
    "durable/tenure.py": "asks again soon, in case that a connection was just made anew",
    "durable/testing.py": "waits until all is quiet, which nothing announces",
    "streams/broadcast.py": "keeps to a rate, and backs off while a mailbox is full",
    "streams/listing.py": "rests between reads, so that those who publish hardly notice",
}
"""Modules that may call `asyncio.sleep`, each with its reason. The sleep is the event loop's, so
a simulation owns it too; but a wait for a condition is usually better."""


def problems(name: str, source: str) -> Iterator[str]:
    """What is untidy in one file; `name` is its path from the root, with slashes."""
    lines = source.splitlines()
    if len(lines) > FILE_LINES:
        yield f"{name}: {len(lines)} lines, allowed are {FILE_LINES}"
    for number, line in enumerate(lines, 1):
        columns = len(_PRAGMA.sub("", line))
        if columns > LINE_COLUMNS:
            yield f"{name}:{number}: {columns} columns, allowed are {LINE_COLUMNS}"
    tree = ast.parse(source)
    if lines and name not in WITHOUT_DOCSTRING and not (ast.get_docstring(tree) or "").strip():
        yield f"{name}: no module docstring"
    for node in ast.walk(tree):
        yield from _sizes(name, node)
        if name.split("/")[0] in LAYERS:
            yield from _swallowed(name, node)
            yield from _ports(name, node)
            yield from _imports(name, node)


def _sizes(name: str, node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > FUNCTION_LINES:
            yield f"{name}:{node.lineno}: {node.name} has {length} lines"


def _swallowed(name: str, node: ast.AST) -> Iterator[str]:
    """A handler of everything, whose body does nothing; and `suppress` of everything."""
    if isinstance(node, ast.ExceptHandler) and (node.type is None or _catches_all(node.type)):
        if all(_does_nothing(statement) for statement in node.body):
            yield f"{name}:{node.lineno}: swallows every exception"
    elif isinstance(node, ast.Call) and _dotted(node.func).endswith("suppress"):
        yield from (
            f"{name}:{node.lineno}: suppresses every exception"
            for arg in node.args
            if _catches_all(arg)
        )


def _catches_all(node: ast.expr) -> bool:
    names = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(_dotted(n) in ("Exception", "BaseException") for n in names)


def _does_nothing(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Pass, ast.Continue)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _ports(name: str, node: ast.AST) -> Iterator[str]:
    if name in PORTS:
        return
    for module in _imported(node):
        if module.split(".")[0] in PORTED_MODULES:
            yield f"{name}:{_line(node)}: imports {module}; use the clock or entropy port"
    if isinstance(node, ast.ImportFrom) and node.module == "asyncio":
        for alias in node.names:
            if alias.name == "sleep":
                yield f"{name}:{node.lineno}: imports sleep; call asyncio.sleep"
    if isinstance(node, ast.Attribute) and _dotted(node) in PORTED_CALLS:
        called = _dotted(node)
        if called != "asyncio.sleep" or name not in SLEEPS:
            yield f"{name}:{node.lineno}: {called}; use the clock or entropy port"


def _imports(name: str, node: ast.AST) -> Iterator[str]:
    for module in _imported(node):
        if module.split(".")[0] in ("perdure", *LAYERS):
            yield f"{name}:{_line(node)}: imports {module}; inside the layers imports are relative"


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield node.module


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        head = _dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return node.id if isinstance(node, ast.Name) else ""


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def files() -> Iterator[Path]:
    """Every Python file of the project, once: the links under src/ are not followed."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).parts
            if not (parts[0] == "src" and parts[2] in LAYERS):
                yield path


def test_the_files_are_found() -> None:
    found = {str(path.relative_to(ROOT)) for path in files()}
    assert {"streams/subjects.py", "src/perdure/__init__.py", "tests/unit/test_tidy.py"} <= found
    assert not any(name.startswith("src/perdure/entities") for name in found)


def test_every_file_is_tidy() -> None:
    found = [
        problem
        for path in files()
        for problem in problems(path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert not found, "\n".join(found)


def test_every_exception_is_still_needed() -> None:
    for name in SLEEPS:
        assert "asyncio.sleep" in (ROOT / name).read_text(), f"{name} no longer sleeps"


LONG_FUNCTION = "def f() -> None:\n" + "    x = 1\n" * FUNCTION_LINES


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\n" * (FILE_LINES + 1), "601 lines"),
        (f"x = '{'a' * LINE_COLUMNS}'", "106 columns"),
        (LONG_FUNCTION, "f has 71 lines"),
        (f"class C:\n{LONG_FUNCTION}".replace("\n", "\n "), "f has 71 lines"),
        (LONG_FUNCTION.replace("def", "async def"), "f has 71 lines"),
        ("import time", "imports time"),
        ("def f() -> None:\n    from random import choice", "imports random"),
        ("import uuid as u", "imports uuid"),
        ("import secrets", "imports secrets"),
        ("from datetime import datetime\nnow = datetime.now()", "datetime.now"),
        ("import datetime\nnow = datetime.datetime.now", "datetime.datetime.now"),
        ("import os\nx = os.urandom(3)", "os.urandom"),
        ("import asyncio\nasync def f() -> None:\n    await asyncio.sleep(1)", "asyncio.sleep"),
        ("from asyncio import sleep as nap", "imports sleep"),
        ("from perdure.entities import key", "imports perdure.entities"),
        ("import streams.log", "imports streams.log"),
        ("try:\n    f()\nexcept Exception:\n    pass", "swallows"),
        ("try:\n    f()\nexcept:\n    'why'", "swallows"),
        (
            "for x in y:\n  try:\n    f()\n  except (KeyError, Exception):\n    continue",
            "swallows",
        ),
        ("with contextlib.suppress(BaseException):\n    f()", "suppresses"),
    ],
)
def test_a_planted_violation_is_caught(source: str, said: str) -> None:
    planted = f'"""A module."""\n{source}'
    if "lines" in said and "has" not in said:
        planted = '"""A module."""; ' + source
    found = list(problems("durable/planted.py", planted))
    assert len(found) == 1
    assert said in found[0]


def test_a_missing_docstring_is_caught() -> None:
    assert list(problems("tests/planted.py", "x = 1")) == ["tests/planted.py: no module docstring"]


@pytest.mark.parametrize(
    "source",
    [
        "import time",  # tests may look at the clock
        "from perdure import State",
        "x = 1  # type: ignore[" + "a" * LINE_COLUMNS + "]",
    ],
)
def test_what_tests_may_do_passes(source: str) -> None:
    assert not list(problems("tests/fine.py", f'"""A module."""\n{source}'))


@pytest.mark.parametrize(
    "source",
    [
        "from ..entities.key import IdempotencyKey",
        "try:\n    f()\nexcept KeyError:\n    pass",
        "try:\n    f()\nexcept Exception as error:\n    log(error)",
        "with contextlib.suppress(KeyError):\n    f()",
    ],
)
def test_what_a_layer_may_do_passes(source: str) -> None:
    assert not list(problems("durable/fine.py", f'"""A module."""\n{source}'))
