"""`perdure gateway`: entities over plain HTTP."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from ...durable.connect import connect
from ...entities.settings import Settings, without_login
from ..logs import Level, configure
from ..process import run_until_signalled
from .app import AnyEntity, load_app
from .operating import with_server
from .options import NO_OPTIONS, Common
from .output import Output
from .trouble import Failed, UsageError

PORT = 8080
"""What it listens on unless told otherwise: no right is needed for it, and nothing of NATS's."""


def gateway(
    app: str,
    /,
    *,
    port: int = PORT,
    host: str = "127.0.0.1",
    root_path: str = "",
    require_key: Annotated[bool, Parameter(negative="")] = False,
    log_level: Level = "info",
    log_json: Annotated[bool, Parameter(negative="")] = False,
    common: Common = NO_OPTIONS,
) -> int:
    """Serve the entities of APP over HTTP, until SIGTERM or Ctrl-C; needs the extra `http`.

    It hosts nothing: it calls the runners (`perdure run APP`), as any client does. There is no
    login: who reaches it may do everything, so let a proxy that knows its users stand before it.
    The paths are in docs/http.md, and in its own /openapi.json.

    For instance:

    * `perdure gateway bank`
    * `curl --json '{"cents": 700}' 127.0.0.1:8080/entities/account/a-1/deposit`
    * `perdure gateway bank --host 0.0.0.0 --require-key --log-json`

    Parameters
    ----------
    app
        A module (`bank`), one entity of it (`bank:account`) or a file (`bank.py`).
    port
        The port to listen on; 0 takes a free one.
    host
        The address to listen on: who can reach it may do everything.
    root_path
        The path below which a proxy shows it (`/bank`), for `Location` and links.
    require_key
        Refuse commands without an `Idempotency-Key`.
    log_level
        What to log, from this level on, on standard error.
    log_json
        Log in JSON, one object a line.
    """
    if not 0 <= port <= 65_535:
        raise UsageError(f"--port {port}", "give 0 to 65535")
    if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
        raise UsageError(f"--root-path {root_path}", "write it as /bank")
    for package in ("starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise Failed(f"the gateway needs the package {package}", "pip install 'perdure[http]'")
    configure(log_level, json=log_json)
    settings = with_server(common.settings())
    entities = load_app(app)
    sock = _listen(host, port)
    main = _serve(entities, settings, sock, common.output(), root_path, require_key=require_key)
    try:
        return run_until_signalled(main)
    finally:
        sock.close()


def _listen(host: str, port: int) -> socket.socket:
    from ..gateway.serving import listen

    try:
        return listen(host, port)
    except OSError as error:
        raise Failed(
            f"can't listen on {host}:{port}: {error.strerror or error}",
            "take another --port or --host (--port 0: a free one)",
        ) from None


async def _serve(
    entities: Sequence[AnyEntity],
    settings: Settings,
    sock: socket.socket,
    output: Output,
    root: str,
    *,
    require_key: bool,
) -> int:
    # Only here, since most commands run without the extra.
    from ..gateway.app import Gateway
    from ..gateway.limits import Limits
    from ..gateway.serving import serve_gateway

    async with connect(settings.url, settings=settings) as cluster:
        made = Gateway(cluster, entities, Limits.of(settings), require_key=require_key, root=root)
        await serve_gateway(made, sock, lambda: _announce(output, entities, settings, sock))
    return 0


def _announce(
    output: Output, entities: Sequence[AnyEntity], settings: Settings, sock: socket.socket
) -> None:
    host, port = sock.getsockname()[:2]
    at = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if output.json:
        names = [entity.name for entity in entities]
        output.result(
            {"ready": True, "http": at, "url": without_login(settings.url), "entities": names}
        )
        return
    output.line(
        f"{at} serves {', '.join(e.name for e in entities)} of {without_login(settings.url)}"
    )
    output.line("Without a login: who reaches it may do everything.")
    output.line()
    output.line("Next, in another terminal:")
    output.line(f"  curl {at}/openapi.json")
    output.line(f"  curl {at}/readyz")
