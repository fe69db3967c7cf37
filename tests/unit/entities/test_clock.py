"""The ports to time and randomness."""

from __future__ import annotations

import ast
import os
import re
import secrets
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import perdure
from perdure import Clock, Entropy, SystemClock, SystemEntropy
from perdure.entities.clock import ahead_s, to_datetime, to_ns
from perdure.entities.entropy import POOL_BYTES

LAYER = Path(perdure.__file__).parent / "entities"
PORTS = {"clock.py", "entropy.py"}


def test_the_system_clock_tells_unix_nanoseconds() -> None:
    clock: Clock = SystemClock()
    before = datetime.now(UTC)
    told = to_datetime(clock.now_ns())
    assert before - timedelta(seconds=1) < told < before + timedelta(seconds=60)


@given(st.integers(-(2**62), 2**63))
def test_nanoseconds_become_a_datetime_cut_to_microseconds(ns: int) -> None:
    assert to_ns(to_datetime(ns)) == ns // 1_000 * 1_000


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_datetime_survives_nanoseconds(moment: datetime) -> None:
    assert to_datetime(to_ns(moment)) == moment


def test_another_zone_is_the_same_moment() -> None:
    there = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert to_ns(there) == to_ns(datetime(2026, 1, 1, tzinfo=UTC))


def test_a_naive_datetime_is_refused() -> None:
    naive = datetime(2026, 1, 1)
    with pytest.raises(ValueError, match="no time zone"):
        to_ns(naive)


def test_tokens_are_hexadecimal_and_differ() -> None:
    entropy: Entropy = SystemEntropy()
    made = [entropy.token(16) for _ in range(100)]
    assert len(set(made)) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", token) for token in made)


def test_tokens_are_as_long_as_asked_for_and_no_digit_is_given_out_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[str] = []
    real = secrets.token_hex

    def token_hex(size: int) -> str:
        drawn.append(real(size))
        return drawn[-1]

    monkeypatch.setattr(secrets, "token_hex", token_hex)
    entropy = SystemEntropy()
    sizes = [*range(1, 40), POOL_BYTES - 1, 1, POOL_BYTES, POOL_BYTES + 1, 5]
    made = [entropy.token(size) for size in sizes]
    assert [len(token) for token in made] == [2 * size for size in sizes]
    at = 0
    text = "|".join(drawn)  # no token is of two draws
    for token in made:
        at = text.index(token, at) + len(token)


def test_a_fork_makes_tokens_of_its_own() -> None:
    entropy = SystemEntropy()
    entropy.token(16)  # there is a pool
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, entropy.token(16).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 100).decode()
    assert re.fullmatch("[0-9a-f]{32}", theirs)
    assert theirs != entropy.token(16)
    os.close(reading)
    os.close(writing)


def test_uniform_keeps_its_bounds() -> None:
    entropy = SystemEntropy()
    made = [entropy.uniform(2.0, 3.0) for _ in range(100)]
    assert all(2.0 <= number <= 3.0 for number in made)
    assert len(set(made)) > 1


@pytest.mark.parametrize(
    "file", [f for f in LAYER.glob("*.py") if f.name not in PORTS], ids=lambda f: f.name
)
def test_no_other_module_of_the_layer_reads_time_or_randomness(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[0]} if not node.level else set[str]()
        else:
            called = node.attr if isinstance(node, ast.Attribute) else None
            assert called not in ("now", "utcnow", "today"), f"{file.name} asks for now"
            continue
        assert not names & {"time", "random", "secrets", "uuid"}, f"{file.name}: {names}"


def test_another_clock_is_judged_by_what_is_certain() -> None:
    second = 10**9
    assert ahead_s(10 * second, 7 * second, 11 * second) == 3.0
    assert ahead_s(1 * second, 7 * second, 2 * second) == -5.0
    assert ahead_s(1 * second, 7 * second, 60 * second) == 0.0  # held up meanwhile: nobody knows
