"""The options of `python -m benchmarks`, and the plan that they make."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from perdure import Settings

from .contenders import Variant
from .measure import Plan
from .process import ROOT
from .profile import NoProfiler, profiler
from .results import PERDURE
from .scenarios import ENVIRONMENTS, KINDS

SECONDS = 0.5
ROUNDS = 5
PROFILE_S = 8.0

T = TypeVar("T", bound=str)


def parse(description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the process with code 2, or 0 for --help."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = tuple(environment.name for environment in ENVIRONMENTS)
    what = parser.add_argument_group("what is measured").add_argument
    what("--only", type=some_of(KINDS), metavar="KINDS", help=f"some of {','.join(KINDS)}")
    what("--on", type=some_of(where), metavar="WHERE", help=f"some of {','.join(where)}")
    what("--clients", type=_counts, metavar="N,N", help="instead of the usual 1,64,256")
    what("--seconds", type=_positive, default=SECONDS, help=f"of a slice; default: {SECONDS:g}")
    what("--rounds", type=count, default=ROUNDS, help=f"of slices; default: {ROUNDS}")
    who = parser.add_argument_group("who is measured").add_argument
    who(
        *("--set", "-s"),
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of perdure's, in each of its variants; may be repeated",
    )
    who(
        "--variant",
        type=_variant,
        action="append",
        default=[],
        metavar="NAME=VALUE,…",
        help="perdure with other settings, as one more contender; may be repeated",
    )
    who("--beside", type=Path, metavar="CHECKOUT", help="another checkout's perdure as one more")
    files = parser.add_argument_group("files").add_argument
    files("--json", type=Path, metavar="FILE", help="write everything there, too")
    files(
        "--profile",
        type=Path,
        metavar="DIR",
        help=f"write what perdure's processes spend time in, {PROFILE_S:g} s at each point; "
        "needs py-spy",
    )
    files(
        "--store",
        type=Path,
        default=ROOT / ".bench",
        metavar="DIR",
        help="where the servers keep their data, removed again; should be on a real disk, for "
        "memory doesn't fsync; default: .bench/ in the checkout",
    )
    options = parser.parse_args(arguments)
    try:
        _check_settings(options)
        if options.profile is not None:
            profiler()
    except (TypeError, ValueError, NoProfiler) as error:
        parser.error(str(error))
    return options


def _check_settings(options: argparse.Namespace) -> None:
    """Whether this checkout's perdure takes all settings. Raises TypeError, ValueError."""
    common: dict[str, Any] = dict(options.set)
    variants: list[tuple[str, dict[str, str]]] = options.variant
    for _, more in [("", {}), *variants]:
        Settings.load(environ={}, url="nats://127.0.0.1", **{**common, **more})


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options make."""
    common = dict(options.set)
    variants = [Variant(PERDURE, common)]
    variants += [
        Variant(f"{PERDURE} {text}", {**common, **more}) for text, more in options.variant
    ]
    if options.beside is not None:
        source = options.beside.resolve()
        variants.append(Variant(f"{PERDURE} of {source.name}", common, source))
    return Plan(
        [one for one in ENVIRONMENTS if options.on is None or one.name in options.on],
        options.only,
        options.clients,
        options.seconds,
        options.rounds,
        tuple(variants),
        options.store.resolve(),
        None if options.profile is None else options.profile.resolve(),
        PROFILE_S,
    )


def some_of(known: Sequence[T]) -> Callable[[str], tuple[T, ...]]:
    """A parser of names, divided by commas; it keeps the order in which they are known."""

    def parse(text: str) -> tuple[T, ...]:
        wanted = set(text.split(","))
        if unknown := wanted.difference(known):
            raise argparse.ArgumentTypeError(
                f"{', '.join(sorted(unknown))}: not one of {', '.join(known)}"
            )
        return tuple(name for name in known if name in wanted)

    return parse


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({count(part) for part in text.split(",")}))


def count(text: str) -> int:
    """A whole number from 1 on. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1 on")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"{text}: a number of seconds below 3600")
    return value


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: NAME=VALUE")
    return name, value


def _variant(text: str) -> tuple[str, dict[str, str]]:
    return text, dict(_setting(part) for part in text.split(","))
