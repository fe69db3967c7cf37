"""Runs a page: saves its programs, types its commands, compares what is printed.

A block's first line says what it is: ```python FILE``` is saved (a second one for the same file
takes the place of its last line, after the page said which imports are its first now), ```sh``` is
typed command by command, with what must come as comments below each, ```sh dev``` is typed in a
terminal of its own. In a comment `…` stands for anything.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LIMIT_S = 180
"""For one command, in seconds; the first one installs."""
READY_S = 60


class Page:
    """A page that is typed in a folder, with variables for every command."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self._folder = folder
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("PERDURE", "NATS"))}
        for name in ("PYTHONPATH", "PYTHONSAFEPATH", "VIRTUAL_ENV"):
            kept.pop(name, None)
        path = f"{folder / '.venv' / 'bin'}:{kept.get('PATH', '')}"
        self._env = {**kept, "PATH": path, "HOME": str(folder), **variables}
        self._dev: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.typed = 0

    def run(self, text: str) -> None:
        """All of it, in its order. Raises AssertionError where something else is printed."""
        try:
            for language, name, block in BLOCK.findall(text):
                if language == "python":
                    self._save(name, block, text)
                elif name == "dev":
                    self._start(block.strip())
                else:
                    for command, expected in commands(block):
                        self._type(command, expected)
        finally:
            self._end()

    def _save(self, name: str, block: str, text: str) -> None:
        file = self._folder / name
        if not file.exists():
            file.write_text(block)
            return
        first = re.search(r"its first line with\n`(.*?)`", text)
        assert first is not None
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join([first[1] + "\n", *lines[1:-1], block]))
        self._log_has("Reloaded for")

    def _type(self, command: str, expected: list[str]) -> None:
        variable = re.fullmatch(r"(\w+)=\$\((.*)\)", command)
        done = subprocess.run(
            ["bash", "-c", command if variable is None else variable[2]],
            cwd=self._folder,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        if variable is not None:  # of the shell, for the commands that follow
            self._env[variable[1]] = done.stdout.strip()
        if expected:
            assert fits(done.stdout.splitlines(), expected), f"{command}\n{done.stdout}"
        self.typed += 1

    def _start(self, command: str) -> None:
        self._log = (self._folder / "dev.log").open("wb")
        self._dev = subprocess.Popen(
            [*command.split(), "--port", "0"],
            cwd=self._folder,
            env=self._env,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._log_has("Next, in another terminal")
        found = re.search(r"nats://[\d.:]+", (self._folder / "dev.log").read_text())
        assert found is not None
        self._env["PERDURE_URL"] = found[0]

    def _log_has(self, words: str) -> None:
        until = time.monotonic() + READY_S
        log = self._folder / "dev.log"
        while words not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)

    def _end(self) -> None:
        if self._dev is not None and self._log is not None:
            self._dev.send_signal(signal.SIGINT)
            assert self._dev.wait(READY_S) == 0, (self._folder / "dev.log").read_text()
            self._log.close()


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a block, with the lines that must come."""
    command, expected = "", list[str]()
    for line in block.splitlines():
        if line.startswith("#"):
            expected.append(line.removeprefix("#").removeprefix(" "))
            continue
        if command:
            yield command, expected
        command, expected = line, []
    yield command, expected


def fits(lines: list[str], expected: list[str]) -> bool:
    """Whether these lines were printed, and no others."""
    patterns = ("(?:.*)".join(map(re.escape, line.split("…"))) for line in expected)
    return re.fullmatch(r"\s*\n".join(patterns), "\n".join(lines), re.DOTALL) is not None
