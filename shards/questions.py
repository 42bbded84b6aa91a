"""Questions to the store on behalf of HTTP, bounded in number and time."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from hubbub.protocol import messages
from hubbub.protocol.conversation import SLOTS, slot_of
from hubbub.protocol.internal import HistoryRows, Online, ReadHistory, Refused, Reply, Request, WhoIsOnline
from hubbub.protocol.limits import GIVE_UP_AFTER
from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.hub import Hub
from shards.requests import Outcome

# Questions that wait for the store, over this shard. Past that they are refused, so that they never fill
# the table of unanswered requests that sends need too.
WAITING_MAX = 256

R = TypeVar("R")


class Questions:
    """What the handlers of one shard ask the store.

    *clock*: monotonic seconds, the hub's *now*. *wake*: to be called after any input to the hub.
    """

    def __init__(self, hub: Hub, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        self._hub = hub
        self._clock = clock
        self._wake = wake
        self._waiting = 0
        self._online: asyncio.Task[list[str]] | None = None

    async def ask(self, slot: int, factory: Callable[[int], Request], kind: type[R]) -> R:
        """Ask the owner of *slot*; *factory* makes the request from its number, *kind* is the answer's type.

        The store may carry it out more than once: what writes must be idempotent. Raises `Refusal`.
        """
        (reply,) = await self._ask([(slot, factory)])
        return _expect(reply, kind)

    async def history(self, conversation: str, before: int | None, after: int | None, limit: int) -> HistoryRows:
        """A page of *conversation*. Raises `Refusal`."""

        def request(no: int) -> Request:
            return ReadHistory(no, conversation, before, after, limit)

        return await self.ask(slot_of(conversation), request, HistoryRows)

    async def post(self, username: str, command: messages.Send) -> Outcome:
        """Say something for somebody who has no session here; what became of it. Raises `Refusal`."""
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def poster(outcome: Outcome | Refusal) -> None:
            if done.done():
                return
            if isinstance(outcome, Refusal):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)

        self._hub.post(username, command, poster, self._clock())
        self._wake()
        return await done  # the table of requests gives up after a while, and says so

    async def online(self) -> list[str]:
        """Who is online, sorted. Those who ask at the same time share one question. Raises `Refusal`."""
        if self._online is None or self._online.done():
            self._online = asyncio.create_task(self._read_online(), name="who is online")
        return await asyncio.shield(self._online)

    async def _read_online(self) -> list[str]:
        def request(slot: int, no: int) -> Request:
            return WhoIsOnline(no, slot, None)

        names: set[str] = set()
        for reply in await self._ask([(slot, partial(request, slot)) for slot in range(SLOTS)]):
            names.update(_expect(reply, Online).users)
        return sorted(names)

    async def _ask(self, questions: list[tuple[int, Callable[[int], Request]]]) -> list[Reply]:
        if self._waiting >= WAITING_MAX:
            raise Refusal(ErrorCode.OVERLOADED, "too many questions at once; try again", retry_after_ms=1000)
        replies: list[Reply] = []
        complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take(reply: Reply) -> None:
            replies.append(reply)
            if not complete.done() and (isinstance(reply, Refused) or len(replies) == len(questions)):
                complete.set_result(None)

        self._waiting += 1
        try:
            for slot, factory in questions:
                self._hub.ask(factory, slot, take, self._clock())
            self._wake()
            async with asyncio.timeout(GIVE_UP_AFTER):
                await complete
        except TimeoutError:
            text = "the store did not answer in time; try again"
            raise Refusal(ErrorCode.UNAVAILABLE, text, retry_after_ms=1000) from None
        finally:
            self._waiting -= 1
        refused = replies[-1]
        if isinstance(refused, Refused):
            raise Refusal(ErrorCode[refused.code], refused.message, retry_after_ms=refused.retry_after_ms)
        return replies


def _expect(reply: Reply, kind: type[R]) -> R:
    if not isinstance(reply, kind):
        raise TypeError(f"a store answered with {type(reply).__name__} instead of {kind.__name__}")
    return reply
