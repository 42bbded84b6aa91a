"""Accounts in the browser: registering, a token that runs out and is renewed, being signed out, the password."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Server, running
from tests.browser.test_chat import bubble, say

if TYPE_CHECKING:
    from tests.browser.conftest import People

PASSWORD = "correct horse battery"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def open_server(browser: Browser) -> Iterator[Server]:
    """One where anybody registers, and tokens live for six seconds."""
    with running({"HUBBUB_ACCOUNTS": "open", "HUBBUB_TOKEN_TTL": "6"}) as server:
        yield server


def register(page: Page, server: Server, name: str) -> None:
    page.goto(server.url)
    page.get_by_role("button", name="Create an account").click()
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Create account").click()
    expect(page.locator("#me")).to_have_text(name)


def test_a_token_runs_out_and_is_renewed_on_the_open_socket(open_server: Server, people: "People") -> None:
    page = people.window()
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    register(page, open_server, "ann")
    first = page.evaluate("JSON.parse(localStorage['hubbub.account']).token")
    page.wait_for_function("old => JSON.parse(localStorage['hubbub.account']).token !== old", arg=first, timeout=10_000)
    second = page.evaluate("JSON.parse(localStorage['hubbub.account']).token")
    page.wait_for_function(
        "old => JSON.parse(localStorage['hubbub.account']).token !== old", arg=second, timeout=10_000
    )
    say(page, "still the same connection")
    expect(bubble(page, "still the same connection")).to_have_attribute("data-state", "stored")
    assert len(sockets) == 1


def test_a_token_that_ran_out_while_away_is_renewed_on_return(open_server: Server, people: "People") -> None:
    page = people.window()
    register(page, open_server, "ben")
    page.goto("about:blank")
    page.wait_for_timeout(7000)  # the token's life: there is nothing else to wait for
    page.goto(open_server.url)
    expect(page.locator("#me")).to_have_text("ben")
    say(page, "back again")
    expect(bubble(page, "back again")).to_have_attribute("data-state", "stored")


def test_who_is_signed_out_by_the_server_is_told(open_server: Server, people: "People") -> None:
    page = people.window()
    register(page, open_server, "cat")
    page.evaluate(
        """async () => {
          const { token } = JSON.parse(localStorage['hubbub.account']);
          await fetch('/api/revocations', {
            method: 'POST', headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
            body: JSON.stringify({ username: 'cat' }),
          });
        }"""
    )
    expect(page.locator("#sign-in-problem")).to_have_text(re.compile("revoked|sign in again"))
    page.get_by_role("button", name="Sign in with an account").click()
    page.get_by_label("Your name").fill("cat")
    page.get_by_label("Password").fill("something else")
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#sign-in-problem")).to_have_text("the name or the password is wrong")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#me")).to_have_text("cat")


def test_a_new_password_ends_the_other_device(open_server: Server, people: "People") -> None:
    here, there = people.window(), people.window()
    register(here, open_server, "dan")
    there.goto(open_server.url)
    there.get_by_role("button", name="Sign in with an account").click()
    there.get_by_label("Your name").fill("dan")
    there.get_by_label("Password").fill(PASSWORD)
    there.get_by_role("button", name="Sign in").click()
    expect(there.locator("#me")).to_have_text("dan")
    here.get_by_role("button", name="Settings").click()
    here.get_by_label("Present password").fill(PASSWORD)
    here.get_by_label("New password").fill("another horse battery")
    here.get_by_role("button", name="Change password").click()
    expect(here.get_by_text("The password is changed.")).to_be_visible()
    expect(there.locator("#sign-in-problem")).not_to_be_empty()
    here.get_by_role("button", name="Close").click()
    say(here, "only I am left")
    expect(bubble(here, "only I am left")).to_have_attribute("data-state", "stored")


def test_signing_out_in_one_window_signs_out_of_all(open_server: Server, people: "People") -> None:
    first = people.window()
    register(first, open_server, "eve")
    second = first.context.new_page()
    second.goto(open_server.url)
    expect(second.locator("#me")).to_have_text("eve")
    first.get_by_role("button", name="Sign out").click()
    expect(second.locator("#sign-in")).to_be_visible()
    assert first.evaluate("localStorage.length") == 0
    first.wait_for_function("async () => (await indexedDB.databases()).length === 0")
