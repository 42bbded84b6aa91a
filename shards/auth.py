"""Who is there: tokens (JWT) and guests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, Literal

import jwt

from hubbub.protocol.conversation import InvalidName, check_username
from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.access import AccessList
from shards.jwks import KeySet
from shards.keys import ASYMMETRIC, KID_MAX, KeyRing

# Bytes of a token. It is looked at before its signature is known to be good, so its size is limited first.
TOKEN_MAX = 8192
TOKEN_ID_MAX = 200
SUBPROTOCOL_PREFIX = "bearer."
# How long a request may wait for the identity provider to say whether it knows a key.
KEY_WAIT = 3.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody proved, or as a guest merely claimed, to be.

    `expires_at` and `issued_at` are unix seconds, None for never and unknown. `token_id` is the token's `jti`.
    """

    username: str
    expires_at: float | None
    guest: bool = False
    role: Literal["member", "admin"] = "member"
    token_id: str | None = None
    issued_at: float | None = None


class KeyUnknown(Refusal):
    """The token names a key that is not known, and the key set is being asked for it."""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a token has to say, besides being signed. Empty sequences ask for nothing."""

    audience: Sequence[str] = ()
    issuer: Sequence[str] = ()
    leeway: float = 5
    user: str = "sub"
    role: str = "role"
    admins: Sequence[str] = ()


class Authenticator:
    """Decides on credentials. Every refusal is `ErrorCode.UNAUTHORIZED` with a text that says what is wrong.

    *guests*: whether ``?username=`` is enough: ``always``, ``never``, or ``loopback``: from this machine
    while the server listens to it alone (*bound_to_loopback*). *key_set* is where unknown keys are asked for.
    """

    def __init__(
        self,
        keys: KeyRing,
        access: AccessList,
        *,
        claims: Claims,
        guests: Literal["loopback", "always", "never"],
        bound_to_loopback: bool,
        token_in_query: bool,
        key_set: KeySet | None = None,
    ) -> None:
        self._keys = keys
        self._access = access
        self._claims = claims
        self._admins = frozenset(claims.admins)
        self._guests = guests
        self._bound_to_loopback = bound_to_loopback
        self._token_in_query = token_in_query
        self._key_set = key_set
        self._options: Any = {
            "require": ["aud"] * bool(claims.audience) + ["iss"] * bool(claims.issuer),
            "verify_aud": bool(claims.audience),
            "verify_iss": bool(claims.issuer),
            # `iat` is information; `nbf` is what says "not yet". A minting host's clock a second ahead is no attack.
            "verify_iat": False,
            # The username's claim is checked below, by its own name.
            "verify_sub": False,
            "verify_jti": False,
        }

    def authenticate(
        self,
        authorization: str | None,
        subprotocols: Sequence[str],
        query: Mapping[str, Sequence[str]],
        remote_ip: str,
        *,
        host: str | None = None,
        forwarded: bool = False,
    ) -> Identity:
        """Who sends a request with these credentials. Raises `Refusal`.

        *authorization* and *host* are the headers' values; *forwarded*: a proxy says that the request is
        not its own. Tokens are looked for in the header, the offered subprotocols (``bearer.<token>``) and,
        if switched on, ``?token=``; one that is given beats ``?username=``, which must then agree with it.
        """
        username = _single(query, "username")
        tokens = set(self._tokens(authorization, subprotocols, query))
        if not tokens:
            if username is None:
                raise _refused(
                    "no credentials: send a token (Authorization: Bearer …), or ?username=… where guests are allowed"
                )
            return self._guest(username, remote_ip, host, forwarded)
        if len(tokens) > 1:
            raise _refused("several different tokens were sent; send one")
        identity = self.verify(tokens.pop())
        if username is not None and username != identity.username:
            raise _refused("?username= names somebody else than the token; leave it out")
        return identity

    def verify(self, token: str) -> Identity:
        """Whose *token* it is. Raises `Refusal`; `KeyUnknown` where asking again in a moment may help."""
        if len(token) > TOKEN_MAX:
            raise _refused(f"the token is longer than {TOKEN_MAX} bytes")
        try:
            identity = self._identity(self._decode(token))
        except jwt.ExpiredSignatureError as exc:
            raise _refused("the token has expired") from exc
        except jwt.ImmatureSignatureError as exc:
            raise _refused("the token is not valid yet") from exc
        except jwt.InvalidAudienceError as exc:
            raise _refused("the token is not for this server: its claim 'aud' names none of its audiences") from exc
        except jwt.InvalidIssuerError as exc:
            raise _refused("the token's issuer ('iss') is not accepted here") from exc
        except jwt.MissingRequiredClaimError as exc:
            raise _refused(f"the token lacks the claim {exc.claim!r}") from exc
        except jwt.InvalidSignatureError as exc:
            raise _refused("the token's signature is not valid") from exc
        except InvalidName as exc:
            raise _refused(f"the token's user is not valid: {exc}") from exc
        # ValueError: what json and base64 say of bytes that are neither; OverflowError: `exp` of 1e999;
        # RecursionError: a header nested a thousand deep, read before the signature can be checked.
        except (jwt.InvalidTokenError, ValueError, OverflowError, RecursionError, TypeError) as exc:
            raise _refused("the token is malformed") from exc
        refusal = self._access.refusal(identity)
        if refusal is not None:
            raise refusal
        return identity

    async def key_arrived(self) -> None:
        """Wait until the key set was asked for an unknown key, for a bounded time."""
        if self._key_set is not None:
            await self._key_set.arrived(KEY_WAIT)

    def _decode(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or (kid is not None and (not isinstance(kid, str) or len(kid) > KID_MAX)):
            raise jwt.DecodeError("alg and kid must be short strings")
        claims = self._claims
        wrong: jwt.InvalidSignatureError | None = None
        for key in self._keys.candidates(algorithm, kid):
            try:
                return jwt.decode(
                    token,
                    key.key,
                    algorithms=[key.algorithm],
                    options=self._options,
                    audience=list(claims.audience) or None,
                    issuer=list(claims.issuer) or None,
                    leeway=claims.leeway,
                )
            except jwt.InvalidSignatureError as exc:
                wrong = exc
        if self._key_set is not None and algorithm in ASYMMETRIC and not self._keys.knows(algorithm, kid):
            if self._key_set.may_help:
                self._key_set.want()
                text = "the token's key is not known yet; the identity provider is being asked"
                raise KeyUnknown(ErrorCode.UNAVAILABLE, text, retry_after_ms=1000)
        if wrong is not None:
            raise wrong
        if algorithm in self._keys.algorithms:
            raise _refused("the token's key is not known")
        accepted = ", ".join(self._keys.algorithms)
        raise _refused(f"the token's algorithm is not accepted; this server accepts {accepted}")

    def _identity(self, claims: dict[str, Any]) -> Identity:
        name = claims.get(self._claims.user)
        if not isinstance(name, str):
            raise _refused(f"the token names no user: its claim {self._claims.user!r} must be a username")
        username = check_username(name)
        expires, issued, token_id = claims.get("exp"), claims.get("iat"), claims.get("jti")
        if token_id is not None and (not isinstance(token_id, str) or len(token_id) > TOKEN_ID_MAX):
            raise _refused(f"the token's claim 'jti' must be a text of at most {TOKEN_ID_MAX} characters")
        roles = claims.get(self._claims.role) if self._claims.role else None
        is_admin = username in self._admins or roles == "admin" or (isinstance(roles, list) and "admin" in roles)
        return Identity(
            username,
            None if expires is None else float(expires),
            role="admin" if is_admin else "member",
            token_id=token_id,
            issued_at=float(issued) if isinstance(issued, int | float) else None,
        )

    def _tokens(
        self, authorization: str | None, subprotocols: Sequence[str], query: Mapping[str, Sequence[str]]
    ) -> list[str]:
        tokens = [name[len(SUBPROTOCOL_PREFIX) :] for name in subprotocols if name.startswith(SUBPROTOCOL_PREFIX)]
        if authorization is not None:
            scheme, _, token = authorization.strip().partition(" ")
            if scheme.lower() != "bearer":
                raise _refused("the Authorization header must be 'Bearer <token>'")
            tokens.append(token.strip())
        in_query = _single(query, "token")
        if in_query is not None:
            if not self._token_in_query:
                raise _refused("tokens in the URL are not accepted here; use the Authorization header")
            tokens.append(in_query)
        return tokens

    def _guest(self, username: str, remote_ip: str, host: str | None, forwarded: bool) -> Identity:
        self._admit_guest(remote_ip, host, forwarded)
        try:
            identity = Identity(check_username(username), None, guest=True)
        except InvalidName as exc:
            raise _refused(str(exc)) from exc
        refusal = self._access.refusal(identity)
        if refusal is not None:
            raise refusal
        return identity

    def _admit_guest(self, remote_ip: str, host: str | None, forwarded: bool) -> None:
        if self._guests == "never":
            raise _refused("guests are not allowed here; send a token")
        if self._guests == "loopback":
            if not self._bound_to_loopback or forwarded or not _is_loopback(remote_ip):
                raise _refused("guests are allowed from the server's own machine only; send a token")
            # A web page of a stranger whose name resolves to 127.0.0.1 (DNS rebinding) is same-origin with
            # us in its visitor's browser; only the Host header tells.
            if host is not None and not _is_loopback_host(host):
                raise _refused("guests must address the server as localhost or 127.0.0.1; or send a token")

    def welcomes_guest(self, remote_ip: str, host: str | None, forwarded: bool) -> bool:
        """Whether a guest would be let in from there."""
        try:
            self._admit_guest(remote_ip, host, forwarded)
        except Refusal:
            return False
        return True


def _refused(message: str) -> Refusal:
    return Refusal(ErrorCode.UNAUTHORIZED, message)


def _single(query: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = query.get(name)
    if not values:
        return None
    if len(values) > 1:
        raise _refused(f"?{name}= was given more than once")
    return values[0]


def _is_loopback(address: str) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped.is_loopback
    return ip.is_loopback


def _is_loopback_host(host: str) -> bool:
    name = host.lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)
