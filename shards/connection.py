"""One `Connection` for each socket, between the wire and the hub, once the handshake is done.

Tornado does HTTP up to the handshake's answer. From then on the socket belongs to a `Connection`, and
request, headers and handler are let go: 100,000 idle clients are 100,000 times whatever is kept.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum

from hubbub.protocol import messages
from hubbub.protocol.refusals import CloseCode
from shards import frames
from shards.frames import FrameParser, Opcode, ProtocolError
from shards.http import Context
from shards.hub import Hub
from shards.session import Session
from shards.wire import Wire

try:
    from tornado.speedups import websocket_mask as mask
except ImportError:  # a Tornado built without its C part
    from shards.frames import xor_mask as mask

# Bytes joined for one write: more than a socket's buffer usually takes at once only costs the copy.
WRITE_SIZE = 128 * 1024
# How long a client may take to answer our close frame, in seconds …
CLOSE_WAIT = 2.0
# … and to read what stands before that frame, if the socket does not take it at once.
UNSENT_WAIT = 5.0
_ABNORMAL = 1006  # RFC 6455: no close frame was received


class Ticker:
    """Runs *work* once at the end of each tick of the loop in which `wake` was called."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
        self._loop = loop
        self._work = work
        self._due = False

    def wake(self) -> None:
        """Something came in. Cheap to call again."""
        if not self._due:
            self._due = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._due = False
        self._work()


def flush(hub: Hub) -> None:
    """Write what gathered in the sessions' `out`, each socket once; part of every tick's end."""
    while hub.dirty:  # a socket that turns out to be dead may give others something to hear
        sessions = list(hub.dirty)
        hub.dirty.clear()
        for session in sessions:
            if session.transport is not None:
                session.transport.write()


class State(Enum):
    """How far a connection is.

    ===========  =========================================================  ==================
    state        meaning                                                    next
    ===========  =========================================================  ==================
    OPEN         messages go both ways                                      any
    CLOSING      our close frame is out; input is read only for the peer's  HANGING_UP, GONE
    HANGING_UP   the peer's close frame is here; TCP closes once all is     GONE
                 written
    GONE         the socket is closed                                       --
    ===========  =========================================================  ==================
    """

    OPEN = "open"
    CLOSING = "closing"
    HANGING_UP = "hanging up"
    GONE = "gone"


