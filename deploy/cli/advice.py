"""The next step after a cluster error, as a command that can be typed.

The error says what happened and whether it may have taken effect; here is what that means at a
command line. The rule behind all of it: what may have taken effect is repeated with its key, or
looked up, and never simply sent again.
"""

from __future__ import annotations

import re

from ...durable.flow import ENDED
from ...durable.openflow import STUCK
from ...entities.errors import ClusterError, MalformedMessage, Suspended
from ...entities.handle import handle_error

START = "start a server (perdure dev APP), or correct --url"
"""Where nothing answers."""

HOST = "perdure run APP"
"""What hosts a type that isn't."""

REUSED = "this key was used before"
"""In the cause of a refused key: the owner's words, as the error has no field for it."""


def next_step(error: ClusterError) -> str:
    """What to do about it."""
    again = _again(error)
    return handle_error(
        error,
        on_already_processing_message=lambda _: _look_up(error),
        on_entity_not_assigned_to_runner=lambda _: again,
        on_mailbox_full=lambda _: f"wait a moment, then {again}",
        on_malformed_message=_correct,
        on_persistence_error=lambda _: f"{again}; if it stays so: perdure check",
        on_runner_not_registered=lambda _: f"start a runner: {HOST}",
        on_runner_unavailable=lambda _: again,
        on_send_timeout=lambda _: _look_up(error) if error.may_have_taken_effect else again,
        on_suspended=_suspended,
        on_rpc_client_error=lambda _: _connect(error, again),
        on_serialization_error=lambda _: "see the runner's log; its code and the log don't agree",
    )


def allow(violation: str) -> str:
    """What to do about what the server says that a login may not."""
    if re.search(r"STREAM\.(CREATE|UPDATE)\.", violation, re.IGNORECASE):
        return "perdure topology APP --apply, by a login that may create and update streams"
    return "allow it for this login (perdure permissions says who needs what), or take another"


def _connect(error: ClusterError, again: str) -> str:
    cause = error.cause or ""
    if "permissions violation" in cause:
        return allow(cause)
    if error.address is None:
        return START
    if error.advice.startswith("retry"):
        return f"perdure check, then {again}"
    if cause.startswith(STUCK):
        return f"{_command('flows list', error)}; mend its code, then perdure flows retry"
    if cause.startswith(ENDED):  # its key gets that for ever
        return "to begin anew give another --key"
    mend = "mend what it tells of; its runner's log tells more"
    if error.may_have_taken_effect:
        mend = f"see what was done: {_command('history', error)}; {mend}"
    return mend if error.key is None else f"{mend}; then give another --key"


def _correct(error: MalformedMessage) -> str:
    if error.key is not None and REUSED in (error.cause or ""):
        return "use another --key, or the same fields as before"
    return "correct it"


def _suspended(error: Suspended) -> str:
    if error.advice.startswith("retry"):  # it was refused for the sake of another's flow
        return f"{_command('flows list', error)}; then {_again(error)}"
    waits_for = f"it waits for {', '.join(error.waits_for)}: " if error.waits_for else ""
    if error.resume_token is None:
        return f"{waits_for}{_command('flows list', error)}; then {_look_up(error)}"
    give = f"perdure resume {quoted(error.resume_token)} VALUE"
    return f"{waits_for}{give}; then {_look_up(error)}"


def _again(error: ClusterError) -> str:
    if error.key is not None:
        return f"try again with --key {error.key}"
    if error.may_have_taken_effect:
        return f"look first whether it happened: {_command('history', error)}"
    return "try again"


def _look_up(error: ClusterError) -> str:
    if error.key is None:
        return f"look whether it happened: {_command('history', error)}"
    return f"{_command('result', error)} {error.key}"


def _command(verb: str, error: ClusterError) -> str:
    entity, _, id = (error.address or "TYPE/ID").partition("/")
    return f"perdure {verb} {entity} {quoted(id)}"


def quoted(text: str) -> str:
    """The text as one word of a POSIX shell."""
    if text and all(c.isalnum() or c in "-_./:@%+=," for c in text) and text.isascii():
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"
