"""A real browser before the real system: Chromium without a screen, `hubbub up` with all its processes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, ViewportSize, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGS = [
    "--no-sandbox",  # Chromium's sandbox refuses to run as root, as it does in most containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
READY_SECONDS = 60
STOP_SECONDS = 20
DESKTOP = (1280, 800)
Scheme = Literal["light", "dark"]

expect.set_options(timeout=15_000)


def _processes() -> dict[int, tuple[int, str]]:
    """Every process: pid -> (parent, state)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended between the two calls
            found[int(entry.name)] = int(fields[1]), fields[0]
    return found


def _family(pid: int) -> list[int]:
    """*pid* and its living descendants, parents first."""
    everything = _processes()
    family = [pid]
    for member in family:
        family += [child for child, (parent, state) in everything.items() if parent == member and state != "Z"]
    return family


def _alive(family: list[int], within: float) -> list[int]:
    """Which of *family* still live after *within* seconds at most; returns as soon as none does."""
    deadline = time.monotonic() + within
    while True:
        everything = _processes()
        # In a container whose init does not reap, orphans stay as zombies: dead enough.
        left = [pid for pid in family if pid in everything and everything[pid][1] != "Z"]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


class Server:
    """`hubbub up` on a data directory of its own, which outlives every crash."""

    def __init__(self, home: Path, env: Mapping[str, str] | None = None) -> None:
        self.data_dir = home / "data"
        self._env = {**os.environ, **(env or {})}
        self._output = home / "up.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start everything and wait until it is ready."""
        command = [sys.executable, "-m", "hubbub.cli", "up"]
        command += ["--data-dir", str(self.data_dir), "--port", str(self.port)]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self._env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self._ready():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                state = "did not become ready" if code is None else f"ended with {code}"
                pytest.fail(f"the server {state}:\n{self._output.read_text()[-4000:]}")
            time.sleep(0.05)

    def kill_everything(self) -> int:
        """SIGKILL every process of the system, supervisord included; returns how many there were."""
        assert self._process is not None
        # Stopped first: whoever could still start something is stopped before its children are listed.
        family: list[int] = []
        while new := [pid for pid in _family(self._process.pid) if pid not in family]:
            for pid in new:
                _kill(pid, signal.SIGSTOP)
            family += new
        for pid in family:
            _kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        left = _alive(family, within=STOP_SECONDS)
        assert not left, f"SIGKILL did not end {left}"
        return len(family)

    def stop(self) -> None:
        """End everything in the orderly way, or by force where that takes too long. Nothing may stay behind."""
        if self._process is None:
            return
        family = _family(self._process.pid)
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill_everything()
            return
        left = _alive(family, within=5)
        for pid in left:
            _kill(pid, signal.SIGKILL)
        assert not left, f"`hubbub up` has ended and left {left} behind"

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False


class People:
    """Opens a browser window of its own for each person, and looks at what its console said."""

    def __init__(self, browser: Browser, pictures: Path) -> None:
        self._browser = browser
        self._pictures = pictures
        self._contexts: list[BrowserContext] = []
        self._complaints: list[str] = []

    def window(self, size: tuple[int, int] = DESKTOP, scheme: Scheme = "light") -> Page:
        """An empty window with a storage of its own, *size* in pixels."""
        viewport: ViewportSize = {"width": size[0], "height": size[1]}
        context = self._browser.new_context(viewport=viewport, color_scheme=scheme)
        self._contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: self._complaints.append(str(error)))
        page.on("console", lambda message: self._heard(message.type, message.text))
        return page

    def sign_in(self, server: Server, name: str, size: tuple[int, int] = DESKTOP, scheme: Scheme = "light") -> Page:
        """A person in the lobby."""
        page = self.window(size, scheme)
        page.goto(server.url)
        page.get_by_label("Your name").fill(name)
        page.get_by_role("button", name="Join the chat").click()
        expect(page.locator("#me")).to_have_text(name)
        return page

    def picture(self, page: Page, name: str) -> None:
        """Save a screenshot in the test's temporary directory."""
        page.screenshot(path=self._pictures / f"{name}.png")

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        assert not self._complaints, self._complaints

    def _heard(self, kind: str, text: str) -> None:
        # A server that is away or refuses is reported by the browser itself and is part of the tests;
        # all else is a fault of the page, a breach of its content security policy for one.
        if kind == "error" and not text.startswith(("WebSocket connection to", "Failed to load resource")):
            self._complaints.append(text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests. Without one they are skipped, but never in CI."""
    if not Path(CHROMIUM).exists():
        missing = f"there is no {CHROMIUM}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield chromium
        chromium.close()


@contextmanager
def running(env: Mapping[str, str]) -> Iterator[Server]:
    """The whole system with these settings, ready."""
    # Not below pytest's own directory: that is closed to others, and PostgreSQL, which never runs as root,
    # has to get through to its data. The name is short because Unix sockets allow 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="hubbub-"))
    home.chmod(0o755)
    system = Server(home, env)
    try:
        system.start()
        yield system
    finally:
        system.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The whole system, ready. Clients of tests write faster than people."""
    with running({"HUBBUB_LIMIT_RATE": "0"}) as system:
        yield system


@pytest.fixture
def people(browser: Browser, tmp_path: Path) -> Iterator[People]:
    """The people of one test; fails it when one of their pages complained."""
    everybody = People(browser, tmp_path)
    try:
        yield everybody
    finally:
        everybody.close()


@pytest.fixture
def page_files() -> Callable[[Page, str], None]:
    """Serves the page's files to a window without any server, at the given address."""

    def serve(page: Page, origin: str) -> None:
        def answer(route: Route) -> None:
            file = ROOT / "webclient" / (route.request.url.removeprefix(f"{origin}/") or "index.html")
            if "/api/" in route.request.url:
                # Who one is, and what can be done here: a guest, under the name that was given.
                name = parse_qs(urlsplit(route.request.url).query).get("username", [""])[0]
                config = {"version": "0", "accounts": "off", "guests": True}
                me = {"username": name, "guest": True, "role": "member"}
                route.fulfill(json=me if "/api/me" in route.request.url else config)
            elif file.is_file():
                route.fulfill(path=file)
            else:
                route.fulfill(status=404)

        page.route(f"{origin}/**", answer)

    return serve
