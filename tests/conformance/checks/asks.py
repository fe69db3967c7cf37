"""Asks: core NATS with wildcards, inboxes, and the server's word that nobody listens."""

from __future__ import annotations

import asyncio

import pytest

from perdure.streams.port import Message, Session, Unreachable

from ..backend import TYPE, Backend, round_trip, until


async def a_request_is_answered(backend: Backend) -> None:
    """By whoever listens, with headers, on the reply subject."""
    session, other = await backend.session(), await backend.session()
    heard: list[Message] = []

    def answer(message: Message) -> None:
        heard.append(message)
        session.asks.send(message.reply, b"to " + message.data)

    subject = session.subjects.ask_shard(TYPE, 1, 3, "a-1")
    await session.asks.subscribe(session.subjects.ask_shard(TYPE, 1, 3, "*"), answer)
    reply = await other.asks.request(subject, b"one", timeout_s=backend.patience_s)
    assert (reply.data, reply.no_responders) == (b"to one", False)
    inboxed: list[Message] = []
    inbox = other.asks.inbox(inboxed.append)
    other.asks.send(subject, b"two", reply=inbox.subject("1"), headers={"traceparent": "00-x y"})
    await until(backend, lambda: len(inboxed) == 1, "the answer")
    assert (inboxed[0].subject, inboxed[0].data) == (inbox.subject("1"), b"to two")
    assert [m.subject for m in heard] == [subject, subject]
    assert heard[1].reply == inbox.subject("1")
    assert dict(heard[1].headers or {}) == {"traceparent": "00-x y"}
    assert not heard[0].headers


async def nobody_listening_is_told_at_once(backend: Backend) -> None:
    """No responders, to a request and to an inbox, under the suffix that was sent."""
    session = await backend.session()
    subject = session.subjects.ask(TYPE, "a-1")
    answer = await session.asks.request(subject, b"x", timeout_s=backend.patience_s)
    assert answer.no_responders
    heard: list[Message] = []
    inbox = session.asks.inbox(heard.append)
    session.asks.send(subject, b"x", reply=inbox.subject("7"))
    await until(backend, lambda: len(heard) == 1, "no responders")
    assert (heard[0].subject, heard[0].no_responders) == (inbox.subject("7"), True)
    session.asks.send(subject, b"x")
    await round_trip(session)
    assert len(heard) == 1


async def silence_is_unreachable(backend: Backend) -> None:
    """Somebody listens and says nothing."""
    session = await backend.session()
    heard: list[Message] = []
    await session.asks.subscribe(session.subjects.info(TYPE), heard.append)
    with pytest.raises(Unreachable):
        await session.asks.request(session.subjects.info(TYPE), b"x", timeout_s=0.1)
    await until(backend, lambda: len(heard) == 1, "the request")


async def inboxes_are_apart(backend: Backend) -> None:
    """Each attempt has its suffix, each call its inbox; a closed one hears nothing more."""
    session, other = await backend.session(), await backend.session()
    one: list[str] = []
    two: list[str] = []
    inboxes = [
        session.asks.inbox(lambda m: one.append(m.subject)),
        session.asks.inbox(lambda m: two.append(m.subject)),
    ]
    subjects = [inbox.subject(suffix) for inbox in inboxes for suffix in ("1", "2", "x-y_z")]
    assert len(set(subjects)) == 6
    assert not any(c in subject for subject in subjects for c in " *>")
    for subject in subjects:
        other.asks.send(subject, b"x")
    await until(backend, lambda: len(one) + len(two) == 6, "all answers")
    assert (one, two) == (subjects[:3], subjects[3:])
    inboxes[0].close()
    await round_trip(session)
    other.asks.send(subjects[0], b"late")
    other.asks.send(subjects[3], b"x")
    await until(backend, lambda: len(two) == 4, "the second inbox")
    assert len(one) == 3


