"""APP: what is found, and what each mistake says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.deploy.cli.app import load_app
from perdure.deploy.cli.trouble import FAILED, USAGE, Failed, Trouble, UsageError

BANK = """
from perdure import Command, Decision, Entity, Event, State

class {state}(State):
    total: int = 0

class Add(Command[{state}, int]):
    n: int

class Added(Event):
    n: int

def decide(state: {state}, command: Add) -> Decision[Added]:
    return command.accept(state.total + command.n, Added(command.n))

def evolve(state: {state}, event: Added) -> {state}:
    return state.replace(total=state.total + event.n)

{variable} = Entity({state}(), decide, evolve)
"""


def source(state: str = "Counter", variable: str = "counter") -> str:
    return BANK.format(state=state, variable=variable)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own current folder; what a test imported is forgotten again."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def names(app: str) -> list[str]:
    return [entity.name for entity in load_app(app)]


def refused(app: str) -> Trouble:
    with pytest.raises(Trouble) as caught:
        load_app(app)
    assert "\n" not in caught.value.what
    assert "\n" not in caught.value.next_step
    assert caught.value.next_step
    return caught.value


def test_every_entity_at_module_level_in_order(folder: Path) -> None:
    text = source("Zebra", "zebra") + source("Ant", "ant")
    (folder / "app_zoo.py").write_text(text)
    assert names("app_zoo") == ["zebra", "ant"]
    assert names("app_zoo.py") == ["zebra", "ant"]
    assert names("./app_zoo.py:ant") == ["ant"]
    assert names("app_zoo:ant") == ["ant"]


def test_an_imported_entity_counts_too_and_two_names_of_one_count_once(folder: Path) -> None:
    (folder / "app_inner.py").write_text(source())
    (folder / "app_outer.py").write_text("from app_inner import counter\nagain = counter\n")
    assert names("app_outer") == ["counter"]


def test_a_list_of_entities_can_be_named(folder: Path) -> None:
    text = source("One", "one") + source("Two", "two") + "\nboth = [two, one]\n"
    (folder / "app_both.py").write_text(text)
    assert names("app_both:both") == ["two", "one"]


def test_the_current_folder_comes_first(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "app_twice.py").write_text(source("Wrong", "wrong"))
    sys.path.insert(0, str(other))
    (folder / "app_twice.py").write_text(source())
    assert names("app_twice") == ["counter"]


def test_a_module_in_a_package(folder: Path) -> None:
    (folder / "app_shop").mkdir()
    (folder / "app_shop" / "__init__.py").write_text("")
    (folder / "app_shop" / "stock.py").write_text(source())
    assert names("app_shop.stock:counter") == ["counter"]


def test_a_file_elsewhere_finds_its_neighbours(folder: Path) -> None:
    (folder / "app_sub").mkdir()
    (folder / "app_sub" / "app_helper.py").write_text("VALUE = 1\n")
    (folder / "app_sub" / "app_main.py").write_text("import app_helper\n" + source())
    assert names("app_sub/app_main.py") == ["counter"]


def test_a_file_that_was_imported_before_is_not_run_again(folder: Path) -> None:
    (folder / "app_once.py").write_text(source())
    (first,) = load_app("app_once.py")
    (second,) = load_app("app_once.py")
    (third,) = load_app("app_once")
    assert first is second is third


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("app_none", "no module 'app_none'"),
        ("app_none.sub", "no module 'app_none.sub'"),
        ("app_none.py", "no file app_none.py"),
        ("there/app_none.py", "no file there/app_none.py"),
        ("", "not an APP: ''"),
        (":x", "not an APP: ':x'"),
        ("bank:", "not an APP: 'bank:'"),
        ("bank:a b", "not an APP"),
        ("bank-x", "not a module's name"),
        ("a..b", "not a module's name"),
        ("..", "not a module's name"),
    ],
)
def test_what_is_not_there_is_a_usage_error(app: str, says: str) -> None:
    trouble = refused(app)
    assert isinstance(trouble, UsageError)
    assert trouble.code == USAGE
    assert says in trouble.what


def test_a_file_that_is_no_module_name(folder: Path) -> None:
    (folder / "my-bank.py").write_text(source())
    assert "'my-bank' isn't a module's name" in refused("my-bank.py").what


def test_a_file_named_like_a_loaded_module(folder: Path) -> None:
    (folder / "json.py").write_text(source())
    trouble = refused("json.py")
    assert "another module 'json'" in trouble.what
    assert trouble.next_step == "rename the file"


def test_no_entity_in_it(folder: Path) -> None:
    (folder / "app_empty.py").write_text("x = 1\n")
    trouble = refused("app_empty")
    assert trouble.code == USAGE
    assert "no Entity at module level" in trouble.what
    assert "Entity(Account(), decide, evolve)" in trouble.next_step


def test_a_name_that_is_not_there_lists_those_that_are(folder: Path) -> None:
    (folder / "app_names.py").write_text(source() + "\nother = 3\nnone = []\n")
    trouble = refused("app_names:count")
    assert "no 'count'" in trouble.what
    assert trouble.next_step == "it has counter"
    assert "'other' is a int, not an Entity" in refused("app_names:other").what
    assert "'none' is a list" in refused("app_names:none").what


def test_two_entities_of_one_name(folder: Path) -> None:
    text = source("Counter", "first") + source("Counter", "second")
    (folder / "app_double.py").write_text(text)
    trouble = refused("app_double")
    assert trouble.code == USAGE
    assert "first and second are both the entity type 'counter'" in trouble.what
    assert names("app_double:second") == ["counter"]


def test_a_bug_keeps_the_users_own_traceback(folder: Path) -> None:
    (folder / "app_bug.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    for app in ("app_bug", "app_bug.py"):
        trouble = refused(app)
        assert isinstance(trouble, Failed)
        assert trouble.code == FAILED
        assert "ZeroDivisionError: division by zero" in trouble.what
        assert f'File "{folder}/app_bug.py", line 2, in f' in trouble.trace
        assert trouble.trace.endswith("ZeroDivisionError: division by zero\n")
        assert "importlib" not in trouble.trace
        assert "perdure" not in trouble.trace


def test_a_syntax_error_shows_the_line(folder: Path) -> None:
    (folder / "app_syntax.py").write_text("x = 1\nif x\n")
    trouble = refused("app_syntax")
    assert "app_syntax.py:2: SyntaxError: " in trouble.what
    assert "SyntaxError" in trouble.what


def test_a_missing_dependency_is_not_a_missing_app(folder: Path) -> None:
    (folder / "app_needs.py").write_text("import not_installed_anywhere\n")
    for app in ("app_needs", "app_needs.py"):
        trouble = refused(app)
        assert trouble.code == FAILED
        assert "No module named 'not_installed_anywhere'" in trouble.what
        assert "app_needs.py" in trouble.trace


def test_a_refused_definition_is_one_line_with_its_place(folder: Path) -> None:
    text = source().replace("event: Added) -> Counter", "event: Added) -> int")
    (folder / "app_refused.py").write_text(text)
    trouble = refused("app_refused")
    assert trouble.trace == ""
    assert trouble.what.startswith(f"{folder}/app_refused.py:")
    assert "evolve must take and return Counter" in trouble.what


def test_a_type_error_of_the_users_own_keeps_its_traceback(folder: Path) -> None:
    (folder / "app_type.py").write_text("len(3)\n")
    assert "len(3)" in refused("app_type").trace


def test_a_module_that_exits(folder: Path) -> None:
    (folder / "app_exit.py").write_text("import sys\nsys.exit(0)\n")
    trouble = refused("app_exit.py")
    assert trouble.code == FAILED
    assert "__main__" in trouble.next_step
