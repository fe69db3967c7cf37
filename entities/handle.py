"""handle_error: one handler a reason, all eleven required.

For those who want the checker to say that a reason was forgotten, in an expression; `match
error.reason` with `assert_never` says the same in a statement. Each handler is called `on_` and
the reason's tag in snake case; a test holds that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, assert_never

from .errors import (
    AlreadyProcessingMessage,
    ClusterError,
    EntityNotAssignedToRunner,
    MailboxFull,
    MalformedMessage,
    PersistenceError,
    RpcClientError,
    RunnerNotRegistered,
    RunnerUnavailable,
    SendTimeout,
    SerializationError,
    Suspended,
)

T = TypeVar("T")


def handle_error(
    error: ClusterError,
    *,
    on_already_processing_message: Callable[[AlreadyProcessingMessage], T],
    on_entity_not_assigned_to_runner: Callable[[EntityNotAssignedToRunner], T],
    on_mailbox_full: Callable[[MailboxFull], T],
    on_malformed_message: Callable[[MalformedMessage], T],
    on_persistence_error: Callable[[PersistenceError], T],
    on_runner_not_registered: Callable[[RunnerNotRegistered], T],
    on_runner_unavailable: Callable[[RunnerUnavailable], T],
    on_send_timeout: Callable[[SendTimeout], T],
    on_suspended: Callable[[Suspended], T],
    on_rpc_client_error: Callable[[RpcClientError], T],
    on_serialization_error: Callable[[SerializationError], T],
) -> T:
    """What the handler of the error's reason returns; all eleven are required.

    Handlers may be async: all of them, and await the result.
    """
    match error.reason:
        case AlreadyProcessingMessage() as e:
            return on_already_processing_message(e)
        case EntityNotAssignedToRunner() as e:
            return on_entity_not_assigned_to_runner(e)
        case MailboxFull() as e:
            return on_mailbox_full(e)
        case MalformedMessage() as e:
            return on_malformed_message(e)
        case PersistenceError() as e:
            return on_persistence_error(e)
        case RunnerNotRegistered() as e:
            return on_runner_not_registered(e)
        case RunnerUnavailable() as e:
            return on_runner_unavailable(e)
        case SendTimeout() as e:
            return on_send_timeout(e)
        case Suspended() as e:
            return on_suspended(e)
        case RpcClientError() as e:
            return on_rpc_client_error(e)
        case SerializationError() as e:
            return on_serialization_error(e)
        case _ as never:
            assert_never(never)
