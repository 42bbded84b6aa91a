"""Credentials, good and bad, each with the text its owner gets to read."""

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest

from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.auth import Authenticator, Identity
from shards.keys import UnusableKey, secret_keys
from tests.builders import authenticator

SECRET = b"s" * 32
NOW = int(time.time())


def make(**changes) -> Authenticator:
    return authenticator(SECRET, **changes)


def mint(*, key: bytes = SECRET, algorithm: str = "HS256", **claims) -> str:
    return jwt.encode({"sub": "alice", "exp": NOW + 60, **claims}, key, algorithm=algorithm)


def by_hand(header: bytes, payload: bytes) -> str:
    """A correctly signed token around any bytes."""
    head, body = (base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload))
    signature = base64.urlsafe_b64encode(hmac.digest(SECRET, head + b"." + body, hashlib.sha256)).rstrip(b"=")
    return b".".join((head, body, signature)).decode()


def ask(auth: Authenticator, *, header=None, offered=(), query=None, ip="127.0.0.1", **more) -> Identity:
    return auth.authenticate(header, offered, query or {}, ip, **more)


def refused(auth: Authenticator, text: str, **request) -> None:
    with pytest.raises(Refusal, match=text) as caught:
        ask(auth, **request)
    assert caught.value.code is ErrorCode.UNAUTHORIZED


def test_a_token_in_each_place():
    expected = Identity("alice", NOW + 60)
    token = mint()
    assert ask(make(), header=f"Bearer {token}") == expected
    assert ask(make(), header=f"bearer  {token} ") == expected
    assert ask(make(), offered=["hubbub.v1", f"bearer.{token}"]) == expected
    assert ask(make(token_in_query=True), query={"token": [token]}) == expected
    assert make().verify(token) == expected


def test_a_token_counts_from_anywhere():
    auth = make(guests="never", bound_to_loopback=False)
    assert ask(auth, header=f"Bearer {mint()}", ip="203.0.113.5", host="chat.example.org", forwarded=True)


def test_a_token_without_expiry():
    assert make().verify(jwt.encode({"sub": "bob"}, SECRET, "HS256")) == Identity("bob", None)


def test_a_token_that_names_an_audience_and_a_slightly_fast_clock():
    assert make().verify(mint(aud="elsewhere", iat=NOW + 30)).username == "alice"


def test_a_token_beats_the_username():
    token = mint()
    assert ask(make(), header=f"Bearer {token}", query={"username": ["alice"]}).expires_at == NOW + 60
    refused(make(), "somebody else", header=f"Bearer {token}", query={"username": ["bob"]})


def test_a_bad_token_is_not_rescued_by_a_username():
    refused(make(), "expired", header=f"Bearer {mint(exp=NOW - 6)}", query={"username": ["alice"]})


def test_the_same_token_twice_is_one():
    token = mint()
    assert ask(make(), header=f"Bearer {token}", offered=[f"bearer.{token}"]).username == "alice"
    refused(make(), "several different", header=f"Bearer {token}", offered=[f"bearer.{mint(sub='bob')}"])


