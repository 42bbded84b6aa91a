"""The table of unanswered requests: nothing is forgotten, nothing is answered twice."""

import pytest

from hubbub.protocol.internal import ReadHistory, Refused
from hubbub.protocol.limits import GIVE_UP_AFTER, RESEND_AFTER
from shards.requests import CLOCK_STEP, Requests
from tests.builders import send


@pytest.fixture
def requests():
    return Requests()


def ask(requests, slot=3, now=0.0, answer=None):
    no = requests.next_no()
    return requests.add(slot, no, ReadHistory(no, "lobby", None, None, 5), now, answer)


def out(requests) -> list[int]:
    """The numbers that are to be sent, which the caller takes."""
    found = [request.no for _, request in requests.out]
    requests.out.clear()
    return found


def test_numbers_grow(requests):
    assert [requests.next_no() for _ in range(3)] == [1, 2, 3]


def test_a_request_is_passed_on_once(requests):
    pending = ask(requests)
    assert requests.out == [(3, pending.request)]
    assert (len(requests), requests.sends, requests.resent) == (1, 0, 0)


def test_only_the_first_answer_counts(requests):
    pending = ask(requests)
    assert requests.answered(1) is pending
    assert requests.answered(1) is None
    assert requests.answered(99) is None
    assert len(requests) == 0


def test_sends_are_found_by_key(requests):
    request = send(requests.next_no())
    pending = requests.add(3, request.no, request, 0.0, None)
    key = (request.conversation, request.sender, request.key)
    assert requests.find(key) is pending
    assert requests.find((request.conversation, "bob", request.key)) is None
    assert requests.sends == 1
    requests.answered(request.no)
    assert requests.find(key) is None
    assert requests.sends == 0


def test_it_is_sent_again_after_1_3_and_7_seconds(requests):
    ask(requests, now=100.0)
    out(requests)
    times = []
    for tenth in range(1, int(GIVE_UP_AFTER * 10)):
        assert requests.tick(100.0 + tenth / 10) == []
        times += [tenth / 10] * len(out(requests))
    assert times == list(RESEND_AFTER)
    assert requests.resent == 3


def test_it_is_given_up_and_the_outcome_is_unknown(requests):
    pending = ask(requests, now=100.0)
    requests.tick(100.0 + GIVE_UP_AFTER - 0.01)
    ((given_up, refused),) = requests.tick(100.0 + GIVE_UP_AFTER)
    assert given_up is pending
    assert isinstance(refused, Refused)
    assert (refused.no, refused.code, refused.stored) == (1, "UNAVAILABLE", "unknown")
    assert requests.answered(1) is None
    assert requests.tick(200.0) == []


def test_one_that_is_answered_is_left_alone(requests):
    ask(requests)
    ask(requests)
    out(requests)
    requests.answered(1)
    requests.tick(RESEND_AFTER[0])
    assert out(requests) == [2]


def test_each_waits_its_own_time(requests):
    ask(requests, now=0.0)
    ask(requests, now=0.5)
    out(requests)
    requests.tick(1.0)
    assert out(requests) == [1]
    requests.tick(1.5)
    assert out(requests) == [2]


def test_a_slot_that_changed_hands(requests):
    ask(requests, slot=3)
    ask(requests, slot=4)
    ask(requests, slot=5)
    out(requests)
    requests.repeat([4, 5, 6])
    assert out(requests) == [2, 3]
    requests.repeat()
    assert out(requests) == [1, 2, 3]
    assert requests.resent == 5


def test_a_send_that_goes_again_says_so(requests):
    """Of such a one the store never says that it is not stored."""
    first, second = send(requests.next_no()), send(requests.next_no())
    requests.add(3, 1, first, 0.0, None)
    requests.tick(1.0)
    requests.add(3, 2, second, 1.0, None)
    assert (first.resent, second.resent) == (True, False)
    requests.repeat([3])
    assert second.resent


def test_after_a_stop_everything_comes_to_its_end(requests):
    ask(requests, now=0.0)
    out(requests)
    assert len(requests.tick(60.0)) == 1
    assert len(requests) == 0


def test_an_age_is_never_too_many_seconds(requests):
    """A span must not begin before its message was sent, and the clock moves in milliseconds."""
    ask(requests, now=5.0)
    assert requests.age(1, 5.0) == requests.age(1, 5.0 + CLOCK_STEP / 2) == 0.0
    assert requests.age(1, 5.5) == pytest.approx(0.5 - CLOCK_STEP)
    requests.answered(1)
    assert requests.age(1, 6.0) == 0.0
