"""Settings: ranges, precedence, sources, and secrets that stay secret."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.pretty import pretty_repr

from perdure import Retry, Settings, load_with_sources, seconds


# -- ranges --------------------------------------------------------------------------------------
def test_the_defaults_are_good_and_as_documented() -> None:
    settings = Settings()
    assert settings.url == "nats://127.0.0.1:4222"
    assert (settings.mailbox_capacity, settings.shards) == (100, 16)
    assert seconds(settings.passivate_after) == 300
    assert seconds(settings.dedup_window) == 7 * 86_400
    assert settings.max_payload_bytes == 524_288
    assert repr(settings) == "Settings()"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"namespace": "Perdure"}, "namespace: 'Perdure' isn't 1-32"),
    ({"namespace": "a" * 33}, "namespace: "),
    ({"namespace": "a.b"}, "namespace: "),
    ({"url": ""}, "url: empty"),
    ({"url": ","}, "url: empty"),
    ({"url": "nats://a b"}, "url: empty, or with white space"),
    ({"url": "http://a"}, "url: http:// isn't one of nats://, tls://, ws://, wss:// and memory:"),
    ({"url": "nats://a,redis://b"}, "url: redis:// isn't one of"),
    ({"url": "nats://ann:secret@:4222"}, "url: no host, or port 0, in nats://***@:4222"),
    ({"url": "nats://a:0"}, "url: no host, or port 0"),
    ({"url": "nats://a:many"}, "url: not a URL: look at its port"),
    ({"url": "nats://[::1"}, "url: not a URL: look at its port"),
    ({"ask_via": "pigeon"}, "ask_via: Invalid enum value"),
    ({"ask_timeout": 0}, "ask_timeout: 0 s isn't from 0.001 s"),
    ({"ask_timeout": -1.0}, "ask_timeout: not a duration"),
    ({"ask_timeout": float("nan")}, "ask_timeout: not a duration"),
    ({"ask_timeout": timedelta(days=2)}, "ask_timeout: 172800 s isn't"),
    ({"ask_timeout": "soon"}, "ask_timeout: "),
    ({"mailbox_capacity": 0}, "mailbox_capacity: 0 isn't from 1"),
    ({"mailbox_capacity": "many"}, "mailbox_capacity: Expected `int`"),
    ({"defect_retry": {"attempts": 0}}, "defect_retry: Retry.attempts is 0"),
    ({"defect_retry": {"attempts": "2"}}, "defect_retry: Expected `int`"),
    ({"mailbox_capacity": True}, "mailbox_capacity: Expected `int`"),
    ({"shards": 1_025}, "shards: 1025 isn't from 1 to 1024"),
    ({"replicas": 6}, "replicas: 6 isn't from 1 to 5"),
    ({"machine_id": 1_024}, "machine_id: 1024 isn't from 0 to 1023"),
    ({"snapshot_min_commits": 501}, "snapshot_min_commits: more than snapshot_max_commits"),
    ({"ack_progress": 31}, "ack_progress: more than half of ack_wait"),
    ({"labels": ("gpu", "a b")}, "labels: 'a b'"),
    ({"reply_prefixes": ("_INBOX", "a b")}, "reply_prefixes: 'a b'"),
    ({"reply_prefixes": ("$JS",)}, "reply_prefixes: '$JS'"),
    ({"reply_prefixes": ("a.*",)}, "reply_prefixes: 'a.*'"),
    ({"reply_prefixes": ("a.",)}, "reply_prefixes: 'a.'"),
    ({"reply_prefixes": ("",)}, "reply_prefixes: ''"),
    ({"reply_prefixes": ("perdure",)}, "reply_prefixes: 'perdure' would let"),
    ({"reply_prefixes": ("perdure.log",)}, "reply_prefixes: 'perdure.log' would let"),
    ({"user": "a", "token": "t"}, "token: set beside user"),
    ({"credentials": "c", "nkey_seed": "n"}, "nkey_seed: set beside credentials"),
    ({"password": "p"}, "password: set without user"),
]


@pytest.mark.parametrize(("fields", "says"), BAD, ids=[says for _, says in BAD])
def test_a_bad_value_is_named(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (compared as a whole below)
        Settings(**fields)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_as_it_is_written_in_a_file_becomes_what_it_means() -> None:
    given: dict[str, Any] = {
        "defect_retry": {"attempts": 2, "base": 0.001},
        "reply_prefixes": ["_INBOX"],
        "ask_timeout": "PT5M",
    }
    settings = Settings(**given)
    assert settings.defect_retry == Retry(attempts=2, base=0.001)
    assert settings.reply_prefixes == ("_INBOX",)
    assert seconds(settings.ask_timeout) == 300


@pytest.mark.parametrize("prefix", ["_INBOX", "_R_", "perdure.reply", "perdure.reply.x", "other"])
def test_good_reply_prefixes(prefix: str) -> None:
    assert Settings(reply_prefixes=(prefix,)).reply_prefixes == (prefix,)


def test_every_setting_has_a_reason_below_it() -> None:
    lines = Path(__file__).parents[3].joinpath("entities/settings.py").read_text().splitlines()
    for name in Settings.__struct_fields__:
        at = next(i for i, line in enumerate(lines) if line.startswith(f"    {name}: "))
        assert lines[at + 1].startswith('    """'), f"{name} has no reason"