async def all_who_listen_hear(backend: Backend) -> None:
    """No queue groups: each runner of a type hears a plain ask, until it stops listening."""
    session, other = await backend.session(), await backend.session()
    here: list[bytes] = []
    there: list[bytes] = []
    asks = session.subjects.ask(TYPE, "*")
    first = await session.asks.subscribe(asks, lambda m: here.append(m.data))
    second = await other.asks.subscribe(asks, lambda m: there.append(m.data))
    subject = session.subjects.ask(TYPE, "a-1")
    session.asks.send(subject, b"one")
    await until(backend, lambda: (here, there) == ([b"one"], [b"one"]), "both")
    session.asks.send(session.subjects.ask_shard(TYPE, 1, 0, "a-1"), b"elsewhere")
    await first.stop()
    session.asks.send(subject, b"two")
    await until(backend, lambda: there == [b"one", b"two"], "the other")
    assert here == [b"one"]
    await second.stop()
    await round_trip(other)
    answer = await session.asks.request(subject, b"x", timeout_s=backend.patience_s)
    assert answer.no_responders


async def messages_keep_their_order(backend: Backend) -> None:
    """From one sender to one listener."""
    session, other = await backend.session(), await backend.session()
    heard: list[int] = []
    await session.asks.subscribe(
        session.subjects.ask(TYPE, "*"), lambda m: heard.append(int(m.data))
    )
    for n in range(500):
        other.asks.send(session.subjects.ask(TYPE, f"a-{n % 7}"), str(n).encode())
    await until(backend, lambda: len(heard) == 500, "all")
    assert heard == list(range(500))


async def a_listener_may_send(backend: Backend) -> None:
    """Also to itself: nothing runs inside the call that caused it."""
    session = await backend.session()
    subject = session.subjects.ask(TYPE, "a-1")
    events: list[str] = []

    def on_message(message: Message) -> None:
        count = int(message.data)
        events.append(f"enter {count}")
        if count < 3:
            session.asks.send(subject, str(count + 1).encode())
        events.append(f"leave {count}")

    await session.asks.subscribe(subject, on_message)
    session.asks.send(subject, b"1")
    assert events == []
    await until(backend, lambda: len(events) == 6, "all")
    assert events == [f"{word} {n}" for n in (1, 2, 3) for word in ("enter", "leave")]


async def a_closed_session_listens_no_more(backend: Backend) -> None:
    """The server says "no responders" at once: so a killed runner is noticed."""
    session, other = await backend.session(), await backend.session()
    heard: list[Message] = []
    await session.asks.subscribe(session.subjects.member("r-1"), heard.append)
    await session.close()
    assert not session.connected
    subject = other.subjects.member("r-1")
    await _deaf(backend, other, subject)
    with pytest.raises(Unreachable):
        await session.log.by_sequence(TYPE, 1)


async def listening_survives_a_reconnect(backend: Backend) -> None:
    """Subscriptions and inboxes go on; what is sent while there is no connection is dropped."""
    session, other = await backend.session(), await backend.session()
    heard: list[bytes] = []
    answers: list[bytes] = []
    subject = session.subjects.ask(TYPE, "a-1")
    await session.asks.subscribe(subject, lambda m: heard.append(m.data))
    inbox = session.asks.inbox(lambda m: answers.append(m.data))
    elsewhere: list[bytes] = []
    await other.asks.subscribe(session.subjects.info(TYPE), lambda m: elsewhere.append(m.data))
    async with backend.offline(session):
        session.asks.send(session.subjects.info(TYPE), b"dropped")
        with pytest.raises(Unreachable):
            await session.asks.request(session.subjects.info(TYPE), b"x", timeout_s=5)
        await _deaf(backend, other, subject)
    other.asks.send(subject, b"one")
    other.asks.send(inbox.subject("1"), b"two")
    session.asks.send(session.subjects.info(TYPE), b"three")
    await until(backend, lambda: bool(heard and answers and elsewhere), "all after the reconnect")
    assert (heard, answers, elsewhere) == ([b"one"], [b"two"], [b"three"])


async def _deaf(backend: Backend, session: Session, subject: str) -> None:
    """Until the server says that nobody listens there.

    A message that was routed just before a connection ended is still lost in silence, once.
    """
    async with asyncio.timeout(backend.patience_s):
        while True:
            try:
                answer = await session.asks.request(subject, b"nobody", timeout_s=0.2)
            except Unreachable:
                continue
            assert answer.no_responders
            return
