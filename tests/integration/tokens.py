"""Tokens as nobody should be able to make them."""

import base64
import json
import time
from typing import Any

import jwt


def signed(user: str, secret: bytes, algorithm: str = "HS256", **claims: Any) -> str:
    """A token for *user*; of an hour, unless *claims* say otherwise."""
    return jwt.encode({"sub": user, "exp": int(time.time()) + 3600, **claims}, secret, algorithm=algorithm)


def unsigned(user: str) -> str:
    """A token that says ``alg: none`` and has no signature."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part({'sub': user, 'exp': int(time.time()) + 3600})}."
