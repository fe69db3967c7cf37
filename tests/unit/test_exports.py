"""The front door: each public name is there, once, and says what it is."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types

import pytest

import perdure

ALIASES = {"Advice", "Duration", "Reason"}
"""Type aliases, whose docstrings stand below them in their modules and not on the object."""


def test_all_is_sorted_and_names_nothing_twice() -> None:
    assert len(set(perdure.__all__)) == len(perdure.__all__)
    assert sorted(perdure.__all__) == perdure.__all__


@pytest.mark.parametrize("name", perdure.__all__)
def test_each_name_exists_and_has_a_docstring(name: str) -> None:
    thing = getattr(perdure, name)
    if name in ALIASES:
        return
    own = vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__
    assert own, f"{name} has no docstring of its own"
    assert not own.startswith(f"{name}("), f"{name} has a made docstring"


def test_nothing_public_is_left_out_of_all() -> None:
    public = {
        name
        for name, thing in vars(perdure).items()
        if not name.startswith("_") and not isinstance(thing, types.ModuleType)
    }
    assert public == set(perdure.__all__)


def test_each_object_is_exported_under_one_name() -> None:
    names: dict[int, str] = {}
    for name in perdure.__all__:
        other = names.setdefault(id(getattr(perdure, name)), name)
        assert other == name, f"{name} is {other} again"


@pytest.mark.parametrize("name", perdure.__all__)
def test_public_methods_and_properties_have_docstrings(name: str) -> None:
    thing = getattr(perdure, name)
    if not isinstance(thing, type):
        return
    for attribute, value in vars(thing).items():
        if attribute.startswith("_") or not (
            inspect.isfunction(value) or isinstance(value, (property, classmethod, staticmethod))
        ):
            continue
        assert value.__doc__, f"{name}.{attribute} has no docstring"


def test_a_layer_refuses_to_be_a_top_level_module() -> None:
    code = "import sys; sys.path.insert(0, '.'); import entities"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ImportError: import perdure.entities"
