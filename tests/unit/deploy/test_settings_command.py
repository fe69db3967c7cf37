"""`perdure settings`: each value with its source, and never a secret."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from perdure.entities.settings import Settings

from .commands import Shell


def of(shell: Shell, *arguments: str) -> dict[str, tuple[object, str]]:
    ran = shell.type("settings", *arguments, "--json")
    assert (ran.code, ran.err) == (0, ""), ran
    return {line["setting"]: (line["value"], line["source"]) for line in ran.lines}


def test_each_has_its_source(tmp_path: Path) -> None:
    contexts = tmp_path / ".config" / "nats" / "context"
    contexts.mkdir(parents=True)
    (contexts / "prod.json").write_text(json.dumps({"url": "nats://context:1", "token": "secret"}))
    (tmp_path / "perdure.toml").write_text('shards = 3\nask_timeout = 9\nnamespace = "file"\n')
    shell = Shell(tmp_path, NATS_CONTEXT="prod", PERDURE_ASK_TIMEOUT="7", PERDURE_REPLICAS="3")
    found = of(shell, "--changed")
    assert found == {
        "url": ("nats://context:1", "NATS context prod"),
        "token": ("***", "NATS context prod"),
        "ask_timeout": (7.0, "PERDURE_ASK_TIMEOUT"),
        "replicas": (3, "PERDURE_REPLICAS"),
        "shards": (3, "perdure.toml"),
        "namespace": ("file", "perdure.toml"),
    }
    other = of(shell, "--namespace", "typed", "--url", "nats://typed:1", "namespace", "url")
    assert other == {
        "namespace": ("typed", "argument"),
        "url": ("nats://typed:1", "argument"),
    }
    every = of(shell)
    assert list(every) == [field.name for field in msgspec.structs.fields(Settings)]
    assert every["passivate_after"] == (300.0, "default")
    text = shell.type("settings", "ask_timeout", "credentials").out.splitlines()
    assert [line.split() for line in text] == [
        ["SETTING", "VALUE", "SOURCE"],
        ["credentials", "-", "default"],
        ["ask_timeout", "7.0", "PERDURE_ASK_TIMEOUT"],
    ]


def test_secrets_are_never_printed(tmp_path: Path) -> None:
    shell = Shell(tmp_path, PERDURE_URL="nats://u:hidden@h:1,nats://u:hidden@i:1")
    assert of(shell, "url")["url"][0] == "nats://***@h:1,nats://***@i:1"
    shell = Shell(tmp_path, PERDURE_USER="me", PERDURE_PASSWORD="hidden")
    assert of(shell)["password"] == ("***", "PERDURE_PASSWORD")
    for arguments in ((), ("--json",), ("password",)):
        assert "hidden" not in shell.type("settings", *arguments).out
    shell = Shell(tmp_path, PERDURE_TOKEN="hidden")
    assert of(shell)["token"] == ("***", "PERDURE_TOKEN")


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    shell = Shell(tmp_path, PERDURE_SHARDS="many")
    ran = shell.type("settings")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: settings: PERDURE_SHARDS: shards: ")
    ran = Shell(tmp_path).type("settings", "shardz")
    assert (ran.code, ran.err) == (
        2,
        "error: no setting 'shardz'; next: perdure settings lists them all\n",
    )
