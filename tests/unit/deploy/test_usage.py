"""What isn't understood: one line, the next step, exit code 2, nothing sent."""

from __future__ import annotations

import io
import os
import signal
import socket
from pathlib import Path
from unittest import mock

import pytest

from .commands import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A folder whose settings name a server that isn't there."""
    return Shell(tmp_path, PERDURE_URL="nats://127.0.0.1:1")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["frobnicate"], 'Unknown command "frobnicate"; next: see perdure --help'),
        (["stat"], 'Did you mean "stats"?; next: see perdure --help'),
        (["ask", "account", "a-1"], "COMMAND requires an argument"),
        (["ask", "account", "a-1", "add", '{"n": 5'], 'not a JSON object: {"n": 5'),
        (["ask", "account", "a-1", "add", "[1]"], "not a JSON object: [1]"),
        (["ask", "account", "a-1", "add", "{}", "more"], "more"),
        (["ask", "account", "a-1", "add", '{"type": "x"}'], "a field 'type'"),
        (["ask", "account", "", "add"], "not an id: 0 bytes"),
        (["ask", "account", "x" * 256, "add"], "not an id: 256 bytes"),
        (["ask", "Account", "a-1", "add"], "not an entity type's name: 'Account'"),
        (["ask", "a.*", "a-1", "add"], "not an entity type's name"),
        (["ask", "account", "a-1", "add", "--key", "a b"], "not an idempotency key: 'a b'"),
        (["ask", "account", "a-1", "add", "--timeout", "0"], "--timeout 0"),
        (["ask", "account", "a-1", "add", "--timeout", "-1"], "--timeout -1"),
        (["dead", "retry", "1", "--timeout", "nan"], "--timeout nan"),
        (["ask", "account", "a-1", "add", "--timeout", "soon"], "soon"),
        (["ask", "account", "a-1", "add", "--url", "http://x"], "http:// isn't one of"),
        (["ask", "account", "a-1", "add", "--namespace", "A B"], "namespace: 'A B'"),
        (["tell", "account", "a-1", "add", "--key", ""], "not an idempotency key"),
        (["result", "account", "a-1", "@x"], "not an idempotency key"),
        (["state", "account", "a-1", "--version", "x"], "x"),
        (["state", "account", "a-1", "--time", "noon"], "noon"),
        (["state", "account", "a-1", "--time", "2026-01-02T12:00"], "has no time zone"),
        (["state", "account", "a-1", "--time", "2026-01-02T12:00Z", "--version", "1"], "together"),
        (["tell", "account", "a-1", "add", "--at", "noon"], "not a time: 'noon'"),
        (["tell", "account", "a-1", "add", "--at", "2026-01-02T12:00"], "has no time zone"),
        (["tell", "account", "a-1", "add", "--at", "2300-01-01T00:00Z"], "beyond 2261"),
        (["tell", "account", "a-1", "add", "--at", "999999999d"], "beyond all time"),
        (["permissions", "--role", "caller"], "no entity type"),
        (["permissions", "--type", "account"], "no --role"),
        (["permissions", "--role", "boss", "--type", "account"], "boss"),
        (["permissions", "app", "--type", "account", "--role", "caller"], "together"),
        (["permissions", "--type", "A", "--role", "caller"], "not an entity type's name"),
        (["permissions", "app", "--production", "--format", "jwt"], "only printed as config"),
        (["permissions", "app", "--role", "caller", "--create"], "--create for the role caller"),
        (["permissions", "app", "--role", "caller", "--caller", "x"], "without --production"),
        (["permissions", "app", "--role", "caller", "--inbox", "a b"], "--inbox: inbox_prefix"),
        (["permissions", "app", "--role", "caller", "--inbox", "perdure.log"], "as events"),
        (["permissions", "app", "--role", "caller", "--inbox", "x" * 300], "over 200"),
        (["permissions", "app", "--production", "--role", "caller"], "has all roles"),
        (["permissions", "app", "--production", "--caller", "a-b"], "'a-b' isn't 1-32"),
        (
            ["permissions", "app", "--production", "--caller", "runner"],
            "a name with a meaning of its own",
        ),
        (
            ["permissions", "app", "--production", "--caller", "on"],
            "a name with a meaning of its own",
        ),
        (["permissions", "app", "--role", "caller", "--url", "memory:"], "memory: has no server"),
        (["suspended"], "TYPE requires an argument"),
        (["suspended", "Account"], "not an entity type's name"),
        (["suspended", "account", "--limit", "0"], "--limit 0"),
        (["schedules"], "TYPE requires an argument"),
        (["suspended", "account", "--url", "memory:"], "memory: has no server"),
        (["flows", "list", "account", ""], "not an id: 0 bytes"),
        (["flows", "list", "account", "a-1", "--limit", "5"], "--limit with an ID"),
        (["flows", "show", "account", "a-1"], "KEY requires an argument"),
        (["flows", "show", "account", "a-1", "a b"], "not a flow's key: 'a b'"),
        (["flows", "retry", "account", "a-1", "@1.2"], "not a flow's key: '@1.2'"),
        (["flows", "cancel", "account", "a-1", "k", "--timeout", "0"], "--timeout 0"),
        (["resume", "lwG.x"], "VALUE requires an argument"),
        (["resume", "lwG.x", "{"], "the value isn't JSON"),
        (["resume", "lwG.x", "yes"], "the value isn't JSON"),
        (["check", "--role", "king"], "king"),
        (["check", "--url", "memory:"], "memory: has no server"),
        (["check", "app", "--type", "counter"], "APP and --type together"),
        (["dev", "app", "--port", "99999"], "no port 99999"),
        (["dev", "app", "--port", "0", "--store", "app.py"], "app.py can't be the server's"),
        (["dev", "app", "--store", "/proc/foo"], "/proc/foo can't be the server's folder"),
        (["shards", "resize", "account"], "NUMBER requires an argument"),
        (["shards", "resize", "account", "many"], "many"),
        (["shards", "resize", "account", "0"], "0 shards"),
        (["shards", "resize", "account", "1025"], "1025 shards"),
        (["shards", "resize", "Account", "8"], "not an entity type's name"),
        (["shards", "resize", "account", "8", "--url", "memory:"], "memory: has no server"),
        (["dev"], "APP requires an argument"),
        (["run", "app", "--workers", "0"], "--workers 0"),
        (["run", "app", "--workers", "-1"], "--workers -1"),
        (["run", "app", "--workers", "65"], "--workers 65"),
        (["run", "app", "--workers", "many"], '"many" into a whole number, or auto; next: '),
        (["stats", "--every", "x"], '"x" into a number; next: '),
        (["shards", "resize", "a", "x"], '"x" into a whole number; next: '),
    ],
)
def test_one_line_and_exit_code_2(shell: Shell, line: list[str], says: str) -> None:
    ran = shell.type(*line)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert "; next: " in ran.err
    assert says in ran.err
    says = says.partition("; next: ")[0]
    ran = shell.type(*line, "--json")
    assert (ran.code, ran.err) == (2, "")
    assert ran.lines[0]["error"]["type"] == "usage"
    assert says in ran.lines[0]["error"]["message"]


