"""Every overlay is valid for three versions of Kubernetes, and keeps to every policy."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from perdure.deploy.server import find_server

from . import policies, workloads
from .policies import FOREIGN_SECRETS, Policy
from .rendering import (
    JOBS,
    KUBERNETES,
    OVERLAYS,
    ROOT,
    containers,
    content,
    of_kind,
    one,
    render,
)

VERSIONS = ("1.35", "1.36", "1.37")
"""The newest that kubernetes-validate knows; a test says when there is a newer one."""
CUSTOM = {"ServiceMonitor", "ScaledObject"}
"""Kinds of operators: no schema of Kubernetes has them. The policies read them."""
ALL = (*policies.POLICIES, *workloads.POLICIES)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "overlay", [*OVERLAYS, *(f"{overlay}/{job}" for overlay in OVERLAYS for job in JOBS)]
)
def test_each_object_is_valid(overlay: str, version: str) -> None:
    checked = 0
    for item in render(overlay):
        if item["kind"] in CUSTOM:
            continue
        assert kubernetes_validate.validate(item, version, strict=True) == version
        checked += 1
    assert checked >= 3


def test_an_unknown_field_is_invalid() -> None:
    deployment = one(render("dev"), "Deployment", "perdure-runner")
    deployment["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def test_these_are_the_newest_versions() -> None:
    newest = str(kubernetes_validate.latest_version())
    assert newest.startswith(VERSIONS[-1]), "validate for the newest, and drop the oldest"


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: policy.__name__)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_policy(overlay: str, policy: Policy) -> None:
    assert list(policy(render(overlay))) == []


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: policy.__name__)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_policy_with_the_jobs(overlay: str, policy: Policy) -> None:
    jobs = [item for job in JOBS for item in render(f"{overlay}/{job}")]
    assert list(policy([*render(overlay), *jobs])) == []


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_job_is_of_the_same_image_and_settings(overlay: str, job: str) -> None:
    objects = [*render(overlay), *render(f"{overlay}/{job}")]
    (runner,) = containers(one(objects, "Deployment", "perdure-runner"))
    (its,) = containers(one(objects, "Job", f"perdure-{job}"))
    assert its["image"] == runner["image"]
    assert its["args"][:2] == [job, runner["args"][1]], "the same APP"
    assert (its["env"] == runner["env"]) is (job == "check"), "who creates has another login"
    login = {"check": "runner", "topology": "creator"}[job]
    assert workloads.settings_of(objects, its).inbox_prefix == f"_INBOX.{login}"
    assert workloads.settings_of(objects, runner).inbox_prefix == "_INBOX.runner"
    ran, has = (workloads.settings_of(objects, c) for c in (runner, its))
    for name in ("url", "namespace", "replicas", "shards", "command_stream_bytes"):
        assert getattr(has, name) == getattr(ran, name), name


def test_only_the_example_has_secrets() -> None:
    assert not of_kind(render("production"), "Secret")
    guide = (ROOT / "docs" / "kubernetes.md").read_text()
    for name, keys in FOREIGN_SECRETS.items():
        for word in (name, *keys):
            assert f"`{word}`" in guide, f"docs/kubernetes.md doesn't tell of {word}"


def test_every_file_is_used() -> None:
    """A manifest that no kustomization names would be written for nobody."""
    for file in sorted(KUBERNETES.rglob("*.*")):
        if file.name == "kustomization.yaml":
            continue
        named = [
            text
            for folder in (file.parent, file.parent.parent)
            if (text := _read(folder / "kustomization.yaml"))
            and re.search(rf"[ /]{re.escape(file.name)}$", text, re.MULTILINE)
        ]
        assert named, f"{file} is in no kustomization"


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_server_takes_its_configuration(overlay: str, tmp_path: Path) -> None:
    objects = render(overlay)
    config = one(objects, "ConfigMap", "nats-config")["data"]["nats.conf"]
    secret = one(render("dev"), "Secret", "nats-authorization")
    (tmp_path / "nats.conf").write_text(config)
    (tmp_path / "authorization.conf").write_text(content(secret)["authorization.conf"])
    done = subprocess.run(
        [str(find_server()), "--config", str(tmp_path / "nats.conf"), "-t"],
        env={**os.environ, "POD_NAME": "nats-0"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_login_of_the_example_is_one_of_the_server() -> None:
    objects = render("dev")
    users = content(one(objects, "Secret", "nats-authorization"))["authorization.conf"]
    for name in ("perdure-runner-login", "perdure-creator-login"):
        login = content(one(objects, "Secret", name))
        assert f"{{user: {login['user']}, password: {login['password']}}}" in users
