"""What is counted over all shards, and the buckets that count it."""

from hubbub import buckets
from hubbub.buckets import Buckets
from hubbub.protocol.internal import FindAccount, KeepRefresh, Refused, Request, Search
from hubbub.protocol.limits import Limits
from store.quotas import Quotas
from tests.builders import send


class Counted:
    """Quotas and a clock."""

    def __init__(self, **limits: float) -> None:
        self.now = 100.0
        self.quotas = Quotas(Limits(**limits))  # type: ignore[arg-type]

    def refused(self, request: Request) -> Refused | None:
        return self.quotas.refusal(request, self.now)

    def passed(self, make, most: int = 1000) -> int:
        """How many of *make*'s requests pass before one is refused."""
        for i in range(most):
            if self.refused(make(i)) is not None:
                return i
        return most


def sign_in(name: str, address: str = "192.0.2.1", *, resent: bool = False) -> FindAccount:
    return FindAccount(7, name, "sign in", address, resent)


def test_a_bucket_empties_and_fills():
    some = Buckets(2.0, 3.0)
    assert [some.take("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert (some.wait("a", 0.25), some.wait("b", 0.25)) == (0.25, 0.0)
    assert [some.take("a", 0.5) for _ in range(2)] == [0.0, 0.5]
    assert [some.take("a", 1000.0) for _ in range(4)][:3] == [0.0] * 3, "never more than the burst"
    some.forgive("a")
    assert some.take("a", 1000.0) == 0.0


def test_a_rate_of_0_is_no_limit():
    none = Buckets(0.0, 0.0)
    assert {none.take("a", 0.0) for _ in range(1000)} == {none.wait("a", 0.0)} == {0.0}


def test_there_are_never_more_buckets_than_the_bound(monkeypatch):
    monkeypatch.setattr(buckets, "BUCKETS_MAX", 10)
    some = Buckets(1.0, 1.0)
    for i in range(100):
        some.take(f"name {i}", 0.0)
    assert len(some._buckets) == 10
    assert some.take("name 99", 0.0) == 1.0
    assert some.take("name 1", 0.0) == 0.0, "the one unused for longest was forgotten"


def test_a_user_s_messages_are_counted_whichever_shard_they_come_from():
    some = Counted(user_rate=2.0, user_burst=5)
    assert some.passed(lambda i: send(i, origin=f"shard-{i}")) == 5
    refused = some.refused(send(9))
    assert refused == Refused(9, "RATE_LIMITED", "more than 2 messages a second of this user", "no", 501)
    assert some.refused(send(10, sender="bob")) is None
    assert some.refused(send(11, resent=True)) is None, "an earlier copy may be stored"
    some.now += 0.5
    assert some.passed(send) == 1


def test_a_user_rate_of_0_is_no_limit():
    assert Counted(user_rate=0.0, user_burst=5).passed(send) == 1000
    assert Counted(rate=0.0, user_burst=5).passed(send) == 1000, "lifted with the limit of a session"


def test_searches_are_counted():
    some = Counted()
    assert some.passed(lambda i: Search(i, "al", "word", None, None, 10)) == 20
    assert some.refused(Search(1, "bob", "word", None, None, 10)) is None


def test_guessing_a_password_is_slow_from_however_many_addresses():
    some = Counted()
    assert some.passed(lambda i: sign_in("al", f"192.0.2.{i}")) == 10
    refused = some.refused(sign_in("al", "198.51.100.1"))
    assert refused is not None
    assert (refused.code, refused.retry_after_ms) == ("RATE_LIMITED", 6001)
    assert some.refused(sign_in("bob", "198.51.100.1")) is None
    some.now += 60.0
    assert some.passed(lambda i: sign_in("al", f"192.0.2.{i}")) == 10
    some.now += 6.0
    assert some.passed(lambda i: sign_in("al", f"192.0.2.{i}")) == 1


def test_one_address_cannot_try_one_password_on_everybody():
    some = Counted()
    assert some.passed(lambda i: sign_in(f"user{i}")) == 100
    assert some.refused(sign_in("al", "192.0.2.2")) is None
    some.now += 1.0
    assert some.passed(lambda i: sign_in(f"other{i}")) == 2


def test_who_is_held_up_by_one_limit_does_not_use_up_the_other():
    some = Counted()
    for _ in range(300):
        some.refused(sign_in("al"))
    assert some.passed(lambda i: sign_in(f"user{i}")) == 90


def test_the_right_password_forgives():
    some = Counted()
    for _ in range(9):
        some.refused(sign_in("al"))
    assert some.refused(KeepRefresh(8, "al", b"", "family", 0)) is None
    assert some.passed(lambda i: sign_in("al")) == 10


def test_a_question_asked_again_counts_once():
    some = Counted()
    assert some.passed(lambda i: sign_in("al", resent=i % 2 == 1)) == 20


def test_registrations_are_counted_by_address():
    some = Counted()
    assert some.passed(lambda i: FindAccount(i, f"new{i}", "register", "192.0.2.1", False)) == 20
    assert some.refused(FindAccount(1, "al", "register", "192.0.2.2", False)) is None
    assert some.refused(sign_in("al")) is None
