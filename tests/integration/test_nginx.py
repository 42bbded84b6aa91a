"""Behind nginx with TLS, by the configuration that we ship."""

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from tests.integration.system import ROOT, System, free_port, running

CONFIG = (ROOT / "deploy/nginx.conf").read_text("utf-8")


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, int, ssl.SSLContext]]:
    nginx = shutil.which("nginx")
    if nginx is None:
        if os.environ.get("CI"):
            pytest.fail("there is no nginx; apt-get install nginx-light")
        pytest.skip("there is no nginx")
    home: Path = tmp_path_factory.mktemp("nginx")
    home.chmod(0o755)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", home / "privkey.pem", "-out", home / "fullchain.pem", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    env = {"HUBBUB_TRUSTED_PROXIES": "127.0.0.1", "HUBBUB_LOG_FORMAT": "json"}
    with running(tmp_path_factory.mktemp("proxied"), shards=1, env=env) as system:
        port = free_port()
        site = CONFIG.replace("listen 443", f"listen 127.0.0.1:{port}").replace(
            "127.0.0.1:8000", f"127.0.0.1:{system.port}"
        )
        site = site.replace("/etc/ssl/hubbub", str(home)).replace("chat.example.org", "localhost")
        (home / "hubbub.conf").write_text(site)
        paths = "".join(
            f"{name}_temp_path {home}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (home / "nginx.conf").write_text(
            f"daemon off;\nworker_processes 1;\npid {home}/nginx.pid;\nerror_log {home}/error.log;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{paths}include {home}/hubbub.conf;\n}}\n"
        )
        checked = subprocess.run([nginx, "-t", "-c", home / "nginx.conf"], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        process = subprocess.Popen([nginx, "-c", home / "nginx.conf"], stderr=subprocess.DEVNULL)
        try:
            yield system, port, ssl.create_default_context(cafile=home / "fullchain.pem")
        finally:
            process.terminate()
            process.wait(20)


def get(port: int, context: ssl.SSLContext, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
    request = urllib.request.Request(f"https://localhost:{port}{path}", headers=headers)
    deadline = time.monotonic() + 15
    while True:
        try:
            with urllib.request.urlopen(request, context=context, timeout=5) as answer:
                return answer.status, dict(answer.headers)
        except urllib.error.HTTPError as exc:
            exc.close()
            return exc.code, dict(exc.headers)
        except urllib.error.URLError:
            assert time.monotonic() < deadline, "nginx does not answer"
            time.sleep(0.1)


async def test_page_rest_and_websocket_through_tls(proxied: tuple[System, int, ssl.SSLContext]) -> None:
    system, port, context = proxied
    status, headers = get(port, context, "/", {})
    assert status == 200
    assert "max-age" in headers["Strict-Transport-Security"]
    assert "trusted-types" in headers["Content-Security-Policy"]
    bearer = {"Authorization": f"Bearer {system.token('tls-ann')}"}
    assert get(port, context, "/api/me", bearer)[0] == 200
    assert get(port, context, "/api/me?username=ann", {})[0] == 401, "guests are for this machine, not for its proxy"
    async with connect(f"wss://localhost:{port}/ws", ssl=context, additional_headers=bearer, proxy=None) as socket:
        assert '"tls-ann"' in str(await socket.recv())
        await socket.send('{"content":"by way of nginx"}')
        while '"ack"' not in (said := str(await socket.recv())):
            assert '"error"' not in said


async def test_a_guest_behind_the_proxy_gets_no_socket(proxied: tuple[System, int, ssl.SSLContext]) -> None:
    # The same name without proof is let in from this machine itself: HUBBUB_GUESTS=loopback, and no proxy between.
    system, port, context = proxied
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"wss://localhost:{port}/ws?username=tls-guest", ssl=context, proxy=None)
    assert refused.value.response.status_code == 401
    async with connect(f"{system.ws}?username=tls-guest", proxy=None) as socket:
        assert '"tls-guest"' in str(await socket.recv())


async def test_an_account_signs_in_and_its_session_has_the_clients_address(
    proxied: tuple[System, int, ssl.SSLContext],
) -> None:
    system, port, context = proxied
    command = [sys.executable, "-m", "hubbub.cli", "user", "add", "tls-ben", "--password-stdin"]
    password = "correct horse battery"
    subprocess.run(
        [*command, "--data-dir", str(system.data_dir)], cwd=ROOT, input=password, text=True, check=True, timeout=30
    )
    body = json.dumps({"username": "tls-ben", "password": password}).encode()
    request = urllib.request.Request(f"https://localhost:{port}/api/login", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, context=context, timeout=10) as answer:
        token = json.loads(answer.read())["token"]
    headers = {"X-Forwarded-For": "203.0.113.77"}
    offered = [Subprotocol("hubbub.v1"), Subprotocol(f"bearer.{token}")]
    async with connect(
        f"wss://localhost:{port}/ws", ssl=context, subprotocols=offered, additional_headers=headers, proxy=None
    ) as socket:
        assert socket.subprotocol == "hubbub.v1"
        assert '"tls-ben"' in str(await socket.recv())

    def logged() -> bool:
        return any(
            line.get("remote") == "203.0.113.77" and line.get("user") == "tls-ben" for line in system.log("shard-0")
        )

    system.until(logged, 5, "the session's address in the log")


def test_the_clients_address_is_its_own(proxied: tuple[System, int, ssl.SSLContext]) -> None:
    system, port, context = proxied
    # nginx appends whom it saw (127.0.0.1, trusted); what stands left of it is the client's, as a proxy before it said.
    get(port, context, "/api/me", {"X-Forwarded-For": "203.0.113.9"})

    def logged() -> bool:
        return any(line.get("remote") == "203.0.113.9" for line in system.log("shard-0"))

    system.until(logged, 5, "the address in the log")
