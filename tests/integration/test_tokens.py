"""The token matrix: every kind of token, over REST and over the WebSocket, each with its documented outcome."""

import asyncio
import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from websockets.exceptions import InvalidStatus

from hubbub.runtime.files import read_secret
from tests.integration.client import Connection, connection
from tests.integration.system import ROOT, System, running
from tests.integration.tokens import unsigned

AUDIENCE, ISSUER = "chat", "https://id.example"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
ROTATED = ed25519.Ed25519PrivateKey.generate()
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: Any) -> bytes:
    public = key.public_key()
    return bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


def jwk(key: Any, kid: str) -> dict[str, Any]:
    algorithm = "EdDSA" if isinstance(key, ed25519.Ed25519PrivateKey) else "RS256"
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**made, "kid": kid, "use": "sig"}


class Provider:
    """An identity provider's key set over HTTP, that can change its keys and go away."""

    def __init__(self) -> None:
        self.keys = [jwk(ED, "one")]
        self.away = False
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                body = json.dumps({"keys": outer.keys}).encode()
                self.send_response(500 if outer.away else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/keys"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def guarded(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A server that trusts two PEM files and a key set, and asks for an audience and an issuer."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "rsa.pem").write_bytes(pem(RSA))
    (folder / "p256.pem").write_bytes(pem(P256))
    env = {
        "HUBBUB_TOKEN_KEYS": f"{folder}/rsa.pem,{folder}/p256.pem",
        "HUBBUB_TOKEN_JWKS_URL": provider.url,
        "HUBBUB_TOKEN_AUDIENCE": AUDIENCE,
        "HUBBUB_TOKEN_ISSUER": ISSUER,
    }
    with running(tmp_path_factory.mktemp("guarded"), env=env) as system:
        yield system


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    given = {"sub": "ann", "aud": AUDIENCE, "iss": ISSUER, "exp": now + 600, "iat": now, **changes}
    return {name: value for name, value in given.items() if value is not None}


def sign(key: Any, algorithm: str, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def by_hand(header: dict[str, Any], key: bytes) -> str:
    """An HMAC token under any key, also one that the library would refuse to misuse."""
    import hashlib
    import hmac

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    body = part(json.dumps(header).encode()) + "." + part(json.dumps(claims()).encode())
    return body + "." + part(hmac.digest(key, body.encode(), hashlib.sha256))


Make = Callable[[bytes], str]
# What -> (a token made with the server's secret, or with others; the HTTP status; a word of the text)
MATRIX: dict[str, tuple[Make, int, str]] = {
    "HS256": (lambda secret: sign(secret, "HS256"), 200, ""),
    "HS384, secret long enough": (lambda secret: sign(secret, "HS384"), 200, ""),
    "HS512, secret long enough": (lambda secret: sign(secret, "HS512"), 200, ""),
    "RS256, key from a file": (lambda _: sign(RSA, "RS256"), 200, ""),
    "ES256, key from a file": (lambda _: sign(P256, "ES256"), 200, ""),
    "EdDSA, key from the key set": (lambda _: sign(ED, "EdDSA", {"kid": "one"}), 200, ""),
    "EdDSA without `kid`": (lambda _: sign(ED, "EdDSA"), 200, ""),
    "within the leeway": (lambda secret: sign(secret, "HS256", exp=int(time.time()) - 2), 200, ""),
    "alg `none`": (lambda _: unsigned("ann"), 401, "algorithm"),
    "RS256's public key as an HMAC secret": (lambda _: by_hand({"alg": "HS256"}, pem(RSA)), 401, "signature"),
    "HMAC signature under `alg: RS256`": (lambda secret: by_hand({"alg": "RS256"}, secret), 401, "signature"),
    "RS384, which no key of ours has": (lambda _: sign(RSA, "RS384"), 401, "algorithm"),
    "another RSA key": (lambda _: sign(STRANGER, "RS256"), 401, "signature"),
    "another secret": (lambda _: sign(b"x" * 64, "HS256"), 401, "signature"),
    "wrong `aud`": (lambda secret: sign(secret, "HS256", aud="billing"), 401, "aud"),
    "no `aud`": (lambda secret: sign(secret, "HS256", aud=None), 401, "aud"),
    "wrong `iss`": (lambda secret: sign(secret, "HS256", iss="https://evil.example"), 401, "iss"),
    "no `iss`": (lambda secret: sign(secret, "HS256", iss=None), 401, "iss"),
    "expired": (lambda secret: sign(secret, "HS256", exp=int(time.time()) - 60), 401, "expired"),
    "not yet valid": (lambda secret: sign(secret, "HS256", nbf=int(time.time()) + 60), 401, "not valid yet"),
    "no user": (lambda secret: sign(secret, "HS256", sub=None), 401, "names no user"),
    "a user's name that is none": (lambda secret: sign(secret, "HS256", sub="a:b"), 401, "user is not valid"),
    "`kid` that is a path": (lambda _: sign(RSA, "RS256", {"kid": "../../../etc/passwd"}), 200, ""),
    "`kid` that is no text": (lambda secret: by_hand({"alg": "HS256", "kid": 7}, secret), 401, "malformed"),
    "`crit` header": (lambda secret: by_hand({"alg": "HS256", "crit": ["x"], "x": 1}, secret), 401, "malformed"),
    "longer than 8 KB": (lambda secret: sign(secret, "HS256", more="x" * 9000), 401, "longer"),
}


async def outcome(system: System, token: str) -> tuple[int, str]:
    """What REST says, after seeing that the WebSocket says the same."""
    answer = system.get("/api/me", {"Authorization": f"Bearer {token}"})
    try:
        async with connection(system.ws, token=token):
            upgraded = 200
    except InvalidStatus as exc:
        upgraded = exc.response.status_code
    assert upgraded == answer.status
    return answer.status, "" if answer.status == 200 else answer.json["error"]["message"]


@pytest.mark.parametrize("kind", MATRIX)
async def test_the_matrix(guarded: System, kind: str) -> None:
    make, status, text = MATRIX[kind]
    found, message = await outcome(guarded, make(read_secret(guarded.settings.token_secret_file)))
    assert found == status
    assert text in message


def test_the_document_has_the_same_matrix() -> None:
    text = (ROOT / "docs/identity.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (.+?) \| (\d{3}) \|", text, re.MULTILINE))
    assert {kind: str(status) for kind, (_, status, _) in MATRIX.items()} == {
        kind: status for kind, status in rows.items() if kind in MATRIX
    }
    assert "unknown `kid`" in rows
    assert "rotated away" in rows


