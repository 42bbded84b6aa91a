"""Keys that sign tokens. A key's own type decides the algorithm; a token's header only chooses among them.

So a public key can never serve as an HMAC secret (the "RS/HS confusion"), whatever a header says.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# RFC 7518, section 3.2: a key for HMAC has at least the size of the hash.
HMAC_MIN = {"HS256": 32, "HS384": 48, "HS512": 64}
ASYMMETRIC = ("RS256", "ES256", "EdDSA")
RSA_MIN_BITS = 2048
# A token without `kid` is tried with every key of its algorithm; so their number is a cost that strangers cause.
TRIED_MAX = 8
SET_MAX = 100
KID_MAX = 200


class UnusableKey(ValueError):
    """A key that cannot be used; says which and why."""


class Key(NamedTuple):
    """One key that verifies tokens of `algorithm`; `kid` is None for one that goes by no name."""

    algorithm: str
    kid: str | None
    key: Any


def secret_keys(secret: bytes) -> list[Key]:
    """The HMAC keys that *secret* is long enough for. Raises `UnusableKey` when there is none."""
    if len(secret) < HMAC_MIN["HS256"]:
        raise UnusableKey(f"the token secret needs at least {HMAC_MIN['HS256']} bytes")
    return [Key(name, None, secret) for name, least in HMAC_MIN.items() if len(secret) >= least]


def read_keys(path: Path) -> list[Key]:
    """The public keys in a PEM file (keys or certificates) or a key set (JWKS). Raises `UnusableKey`."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise UnusableKey(f"cannot read {path}: {exc.strerror}") from exc
    try:
        keys = parse_set(data) if data.lstrip().startswith(b"{") else _parse_pem(data)
    except ValueError as exc:
        raise UnusableKey(f"{path}: {exc}") from exc
    if not keys:
        raise UnusableKey(f"{path} holds no key that can be used: RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA)")
    return keys


def parse_set(data: bytes) -> list[Key]:
    """The keys of a JWKS that verify signatures; others in it are none of our business. Raises `ValueError`."""
    import jwt

    found = json.loads(data)
    entries = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(entries, list) or len(entries) > SET_MAX:
        raise ValueError(f"not a key set: an object with a list 'keys' of at most {SET_MAX}")
    keys: list[Key] = []
    for entry in entries:
        # A shared secret has no place in a published set: everybody could sign with it.
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
            continue
        kid = entry.get("kid")
        if kid is not None and (not isinstance(kid, str) or len(kid) > KID_MAX):
            continue
        try:
            public = jwt.PyJWK(entry).key
            algorithm = _algorithm(public)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        if entry.get("alg", algorithm) == algorithm:
            keys.append(Key(algorithm, kid, public))
    return keys


def _parse_pem(data: bytes) -> list[Key]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in data:
        raise ValueError("is a private key; give the public one (openssl pkey -in private.pem -pubout)")
    keys: list[Key] = []
    end = b"-----END "
    for part in data.split(b"-----BEGIN ")[1:]:
        block = b"-----BEGIN " + part[: part.index(b"-----", part.index(end) + len(end)) + 5] + b"\n"
        certificate = part.startswith(b"CERTIFICATE")
        public: Any = x509.load_pem_x509_certificate(block).public_key() if certificate else load_pem_public_key(block)
        keys.append(Key(_algorithm(public), None, public))
    return keys


def _algorithm(public: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < RSA_MIN_BITS:
            raise ValueError(f"an RSA key of {public.key_size} bits is too short; {RSA_MIN_BITS} are needed")
        return "RS256"
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        return "ES256"
    if isinstance(public, ed25519.Ed25519PublicKey):
        return "EdDSA"
    raise ValueError("only RSA (RS256), P-256 (ES256) and Ed25519 (EdDSA) public keys are used")


class KeyRing:
    """All keys that count: `fixed` ones from files, and `remote` ones that a key set's address published."""

    def __init__(self, fixed: Iterable[Key]) -> None:
        self._fixed = list(fixed)
        self._remote: list[Key] = []

    @property
    def algorithms(self) -> list[str]:
        """What can be verified now, each once."""
        return list(dict.fromkeys(key.algorithm for key in (*self._fixed, *self._remote)))

    def publish(self, keys: Sequence[Key]) -> None:
        """The key set as it now is; keys that are not in it any more stop counting."""
        self._remote = list(keys)

    def candidates(self, algorithm: str, kid: str | None) -> list[Key]:
        """Keys that may have signed a token with this header, at most `TRIED_MAX`."""
        return [
            key
            for key in (*self._fixed, *self._remote)
            if key.algorithm == algorithm and (kid is None or key.kid is None or key.kid == kid)
        ][:TRIED_MAX]

    def knows(self, algorithm: str, kid: str | None) -> bool:
        """Whether asking for the key set again can tell nothing new about such a token."""
        if algorithm in HMAC_MIN:
            return True
        if kid is None:
            return algorithm in self.algorithms
        return any(key.kid == kid for key in (*self._fixed, *self._remote))
