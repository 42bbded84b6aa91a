"""People chat in real browsers with the whole system, which is killed under their hands."""

import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Locator, Page, expect
from websockets.sync.client import connect

if TYPE_CHECKING:
    from tests.browser.conftest import People, Server

PHONE = (360, 740)
KEPT_SENDS = """async () => {
  const done = (request) => new Promise((resolve) => { request.onsuccess = () => resolve(request.result); });
  let count = 0;
  for (const { name } of await indexedDB.databases()) {
    const database = await done(indexedDB.open(name));
    count += await done(database.transaction("pending").objectStore("pending").count());
    database.close();
  }
  return count;
}"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def bubbles(page: Page) -> Locator:
    return page.locator("#messages .text")


def bubble(page: Page, text: str) -> Locator:
    return page.locator("#messages .message").filter(has=page.get_by_text(text, exact=True))


def row(page: Page, who: str) -> Locator:
    """A conversation in the list."""
    return page.locator("#conversations .row").filter(has=page.get_by_text(who, exact=True))


def open_direct(page: Page, who: str) -> None:
    page.locator(f'#online [data-user="{who}"]').click()
    expect(page.locator("#title")).to_have_text(who)


def sequence(page: Page) -> list[int]:
    return [int(str(node.get_attribute("data-seq"))) for node in page.locator("#messages .message").all()]


def kept_sends(page: Page) -> int:
    """How many sends without an acknowledgement this device holds."""
    return int(page.evaluate(KEPT_SENDS))


def write_much(server: "Server", sender: str, recipient: str, count: int) -> None:
    """Somebody without a browser, who is quicker."""
    with connect(f"ws://127.0.0.1:{server.port}/ws?username={sender}", proxy=None) as socket:
        for number in range(count):
            socket.send(json.dumps({"content": f"line {number}", "recipient": recipient}))
            while json.loads(socket.recv(10))["type"] != "ack":
                pass


def test_two_people_chat_in_the_lobby_and_directly(server: "Server", people: "People") -> None:
    ada = people.sign_in(server, "ada")
    bob = people.sign_in(server, "bob", scheme="dark")

    say(ada, "Good morning, everybody")
    expect(bubble(bob, "Good morning, everybody")).to_be_visible()
    expect(bubble(bob, "Good morning, everybody").locator(".sender")).to_have_text("ada")
    say(bob, "Morning!")
    expect(bubble(ada, "Morning!")).to_be_visible()

    open_direct(ada, "bob")
    ada.get_by_label("Message", exact=True).press_sequentially("just ")
    say(ada, "just between us")
    expect(bubble(ada, "just between us")).to_have_attribute("data-state", re.compile("stored|delivered"))
    expect(row(bob, "ada").locator(".badge")).to_have_text("1")
    expect(bob).to_have_title("(1) Hubbub")
    people.picture(bob, "unread")

    # Bob's page has confirmed it, Bob has not seen it.
    expect(bubble(ada, "just between us")).to_have_attribute("data-state", "delivered")
    row(bob, "ada").click()
    expect(bubble(ada, "just between us")).to_have_attribute("data-state", "read")
    expect(row(bob, "ada").locator(".badge")).to_be_hidden()

    bob.get_by_label("Message", exact=True).press_sequentially("I am writing")
    expect(ada.locator("#typing")).to_have_text("bob is typing…")
    people.picture(ada, "typing")
    say(bob, "I am writing\nin two lines")
    expect(ada.locator("#typing")).to_have_text("")
    expect(bubbles(ada)).to_have_text(["just between us", "I am writing\nin two lines"])

    row(ada, "Lobby").click()
    expect(bubble(ada, "Morning!")).to_be_visible()
    expect(bubble(ada, "just between us")).to_have_count(0)


def test_one_person_in_two_windows(server: "Server", people: "People") -> None:
    first, second, other = (people.sign_in(server, name) for name in ("twin", "twin", "onlooker"))
    open_direct(first, "onlooker")
    open_direct(second, "onlooker")
    say(first, "from the first")
    expect(bubbles(second)).to_have_text("from the first")
    expect(second.locator("#messages .message")).to_have_class(re.compile("own"))
    open_direct(other, "twin")
    say(other, "an answer")
    for page in (first, second):
        expect(bubbles(page)).to_have_text(["from the first", "an answer"])


def test_who_is_online(server: "Server", people: "People") -> None:
    here = people.sign_in(server, "stays")
    goes = people.sign_in(server, "goes")
    entry = here.locator('#online [data-user="goes"]')
    expect(entry).to_be_visible()
    goes.get_by_role("button", name="Sign out").click()
    expect(goes.get_by_label("Your name")).to_be_visible()
    expect(entry).to_have_count(0)


def test_history_survives_a_reload_and_goes_back_on_scrolling(server: "Server", people: "People") -> None:
    count = 130
    write_much(server, "writer", "reader", count)
    reader = people.sign_in(server, "reader")
    expect(row(reader, "writer").locator(".badge")).to_have_text("99+")
    row(reader, "writer").click()
    expect(bubble(reader, f"line {count - 1}")).to_be_in_viewport()
    reader.reload()
    expect(bubble(reader, f"line {count - 1}")).to_be_in_viewport()

    reader.locator("#messages").hover()
    while "begins" not in str(reader.locator("#edge").text_content()):
        held = len(sequence(reader))
        reader.mouse.wheel(0, -100_000)
        reader.wait_for_function(
            "held => document.querySelectorAll('#messages .message').length > held"
            " || document.getElementById('edge').textContent.includes('begins')",
            arg=held,
        )
    expect(bubbles(reader)).to_have_text([f"line {number}" for number in range(count)])
    assert sequence(reader) == list(range(1, count + 1))


def test_the_server_is_killed_and_both_go_on(server: "Server", people: "People") -> None:
    eve, dan = people.sign_in(server, "eve"), people.sign_in(server, "dan", size=PHONE, scheme="dark")
    open_direct(eve, "dan")
    say(eve, "before")
    expect(row(dan, "eve").locator(".badge")).to_have_text("1")
    row(dan, "eve").click()
    say(dan, "heard")
    expect(bubbles(eve)).to_have_text(["before", "heard"])

    for time in ("first", "second"):
        say(eve, f"while it dies, {time}")  # committed or not when the server is killed: nobody knows
        assert server.kill_everything() > 1
        for page, name in ((eve, "eve"), (dan, "dan")):
            expect(page.locator("#banner")).to_be_visible()
            say(page, f"{name}, {time} outage")
            expect(bubble(page, f"{name}, {time} outage")).to_have_attribute("data-state", "sending")
        people.picture(eve, f"{time}-outage-desktop")
        people.picture(dan, f"{time}-outage-phone")
        server.start()
        for page in (eve, dan):
            for text in (f"while it dies, {time}", f"eve, {time} outage", f"dan, {time} outage"):
                expect(bubble(page, text)).to_have_count(1)
            expect(page.locator('#messages [data-state="sending"]')).to_have_count(0)
            expect(page.locator("#banner")).to_be_hidden()
        say(eve, f"after the {time}")
        expect(bubble(dan, f"after the {time}")).to_be_visible()

    for page in (eve, dan):
        expect(page.locator('#messages .own:not([data-state="read"])')).to_have_count(0)
    everything = bubbles(eve).all_text_contents()
    assert len(everything) == len(set(everything)) == 10
    for page in (eve, dan):
        assert bubbles(page).all_text_contents() == everything
        assert all(a < b for a, b in pairwise(sequence(page)))
        page.reload()
        expect(bubbles(page)).to_have_text(everything)
    assert kept_sends(eve) == 0


@pytest.mark.parametrize(
    "text",
    [
        '<img src=x onerror="window.broken=1"><script>window.broken=1</script>',
        "</p><iframe srcdoc='<script>parent.broken=1</script>'></iframe>",
        "javascript:window.broken=1 \N{RIGHT-TO-LEFT OVERRIDE}&lt;b&gt;",
    ],
)
def test_what_people_write_is_only_text(server: "Server", people: "People", text: str) -> None:
    mallory, victim = people.sign_in(server, "mallory"), people.sign_in(server, "victim")
    open_direct(victim, "mallory")
    open_direct(mallory, "victim")
    say(mallory, text)
    for page in (mallory, victim):
        expect(bubbles(page).last).to_have_text(text)
        assert page.evaluate("window.broken") is None
        assert page.locator("#chat :is(script, iframe, img, b)").count() == 0
        # The sign-in's picture aside, the page loads nothing that it did not bring along.
        assert page.evaluate("document.scripts.length") == 1


def test_a_token_that_is_not_valid_is_explained(server: "Server", people: "People") -> None:
    page = people.window()
    page.goto(f"{server.url}/#token=not.a.token")
    expect(page.locator("#sign-in-problem")).not_to_be_empty()
    expect(page.get_by_label("Your name")).to_be_visible()
    assert "token" not in page.url


@pytest.mark.parametrize("width", [320, 360])
def test_it_fits_a_phone(server: "Server", people: "People", width: int) -> None:
    page = people.sign_in(server, f"phone-{width}", size=(width, 740))
    people.picture(page, "list")
    row(page, "Lobby").click()
    say(page, "a-very-long-word-" * 20)
    expect(bubbles(page).last).to_be_in_viewport()
    people.picture(page, "talk")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#log").evaluate("log => log.scrollWidth - log.clientWidth") == 0
    page.get_by_role("button", name="Back to the conversations").click()
    expect(page.locator("#conversations")).to_be_visible()
