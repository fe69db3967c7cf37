"""`perdure dev` and what is typed beside it, on a real server, as a user would."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from ...support.lines import LIMIT_S
from .commands import Process, Shell


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """One `perdure dev` for the tests of this file; each uses an entity of its own."""
    shell = Shell(tmp_path_factory.mktemp("dev"))
    with shell.running("dev", "app.py", "--port", "0", "--json") as process:
        ready = process.ready()
        assert ready["ready"] is True
        assert ready["entities"] == {"counter": ["add", "take", "get_total"]}
        yield shell.at(PERDURE_URL=ready["url"])
        process.interrupt()
        ended = process.end()
        assert (ended.code, ended.err) == (0, "")


def test_ask_prints_the_reply(shell: Shell) -> None:
    ran = shell.type("ask", "counter", "ask-1", "add", '{"n": 5}')
    assert (ran.code, ran.out, ran.err) == (0, "5\n", "")


def test_the_same_key_gets_the_same_outcome(shell: Shell) -> None:
    add = ("ask", "counter", "key-1", "add", '{"n": 5}', "--key", "k-1", "--json")
    first, second = shell.type(*add), shell.type(*add)
    assert first.code == second.code == 0
    assert (
        first.lines == second.lines == [{"reply": 5, "version": 1, "seq": first.lines[0]["seq"]}]
    )


def test_the_same_key_with_another_payload_is_refused(shell: Shell) -> None:
    shell.type("ask", "counter", "key-2", "add", '{"n": 5}', "--key", "k-1")
    ran = shell.type("ask", "counter", "key-2", "add", '{"n": 6}', "--key", "k-1")
    assert ran.code == 1
    assert "this key was used before, with another payload" in ran.err
    step = "use another --key, or the same fields as before"
    assert ran.err.endswith(f"it has had no effect; next: {step}\n")


def test_a_query_goes_the_same_way(shell: Shell) -> None:
    shell.type("ask", "counter", "query-1", "add", '{"n": 7}')
    ran = shell.type("ask", "counter", "query-1", "get_total")
    assert (ran.code, ran.out) == (0, "7\n")
    assert shell.type("state", "counter", "query-1", "--json").lines[0]["version"] == 1


def test_a_query_is_never_stored_whatever_the_settings_say(shell: Shell) -> None:
    ran = shell.at(PERDURE_ASK_VIA="stream").type("ask", "counter", "way-1", "get_total")
    assert (ran.code, ran.out) == (0, "0\n")
    assert shell.type("history", "counter", "way-1", "--json").out == ""


def test_a_stored_ask(shell: Shell) -> None:
    ran = shell.type("ask", "counter", "way-2", "add", '{"n": 2}', "--durable", "--json")
    assert (ran.code, ran.lines[0]["reply"]) == (0, 2)
    (entry,) = shell.type("history", "counter", "way-2", "--json").lines
    assert entry["key"].startswith("t-")


def test_a_failure_exits_with_1(shell: Shell) -> None:
    ran = shell.type("ask", "counter", "fail-1", "take", '{"n": 1}')
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == 'refused: too_few {"total":0}\n'
    ran = shell.type("ask", "counter", "fail-1", "take", '{"n": 1}', "--json")
    assert ran.code == 1
    seq = ran.lines[0]["seq"]
    assert ran.lines == [{"failure": {"type": "too_few", "total": 0}, "version": 0, "seq": seq}]
    assert ran.err == ""


def test_an_unknown_command_is_told_what_there_is(shell: Shell) -> None:
    ran = shell.type("ask", "counter", "bad-1", "ad", '{"n": 1}')
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "MalformedMessage" in ran.err
    assert "it has had no effect" in ran.err
    assert 'next: counter takes add {"n": …, "note": …}, take {"n": …}, get_total' in ran.err


def test_a_cluster_error_in_json(shell: Shell) -> None:
    ran = shell.type("ask", "nobody", "x", "add", "--json", "--timeout", "5")
    assert ran.code == 1
    (line,) = ran.lines
    assert line["error"]["type"] == "RunnerNotRegistered"
    assert line["error"]["may_have_taken_effect"] is False
    namespace = "in namespace 'perdure', only counter"
    assert line["error"]["next"] == (
        f"there is no entity type 'nobody' {namespace}: correct it, or host it: perdure run APP"
    )


def test_tell_then_result(shell: Shell) -> None:
    told = shell.type("tell", "counter", "tell-1", "add", '{"n": 3}')
    assert told.code == 0
    key = re.fullmatch(r"stored; what came of it: perdure result counter tell-1 (\S+)\n", told.out)
    assert key is not None
    assert shell.type("result", "counter", "tell-1", key[1]).out == "3\n"
    given = shell.type("tell", "counter", "tell-1", "take", '{"n": 9}', "--key", "t-9", "--json")
    assert given.lines == [{"key": "t-9"}]
    ran = shell.type("result", "counter", "tell-1", "t-9", "--json")
    assert (ran.code, ran.lines[0]["failure"]) == (1, {"type": "too_few", "total": 3})


def test_the_result_of_a_key_that_never_was(shell: Shell) -> None:
    ran = shell.type("result", "counter", "never-1", "nope", "--timeout", "0.3")
    assert ran.code == 1
    assert "SendTimeout" in ran.err
    assert "next: see whether it is there: perdure history counter never-1" in ran.err


def test_a_tell_of_an_unknown_type(shell: Shell) -> None:
    ran = shell.type("tell", "nobody", "x", "add", "--json")
    assert (ran.code, ran.lines[0]["error"]["type"]) == (1, "RunnerNotRegistered")


def test_history_and_state(shell: Shell) -> None:
    for n in (10, 20):
        shell.type("ask", "counter", "past-1", "add", json.dumps({"n": n}), "--key", f"k-{n}")
    shell.type("ask", "counter", "past-1", "take", '{"n": 99}')
    lines = shell.type("history", "counter", "past-1", "--json").lines
    assert [(line["version"], line.get("key"), line.get("events")) for line in lines[:2]] == [
        (1, "k-10", [{"type": "added", "n": 10}]),
        (2, "k-20", [{"type": "added", "n": 20}]),
    ]
    assert lines[2]["failure"] == {"type": "too_few", "total": 30}
    assert lines[0]["reply"] == 10
    assert lines[0]["command"] == {"type": "add", "n": 10}
    assert all(datetime.fromisoformat(line["time"]).tzinfo is not None for line in lines)
    text = shell.type("history", "counter", "past-1").out.splitlines()
    assert text[0].split()[0] == "1"
    assert text[0].endswith('k-10  added {"n":10}')
    assert text[2].endswith('-  refused: too_few {"total":30}')
    now = shell.type("state", "counter", "past-1")
    assert now.out == 'counter/past-1 at version 2: counter {"total":30}\n'
    before = shell.type("state", "counter", "past-1", "--version", "1", "--json")
    assert before.lines == [{"state": {"type": "counter", "total": 10}, "version": 1}]
    between = lines[1]["time"].replace("Z", "+00:00")
    then = shell.type("state", "counter", "past-1", "--time", between, "--json")
    assert then.lines == [{"state": {"type": "counter", "total": 30}, "version": 2}]
    early = shell.type("state", "counter", "past-1", "--time", "2020-01-01T00:00Z", "--json")
    assert early.lines == [{"state": {"type": "counter", "total": 0}, "version": 0}]
    later = shell.type("state", "counter", "past-1", "--version", "9")
    assert (later.code, later.out) == (1, "")
    assert "version 9 isn't there yet: the newest is 2" in later.err


def test_status(shell: Shell) -> None:
    shell.type("ask", "counter", "status-1", "add", '{"n": 1}')
    told = shell.type("status", "counter", "status-1")
    assert re.fullmatch(
        r"counter/status-1 is idle, at version 1, changed 2\S+ \S+, in runner \S+\n", told.out
    )
    (line,) = shell.type("status", "counter", "status-1", "--json").lines
    assert (line["status"], line["version"]) == ("idle", 1)
    assert datetime.fromisoformat(line["updated_at"]).tzinfo is not None
    time = datetime.fromisoformat(line["updated_at"]).isoformat(sep=" ", timespec="milliseconds")
    assert f"changed {time.partition('+')[0]}, in runner" in told.out


def test_status_of_what_never_changed(shell: Shell) -> None:
    told = shell.type("status", "counter", "status-2")
    assert told.code == 0
    assert "counter/status-2 is idle, at version 0, never changed, in runner " in told.out


def test_an_entity_without_history(shell: Shell) -> None:
    ran = shell.type("history", "counter", "none-1")
    assert (ran.code, ran.out, ran.err) == (0, "", "counter/none-1 has no history\n")
    ran = shell.type("history", "counter", "none-1", "--json")
    assert (ran.code, ran.out, ran.err) == (0, "", "counter/none-1 has no history\n")


def test_the_history_of_a_type_that_is_not_there(shell: Shell) -> None:
    ran = shell.type("history", "conter", "a-1")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "error: there is no entity type 'conter' in namespace 'perdure', only counter; "
        "next: correct it, or host it: perdure run APP\n"
    )
    ran = shell.type("history", "conter", "a-1", "--json", "--namespace", "empty")
    assert ran.code == 1
    assert "in namespace 'empty', nor any other" in ran.lines[0]["error"]["message"]


def test_a_reader_that_goes_away_is_no_traceback(shell: Shell) -> None:
    shell.type("ask", "counter", "pipe-1", "add", '{"n": 1}')
    with shell.running("history", "counter", "pipe-1", "--json") as process:
        assert process.popen.stdout is not None
        process.popen.stdout.close()
        assert process.popen.wait(LIMIT_S) == 1
        assert process.err.read_text() == ""


@pytest.mark.parametrize("id", ["a b", "ü/ß", "*", "a.b.>", "'quoted'", "{}", "x" * 255])
def test_any_id(shell: Shell, id: str) -> None:
    assert shell.type("ask", "counter", id, "add", '{"n": 1}', "--key", "k").out == "1\n"
    assert shell.type("history", "counter", id, "--json").lines[0]["key"] == "k"


def test_numbers_keep_their_text(shell: Shell) -> None:
    big = 2**60 + 1
    ran = shell.type("ask", "counter", "big-1", "add", json.dumps({"n": big}))
    assert ran.out == f"{big}\n"


CHECKED = {"server", "version", "jetstream", "clock", "streams", "permissions"} | {
    *("members", "shards", "runner", "send")
}
"""What `perdure check` looks at."""


def test_check_is_content(shell: Shell) -> None:
    for arguments in (("check", "app.py"), ("check",), ("check", "--type", "counter")):
        ran = shell.type(*arguments)
        assert (ran.code, ran.err) == (0, "")
        found = [line.split()[:2] for line in ran.out.splitlines()]
        assert all(ok == "ok" for ok, check in found if check != "send")  # a busy machine
        assert {check for _, check in found} == CHECKED
    for role in ("caller", "reader"):
        ran = shell.type("check", "--role", role, "--type", "counter", "--json")
        assert ran.code == 0
        assert all(line["ok"] for line in ran.lines)


# -- from start to end ------------------------------------------------------------------------
def read_greeting(process: Process) -> tuple[str, list[str]]:
    """The URL, and the commands that `dev` offers to copy."""
    url = process.line().rpartition(" on ")[2]
    offered: list[str] = []
    while not (line := process.line()).startswith("Ctrl-C"):
        if line.startswith("  perdure "):
            offered.append(line.strip())
    return url, offered


def test_what_it_offers_can_be_copied_and_the_store_stays(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    with shell.running("dev", "app", "--port", "0", "--store", "kept") as process:
        url, offered = read_greeting(process)
        assert len(offered) == 4
        assert "perdure ask counter c-1 add '{\"n\":100}' --url " + url in offered
        for line in offered:
            ran = shell.type(*shlex.split(line)[1:])
            assert ran.code == 0, ran
        process.interrupt()
        assert process.end().code == 0
    port = int(url.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with shell.running("dev", "app", "--port", str(port), "--store", "kept") as process:
        assert read_greeting(process)[0] == url
        assert shell.type("ask", "counter", "c-1", "get_total", "--url", url).out == "0\n"
        assert len(shell.type("history", "counter", "c-1", "--url", url).out.splitlines()) == 2
        process.terminate()
        assert process.end().code == 0


def test_a_store_or_port_in_use(tmp_path: Path, shell: Shell) -> None:
    ran = shell.run("dev", "app.py", "--port", "0")
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "is in use by another nats-server" in ran.err
    owner = (shell.folder / ".perdure" / "lock").read_text()
    assert f"if that is gone: kill {owner}; or another --store" in ran.err
    port = shell.env["PERDURE_URL"].rpartition(":")[2]
    ran = Shell(tmp_path).run("dev", "app.py", "--port", port, "--json")
    assert ran.code == 1
    assert "address already in use" in ran.lines[0]["error"]["message"]


def test_a_server_that_dies_ends_it(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    with shell.running("dev", "app.py", "--port", "0", "--json", "--store", "s") as process:
        process.ready()
        pid = int((tmp_path / "s" / "lock").read_text())
        os.kill(pid, signal.SIGKILL)
        ended = process.end()
    assert ended.code == 1
    assert f"nats-server ended by itself with code {-signal.SIGKILL}" in ended.out