# -- secrets -------------------------------------------------------------------------------------
SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "ann", "password": SECRET},
        {"token": SECRET},
        {"url": f"nats://ann:{SECRET}@a,tls://{SECRET}@b:4222"},
        {"url": f"ann:{SECRET}@a:4222"},
        {"url": f"nats://a,ann:{SECRET}@b"},
        {"url": f"nats://ann:p@{SECRET}@a"},
    ],
)
def test_secrets_are_never_shown(fields: dict[str, Any]) -> None:
    settings = Settings(**fields, shards=3)
    for text in (repr(settings), str(settings), pretty_repr(settings)):
        assert SECRET not in text
        assert "***" in text
        assert "shards=3" in text


def test_an_error_does_not_show_a_secret() -> None:
    for environ in (
        {"PERDURE_PASSWORD": SECRET},
        {"PERDURE_TOKEN": SECRET, "PERDURE_USER": "a"},
        {"PERDURE_URL": f"nats://a:{SECRET}@h x"},
        {"PERDURE_URL": f"nats://a:{SECRET}#w@h:4222"},
        {"PERDURE_URL": f"a:{SECRET}@:4222"},
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (every text is looked at)
            Settings.load(environ=environ)
        assert SECRET not in str(caught.value)


# -- where values come from ----------------------------------------------------------------------
class Home:
    """A home folder and a working folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {"HOME": str(root)}

    def context(self, name: str, **values: str) -> None:
        folder = self.root / ".config/nats/context"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(values))

    def select(self, name: str) -> None:
        (self.root / ".config/nats/context.txt").write_text(f"{name}\n")

    def toml(self, text: str) -> None:
        (self.root / "perdure.toml").write_text(text)

    def load(self, environ: dict[str, str] | None = None, **arguments: Any) -> Any:
        return load_with_sources(environ=self.environ | (environ or {}), **arguments)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path)


def test_nothing_set_anywhere(home: Home) -> None:
    settings, sources = home.load()
    assert settings == Settings()
    assert set(sources) == set(Settings.__struct_fields__)
    assert set(sources.values()) == {"default"}


def test_each_source_beats_the_ones_below(home: Home) -> None:
    home.toml('url = "nats://toml"\nshards = 4\n')
    settings, sources = home.load()
    assert (settings.url, sources["url"]) == ("nats://toml", "perdure.toml")

    home.context("prod", url="nats://context")
    home.select("prod")
    settings, sources = home.load()
    assert (settings.url, sources["url"]) == ("nats://context", "NATS context prod")

    environ = {"NATS_URL": "nats://nats-url"}
    settings, sources = home.load(environ)
    assert (settings.url, sources["url"]) == ("nats://nats-url", "NATS_URL")

    environ["PERDURE_URL"] = "nats://perdure-url"
    settings, sources = home.load(environ)
    assert (settings.url, sources["url"]) == ("nats://perdure-url", "PERDURE_URL")

    settings, sources = home.load(environ, url="nats://argument")
    assert (settings.url, sources["url"]) == ("nats://argument", "argument")
    assert (settings.shards, sources["shards"]) == (4, "perdure.toml")
    assert sources["namespace"] == "default"


def test_an_argument_of_none_and_an_empty_variable_are_not_set(home: Home) -> None:
    settings, sources = home.load({"PERDURE_SHARDS": "", "NATS_URL": ""}, url=None)
    assert settings == Settings()
    assert sources["url"] == sources["shards"] == "default"


def test_variables_are_converted(home: Home) -> None:
    settings, _ = home.load(
        {
            "PERDURE_SHARDS": "8",
            "PERDURE_ASK_TIMEOUT": "2.5",
            "PERDURE_PASSIVATE_AFTER": "PT1M",
            "PERDURE_ASK_VIA": "stream",
            "PERDURE_REPLY_PREFIXES": "_INBOX, my.replies",
            "PERDURE_DEFECT_RETRY": '{"attempts": 2, "base": 1}',
            "PERDURE_PORT": "tcp://10.0.0.1:80",  # Kubernetes, for a service called perdure
        }
    )
    assert settings.shards == 8
    assert seconds(settings.ask_timeout) == 2.5
    assert seconds(settings.passivate_after) == 60
    assert settings.ask_via == "stream"
    assert settings.reply_prefixes == ("_INBOX", "my.replies")
    assert settings.defect_retry == Retry(attempts=2, base=1.0)


def test_a_list_may_also_be_json(home: Home) -> None:
    assert home.load({"PERDURE_REPLY_PREFIXES": '["a", "b"]'})[0].reply_prefixes == ("a", "b")


def test_secrets_in_variables_are_taken_as_they_are(home: Home) -> None:
    """Several are divided by commas, like any list, and a bracket doesn't make a password JSON."""
    settings, _ = home.load({"PERDURE_RESUME_SECRETS": "new, old"})
    assert settings.resume_secrets == ("new", "old")
    settings, _ = home.load({"PERDURE_USER": "me", "PERDURE_PASSWORD": "[x"})
    assert settings.password == "[x"


def test_the_file_is_converted_too(home: Home) -> None:
    home.toml(
        'ask_timeout = 5\nreply_prefixes = ["a"]\npassivate_after = "PT2M"\n'
        "[transient_retry]\nattempts = 7\n"
    )
    settings, _ = home.load()
    assert seconds(settings.ask_timeout) == 5
    assert seconds(settings.passivate_after) == 120
    assert settings.reply_prefixes == ("a",)
    assert settings.transient_retry.attempts == 7


def test_a_file_by_its_path(home: Home) -> None:
    file = home.root / "etc" / "other.toml"
    file.parent.mkdir()
    file.write_text('credentials = "my.creds"\ntls_ca = "~/ca.pem"\n')
    settings, sources = home.load(path=file)
    assert settings.credentials == str(file.parent / "my.creds")
    assert settings.tls_ca == str(home.root / "ca.pem")
    assert sources["credentials"] == str(file)


# -- NATS contexts -------------------------------------------------------------------------------
def test_a_context_gives_all_that_it_has(home: Home) -> None:
    home.context("prod", url="nats://p", user="ann", password="x", ca="/ca.pem", colour="red")
    settings, sources = home.load({"NATS_CONTEXT": "prod"})
    assert (settings.url, settings.user, settings.password) == ("nats://p", "ann", "x")
    assert settings.tls_ca == "/ca.pem"
    assert sources["password"] == "NATS context prod"


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("creds", "credentials", "/a.creds"),
        ("nkey", "nkey_seed", "/a.nk"),
        ("token", "token", "t"),
    ],
)
def test_each_way_to_log_in(home: Home, key: str, name: str, value: str) -> None:
    home.context("prod", **{key: value, "url": ""})
    settings, sources = home.load({"NATS_CONTEXT": "prod"})
    assert getattr(settings, name) == value
    assert (settings.url, sources["url"]) == (Settings().url, "default")


