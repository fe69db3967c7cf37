"""Resume tokens, as whoever has none would make them."""

from __future__ import annotations

import pytest

from perdure import MalformedMessage, Token
from perdure.streams.token import Body, make_token, read_token
from tests.unit.streams.owner import World, reply
from tests.unit.streams.virtual import run

SECRET = b"s" * 32


def made(entity: str, id: str = "a") -> str:
    return make_token([SECRET], "perdure", Body(1, entity, id, "k", "approval", "n"))


@pytest.mark.parametrize(
    ("entity", "id"),
    [
        ("a.b", "a"),
        (">", "a"),
        ("", "a"),
        ("acc ount", "a"),
        ("a\r\nPUB x 0\r\n", "a"),
        ("account", ""),
        ("account", "x" * 256),
    ],
)
def test_a_token_of_what_is_no_entity_is_malformed_and_nothing_is_sent(
    entity: str, id: str
) -> None:
    async def main() -> None:
        world = await World.hosted(reply(5))
        with pytest.raises(MalformedMessage) as caught:
            await world.cluster.resume(Token(made(entity, id)), 1)
        assert not caught.value.may_have_taken_effect
        assert world.owner.asked == []
        assert await world.tells() == []

    run(main())


def test_a_token_of_an_entity_says_whose_it_is() -> None:
    body = read_token(made("account", "a/b c"))
    assert (body.entity, body.id, body.flow, body.deferred) == (
        "account",
        "a/b c",
        "k",
        "approval",
    )