def until(true: Callable[[], bool], seconds: float) -> float:
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - begun


async def test_keys_rotate_and_the_provider_may_be_away(guarded: System, provider: Provider) -> None:
    old = sign(ED, "EdDSA", {"kid": "one"})
    new = sign(ROTATED, "EdDSA", {"kid": "two"})

    def status(token: str) -> int:
        return guarded.get("/api/me", {"Authorization": f"Bearer {token}"}).status

    assert status(old) == 200
    # Asked at most once in ten seconds by each shard, so the first answer may be that it is not known.
    assert status(new) in (401, 503)
    provider.keys = [jwk(ROTATED, "two")]
    # Both shards have to ask again: the new key is known and the old one gone without a restart. Each request is a
    # connection of its own, so twenty in a row do not all meet the same shard (six do, once in thirty times).
    until(lambda: all(status(new) == 200 for _ in range(20)), 40)
    assert all(status(old) in (401, 503) for _ in range(4))
    provider.away = True
    asked = provider.asked
    unknown = sign(STRANGER, "RS256", {"kid": "three"})
    until(lambda: provider.asked > asked or status(unknown) == 503, 30)
    assert status(new) == 200, "known keys outlive an outage"
    for _ in range(50):
        status(sign(ED, "EdDSA", {"kid": "flood"}))
    assert provider.asked - asked <= 6, "a flood of unknown keys is no flood of questions"
    provider.away = False


@pytest.mark.parametrize("by", ["token id", "user"])
async def test_revoked_while_connected(guarded: System, by: str) -> None:
    secret = read_secret(guarded.settings.token_secret_file)
    name = "rev-" + by.replace(" ", "-")
    token = sign(secret, "HS256", sub=name, jti=f"{name}-1", iat=time.time())
    admin = sign(secret, "HS256", sub="root", role="admin")
    bearer = {"Authorization": f"Bearer {admin}"}
    sockets = [await Connection.open(guarded.ws, token=token) for _ in range(6)]  # over both shards
    other = await Connection.open(guarded.ws, token=sign(secret, "HS256", sub="bystander"))
    body = {"token_id": f"{name}-1"} if by == "token id" else {"username": name}
    assert guarded.post("/api/revocations", body, {"Authorization": f"Bearer {token[:-2]}"}).status == 401
    begun = time.monotonic()
    assert guarded.post("/api/revocations", body, bearer).status == 204
    closes = await asyncio.gather(*(asyncio.wait_for(one.closed(), 5) for one in sockets))
    took = time.monotonic() - begun
    assert [code for code, _ in closes] == [4503] * 6
    assert took < 1.0, f"{took:.2f} s"
    assert guarded.get("/api/me", {"Authorization": f"Bearer {token}"}).status == 401
    fresh = sign(secret, "HS256", sub=name, jti=f"{name}-2", iat=time.time())
    assert guarded.get("/api/me", {"Authorization": f"Bearer {fresh}"}).status == 200
    assert (await other.ask("pong", type="ping"))["type"] == "pong"
    await other.close()


async def test_only_administrators_revoke_others(guarded: System) -> None:
    secret = read_secret(guarded.settings.token_secret_file)
    bearer = {"Authorization": f"Bearer {sign(secret, 'HS256', sub='mallory')}"}
    assert guarded.post("/api/revocations", {"username": "ann"}, bearer).status == 403
    assert guarded.post("/api/revocations", {"token_id": "x"}, bearer).status == 403
    assert guarded.post("/api/revocations", {}, bearer).status == 400
    assert guarded.post("/api/revocations", {"username": "mallory"}, bearer).status == 204


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"nothing", "holds no key"), (b"-----BEGIN PRIVATE KEY-----", "private key"), (b'{"keys": 1}', "not a key set")],
)
def test_a_key_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, text: str) -> None:
    from shards.keys import UnusableKey, read_keys

    (tmp_path / "bad.pem").write_bytes(content)
    with pytest.raises(UnusableKey, match=text) as caught:
        read_keys(tmp_path / "bad.pem")
    assert "bad.pem" in str(caught.value)
