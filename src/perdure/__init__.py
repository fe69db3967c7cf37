"""Durable, sharded, event-sourced entities on nothing but NATS JetStream.

Everything public is importable from here, and is meant to be imported from here alone: the
modules below may move between releases, these names do not.
"""

from .durable.connect import connect, serve
from .durable.testing import TestCluster, memory
from .entities.address import Address
from .entities.clock import Clock, SystemClock
from .entities.context import Context
from .entities.contract import Contract
from .entities.decision import Decision
from .entities.duration import Duration, seconds
from .entities.entity import Entity
from .entities.entropy import Entropy, SystemEntropy
from .entities.errors import (
    Advice,
    AlreadyProcessingMessage,
    ClusterError,
    EntityNotAssignedToRunner,
    MailboxFull,
    MalformedMessage,
    PersistenceError,
    Reason,
    RpcClientError,
    RunnerNotRegistered,
    RunnerUnavailable,
    SendTimeout,
    SerializationError,
    Suspended,
    error_tag,
    with_details,
)
from .entities.event import Event
from .entities.flow import Deferred, Durable, Flow, FlowRef, Step, Token
from .entities.handle import handle_error
from .entities.key import IdempotencyKey
from .entities.message import Command, Query
from .entities.naming import snake
from .entities.retry import Retry
from .entities.schedule import Schedule, cron, every
from .entities.settings import Settings, load_with_sources
from .entities.signal import Signal
from .entities.snowflake import (
    ClockWentBack,
    Snowflake,
    SnowflakeGenerator,
    SnowflakesExhausted,
    use_machine,
)
from .entities.state import State, Value
from .entities.status import EntityStatus
from .entities.steps import StepFailed
from .entities.suspension import Suspension
from .entities.tagged import Failure
from .entities.testing import Given, When, given
from .entities.waits import AskFailed
from .streams.broadcast import BroadcastProgress
from .streams.client import Cluster
from .streams.history import Commit
from .streams.listing import Listing
from .streams.port import Incompatible
from .streams.ref import Ref
from .streams.signals import Signals
from .streams.singleton import Singleton

__all__ = [
    "Address",
    "Advice",
    "AlreadyProcessingMessage",
    "AskFailed",
    "BroadcastProgress",
    "Clock",
    "ClockWentBack",
    "Cluster",
    "ClusterError",
    "Command",
    "Commit",
    "Context",
    "Contract",
    "Decision",
    "Deferred",
    "Durable",
    "Duration",
    "Entity",
    "EntityNotAssignedToRunner",
    "EntityStatus",
    "Entropy",
    "Event",
    "Failure",
    "Flow",
    "FlowRef",
    "Given",
    "IdempotencyKey",
    "Incompatible",
    "Listing",
    "MailboxFull",
    "MalformedMessage",
    "PersistenceError",
    "Query",
    "Reason",
    "Ref",
    "Retry",
    "RpcClientError",
    "RunnerNotRegistered",
    "RunnerUnavailable",
    "Schedule",
    "SendTimeout",
    "SerializationError",
    "Settings",
    "Signal",
    "Signals",
    "Singleton",
    "Snowflake",
    "SnowflakeGenerator",
    "SnowflakesExhausted",
    "State",
    "Step",
    "StepFailed",
    "Suspended",
    "Suspension",
    "SystemClock",
    "SystemEntropy",
    "TestCluster",
    "Token",
    "Value",
    "When",
    "connect",
    "cron",
    "error_tag",
    "every",
    "given",
    "handle_error",
    "load_with_sources",
    "memory",
    "seconds",
    "serve",
    "snake",
    "use_machine",
    "with_details",
]
