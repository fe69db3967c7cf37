"""Entity: what it reads from annotations, and what it refuses, in one line, at import."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from typing_extensions import TypeAliasType, TypeVar

from perdure import (
    Address,
    Command,
    Context,
    Decision,
    Entity,
    Event,
    Failure,
    Flow,
    IdempotencyKey,
    Query,
    Snowflake,
    State,
    every,
    given,
)
from tests.bank import (
    Account,
    AccountEvent,
    Balance,
    Deposit,
    Deposited,
    GetBalance,
    Held,
    InsufficientFunds,
    NotApproved,
    Released,
    Withdraw,
    Withdrawn,
    account,
    decide,
    evolve,
    withdraw_large,
)


# -- what it reads -------------------------------------------------------------------------------
def test_the_contract_is_read_from_the_annotations() -> None:
    assert account.name == "account"
    assert list(account.contracts) == ["deposit", "withdraw", "get_balance", "withdraw_large"]
    assert account.events == (Deposited, Withdrawn, Held, Released)
    large = account.contracts["withdraw_large"]
    assert (large.reply, large.failures) == (Balance, (InsufficientFunds, NotApproved))
    assert {tag: c.writes for tag, c in account.contracts.items()} == {
        "deposit": True,
        "withdraw": True,
        "get_balance": False,
        "withdraw_large": True,
    }
    assert account.flow_of == {"withdraw_large": withdraw_large}
    assert repr(account) == "Entity('account': deposit, withdraw, get_balance, withdraw_large)"


def test_the_decoders_are_ready() -> None:
    assert account.messages.decode(b'{"type":"withdraw","cents":5}') == Withdraw(5)
    assert account.messages.decode(b'{"type":"get_balance"}') == GetBalance()
    assert account.log.decode(b'{"type":"withdrawn","cents":5}') == Withdrawn(5)
    assert account.state_decoder.decode(b'{"type":"account","balance":5,"held":1}') == Account(
        5, 1
    )
    contract = account.contracts["withdraw_large"]
    assert contract.reply_decoder.decode(b'{"type":"balance","cents":5}') == Balance(5)
    failure = contract.decode_failure(b'{"type":"not_approved","by":"ann"}')
    assert failure == NotApproved(by="ann")
    assert isinstance(failure, NotApproved)


@pytest.mark.parametrize(
    ("tag", "data"),
    [
        ("withdraw", b'{"type":"not_approved","by":"ann"}'),
        ("withdraw", b'{"type":"insufficient_funds","balance":"x","wanted":1}'),
        ("deposit", b'{"type":"insufficient_funds","balance":1,"wanted":1}'),
        ("deposit", b'{"type":""}'),
        ("deposit", b"{}"),
    ],
)
def test_an_undeclared_failure_does_not_decode(tag: str, data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        account.contracts[tag].decode_failure(data)


SA = TypeVar("SA", bound=State)
RA = TypeVar("RA")


class Audited(Command[SA, RA, InsufficientFunds]):
    by: str


class Fix(Audited[Account, Balance]):
    cents: int


class Listed(Command[SA, list[RA]]):
    pass


class ListOfText(Listed[Account, str]):
    pass


class Mixin:
    pass


class Mixed(Mixin, Command[Account, "list[Later]"]):
    pass


class Later(State):
    n: Annotated[int, msgspec.Meta(ge=0)]


class Bounded(Command[Account, Annotated[int, msgspec.Meta(le=9)]]):
    pass


Both = TypeAliasType("Both", Deposit | Withdraw)


def test_a_generic_class_between_is_seen_through() -> None:
    def fix(state: Account, command: Fix) -> Decision[Deposited]:
        return command.accept(Balance(command.cents), Deposited(command.cents))

    contract = Entity(Account(), fix, evolve).contracts["fix"]
    assert (contract.reply, contract.failures) == (Balance, (InsufficientFunds,))


def test_type_arguments_are_put_in_deep_inside() -> None:
    contract = Entity(Account(), of(ListOfText), evolve).contracts["list_of_text"]
    assert contract.reply == list[str]
    assert contract.reply_decoder.decode(b'["a"]') == ["a"]
    with pytest.raises(msgspec.ValidationError):
        contract.reply_decoder.decode(b"[1]")


def test_text_in_a_type_argument_is_read_in_its_module() -> None:
    contract = Entity(Account(), of(Mixed), evolve).contracts["mixed"]
    assert contract.reply == list[Later]


def test_bounds_are_kept() -> None:
    decoder = Entity(Account(), of(Bounded), evolve).contracts["bounded"].reply_decoder
    assert decoder.decode(b"9") == 9
    with pytest.raises(msgspec.ValidationError, match="<= 9"):
        decoder.decode(b"10")


def test_an_alias_of_a_union_is_seen_through() -> None:
    def both(state: Account, command: Both) -> Decision[Deposited]:
        raise NotImplementedError(state, command)

    assert list(Entity(Account(), both, evolve).contracts) == ["deposit", "withdraw"]


class Note(Command[Account, None]):
    texts: dict[str, list[str]]


def test_a_command_without_reply_or_events() -> None:
    def note(state: Account, command: Note) -> Decision:
        return command.accept(None)

    entity = Entity(Account(), note, evolve)
    given(entity).when(Note({"a": ["b"]})).accepts(None)
    assert entity.contracts["note"].reply_decoder.decode(b"null") is None


def dated(state: Account, command: Deposit, context: Context) -> Decision[Deposited]:
    return command.accept(Balance(context.version), Deposited(command.cents))


def test_decide_may_ask_for_its_context() -> None:
    entity = Entity(Account(), dated, evolve)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    context = Context(Address("account", "a-1"), 7, now, "k")
    assert entity.decide(Account(), Deposit(5), context).reply == Balance(7)
    given(entity).when(Deposit(5), context).accepts(Balance(7), Deposited(5))
    given(entity).when(Deposit(5)).accepts(Balance(0), Deposited(5))


# -- fingerprint ---------------------------------------------------------------------------------
class First(Event, tag="it"):
    """Something."""

    cents: int


class Second(Event, tag="it"):
    """Something, said otherwise."""

    cents: int


class Third(Event, tag="it"):
    cents: int
    description: str = ""


def _entity(event: Any, name: str = "thing", revision: int = 1) -> Entity[Any, Any]:
    # The same class name for all, since schemas name the classes.
    event = type("It", (event,), {"__doc__": event.__doc__, "__module__": __name__}, tag="it")
    state: Any = type("Thing", (State,), {"__module__": __name__}, tag=name)

    class Do(Command[state, None]):
        pass

    def deciding(state: Any, command: Any) -> Any: ...
    def evolving(state: Any, event: Any) -> Any: ...

    deciding.__annotations__ = {"state": state, "command": Do, "return": Decision[event]}
    evolving.__annotations__ = {"state": state, "event": event, "return": state}
    return Entity(state(), deciding, evolving, revision=revision)


def test_the_fingerprint_shows_what_is_stored_and_not_the_prose() -> None:
    same = {_entity(First).fingerprint, _entity(First).fingerprint, _entity(Second).fingerprint}
    assert len(same) == 1
    others = {
        _entity(Third).fingerprint,
        _entity(First, name="other").fingerprint,
        _entity(First, revision=2).fingerprint,
    }
    assert len(others | same) == 4


def test_code_that_answers_otherwise_is_other_code() -> None:
    """Snapshots of the one are good for the other."""
    alone = Entity(Account(), decide, evolve)
    later = every("e", 60.0, id="a", command=Deposit(1))
    scheduled = Entity(Account(), decide, evolve, flows=[withdraw_large], schedules=[later])
    assert alone.fingerprint == account.fingerprint == scheduled.fingerprint
    assert len({alone.code, account.code, scheduled.code, account.fingerprint}) == 4
    assert Entity(Account(), decide, evolve).code == alone.code


@pytest.mark.parametrize("label", ["gpu", "eu-west.1", "A_b", "x" * 64])
def test_a_label_is_kept_and_changes_nothing_else(label: str) -> None:
    labelled = Entity(Account(), decide, evolve, flows=[withdraw_large], label=label)
    assert (labelled.label, labelled.fingerprint) == (label, account.fingerprint)
    assert account.label is None


@pytest.mark.parametrize("label", ["", "a b", "x" * 65, "gpu\n", "größe", 5, ["gpu"]])
def test_what_is_no_label_is_refused(label: Any) -> None:
    with pytest.raises(TypeError, match=r"^Entity 'account': label .* isn't 1-64 of A-Z"):
        Entity(Account(), decide, evolve, label=label)


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from tests.bank import account; print(account.fingerprint)"
    )
    root = str(Path(__file__).parents[3])
    seen = {
        subprocess.run(
            [sys.executable, "-c", code, root],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert seen == {account.fingerprint}
    assert len(account.fingerprint) == 16


# -- a mistake is one line, at import ------------------------------------------------------------
class Order(State):
    n: int = 0


class Shouting(State, tag="Bank Account"):
    pass


class Untyped(State):
    cents = 5


class UntypedDeposit(Command[Account, int]):
    items = msgspec.field(default_factory=list[int])  # pyright: ignore[reportGeneralTypeIssues]


class Constant(Command[Account, int]):
    MAX = 5
    _made = 5
    kinds: ClassVar[int] = 3

    @property
    def twice(self) -> int:
        return 2 * self.MAX


class Place(Command[Order, int]):
    n: int


class Withdraw2(Command[Account, int], tag="withdraw"):
    pass


class Thawed(Command[Account, int], frozen=False):  # type: ignore[misc]  # pyright: ignore
    pass


class Deposited2(Event, tag="deposited"):
    pass


class Odd(Command[Account, int]):
    what: dict[str, int] | Deposited


class Bare(Command):  # type: ignore[type-arg]  # pyright: ignore
    pass


class BareQuery(Query):  # type: ignore[type-arg]  # pyright: ignore
    pass


class OfBare(Bare):
    pass


class Hidden(Command[Account, int]):
    amount: Nowhere  # type: ignore[name-defined]  # pyright: ignore  # noqa: F821


class Custom:
    pass


class Crashing(Exception):
    pass


class KeyReply(Command[Account, IdempotencyKey]):
    pass


class IdField(Command[Account, int]):
    ids: list[Snowflake]


class CustomReply(Command[Account, Custom]):
    pass


class NestedReply(Query[Account, dict[str, tuple[Custom, ...]]]):
    pass


class FailureReply(Command[Account, InsufficientFunds]):
    pass


class ObjectReply(Command[Account, object]):
    pass


class UnknownReply(Command[Account, "Nowhere"]):  # type: ignore[name-defined]  # pyright: ignore
    pass


class AmbiguousReply(Command[Account, Balance | list[int] | tuple[int, ...]]):
    pass


class PlainFailure(Command[Account, int, Crashing]):  # type: ignore[type-var]  # pyright: ignore
    pass


class BaseFailure(Command[Account, int, Failure]):
    pass


class BadField(Failure):
    what: Custom


class FailureField(Command[Account, int, BadField]):
    pass


class Twin(Failure, tag="insufficient_funds"):
    pass


class Twins(Command[Account, int, InsufficientFunds | Twin]):
    pass


class Accepting(Command[Account, int]):
    accept: int  # type: ignore[assignment]  # pyright: ignore


class OddEvent(Event):
    what: Custom


class OddState(State):
    what: Custom | None = None


def of(message: Any, returns: Any = Decision[Deposited], state: Any = Account) -> Any:
    def made(state: Account, command: Any) -> Any: ...

    made.__annotations__ = {"state": state, "command": message, "return": returns}
    return made


def onto(event: Any, returns: Any = Account, state: Any = Account) -> Any:
    def made(state: Account, event: Any) -> Any: ...

    made.__annotations__ = {"state": state, "event": event, "return": returns}
    return made


def through(flow: Any, command: Any, returns: Any = Decision[Deposited]) -> Any:
    async def made(flow: Any, command: Any) -> Any: ...

    made.__annotations__ = {"flow": flow, "command": command, "return": returns}
    return made


def third(context: Any) -> Any:
    def made(state: Account, command: Any, context: Any) -> Any: ...

    made.__annotations__ = {
        "state": Account,
        "command": Deposit,
        "context": context,
        "return": Decision[Deposited],
    }
    return made


async def shadow(flow: Flow[Account, AccountEvent], command: Withdraw) -> Decision[AccountEvent]:
    return command.accept(Balance(1))


START = Account()


def _make(d: Any = decide, e: Any = evolve, s: Any = START, flows: Any = ()) -> Any:
    return lambda: Entity(s, d, e, flows=flows)


def _odd_state() -> Any:
    return _make(of(Place, Decision, OddState), onto(Deposited, OddState, OddState), OddState())


MISTAKES: list[tuple[Any, str]] = [
    (_make(s=Shouting()), "Shouting: its tag 'Bank Account' isn't 1-32 of a-z"),
    (_make(s=Balance(1)), "the first state is Balance, which isn't a State"),
    (_make(s=Account), "the first state is a class: write Account(), not Account"),
    (_make(s=Untyped()), "Untyped: cents has no type, so it is no field: write cents: int = "),
    (_make(d=of(UntypedDeposit)), "UntypedDeposit: items has no type, so it is no field"),
    (_make(s=Order()), "decide takes Account, but the first state is Order"),
    (_make(d=lambda s, c: None), "decide: annotate both parameters and the result"),  # pyright: ignore
    (_make(d=lambda s, c, x: None), "decide: annotate all three parameters"),  # pyright: ignore
    (_make(d=third(int)), "decide: the third parameter is Context"),
    (_make(d=of(int)), "decide takes int, which is neither a Command nor a Query"),
    (_make(d=of(Place)), "decide takes Place, a Command of Order, not of Account"),
    (_make(d=of(Withdraw | Withdraw2)), "commands Withdraw and Withdraw2 have the same tag"),
    (_make(d=of(Thawed)), "Thawed isn't frozen: remove frozen=False"),
    (_make(d=of(Odd)), "commands: Odd: Type unions may not contain"),
    (_make(d=of(Bare)), "Bare: write Command[State, Reply, Failures]"),
    (_make(d=of(BareQuery)), "BareQuery: write Query[State, Reply]"),
    (_make(d=of(Command)), "Command: write Command[State, Reply, Failures]"),
    (_make(d=of(OfBare)), "OfBare: write Command[State, Reply, Failures]"),
    (_make(d=of(Hidden)), "commands: Hidden: 'Nowhere' isn't defined when it is imported"),
    (_make(d=of(Accepting)), "Accepting: a field can't be called 'accept'"),
    (
        _make(d=of(IdField)),
        "commands: IdField: Snowflake can't be encoded, being a sub",
    ),
    (_make(d=of(KeyReply)), "KeyReply: reply: IdempotencyKey can't be encoded, being a subclass"),
    (_make(d=of(CustomReply)), "CustomReply: reply: Custom can't be encoded: declare a Value"),
    (_make(d=of(NestedReply)), "NestedReply: reply: Custom can't be encoded"),
    (_make(d=of(FailureReply)), "FailureReply: reply: InsufficientFunds is an exception"),
    (_make(d=of(ObjectReply)), "ObjectReply: reply: object can't be encoded"),
    (_make(d=of(UnknownReply)), "UnknownReply: 'Nowhere' isn't defined when it is imported"),
    (_make(d=of(AmbiguousReply)), "AmbiguousReply: reply: Type unions may not contain"),
    (_make(d=of(PlainFailure)), "PlainFailure: Crashing isn't a Failure"),
    (_make(d=of(BaseFailure)), "BaseFailure: Failure is the base"),
    (_make(d=of(FailureField)), "FailureField: failures: BadField: Custom can't be encoded"),
    (_make(d=of(Twins)), "Twins: failures InsufficientFunds and Twin have the same tag"),
    (_make(d=of(Withdraw, Balance)), "decide must return Decision[...]"),
    (_make(d=of("OnlyWhenChecking")), "decide: 'OnlyWhenChecking' isn't defined when it is"),
    (_make(e=onto(Withdrawn)), "decide may emit Deposited, which evolve doesn't take"),
    (_make(e=onto(Deposited | Balance)), "evolve takes Balance, which isn't an Event"),
    (_make(e=onto(Event)), "evolve takes Event: name the events that it takes"),
    (_make(e=onto(Deposited | Deposited2)), "evolve: Deposited and Deposited2 have the same tag"),
    (_make(e=onto(AccountEvent, Order)), "evolve must take and return Account"),
    (_make(e=onto(AccountEvent | OddEvent)), "events: OddEvent: Custom can't be encoded"),
    (_odd_state(), "decide takes Place, a Command of Order, not of OddState"),
    (_make(flows=[shadow]), "withdraw is handled by decide and by a flow"),
    (_make(flows=[withdraw_large, withdraw_large]), "two flows handle the same command"),
    (_make(flows=[decide]), "flow decide isn't an async def"),
    (_make(flows=[through(int, Fix)]), "the first parameter is Flow[Account, ...]"),
    (_make(flows=[through(Flow[Order], Place)]), "the first parameter is Flow[Account, ...]"),
    (_make(flows=[through(Flow[Account], NestedReply)]), "NestedReply: reply: Custom"),
    (_make(flows=[through(Flow[Account], BareQuery)]), "BareQuery: write Query[State, Reply]"),
    (_make(flows=[through(Flow[Account], Fix, int)]), "flow made must return Decision[...]"),
]


@pytest.mark.parametrize(("make", "says"), MISTAKES, ids=[says for _, says in MISTAKES])
def test_mistakes_at_import(make: Any, says: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_constant_is_no_field() -> None:
    assert list(Entity(Account(), of(Constant), evolve).contracts) == ["constant"]


@pytest.mark.parametrize("base", [Command, Query])
def test_a_message_without_a_reply(base: Any) -> None:
    name = base.__name__
    with pytest.raises(TypeError) as caught:
        base[Account]
    assert str(caught.value) == (
        f"{name}[Account]: the reply's type is missing: {name}[Account, None] for none"
    )


class OddQuery(Query[Account, int]):
    pass


class OddDo(Command[OddState, int]):
    pass


def test_a_flow_takes_no_query_and_a_state_must_travel() -> None:
    with pytest.raises(TypeError, match="takes OddQuery, a Query"):
        _make(flows=[through(Flow[Account], OddQuery)])()
    with pytest.raises(TypeError, match="state: OddState: Custom can't be encoded"):
        Entity(OddState(), of(OddDo, Decision, OddState), onto(Deposited, OddState, OddState))


class Tree(Command[Account, int]):
    children: list[Tree]
    amount: Decimal


def test_a_recursive_type_is_walked_once() -> None:
    assert list(Entity(Account(), of(Tree), evolve).contracts) == ["tree"]


def test_the_tag_is_required_even_where_there_is_one_command() -> None:
    def only(state: Account, command: Deposit) -> Decision[Deposited]:
        return command.accept(Balance(command.cents), Deposited(command.cents))

    messages = Entity(Account(), only, evolve).messages
    assert messages.decode(b'{"type":"deposit","cents":1}') == Deposit(1)
    for body in (b'{"cents":1}', b'{"type":""}', b'{"type":"","cents":1}'):
        with pytest.raises(msgspec.ValidationError):
            messages.decode(body)
