"""Typing commands as a user does, with an own home and current folder.

`run` and `running` make a process of each, as a shell does; `type` stays in this one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from nats.aio.client import Client

from perdure.deploy.cli.parser import run

from ...support.lines import LIMIT_S, read_line

APP = Path(__file__).with_name("counter.py").read_text()
MAIN = "from perdure.deploy.cli import main; main()"


async def plain_client(url: str, **options: Any) -> Any:
    """A client of nats-py's own; Any, as its annotations are partial."""
    client: Any = Client()
    await client.connect(url, **options)
    return client


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """Standard output as JSON, one value a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Shell:
    """A folder with an `app.py` in it, where commands are typed."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        if not (folder / "app.py").exists():  # a file that is written anew is a change
            (folder / "app.py").write_text(APP)
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PERDURE_", "NATS_", "XDG_"))
        }
        self.env |= {"HOME": str(folder), "COLUMNS": "80", **variables}

    def at(self, **variables: str) -> Shell:
        """The same with other variables."""
        other = Shell(self.folder)
        other.env = {**self.env, **variables}
        return other

    def run(self, *arguments: str, program: str = MAIN) -> Ran:
        """Type a command and wait for its end."""
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def type(self, *arguments: str) -> Ran:
        """The same within this process, which is much faster; not for `dev` and `run`."""
        out, err = io.StringIO(), io.StringIO()
        modules, path = set(sys.modules), list(sys.path)
        with (
            mock.patch.dict(os.environ, self.env, clear=True),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run(arguments)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(self.folder)):
                del sys.modules[name]
        return Ran(code, out.getvalue(), err.getvalue())

    @contextmanager
    def running(self, *arguments: str) -> Generator[Process]:
        """A command that goes on, in a terminal's foreground group; it ends with the test."""
        number = len(list(self.folder.glob("err-*.txt")))
        err = self.folder / f"err-{number}.txt"  # a file: a pipe that nobody reads would stop it
        with (
            err.open("w") as stderr,
            subprocess.Popen(
                [sys.executable, "-c", MAIN, *arguments],
                cwd=self.folder,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            ) as popen,
        ):
            try:
                yield Process(popen, err)
            finally:
                if popen.poll() is None:
                    popen.kill()


class Process:
    """A command that goes on."""

    def __init__(self, popen: subprocess.Popen[str], err: Path) -> None:
        self.popen, self.err = popen, err

    def line(self) -> str:
        """The next line of standard output."""
        line = read_line(self.popen, self.popen.stdout)
        assert line, self.end()
        return line.rstrip("\n")

    def ready(self) -> dict[str, Any]:
        """What `--json` prints when it is ready."""
        return dict(json.loads(self.line()))

    def interrupt(self) -> None:
        """Ctrl-C: the terminal signals the whole foreground group."""
        os.killpg(self.popen.pid, signal.SIGINT)

    def terminate(self) -> None:
        """What systemd and Kubernetes do."""
        self.popen.terminate()

    def end(self) -> Ran:
        """Wait for its end."""
        out, _ = self.popen.communicate(timeout=LIMIT_S)
        return Ran(self.popen.returncode, out, self.err.read_text())
