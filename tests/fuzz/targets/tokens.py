"""Tokens: a refusal, or an identity that the rest of the server can live with; and nobody without the key gets one."""

import base64
import hashlib
import hmac
import json
import math
from functools import partial
from random import Random
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from hubbub.protocol.conversation import check_username
from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.auth import SUBPROTOCOL_PREFIX, Authenticator, Claims, Identity
from shards.keys import Key, KeyRing, secret_keys
from tests.builders import authenticator
from tests.fuzz.target import TOKENS, mutate
from tests.unit.shard import Shard

SECRET = bytes(range(64))
HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
FAR = 4_000_000_000

HEADERS: dict[str, list[Any]] = {
    "alg": ["HS256", "HS384", "HS512", "ES256", "EdDSA", "none", "nOnE", "RS256", "", None, 1, ["HS256"]],
    "typ": ["JWT", None, 1],
    "kid": ["k", "", "../../dev/null", "x" * 300, 1, None, {}],
    "b64": [False, True, "x"],
    "crit": [["b64"], [], "exp"],
    "jwk": [{"kty": "oct", "k": ""}],
    "jku": ["http://127.0.0.1:1/"],
}
CLAIMS: dict[str, list[Any]] = {
    "sub": ["alice", "bob", "a:b", "", "\uff41", "x" * 65, 1, None, ["alice"], "a\0"],
    "exp": [FAR, FAR + 0.5, 1, 2**38, 2**62, 10**400, -1, "4000000000", "x", True, None, [], 1e308, math.inf, math.nan],
    "nbf": [0, FAR, -1, "0", math.nan, -math.inf, 10**400, None, {}],
    "iat": [0, 1.5, FAR, "x", math.nan, math.inf, 10**400, True, None],
    "jti": ["id", "x" * 201, 1, None, "\0"],
    "role": ["admin", ["admin"], {"admin": 1}, None, 1],
    "aud": ["hubbub", ["hubbub", "x"], [1], 1, None],
    "iss": ["us", 1, None, ["us"]],
}


class Tokens:
    """The bytes of one token, as a header brings them (Latin-1)."""

    def __init__(self) -> None:
        curve, edwards = (
            ec.derive_private_key(7, ec.SECP256R1()),
            ed25519.Ed25519PrivateKey.from_private_bytes(SECRET[:32]),
        )
        public = [Key("ES256", "k", curve.public_key()), Key("EdDSA", None, edwards.public_key())]
        make = partial(authenticator, SECRET, ring=KeyRing([*secret_keys(SECRET), *public]))
        self._plain = make()
        self._strict = make(claims=Claims(audience=["hubbub"], issuer=["us"], admins=["bob"]))
        self._private: dict[str, Any] = {"ES256": curve, "EdDSA": edwards, **dict.fromkeys(HASHES, SECRET)}
        self._shard = Shard()

    def seeds(self) -> list[bytes]:
        """One of each algorithm."""
        claims = {"sub": "alice", "exp": FAR, "aud": "hubbub", "iss": "us", "iat": 1, "jti": "id"}
        return [jwt.encode(claims, key, name).encode() for name, key in self._private.items()]

    def generate(self, rng: Random) -> bytes:
        """Signed by who may sign, mostly; with anything inside."""
        header = {name: self._one(rng, values) for name, values in HEADERS.items() if rng.random() < 0.2}
        header["alg"] = self._one(rng, HEADERS["alg"][:5] if rng.random() < 0.8 else HEADERS["alg"])
        claims = {name: self._one(rng, values) for name, values in CLAIMS.items() if rng.random() < 0.6}
        head, body = (self._text(rng, part) for part in (header, claims))
        signed = encode(head) + b"." + encode(body)
        return signed + b"." + encode(self._sign(rng, header["alg"], signed))

    def check(self, data: bytes) -> None:
        """See `Target`."""
        token = data.decode("latin-1")
        for checker in (self._plain, self._strict):
            identity = who(partial(checker.verify, token))
            if identity is not None:
                self._check_identity(identity, token)
        self._check_ways(self._plain, token)

    def _check_identity(self, identity: Identity, token: str) -> None:
        assert check_username(identity.username) == identity.username
        assert identity.expires_at is None or math.isfinite(identity.expires_at)
        assert identity.issued_at is None or math.isfinite(identity.issued_at)
        signed, _, signature = token.rpartition(".")
        algorithm = jwt.get_unverified_header(token)["alg"]
        if algorithm in HASHES:
            mac = hmac.digest(SECRET, signed.encode("latin-1"), HASHES[algorithm])
            assert base64.urlsafe_b64decode(signature + "==") == mac, "forged"
        else:
            assert algorithm in ("ES256", "EdDSA")
        session = self._shard.open(identity.username, expires_at=identity.expires_at)
        self._shard.hub.close(session, self._shard.now)
        self._shard.turn()

    @staticmethod
    def _check_ways(checker: Authenticator, token: str) -> None:
        ask = partial(checker.authenticate, remote_ip="127.0.0.1", host="localhost")
        direct = who(partial(checker.verify, token.strip()))
        assert who(partial(ask, "Bearer " + token, [], {})) == direct
        offered = who(partial(ask, None, ["hubbub.v1", SUBPROTOCOL_PREFIX + token], {}))
        assert offered == who(partial(checker.verify, token))
        assert who(partial(ask, token, [], {"username": ["alice"]})) in (None, direct)
        guest = who(partial(ask, None, [], {"username": [token]}))
        assert guest is None or (guest.guest and check_username(token) == guest.username)
        who(partial(ask, None, [], {"token": [token]}))

    @staticmethod
    def _one(rng: Random, values: list[Any]) -> Any:
        return values[0] if rng.random() < 0.5 else rng.choice(values)

    @staticmethod
    def _text(rng: Random, part: dict[str, Any]) -> bytes:
        text = json.dumps(part).encode()
        return mutate(rng, text, rng.choice(TOKENS)) if rng.random() < 0.1 else text

    def _sign(self, rng: Random, algorithm: Any, signed: bytes) -> bytes:
        key = self._private.get(algorithm) if isinstance(algorithm, str) else None
        if key is None or rng.random() < 0.1:
            return rng.choice((b"", b"\0", bytes(32), hmac.digest(b"", signed, "sha256")))
        method = jwt.get_algorithm_by_name(algorithm)
        return method.sign(signed, method.prepare_key(key))


def who(ask: "partial[Identity]") -> Identity | None:
    """The identity, or None for a refusal that says why. Raises what is neither."""
    try:
        return ask()
    except Refusal as refusal:
        assert refusal.code is ErrorCode.UNAUTHORIZED
        assert 0 < len(refusal.message) < 500
        return None


def encode(part: bytes) -> bytes:
    """Base64 as JWTs have it."""
    return base64.urlsafe_b64encode(part).rstrip(b"=")
