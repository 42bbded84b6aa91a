"""The page against a server that misbehaves on purpose: what `client.js` owes the protocol.

There is no server here. Playwright answers the page's WebSocket, so each fault comes exactly when the test wants it.
"""

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Locator, Page, WebSocketRoute, expect

from tests.browser.test_chat import KEPT_SENDS

if TYPE_CHECKING:
    from tests.browser.conftest import People

# Not a secure context: there the page has to do without crypto.randomUUID, as on a plain local network.
ORIGIN = "http://hubbub.test"
ME = "ada"
Json = dict[str, Any]
pytestmark = pytest.mark.slow


def message(seq: int, content: str, sender: str = "bob", conversation: str = "lobby", **more: object) -> Json:
    event = {"type": "message", "id": seq, "seq": seq, "ordinal": seq, "conversation": conversation}
    return {**event, "sender": sender, "content": content, "timestamp": "2026-03-01T12:00:00Z", **more}


class Wire:
    """The server's end of the page's connection, played by the test."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.connections: list[WebSocketRoute] = []
        self._inbox: list[Json] = []
        page.route_web_socket(lambda url: url.startswith("ws://hubbub.test/ws"), self._opened)

    def _opened(self, route: WebSocketRoute) -> None:
        self.connections.append(route)
        route.on_message(lambda data: self._inbox.append(json.loads(data)))

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        for _ in range(1000):
            if condition():
                return
            self.page.evaluate("1")  # lets Playwright deliver what has arrived
            self.page.wait_for_timeout(10)
        raise AssertionError(f"the page did not {what}; it said {self._inbox}")

    def heard(self, kind: str) -> Json:
        """The oldest command of this kind that was not taken yet."""
        self._until(lambda: any(command["type"] == kind for command in self._inbox), f"send {kind!r}")
        found = next(command for command in self._inbox if command["type"] == kind)
        self._inbox.remove(found)
        return found

    def silent_about(self, kind: str) -> bool:
        """Whether no such command has come, after one round trip through the page."""
        self.page.evaluate("new Promise(done => setTimeout(done))")
        return not any(command["type"] == kind for command in self._inbox)

    def say(self, *events: Json) -> None:
        for event in events:
            self.connections[-1].send(json.dumps(event))

    def accept(self, connection: int, epoch: int = 1) -> Json:
        """Welcome the connection of this number, counted from 1; returns the sync that the page asks for."""
        self._until(lambda: len(self.connections) == connection, f"open connection {connection}")
        limits = {"content_bytes": 1000, "rate": 50.0, "burst": 200, "in_flight": 64}
        welcome = {"type": "welcome", "username": ME, "session": "s", "server_time": "2026-03-01T12:00:00Z"}
        ping = {"interval_ms": 20_000, "timeout_ms": 10_000}
        self.say({**welcome, "epoch": epoch, "limits": limits, "ping": ping, "reconnect": {"min_ms": 1, "max_ms": 20}})
        return self.heard("sync")

    def synced(self, sync: Json, *entries: Json, epoch: int = 1) -> None:
        self.say({"type": "synced", "conversations": list(entries), "epoch": epoch, "id": sync["id"]})

    def close(self, code: int, reason: str = "") -> None:
        self.connections[-1].close(code=code, reason=reason)


def synced_entry(to: int, conversation: str = "lobby", start: int = 0, **more: object) -> Json:
    cursors = {"delivered_seq": to, "read_seq": to, "unread": 0}
    return {"conversation": conversation, "from": start, "to": to, "last_seq": to, **cursors, **more}


@pytest.fixture
def page(people: "People", page_files: Callable[[Page, str], None]) -> Iterator[Page]:
    """The page, its clock in the test's hands."""
    window = people.window()
    window.clock.install()
    page_files(window, ORIGIN)
    yield window