NONE = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
BODY = base64.urlsafe_b64encode(b'{"sub":"alice"}').rstrip(b"=").decode()
HEADER = b'{"alg":"HS256","typ":"JWT"}'
BAD_TOKENS = {
    "expired": (mint(exp=NOW - 6), "has expired"),
    "not yet valid": (mint(nbf=NOW + 60), "not valid yet"),
    "forged": (mint(key=b"x" * 32), "signature is not valid"),
    "changed": (f"{mint().rpartition('.')[0]}.AAAA", "signature is not valid"),
    "alg none": (f"{NONE}.{BODY}.", "algorithm is not accepted"),
    "alg none, signed": (by_hand(b'{"alg":"none"}', b'{"sub":"alice"}'), "algorithm is not accepted"),
    "alg nOnE": (by_hand(b'{"alg":"nOnE"}', b'{"sub":"alice"}'), "algorithm is not accepted"),
    "another hash": (mint(key=b"s" * 64, algorithm="HS512"), "algorithm is not accepted"),
    "no algorithm": (by_hand(b"{}", b'{"sub":"alice"}'), "not accepted|malformed"),
    "no subject": (jwt.encode({"exp": NOW + 60}, SECRET, "HS256"), "names no user"),
    "subject a number": (by_hand(HEADER, b'{"sub":7}'), "names no user"),
    "subject not a username": (mint(sub="a:b"), "letters, digits"),
    "subject empty": (mint(sub=""), "letters, digits"),
    "subject not NFKC": (mint(sub="\uff41lice"), "NFKC"),
    "exp a word": (by_hand(HEADER, b'{"sub":"alice","exp":"soon"}'), "malformed"),
    "exp infinite": (by_hand(HEADER, b'{"sub":"alice","exp":1e999}'), "malformed"),
    "exp not a number": (by_hand(HEADER, b'{"sub":"alice","exp":NaN}'), "malformed"),
    "exp a list": (by_hand(HEADER, b'{"sub":"alice","exp":[1]}'), "malformed"),
    "nbf infinite": (by_hand(HEADER, b'{"sub":"alice","nbf":1e999}'), "malformed"),
    "payload a list": (by_hand(HEADER, b"[]"), "malformed"),
    "payload no JSON": (by_hand(HEADER, b"\xff"), "malformed"),
    "header nested deep": (by_hand(b"[" * 5000, b"{}"), "malformed"),
    "payload nested deep": (by_hand(HEADER, b"[" * 5000), "malformed"),
    "not base64": ("ä.ö.ü", "malformed"),
    "no token at all": ("", "malformed"),
    "one part": ("abc", "malformed"),
    "huge": ("a" * 100_000, "longer than"),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_bad_token(name):
    token, text = BAD_TOKENS[name]
    refused(make(), text, header=f"Bearer {token}")
    with pytest.raises(Refusal, match=text) as caught:
        make().verify(token)
    assert token not in caught.value.message or not token, "a refusal must not repeat the token"


def test_other_schemes_and_a_token_in_the_url():
    refused(make(), "Bearer", header="Basic YWxpY2U6eA==")
    refused(make(), "not accepted here", query={"token": [mint()]})
    refused(make(token_in_query=True), "more than once", query={"token": ["a", "b"]})


def test_no_credentials():
    refused(make(), "no credentials")
    refused(make(), "no credentials", offered=["hubbub.v1"])


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_a_guest_on_the_same_machine(ip):
    assert ask(make(), query={"username": ["alice"]}, ip=ip) == Identity("alice", None, guest=True)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "::1", "x.localhost"])
def test_a_guest_under_a_local_name(host):
    assert ask(make(), query={"username": ["alice"]}, host=host)


@pytest.mark.parametrize("host", ["evil.example:8000", "localhost.evil.example", "", "10.0.0.1", "[::2]:80"])
def test_a_page_whose_name_was_bound_to_loopback_is_no_guest(host):
    refused(make(), "localhost", query={"username": ["alice"]}, host=host)


def test_guests_from_elsewhere():
    query = {"username": ["alice"]}
    for ip in ("192.168.1.2", "2001:db8::1", "0.0.0.0", "", "::ffff:10.0.0.1"):
        refused(make(), "own machine", query=query, ip=ip)
    refused(make(bound_to_loopback=False), "own machine", query=query)
    refused(make(), "own machine", query=query, forwarded=True)
    refused(make(guests="never"), "not allowed", query=query)
    everywhere = make(guests="always", bound_to_loopback=False)
    assert ask(everywhere, query=query, ip="203.0.113.5", host="chat.example.org").username == "alice"


def test_bad_usernames():
    for name in ("", "a:b", "a b", "x" * 65, "a\x00", "\uff41lice"):
        refused(make(), "username", query={"username": [name]})
    refused(make(), "more than once", query={"username": ["alice", "bob"]})


def test_a_short_secret():
    with pytest.raises(UnusableKey, match="32 bytes"):
        secret_keys(b"short")


def test_tokens_are_plain_jwt():
    """What `hubbub token` mints with any JWT library is what is accepted here."""
    assert make().verify(by_hand(HEADER, json.dumps({"sub": "zoë", "exp": NOW + 3600.5}).encode())).username == "zoë"
