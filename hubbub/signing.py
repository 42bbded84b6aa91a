"""Tokens that Hubbub itself issues: JWTs signed with the secret of the data directory."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

import jwt

ALGORITHM = "HS256"


def mint(
    secret: bytes,
    username: str,
    seconds: int,
    *,
    user_claim: str = "sub",
    role_claim: str = "role",
    role: str = "member",
    audience: Sequence[str] = (),
    issuer: Sequence[str] = (),
) -> tuple[str, float]:
    """A token that signs *username* in for *seconds*, and when it expires (unix seconds).

    It names the first of the audiences and issuers that this server accepts, so that it is accepted here.
    `iat` keeps the fraction of the second: a token made right after a revocation must not be void with it.
    """
    now = time.time()
    expires = int(now) + seconds
    claims: dict[str, Any] = {
        "sub": username,
        "iat": round(now, 3),
        "exp": expires,
        "jti": uuid.uuid4().hex,
        user_claim: username,
    }
    if role != "member" and role_claim:
        claims[role_claim] = role
    if audience:
        claims["aud"] = audience[0]
    if issuer:
        claims["iss"] = issuer[0]
    return jwt.encode(claims, secret, algorithm=ALGORITHM), float(expires)
