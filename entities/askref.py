"""AskRef: another entity, seen from a running flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from msgspec import Raw

from .annotations import tag_of
from .contract import Contract, contract_of
from .flow import Durable, FlowRef
from .message import Command
from .record import Asked
from .state import State
from .story import Misuse
from .tagged import Failure
from .waits import AskWait

if TYPE_CHECKING:
    from .flowrun import FlowRun

S = TypeVar("S", bound=State)
R = TypeVar("R")
E = TypeVar("E", bound=Failure)


class AskRef(FlowRef[S]):
    """Asks one entity in the name of a flow."""

    def __init__(self, run: FlowRun[Any, Any], of: type[S], id: str) -> None:
        self._run, self._of, self._id = run, of, id
        self._entity = tag_of(of)

    def __repr__(self) -> str:
        return f"AskRef({self._entity}/{self._id})"

    def ask(self, command: Command[S, R, Any], *, name: str | None = None) -> Durable[R]:
        """Exactly once; a failure is raised."""
        return cast("Durable[R]", self._wait(command, name, returns=False))

    def outcome(self, command: Command[S, R, E], *, name: str | None = None) -> Durable[R | E]:
        """Exactly once; a failure is returned."""
        return cast("Durable[R | E]", self._wait(command, name, returns=True))

    def _wait(self, command: Any, name: str | None, *, returns: bool) -> AskWait:
        with self._run.watched():
            contract = self._contract(command)
            asked = Asked(
                contract.tag if name is None else name,
                self._entity,
                self._id,
                Raw(msgspec.json.encode(command)),
                self._run.effects.nonce(),
            )
            return AskWait(self._run, asked, contract, returns=returns)

    def _contract(self, command: Any) -> Contract:
        try:
            contract = contract_of(type(command), self._of, f"{self._entity}/{self._id}")
        except TypeError as error:
            raise Misuse(str(error)) from None
        if not contract.writes:
            raise Misuse(f"{contract.tag} is a query: a flow asks another entity for commands")
        return contract
