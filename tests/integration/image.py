"""perdure's own image, built as deploy/Dockerfile says, on a base that is made here.

No image can be pulled, so the base is a Debian root with nothing but Python and pip: extracted
packages, never configured, and no shell among them. So what is built on it needs none.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docker  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
BASE_TAG = "perdure-integration-base:local"
IMAGE_TAG = "perdure-integration:local"
APP_TAG = "perdure-integration-bank:local"
SUITE = "bookworm"
"""The Debian release, with Python 3.11: the oldest that perdure runs on."""
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
"""The certificates that this machine trusts; the package would make that file when configured."""
BASE_TIMEOUT_S = 180
READY_TIMEOUT_S = 60


def make_base(folder: Path) -> str:
    """Import the base; its tag."""
    archive = folder / "base.tar"
    done = subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=extract",
            "--include=python3,python3-pip",
            '--aptopt=APT::Install-Recommends "false"',
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            f'--extract-hook=cp {AUTHORITIES} "$1{AUTHORITIES}"',
            SUITE,
            str(archive),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BASE_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    engine: Any = docker.from_env()
    name, _, tag = BASE_TAG.partition(":")
    path = "ENV PATH=/usr/local/bin:/usr/bin:/bin"
    engine.api.import_image(str(archive), repository=name, tag=tag, changes=[path])
    engine.close()
    archive.unlink()
    return BASE_TAG


def build(context: Path, tag: str, dockerfile: str = "Dockerfile", **arguments: str) -> str:
    """Build an image; its tag. With the machine's network, as its packages come from an index."""
    engine: Any = docker.from_env()
    engine.images.build(
        path=str(context),
        dockerfile=dockerfile,
        buildargs=arguments,
        tag=tag,
        network_mode="host",
        rm=True,
    )
    engine.close()
    return tag


def build_app(folder: Path) -> str:
    """The README's program on perdure's image, by the Dockerfile that the guide shows; its tag."""
    guide = (ROOT / "docs" / "kubernetes.md").read_text()
    (shown,) = re.findall(r"^```dockerfile\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    dockerfile, replaced = re.subn(r"^FROM perdure:\S+$", f"FROM {IMAGE_TAG}", shown, flags=re.M)
    assert replaced == 1
    (folder / "Dockerfile").write_text(dockerfile)
    shutil.copy(ROOT / "examples" / "bank.py", folder)
    return build(folder, APP_TAG)


class Container:
    """A container as the manifests run one: read-only root, no capabilities, the image's user."""

    def __init__(self, image: str, arguments: Sequence[str], url: str) -> None:
        self._engine: Any = docker.from_env()
        self._container: Any = self._engine.containers.run(
            image,
            list(arguments),
            detach=True,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            environment={"PERDURE_URL": url},
        )

    async def ready(self) -> None:
        """Wait until it says so (`perdure run … --json`). Fails with its logs if it doesn't."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            while '"ready":true' not in self.logs().replace(" ", ""):
                self._container.reload()
                assert self._container.status == "running", self.logs()
                await asyncio.sleep(0.1)

    def run(self, code: str) -> tuple[int, str]:
        """Python code inside of it: exit code and output."""
        done = self._container.exec_run(["/opt/perdure/bin/python3", "-c", code])
        return int(done.exit_code), done.output.decode()

    async def terminate(self) -> None:
        """What `docker stop` and Kubernetes do first: the image's stop signal."""
        signal = self._container.image.attrs["Config"]["StopSignal"]
        await asyncio.to_thread(self._container.kill, signal=signal)

    async def ended(self, timeout_s: float) -> int:
        """Its exit code, once it has ended by itself."""
        done = await asyncio.to_thread(self._container.wait, timeout=timeout_s)
        return int(done["StatusCode"])

    def logs(self) -> str:
        """All that it wrote."""
        return str(self._container.logs().decode())

    def remove(self) -> None:
        """Remove it, running or not."""
        self._container.remove(force=True, v=True)
        self._engine.close()
