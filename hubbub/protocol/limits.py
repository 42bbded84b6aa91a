"""Every size, count and time that bounds something, with the reason for the number.

What an operator may want to change is a field of `Limits`; what the protocol itself fixes is a
module constant.
"""

import msgspec

# A key shorter than 16 characters is too easily repeated by accident; 64 holds a UUID, a ULID or a
# SHA-256 in hex.
KEY_MIN = 16
KEY_MAX = 64
# Keys that the server makes for clients that bring none start with this; a client's may not.
SERVER_KEY = "~"
# Conversations a client may name in one sync command. More are sent with `more: true`.
SYNC_HAVE_MAX = 500
# Names a session may gather over several sync commands before it must let one be answered.
SYNC_TOTAL_MAX = 10_000
HISTORY_MAX = 200
WATCH_MAX = 500
MENTIONS_MAX = 50
# Events in one answer to a sync or backlog, over all its conversations: about 1 MB of typical chat.
PAGE_EVENTS = 2_000
# A typing notice is forgotten by the other side after this long.
TYPING_SECONDS = 6.0

# Times a request towards the store is sent again after, and when it is given up (seconds since it was
# first sent). Sums of 1, 2, 4; at ten seconds a person has stopped believing in the answer.
RESEND_AFTER = (1.0, 3.0, 7.0)
GIVE_UP_AFTER = 10.0

# A presence lease: renewed each second, so four renewals may be lost before a shard counts as dead.
LEASE_RENEW = 1.0
LEASE_SECONDS = 5.0
# A user whose last session ended is shown as offline only after this long: reconnects stay invisible.
PRESENCE_GRACE = 5.0
# A user with too many sessions over all shards loses some after this long: a dead shard's lease has run out by then.
CROWD_SECONDS = LEASE_SECONDS + 1.0
# Names listed in one aggregated presence notice; past that it carries counts only.
PRESENCE_NAMES_MAX = 50

WATERMARK_EVERY = 0.25
# A cursor (delivered/read) is written at most once a second.
CURSOR_EVERY = 1.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one shard grants a client."""

    content_bytes: int = 16 * 1024  # UTF-8 bytes of a message's text: four screens; more is a file
    frame_bytes: int = 64 * 1024  # a whole command: content twice escaped, or 500 conversation names
    rate: float = 50.0  # commands a second for a session, sustained: far above typing speed
    burst: int = 200  # and at once: a client that comes back with its unsent messages
    user_rate: float = 100.0  # messages a second of a user, over all sessions and shards: two eager sessions
    user_burst: int = 1_000  # and at once: five sessions that come back with their unsent messages
    in_flight: int = 64  # sends of a session that wait for their acknowledgement
    outbox_bytes: int = 1024 * 1024  # unsent bytes at which a session that does not read is closed
    held_bytes: int = 4 * 1024 * 1024  # live events held while a session's backlog is read
    sessions_per_user: int = 32  # over all shards; more devices than anybody has, few enough to reach all of them
    sessions_per_address: int = 1_000  # over one shard: a campus behind one address, and not all there is room for
    sessions: int = 100_000  # over one shard; fewer where file descriptors end sooner
    http_connections: int = 1_000  # of one shard: handshakes and requests take milliseconds, so few are open at once
    pending: int = 20_000  # unanswered requests of one shard; past that: overloaded
    store_queue: int = 50_000  # sends that wait for a store's next batch; past that: overloaded
    batch: int = 1_000  # sends in one statement: beyond, latency grows and throughput does not