def test_the_folder_follows_xdg(home: Home) -> None:
    folder = home.root / "xdg/nats/context"
    folder.mkdir(parents=True)
    (folder / "prod.json").write_text('{"url": "nats://xdg"}')
    environ = {"NATS_CONTEXT": "prod", "XDG_CONFIG_HOME": str(home.root / "xdg")}
    assert home.load(environ)[0].url == "nats://xdg"


def test_a_context_tells_where_the_api_is(home: Home) -> None:
    """The `nats` tool has two ways to say it, and takes the prefix before the domain."""
    home.context("hub", url="nats://p", jetstream_domain="hub")
    assert home.load({"NATS_CONTEXT": "hub"})[0].api_prefix == "$JS.hub.API"
    home.context(
        "core", url="nats://p", jetstream_domain="hub", jetstream_api_prefix="JS.CORE.API"
    )
    settings, sources = home.load({"NATS_CONTEXT": "core"})
    assert (settings.api_prefix, sources["api_prefix"]) == ("JS.CORE.API", "NATS context core")


@pytest.mark.parametrize("prefix", ["", "$JS.API.", ".x", "a b", "a.*", "a.>", "a..b"])
def test_an_api_prefix_is_part_of_a_subject(prefix: str) -> None:
    with pytest.raises(ValueError, match="api_prefix"):
        Settings(api_prefix=prefix)


