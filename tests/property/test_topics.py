"""Any order of wanting, releasing, flushing, answers and new links: in force means in force at the exchange."""

from collections import deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shards.topics import Topics
from tests.builders import NotingBus

NAMES = st.lists(st.sampled_from(["lobby", "user.al", "user.bob", "user.eve"]), min_size=1, max_size=3, unique=True)


class Wish:
    """Somebody who needs topics."""

    def __init__(self, topics: tuple[str, ...]) -> None:
        self.topics = topics
        self.granted = 0


class Subscribing(RuleBasedStateMachine):
    """The exchange as it is: changes arrive in order, answers come back in order, a link may go at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.topics = Topics()
        self.bus = NotingBus()
        self.upward: deque[tuple[int, list[str], list[str]]] = deque()
        self.downward: deque[int] = deque()
        self.exchange: set[str] | None = set()  # what it filters with; None: it does not know us
        self.hello: list[str] | None = None
        self.wishes: list[Wish] = []

    @rule(names=NAMES)
    def want(self, names: list[str]) -> None:
        wish = Wish(tuple(names))
        self.wishes.append(wish)

        def granted(now: float) -> None:
            wish.granted += 1
            if wish in self.wishes:
                assert self.in_force(wish), "told before it is in force"

        self.topics.want(wish.topics, granted, 0.0)

    def in_force(self, wish: Wish) -> bool:
        """Whether all that will be heard from now on was filtered with it."""
        if self.bus.up:
            return self.exchange is not None and set(wish.topics) <= self.exchange
        return self.hello is None or set(wish.topics) <= set(self.hello)

    @precondition(lambda self: self.wishes)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        wish = self.wishes.pop(data.draw(st.integers(0, len(self.wishes) - 1)))
        self.topics.release(wish.topics)

    @rule()
    def flush(self) -> None:
        before = len(self.bus.subscriptions)
        self.topics.flush(self.bus, 0.0)
        for i in range(before, len(self.bus.subscriptions)):
            assert self.bus.up
            self.upward.append((i + 1, *self.bus.subscriptions[i]))

    @precondition(lambda self: self.upward and self.exchange is not None)
    @rule()
    def arrive(self) -> None:
        assert self.exchange is not None
        no, add, remove = self.upward.popleft()
        self.exchange = (self.exchange - set(remove)) | set(add)
        self.downward.append(no)

    @precondition(lambda self: self.downward and self.bus.up)
    @rule()
    def answer(self) -> None:
        self.topics.subscribed(self.downward.popleft(), 0.0)

    @precondition(lambda self: self.bus.up)
    @rule()
    def break_link(self) -> None:
        self.bus.up = False
        self.exchange = None
        self.upward.clear()
        self.downward.clear()
        self.hello = None

    @precondition(lambda self: not self.bus.up)
    @rule()
    def say_hello(self) -> None:
        """Perhaps again, before the last was answered."""
        self.hello = self.topics.greeted()
        assert sorted(self.hello) == sorted({topic for wish in self.wishes for topic in wish.topics})

    @precondition(lambda self: self.hello is not None)
    @rule()
    def be_welcome(self) -> None:
        assert self.hello is not None
        self.exchange = set(self.hello)
        self.hello = None
        self.bus.up = True
        self.topics.linked(0.0)

    @invariant()
    def nobody_is_told_twice(self) -> None:
        assert all(wish.granted <= 1 for wish in self.wishes)

    @invariant()
    def who_was_told_hears_it_while_the_link_is_up(self) -> None:
        if self.bus.up and not self.topics._changed:
            assert all(self.in_force(wish) for wish in self.wishes if wish.granted)

    def teardown(self) -> None:
        """When everything is answered, everybody was told, and the exchange holds what is wanted and no more."""
        if not self.bus.up:
            self.say_hello()
            self.be_welcome()
        for _ in range(3):
            self.flush()
            while self.upward:
                self.arrive()
            while self.downward:
                self.answer()
        assert all(wish.granted == 1 for wish in self.wishes)
        assert self.exchange == {topic for wish in self.wishes for topic in wish.topics}
        assert set(self.topics.wanted()) == self.exchange
        assert not self.topics._waiting and not self.topics._next and not self.topics._awaited


TestSubscribing = Subscribing.TestCase