@pytest.fixture
def wire(page: Page) -> Wire:
    """The connection, while the page waits for its welcome."""
    wire = Wire(page)
    page.goto(ORIGIN)
    page.get_by_label("Your name").fill(ME)
    page.get_by_role("button", name="Join the chat").click()
    return wire


def texts(page: Page) -> Locator:
    return page.locator("#messages .text")


def write(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")


def test_a_hole_is_filled_before_anything_above_it_is_shown(page: Page, wire: Wire) -> None:
    name = f"direct:{ME}:bob"
    sync = wire.accept(1)
    assert sync["have"] == {}
    wire.say(message(1, "one", conversation=name))
    wire.synced(sync, synced_entry(0), synced_entry(1, name))
    # Not open, so what is applied counts as unread: the number would betray an event applied twice.
    bob = page.locator(f'[data-conversation="{name}"]')
    expect(bob.locator(".preview")).to_have_text("one")

    wire.say(*(message(seq, text, conversation=name) for seq, text in ((5, "five"), (6, "six"), (5, "five"))))
    asked = wire.heard("history")
    assert (asked["conversation"], asked["after"]) == (name, 1)
    expect(bob.locator(".preview")).to_have_text("one")
    # 3 and 4 are not for our eyes: the range covers them all the same. And 2 and 6 come once more.
    answer = {"type": "history", "conversation": name, "from": 1, "to": 4, "more": False, "id": asked["id"]}
    wire.say(
        {**answer, "events": [message(2, "two", conversation=name)]},
        *(message(seq, text, conversation=name) for seq, text in ((2, "two"), (6, "six"), (7, "seven"))),
    )
    expect(bob.locator(".preview")).to_have_text("seven")
    expect(bob.locator(".badge")).to_have_text("4")
    assert wire.silent_about("history")

    # The hole closes by itself while the question is on its way; the answer brings nothing new.
    wire.say(message(9, "nine", conversation=name))
    asked = wire.heard("history")
    wire.say({"type": "poll", "conversation": name, "seq": 8})
    expect(bob.locator(".badge")).to_have_text("5")
    events = [{"type": "poll", "conversation": name, "seq": 8}, message(9, "nine", conversation=name)]
    wire.say({**answer, "from": 7, "to": 9, "events": events, "id": asked["id"]})
    wire.say(message(10, "ten", conversation=name))
    expect(bob.locator(".badge")).to_have_text("6")

    # The answer brings what waits above the hole, too.
    wire.say(message(12, "twelve", conversation=name))
    asked = wire.heard("history")
    events = [message(seq, text, conversation=name) for seq, text in ((11, "eleven"), (12, "twelve"))]
    wire.say({**answer, "from": 10, "to": 12, "events": events, "id": asked["id"]})
    expect(bob.locator(".badge")).to_have_text("8")

    bob.click()
    expect(texts(page)).to_have_text(["one", "two", "five", "six", "seven", "nine", "ten", "eleven", "twelve"])
    expect(bob.locator(".badge")).to_be_hidden()


def test_positions_are_confirmed_together_and_survive_a_reconnect(page: Page, wire: Wire) -> None:
    wire.synced(wire.accept(1), synced_entry(0))
    expect(page.locator("#me")).to_have_text(ME)
    wire.say(*(message(seq, f"line {seq}") for seq in range(1, 11)))
    for kind in ("received", "read"):
        told = [wire.heard(kind)["seq"]]
        while told[-1] < 10:
            told.append(wire.heard(kind)["seq"])
        assert told == sorted(set(told))
        assert len(told) < 10  # cumulative: not one for each message

    wire.close(4001, "too slow")
    expect(page.locator("#banner")).to_be_visible()
    page.clock.fast_forward(1000)
    sync = wire.accept(2)
    assert (sync["have"], sync["epoch"]) == ({"lobby": 10}, 1)
    # More was missed than the server sends: what is held is let go, the rest comes on demand.
    wire.say(message(90, "line 90"))
    wire.synced(sync, synced_entry(90, start=89, truncated=True))
    expect(texts(page)).to_have_text(["line 90"])
    asked = wire.heard("history")
    assert asked["before"] == 90
    older = {"type": "history", "conversation": "lobby", "from": 88, "to": 89, "more": False, "id": asked["id"]}
    wire.say({**older, "events": [message(89, "line 89")]})
    expect(texts(page)).to_have_text(["line 89", "line 90"])


def test_an_unanswered_send_goes_out_again_under_the_same_key(page: Page, wire: Wire) -> None:
    wire.synced(wire.accept(1), synced_entry(0))
    expect(page.locator("#me")).to_have_text(ME)
    write(page, "hello")
    write(page, "and more")
    first = wire.heard("send")
    assert 16 <= len(first["id"]) <= 64
    page.clock.fast_forward(5000)
    assert wire.heard("send") == first
    # The second waits for the first: together they could change places across a fault.
    assert wire.silent_about("send")

    wire.close(4000)
    page.clock.fast_forward(1000)
    wire.synced(wire.accept(2), synced_entry(0))
    assert wire.heard("send") == first

    page.reload()
    expect(page.locator("#sign-in")).to_be_hidden()
    wire.synced(wire.accept(3), synced_entry(0))
    assert wire.heard("send") == first
    expect(texts(page)).to_have_text(["hello", "and more"])
    ack = {"type": "ack", "conversation": "lobby", "timestamp": "2026-03-01T12:00:00Z"}
    wire.say({**ack, "id": first["id"], "seq": 1, "message_id": 1, "duplicate": True})
    second = wire.heard("send")
    assert second["content"] == "and more"
    wire.say({**ack, "id": second["id"], "seq": 2, "message_id": 2}, message(3, "well"))
    expect(texts(page)).to_have_text(["hello", "and more", "well"])
    expect(page.locator('#messages [data-state="stored"]')).to_have_count(2)
    assert page.evaluate(KEPT_SENDS) == 0


def test_what_another_window_of_ours_has_sent_settles_it_and_a_strangers_key_does_not(page: Page, wire: Wire) -> None:
    wire.synced(wire.accept(1), synced_entry(0))
    expect(page.locator("#me")).to_have_text(ME)
    write(page, "hello")
    key = wire.heard("send")["id"]
    wire.say(message(1, "a forgery", sender="mallory", client_id=key))
    expect(texts(page)).to_have_text(["a forgery", "hello"])
    expect(page.locator('#messages [data-state="sending"]')).to_have_count(1)
    wire.say(message(2, "hello", sender=ME, client_id=key))
    expect(page.locator('#messages [data-state="stored"]')).to_have_count(1)
    expect(texts(page)).to_have_text(["a forgery", "hello"])
    page.clock.fast_forward(6000)
    assert wire.silent_about("send")


def test_an_acknowledgement_above_a_hole_stays_visible_and_counts_once(page: Page, wire: Wire) -> None:
    wire.synced(wire.accept(1), synced_entry(0))
    expect(page.locator("#me")).to_have_text(ME)
    write(page, "third")
    key = wire.heard("send")["id"]
    ack = {"type": "ack", "conversation": "lobby", "timestamp": "2026-03-01T12:00:00Z"}
    wire.say({**ack, "id": key, "seq": 3, "message_id": 3})
    asked = wire.heard("history")
    expect(page.locator('#messages [data-state="stored"]')).to_have_count(1)
    events = [message(1, "first"), message(2, "second"), message(3, "third", sender=ME, client_id=key)]
    span = {"type": "history", "conversation": "lobby", "from": 0, "to": 3, "more": False}
    wire.say({**span, "events": events, "id": asked["id"]})
    expect(texts(page)).to_have_text(["first", "second", "third"])


def test_a_refused_message_says_why_and_can_be_tried_again(page: Page, wire: Wire) -> None:
    wire.synced(wire.accept(1), synced_entry(0))
    expect(page.locator("#me")).to_have_text(ME)
    write(page, "hello")
    first = wire.heard("send")
    error = {"type": "error", "code": "overloaded", "message": "busy", "temporary": True, "stored": "no"}
    wire.say({**error, "id": first["id"], "retry_after_ms": 300})
    page.clock.fast_forward(300)
    assert wire.heard("send") == first
    wire.say({**error, "id": first["id"], "code": "forbidden", "message": "not here", "temporary": False})
    expect(page.locator(".refusal")).to_contain_text("not here")
    page.get_by_role("button", name="Try again").click()
    again = wire.heard("send")
    assert again["content"] == "hello"
    assert again["id"] != first["id"]
    wire.say({**error, "id": again["id"], "code": "forbidden", "message": "not here", "temporary": False})
    page.get_by_role("button", name="Discard").click()
    expect(texts(page)).to_have_count(0)
    assert page.evaluate(KEPT_SENDS) == 0


def test_another_epoch_drops_what_is_held(page: Page, wire: Wire) -> None:
    sync = wire.accept(1)
    wire.say(message(1, "of the old database"), message(2, "also"))
    wire.synced(sync, synced_entry(2))
    expect(texts(page)).to_have_text(["of the old database", "also"])
    # From here on the page paints nothing until all is over: it must not take the new 1 for the old one.
    page.clock.pause_at(page.evaluate("Date.now()") + 1000)
    wire.close(4000)
    while len(wire.connections) < 2:
        page.clock.run_for(20)
    sync = wire.accept(2, epoch=2)
    assert sync["have"] == {}
    wire.say(message(1, "restored"))
    wire.synced(sync, synced_entry(1), epoch=2)
    wire.heard("watch")
    wire.heard("watch")
    page.clock.resume()
    expect(texts(page)).to_have_text(["restored"])


def test_a_failed_sync_is_asked_again(page: Page, wire: Wire) -> None:
    sync = wire.accept(1)
    error = {"type": "error", "code": "unavailable", "message": "later", "temporary": True, "retry_after_ms": 500}
    wire.say(message(1, "one"), {**error, "id": sync["id"]})
    page.evaluate("1")
    page.clock.fast_forward(500)
    again = wire.heard("sync")
    wire.say(message(1, "one"))
    wire.synced(again, synced_entry(1))
    expect(texts(page)).to_have_text(["one"])


def test_many_conversations_are_named_in_several_commands(page: Page, wire: Wire) -> None:
    sync = wire.accept(1)
    others = [synced_entry(1, f"direct:ada:friend-{number}") for number in range(700)]
    wire.say(*(message(1, "hi", f"friend-{n}", f"direct:ada:friend-{n}", recipient=ME) for n in range(700)))
    wire.synced(sync, synced_entry(0), *others)
    expect(page.locator("#conversations li")).to_have_count(701)
    wire.close(4000)
    page.clock.fast_forward(1000)
    part = wire.accept(2)
    rest = wire.heard("sync")
    assert (len(part["have"]), part["more"], "more" in rest) == (500, True, False)
    assert len(part["have"] | rest["have"]) == 701


def test_a_final_close_is_obeyed_and_a_silent_server_is_left(page: Page, wire: Wire) -> None:
    wire.synced(wire.accept(1), synced_entry(0))
    expect(page.locator("#me")).to_have_text(ME)
    page.clock.fast_forward(21_000)
    wire.heard("ping")
    page.clock.fast_forward(21_000)
    expect(page.locator("#banner")).to_be_visible()
    page.clock.fast_forward(1000)
    wire.accept(2)
    wire.say({"type": "goodbye", "code": 4503, "reason": "access was revoked"})
    wire.close(4503, "access was revoked")
    expect(page.locator("#sign-in-problem")).to_have_text("access was revoked")
    page.clock.fast_forward(60_000)
    page.evaluate("1")
    assert len(wire.connections) == 2