def test_a_selected_context_is_not_used_for_another_url(home: Home) -> None:
    home.context("prod", url="nats://prod", token="t")
    home.select("prod")
    assert home.load()[0].token == "t"
    for settings, _ in (
        home.load(url="nats://other"),
        home.load({"NATS_URL": "nats://other"}),
        home.load({"PERDURE_URL": "nats://other"}),
    ):
        assert (settings.url, settings.token) == ("nats://other", None)


def test_a_named_context_was_meant(home: Home) -> None:
    home.context("prod", url="nats://prod", token="t")
    settings, _ = home.load({"NATS_CONTEXT": "prod"}, url="nats://other")
    assert (settings.url, settings.token) == ("nats://other", "t")


def test_a_higher_way_to_log_in_hides_a_lower_one(home: Home) -> None:
    home.toml('token = "t"\n')
    home.context("prod", user="ann", password="low")
    settings, _ = home.load({"NATS_CONTEXT": "prod", "PERDURE_PASSWORD": "high"})
    assert (settings.user, settings.password, settings.token) == ("ann", "high", None)
    settings, _ = home.load({"NATS_CONTEXT": "prod"}, credentials="a.creds")
    assert (settings.user, settings.password, settings.credentials) == (None, None, "a.creds")


def test_no_context_is_selected(home: Home) -> None:
    home.context("prod", url="nats://prod")
    home.select("")
    assert home.load()[0].url == Settings().url


# -- mistakes, in one line -----------------------------------------------------------------------
def _says(home: Home, environ: dict[str, str] | None = None, **arguments: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is returned)
        home.load(environ, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("shard = 4", "perdure.toml: shard: no such setting"),
        ("shards = 0", "perdure.toml: shards: 0 isn't from 1 to 1024"),
        ('shards = "x"', "perdure.toml: shards: Expected `int`, got `str`"),
        ("password = 5", "perdure.toml: password: Expected `str | null`, got `int`"),
        ("shards = ", "perdure.toml: Invalid value"),
        ("transient_retry = {attempts = 0}", "perdure.toml: transient_retry: Retry.attempts is 0"),
        ("[deeper]\nshards = 4", "perdure.toml: deeper: no such setting"),
    ],
)
def test_mistakes_in_the_file(home: Home, text: str, says: str) -> None:
    home.toml(text)
    assert _says(home).startswith(says)


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("PERDURE_SHARDS", "many", "PERDURE_SHARDS: shards: Expected `int`, got `str`"),
        ("PERDURE_SHARDS", "0", "PERDURE_SHARDS: shards: 0 isn't from 1 to 1024"),
        ("PERDURE_DEFECT_RETRY", "5", "PERDURE_DEFECT_RETRY: defect_retry: Expected `object`"),
        ("PERDURE_DEFECT_RETRY", "{", "PERDURE_DEFECT_RETRY: defect_retry: not JSON"),
        ("PERDURE_ASK_TIMEOUT", "soon", "PERDURE_ASK_TIMEOUT: ask_timeout: Invalid ISO8601"),
    ],
)
def test_mistakes_in_a_variable(home: Home, variable: str, text: str, says: str) -> None:
    assert _says(home, {variable: text}).startswith(says)


def test_mistakes_with_contexts(home: Home) -> None:
    missing = _says(home, {"NATS_CONTEXT": "nope"})
    assert missing.startswith("NATS context nope: ")
    assert missing.endswith("nope.json: No such file or directory")
    for name in ("../x", "..", "/etc/passwd"):
        assert "isn't a name" in _says(home, {"NATS_CONTEXT": name})
    home.context("nsc", url="nats://a", nsc="nsc://o/a/u")
    assert _says(home, {"NATS_CONTEXT": "nsc"}).endswith("nsc: perdure can't log in that way")
    home.root.joinpath(".config/nats/context/list.json").write_text("[]")
    assert _says(home, {"NATS_CONTEXT": "list"}).endswith("not a JSON object")
    home.root.joinpath(".config/nats/context/half.json").write_text("{")
    assert _says(home, {"NATS_CONTEXT": "half"}).startswith("NATS context half: ")
    home.root.joinpath(".config/nats/context/bytes.json").write_bytes(b"\xff")
    assert _says(home, {"NATS_CONTEXT": "bytes"}).endswith("bytes.json: not UTF-8")


def test_a_file_that_is_not_there(home: Home) -> None:
    assert _says(home, path="nowhere.toml") == "nowhere.toml: No such file or directory"


def test_an_unknown_argument_is_pythons_own_mistake(home: Home) -> None:
    with pytest.raises(TypeError, match="'shard' isn't a setting"):
        home.load(shard=4)


def test_the_process_environment_is_the_default(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home.root))
    monkeypatch.setenv("PERDURE_SHARDS", "9")
    assert Settings.load().shards == 9
