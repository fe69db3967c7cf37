"""The mailbox: order, bounds by each way, askers, redeliveries, asks that stand aside."""

from __future__ import annotations

from msgspec import Raw

from perdure.durable.item import Asker, Item
from perdure.durable.mailbox import Admission, Mailbox, MailboxStatistics
from perdure.streams.commit import At


def ask(name: str, payload: str = "p", after: int | None = None) -> Item:
    return Item(
        "ask", name, payload, Raw(b"{}"), key=name, after=after, askers=[Asker(f"_INBOX.{name}")]
    )


def tell(sequence: int, cause: str, key: str | None = None) -> Item:
    at = At(1, sequence, sequence)
    return Item("tell", key or cause, "p", Raw(b"{}"), key=key, cause=cause, at=at)


def box(capacity: int = 3, askers: int = 2) -> Mailbox:
    return Mailbox(capacity, askers)


def test_asks_are_bounded_and_tells_are_not() -> None:
    mailbox = box()
    for n in range(3):
        assert mailbox.admit(ask(f"k{n}")) is Admission.QUEUED
        mailbox.add(ask(f"k{n}"))
        mailbox.add(tell(n, f"@{n}"))
    assert mailbox.admit(ask("k9")) is Admission.FULL
    assert mailbox.statistics() == MailboxStatistics(asks=3, tells=3, waiting=0)


def test_a_full_mailbox_still_knows_what_waits() -> None:
    mailbox = box(capacity=1)
    mailbox.add(ask("k"))
    assert mailbox.admit(ask("k")) is Admission.ATTACHED
    assert mailbox.admit(ask("k", payload="other")) is Admission.FULL


def test_the_same_key_with_another_payload_waits_for_the_record() -> None:
    mailbox = box()
    mailbox.add(ask("k"))
    assert mailbox.admit(ask("k", payload="other")) is Admission.QUEUED


def test_askers_are_bounded_and_each_is_there_once() -> None:
    mailbox = box(askers=2)
    waiting = ask("k")
    mailbox.add(waiting)
    for reply in ("_INBOX.a", "_INBOX.b", "_INBOX.b"):
        mailbox.attach(Asker(reply), waiting)
    assert [a.reply for a in waiting.askers] == ["_INBOX.k", "_INBOX.b"], "the first one stays"
    mailbox.attach(Asker("_INBOX.k"), waiting)
    assert [a.reply for a in waiting.askers] == ["_INBOX.b", "_INBOX.k"], "its repeat counts"


def test_a_redelivery_of_a_queued_tell_is_recognised() -> None:
    mailbox = box()
    queued = tell(7, "@7")
    mailbox.add(queued)
    assert mailbox.queued(At(1, 7, 7), "@7") is queued


def test_a_sequence_alone_names_nothing() -> None:
    mailbox = box()
    mailbox.add(tell(7, "@7"))
    assert mailbox.queued(At(1, 7, 99), "@7b") is None
    assert mailbox.queued(At(1, 7, 7), "@other payload") is None


def test_parked_tells_come_back_in_order_before_everything_else() -> None:
    mailbox = box()
    mailbox.add(ask("k"))
    mailbox.put_back([])
    mailbox.put_back([tell(9, "@9"), tell(7, "@7"), tell(8, "@8")])
    assert [i.name for i in mailbox.queue] == ["@7", "@8", "@9", "k"]
    assert mailbox.find("@8") is not None


def test_asks_that_wait_stand_aside_and_never_at_the_head() -> None:
    mailbox = box()
    mailbox.add(ask("late", after=5))
    mailbox.add(ask("k"))
    assert [i.name for i in mailbox.queue] == ["k"]
    assert mailbox.statistics() == MailboxStatistics(asks=2, tells=0, waiting=1)
    mailbox.promote(lambda item: item.after == 5)
    assert [i.name for i in mailbox.queue] == ["k", "late"]
    assert not mailbox.aside


def test_a_name_is_known_until_the_last_of_it_is_gone() -> None:
    mailbox = box()
    first, second = ask("k"), tell(1, "@1", key="k")
    mailbox.add(first)
    mailbox.add(second)
    mailbox.remove(first)
    assert mailbox.find("k") is second
    mailbox.remove(second)
    assert mailbox.find("k") is None
    assert len(mailbox) == 0


def test_what_is_put_back_comes_behind_what_was_before_it_in_the_stream() -> None:
    """What is held at one time, and put back at several: one of them overtook the others, and
    counted as done with it."""
    mailbox = box()
    for item in (tell(4, "@4"), ask("k"), tell(10, "@10"), tell(6, "@6")):
        mailbox.add(item)
    mailbox.put_back([tell(7, "@7"), tell(5, "@5")])
    assert [item.name for item in mailbox.queue] == ["@4", "@5", "@6", "@7", "k", "@10"]
