"""The administrators' page: for nobody else, and with numbers that move."""

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import ROOT
from tests.browser.test_chat import write_much
from tests.browser.test_page import serious

if TYPE_CHECKING:
    from tests.browser.conftest import People, Server

PASSWORD = "correct horse battery"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def add(server: "Server", name: str, *more: str) -> None:
    command = [sys.executable, "-m", "hubbub.cli", "user", "add", name, "--data-dir", str(server.data_dir)]
    subprocess.run([*command, "--password-stdin", *more], cwd=ROOT, input=PASSWORD, text=True, check=True, timeout=30)


def enter(page: Page, server: "Server", name: str) -> None:
    page.goto(f"{server.url}/admin.html")
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


def test_administrators_see_what_goes_on(server: "Server", people: "People") -> None:
    add(server, "root", "--admin")
    page = people.window()
    enter(page, server, "root")
    for process in ("broker", "shard-0", "store"):
        expect(page.locator(f'[data-process="{process}"]')).to_be_visible()
    write_much(server, "chatty", "root", 40)
    expect(page.locator("#talkers tr").first).to_contain_text("chatty")
    moved = page.locator('[data-chart="Messages committed a second"]')
    page.wait_for_function("() => document.querySelector('.chart path').getAttribute('d').split('L').length > 3")
    assert float(str(moved.locator("svg").get_attribute("aria-label")).split(" at most ")[1].split()[0]) > 0
    connections = page.locator('[data-chart="Connections"]')
    expect(connections.locator("output")).not_to_have_text("")
    assert connections.locator("path").count() == page.locator('[data-process^="shard"]').count()
    people.picture(page, "admin")
    assert not serious(page)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_nobody_else_does(server: "Server", people: "People") -> None:
    add(server, "member")
    page = people.window()
    enter(page, server, "member")
    expect(page.get_by_role("alert")).to_contain_text("for administrators only")
    expect(page.locator("[data-process]")).to_have_count(0)
