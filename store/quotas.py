"""What a user, a name or an address may do in a time, over all shards. Pure.

Every shard's requests about a user pass the owner of the user's slot, and usually one store owns all slots; with
the slots shared out among several stores, sends and addresses are counted in each of them.
"""

from hubbub.buckets import Buckets
from hubbub.protocol.internal import FindAccount, KeepRefresh, Refused, Request, Search, Send
from hubbub.protocol.limits import Limits
from hubbub.protocol.refusals import ErrorCode

# Failed sign-ins: ten at once, then one in six seconds for a name and two a second for an address, behind which
# a whole office may sit.
_BY_NAME = (1 / 6, 10.0)
_BY_ADDRESS = (2.0, 100.0)
_REGISTRATIONS = (1 / 10, 20.0)  # for an address
# A search is a tenth of a second's work, and syncs wait behind it: for so many messages a user has one.
_MESSAGES_FOR_A_SEARCH = 50


class Quotas:
    """Counts requests; `refusal` says which one is too many."""

    def __init__(self, limits: Limits) -> None:
        # Who lifts the limit of a session does not want the user's in its place.
        self._user_rate = limits.user_rate if limits.rate else 0.0
        self._sends = Buckets(self._user_rate, limits.user_burst)
        self._searches = Buckets(self._user_rate / _MESSAGES_FOR_A_SEARCH, limits.user_burst / _MESSAGES_FOR_A_SEARCH)
        self._by_name = Buckets(*_BY_NAME)
        self._by_address = Buckets(*_BY_ADDRESS)
        self._registrations = Buckets(*_REGISTRATIONS)

    def refusal(self, request: Request, now: float) -> Refused | None:
        """Count *request*; why it is not carried out, or None."""
        match request:
            case Send():
                # Sent again by its shard: an earlier copy was counted, and may be stored.
                wait = 0.0 if request.resent else self._sends.take(request.sender, now)
                text = f"more than {self._user_rate:g} messages a second of this user"
            case Search():
                wait = self._searches.take(request.username, now)
                text = "too many searches; wait before the next"
            case FindAccount():
                wait, text = self._attempt(request, now)
            case KeepRefresh():
                self._by_name.forgive(request.username)  # a session begins: the password was right
                return None
            case _:
                return None
        if not wait:
            return None
        return Refused(request.no, ErrorCode.RATE_LIMITED.name, text, "no", int(wait * 1000) + 1)

    def _attempt(self, request: FindAccount, now: float) -> tuple[float, str]:
        if request.resent:
            return 0.0, ""
        if request.purpose == "register":
            wait = self._registrations.take(request.address, now)
            return wait, "too many registrations from your address"
        # By the name as it was given: neither the answer nor its time tells whether there is such an account. Counted
        # before the password is looked at: attempts that run side by side count too.
        wait = max(self._by_name.wait(request.username, now), self._by_address.wait(request.address, now))
        if not wait:
            self._by_name.take(request.username, now)
            self._by_address.take(request.address, now)
        return wait, "too many failed attempts; wait before the next"