def test_a_bad_settings_file(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text("shardz = 3\n")
    ran = shell.type("history", "counter", "a")
    assert ran.code == 2
    assert ran.err == (
        "error: settings: perdure.toml: shardz: no such setting; "
        "next: correct it where the line says\n"
    )


def test_a_runner_has_jetstream_as_it_is(shell: Shell) -> None:
    elsewhere = shell.at(PERDURE_API_PREFIX="JS.CORE.API")
    line = ["permissions", "--type", "account", "--role"]
    assert "JS.CORE.API.DIRECT.GET" in elsewhere.type(*line, "reader").out
    ran = elsewhere.type(*line, "runner", "--create")
    assert (ran.code, ran.out) == (2, "")
    assert "a runner with api_prefix 'JS.CORE.API'" in ran.err


def test_a_bad_variable(shell: Shell) -> None:
    ran = shell.at(PERDURE_SHARDS="many").type("check")
    assert ran.code == 2
    assert "PERDURE_SHARDS" in ran.err


def test_help_teaches_with_examples(shell: Shell) -> None:
    ran = shell.type("--help")
    assert ran.code == 0
    for command in (
        *("dev", "run", "ask", "tell", "result", "resume", "status", "history", "state"),
        *("check", "suspended", "schedules", "gateway"),
    ):
        assert command in ran.out
        help = shell.type(command, "--help")
        assert help.code == 0
        assert f"• perdure {command} " in help.out
        assert "[ARGS]" not in help.out


@pytest.mark.parametrize("command", ["list", "show", "retry", "cancel"])
def test_help_of_flows_teaches_too(shell: Shell, command: str) -> None:
    assert f"• perdure flows {command} account" in shell.type("flows", "--help").out
    help = shell.type("flows", command, "--help")
    assert help.code == 0
    assert f"• perdure flows {command} account" in help.out
    assert "[ARGS]" not in help.out


def test_a_token_is_read_from_standard_input(shell: Shell) -> None:
    for text, code, told in (
        ("", 2, "no token on standard input"),
        ("\n", 2, "no token on standard input"),
        ("x" * 3000, 1, "the resume token: it has over 2048 characters"),
        ("nonsense\nmore\n", 1, "the resume token: it isn't whole"),
    ):
        with mock.patch("sys.stdin", io.StringIO(text)):
            ran = shell.type("resume", "--json", "-", "-5")
        assert (ran.code, ran.err) == (code, "")
        assert told in ran.lines[0]["error"].get("cause", ran.lines[0]["error"].get("message"))


def test_version(shell: Shell) -> None:
    ran = shell.type("--version")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out[0].isdigit()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_one_line_too(shell: Shell, number: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"nats://127.0.0.1:{silent.getsockname()[1]}"
        with shell.running("state", "counter", "a", "--url", url) as process:
            connection, _ = silent.accept()  # now it waits for a greeting that never comes
            os.killpg(process.popen.pid, number)
            ended = process.end()
            connection.close()
    assert ended.code == 1
    assert ended.err == "error: interrupted; next: run it again\n"


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_without_the_extra_it_says_how_to_get_it(tmp_path: Path, missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None\n"
    ran = Shell(tmp_path).run(
        "--help", program=f"{program}from perdure.deploy.cli import main\nmain()"
    )
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "error: the command line needs the extra `cli`; next: pip install cyclopts rich\n"
    )
