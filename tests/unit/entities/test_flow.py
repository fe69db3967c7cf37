"""What a flow may say: the token, and that the rest is abstract."""

from __future__ import annotations

import inspect

import pytest

from perdure import Deferred, Durable, Flow, FlowRef, Step, Token
from tests.bank import Verdict


def test_a_token_hides_in_logs() -> None:
    token = Token[Verdict]("very-secret-9f3a")
    assert str(token) == "very-secret-9f3a"
    assert repr(token) == "Token(...9f3a)"
    assert repr(Token[Verdict]("short")) == "Token(...)"


def test_tokens_of_one_text_are_equal() -> None:
    assert Token[Verdict]("a") == Token[Verdict]("a")
    assert len({Token[Verdict]("a"), Token[Verdict]("a"), Token[Verdict]("b")}) == 2
    assert Token[Verdict]("a") != "a"


@pytest.mark.parametrize("cls", [Deferred, Durable, Flow, FlowRef, Step])
def test_the_rest_is_abstract(cls: type) -> None:
    assert inspect.isabstract(cls)
    with pytest.raises(TypeError, match="abstract"):
        cls()