class Connection:
    """One client's socket after the handshake.

    Nobody but `_push` writes to the socket. What the kernel does not take waits here as whole frames,
    `session.unsent` bytes with the one under way; past a bound the session is closed as a slow consumer.
    The bound is `Limits.outbox_bytes` behind whatever was written while nothing waited: one answer larger
    than that is no sign of a slow reader, and closing for it would only make the client ask for it again.
    """

    __slots__ = (
        "_bound",
        "_closed_by",
        "_code",
        "_context",
        "_cut",
        "_parser",
        "_queue",
        "_session",
        "_state",
        "_timer",
        "_wire",
    )

    def __init__(self, context: Context, wire: Wire, session: Session) -> None:
        self._context = context
        self._wire = wire
        self._session = session
        self._parser: FrameParser | None = FrameParser(context.limits.frame_bytes, mask)
        self._state = State.OPEN
        self._queue: deque[bytes] | None = None  # whole frames; None: nothing waits, and the socket may be written
        self._cut = 0  # bytes of the head of the queue, if it is the rest of a frame that was cut in two
        self._bound = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed_by = "network"
        self._code = _ABNORMAL

    def start(self, early: bytes) -> None:
        """Take over: the handshake's answer is written. *early*: what the client said right behind its request."""
        session = self._session
        session.transport = self
        self._context.log.info(
            "connected", user=session.username, session=session.id, remote=session.remote, syncing=session.syncing
        )
        self._wire.start(self._arrived, self._lost)
        if early:
            self._arrived(early)
        self._context.wake()

    # --- in -----------------------------------------------------------------------------------------

    def _arrived(self, data: bytes) -> None:
        try:
            self._take(data)
        except Exception:
            self._context.log.exception("a message broke its handler", session=self._session.id)
            self._break(ProtocolError(frames.INTERNAL_ERROR, "internal error"), CloseCode.RESTARTING)
        self._context.wake()

    def _take(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            return  # the peer broke the protocol: read on, or TCP would lose our close frame; understand nothing
        hub, session = self._context.hub, self._session
        now = self._context.clock()
        session.heard = now
        ping: bytes | None = None
        for opcode, payload in parser.feed(data):
            if opcode is Opcode.CLOSE:
                self._closed_by_peer(payload)
            elif self._state is not State.OPEN or session.closing is not None:
                continue
            elif opcode is Opcode.PONG:
                hub.pong(session, payload, now)
            elif opcode is Opcode.PING:
                ping = payload  # only the latest needs an answer (section 5.5.3)
            else:
                hub.receive(session, payload, now)
        if self._state is State.OPEN:
            if ping is not None and session.closing is None:
                session.out.append(frames.pong(ping))
                hub.dirty[session] = None
            if parser.error is not None:
                self._break(parser.error, CloseCode.PROTOCOL_VIOLATION)

    def _closed_by_peer(self, payload: bytes) -> None:
        session = self._session
        if self._state is State.OPEN and session.closing is not None:
            self.write()  # the two closes crossed: ours is still in `out`
        if self._state is State.OPEN:
            code = frames.close_code(payload)
            self._closed_by, self._code = "client", code or 1005
            self._farewell([*session.out, frames.close(code)])
        if self._state is State.CLOSING:
            self._state = State.HANGING_UP
        self._hang_up()

    def _break(self, error: ProtocolError, verdict: CloseCode) -> None:
        """End the session for *error*; *verdict* tells clients of ours whether to come back."""
        self._parser = None
        if self._state is not State.OPEN:
            return
        hub = self._context.hub
        hub.outbox.closes[error.code] += 1
        self._closed_by, self._code = "server", error.code
        goodbye = messages.Goodbye(code=int(verdict), reason=error.reason)
        farewell = [frames.text(messages.encode_event(goodbye)), frames.close(error.code, error.reason)]
        self._farewell([*self._session.out, *farewell])

    def _farewell(self, last: list[bytes]) -> None:
        """The session ends here and now; *last*, which ends with a close frame, is still written."""
        self._end_session()
        self._state = State.CLOSING
        self._send(last, sum(map(len, last)))
        self._wait()

    # --- out ----------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write the session's `out`."""
        session = self._session
        out = session.out
        if self._state is not State.OPEN or not out or self._wire.closed:
            out.clear()
            return
        size = len(out[0]) if len(out) == 1 else sum(map(len, out))
        if session.closing is None:
            if self._queue is None:
                self._bound = size + self._context.limits.outbox_bytes
            elif session.unsent + size > self._bound:
                out.clear()
                head = self._queue[0]
                self._queue = deque([head] if self._cut else [])
                session.unsent = self._cut
                self._context.hub.slow(session)  # puts its goodbye and the close frame into `out`
                self._context.hub.dirty.pop(session, None)
        if session.closing is None:
            self._send(out, size)
            out.clear()
            return
        last = _up_to_close(out)
        out.clear()
        self._closed_by, self._code = "server", int(session.closing)
        self._state = State.CLOSING
        self._send(last, sum(map(len, last)))
        self._wait()

    def _send(self, out: list[bytes], size: int) -> None:
        if self._wire.closed:
            return
        if self._queue is not None:
            self._queue += out
            self._session.unsent += size
        elif size > WRITE_SIZE:
            self._queue = deque(out)
            self._session.unsent = size
            self._pump()
        else:
            self._push(out, size)

    def _pump(self) -> None:
        """Write from the queue until it is empty or the socket is full."""
        queue = self._queue
        while queue:
            batch: list[bytes] = []
            size = 0
            while queue and size < WRITE_SIZE:
                batch.append(queue.popleft())
                size += len(batch[-1])
            self._session.unsent -= size
            self._cut = 0
            if not self._push(batch, size):
                return
        self._queue = None
        if self._state is State.CLOSING:
            self._wait()
        elif self._state is State.HANGING_UP:
            self._hang_up()

    def _push(self, batch: list[bytes], size: int) -> bool:
        """The one place that writes to the socket. False: it did not take all, and `_pump` goes on when it can."""
        taken = self._wire.send(batch[0] if len(batch) == 1 else b"".join(batch))
        if taken == size:
            return True
        self._session.unsent += size - taken
        # Whole frames that wait can still be dropped; the one that was cut in two must be finished.
        whole = 0
        while taken >= len(batch[whole]):
            taken -= len(batch[whole])
            whole += 1
        rest = batch[whole:]
        if taken:
            rest[0] = rest[0][taken:]
            self._cut = len(rest[0])
        if self._queue is None:
            self._queue = deque()
        self._queue.extendleft(reversed(rest))
        self._wire.when_writable(self._pump)
        return False

    # --- the end ------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Give the peer a while to take what is written and to answer our close frame."""
        if self._timer is not None:
            self._timer.cancel()
        seconds = UNSENT_WAIT if self._session.unsent else CLOSE_WAIT
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expired)

    def _expired(self) -> None:
        self._timer = None
        self._wire.close(reset=self._session.unsent > 0)

    def _hang_up(self) -> None:
        if self._queue is None:
            self._wire.close()

    def _end_session(self) -> None:
        session = self._session
        if session.transport is self:
            session.transport = None
            self._context.hub.close(session, self._context.clock())

    def _lost(self, error: OSError | None) -> None:
        """The socket is closed, by whomever."""
        if self._state is State.GONE:
            return
        self._state = State.GONE
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._queue = None
        self._end_session()
        session = self._session
        self._context.log.info(
            "left",
            user=session.username,
            session=session.id,
            remote=session.remote,
            code=self._code,
            by=self._closed_by,
            seconds=round(self._context.clock() - session.opened_at, 3),
            **({} if error is None else {"error": str(error)}),
        )
        self._context.wake()


def _up_to_close(out: list[bytes]) -> list[bytes]:
    """*out* without what stands behind a close frame: nothing may follow it."""
    for i, frame in enumerate(out):
        if frames.is_close(frame):
            return out[: i + 1]
    return list(out)
