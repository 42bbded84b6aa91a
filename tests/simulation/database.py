"""A model of PostgreSQL: the statements of the store over Python dicts, and sessions that fail.

A statement is one atomic step at one moment; its request, its execution and its result are separate
events, and anything may break between them. A session's advisory locks live as long as its backend,
which may outlive the client that left it.
"""

from bisect import insort
from collections.abc import Callable
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import psycopg

from store.database import IDLE_SESSION_MS, STATEMENTS, WRITER_OPTIONS
from tests.simulation.tasks import Task, Wait
from tests.simulation.world import Node, World

_NAMES = {sql: name for name, sql in STATEMENTS.items()}
_decode = msgspec.json.Decoder().decode
_N = (1 << 47) - 1
EPOCH = 7
# A message whose content begins with this is refused by the model as PostgreSQL would refuse U+0000.
POISON = "poison"
_seq = attrgetter("seq")
_id = attrgetter("id")


class Row(NamedTuple):
    """One row of `messages`."""

    id: int
    conversation: str
    seq: int
    ordinal: int
    sender: str
    recipient: str | None
    content: str
    key: str
    extra: dict[str, Any] | None
    at: int

    def event(self) -> tuple[Any, ...]:
        """The columns of the event queries."""
        return (*self[:7], self.key, self.extra, self.at)


class _Backend:
    __slots__ = ("alive", "busy", "idle_limit", "idle_no", "locks")

    def __init__(self, idle_limit: float | None) -> None:
        self.alive = True
        self.busy = False
        self.idle_limit = idle_limit
        self.idle_no = 0
        self.locks: set[int] = set()


class _Cursor:
    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows = rows

    async def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows

    async def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows[0] if self._rows else None


class Session:
    """The client's end of a connection, with the parts of psycopg's interface that the store uses."""

    def __init__(self, database: "Database", node: Node, backend: _Backend) -> None:
        self.broken = False
        self.closed = False
        self.backend = backend
        self.node = node
        self.life = node.life
        self._database = database
        self._notices: list[Callable[[Any], None]] = []
        self._waiting: tuple[Task, int] | None = None
        self._in_transit = False  # the statement is done and its result on the way

    def add_notice_handler(self, handler: Callable[[Any], None]) -> None:
        self._notices.append(handler)

    async def execute(self, sql: str, params: list[Any] | None = None, **_: Any) -> _Cursor:
        if self.broken or self.closed:
            raise psycopg.OperationalError("the connection is closed")
        name = _NAMES.get(sql, "")
        if not name and sql != "select 1":
            raise AssertionError(f"the model knows no statement {sql!r}")
        rows = await Wait(lambda task, no: self._begin(task, no, name, params))
        return _Cursor(rows)

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._database.left(self)

    def _begin(self, task: Task, no: int, name: str, params: list[Any] | None) -> None:
        self._waiting = (task, no)
        self._in_transit = False
        world = self._database.world
        if self._database.alive and self.backend.alive:
            world.push(world.now + world.delay(), self._database, self._database.arrive, self, no, name, params)
        else:
            self.cut(also_result=True)

    def result(self, no: int, rows: list[tuple[Any, ...]] | None, error: Exception | None, warning: bool) -> None:
        """The outcome leaves for the client."""
        if self._waiting is not None and self._waiting[1] == no:
            self._in_transit = True
            world = self._database.world
            world.push(world.now + world.delay(), self.node, self._deliver, no, rows, error, warning)

    def cut(self, *, also_result: bool) -> None:
        """The client's socket breaks. A result on its way arrives all the same unless *also_result*."""
        if self.broken or self.closed or self.life != self.node.life:
            return
        if self._waiting is not None and (also_result or not self._in_transit):
            task, no = self._waiting
            self._waiting = None
            self.broken = True
            error = psycopg.OperationalError("the connection was lost")
            self.node.after(self._database.world.delay(), task.wake, no, None, error)
        elif self._waiting is None:
            self.broken = True

    def _deliver(self, no: int, rows: list[tuple[Any, ...]] | None, error: Exception | None, warning: bool) -> None:
        if self._waiting is None or self._waiting[1] != no:
            return
        task, _ = self._waiting
        self._waiting = None
        if warning:
            for handler in self._notices:
                handler(SimpleNamespace(severity_nonlocalized="WARNING", message_primary="cancelled the wait"))
        task.wake(no, rows, error)


class Database(Node):
    """The server with its data; killing it keeps the data."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "postgres")
        self.slow = 1.0
        self.fail_next: list[str] = []  # "transient", "warning": what the next batches meet
        self.on_cursor: Callable[[str, str, int], None] | None = None  # a cursor reached delivered_seq
        self.rows: dict[str, list[Row]] = {}
        self.logs: dict[int, list[Row]] = {}
        self.keys: dict[tuple[str, str, str], Row] = {}
        self.cursors: dict[tuple[str, str], list[int]] = {}
        self.first_contact: dict[tuple[str, str], int] = {}
        self.terms: dict[int, int] = {}
        self.last_seen: dict[str, int] = {}
        self._locks: dict[int, _Backend] = {}
        self._sessions: list[Session] = []
        self._backends: list[_Backend] = []

    # --- life ---------------------------------------------------------------------------------------

    def died(self) -> None:
        for backend in self._backends:
            self._end(backend)
        self._backends.clear()
        for session in self._sessions:
            session.cut(also_result=self.world.rng.random() < 0.5)
        self._sessions.clear()

    async def connect(self, node: Node, options: str) -> Session:
        """A session for *node*. Raises `psycopg.OperationalError`."""

        def begin(task: Task, no: int) -> None:
            if self.alive:
                self.after(self.world.delay(), lambda: task.node.after(0.0, task.wake, no))
                node.after(5.0, task.wake, no, None, psycopg.OperationalError("connection timeout"))
            else:
                node.after(0.001, task.wake, no, None, psycopg.OperationalError("connection refused"))

        await Wait(begin)
        backend = _Backend(IDLE_SESSION_MS / 1000 if options == WRITER_OPTIONS else None)
        if not self.alive:
            raise psycopg.OperationalError("the connection was lost")
        session = Session(self, node, backend)
        self._sessions.append(session)
        self._backends.append(backend)
        self._rest(backend)
        return session

    def left(self, session: Session) -> None:
        """The client has gone; its backend notices after what it is doing, or a while later."""
        if session in self._sessions:
            self._sessions.remove(session)
        wait = 2.0 * self.world.rng.random() if self.world.rng.random() < 0.2 else 0.01
        self.after(wait, self._notice_left, session.backend)

    def _notice_left(self, backend: _Backend) -> None:
        if backend.busy:
            self.after(0.05, self._notice_left, backend)
        else:
            self._end(backend)

    def disconnect(self, node: Node) -> None:
        """The sockets between *node* and the server break; the server may go on with a statement."""
        for session in [one for one in self._sessions if one.node is node]:
            session.cut(also_result=True)
            self.left(session)

    def terminate(self, node: Node) -> None:
        """The server ends *node*'s sessions; a running statement is undone."""
        for session in [one for one in self._sessions if one.node is node]:
            self._sessions.remove(session)
            self._end(session.backend)
            session.cut(also_result=False)

    def abandon(self, node: Node) -> None:
        """*node* was killed: its backends find out by themselves."""
        for session in [one for one in self._sessions if one.node is node]:
            session.closed = True
            self.left(session)

    def _end(self, backend: _Backend) -> None:
        backend.alive = False
        for slot in backend.locks:
            del self._locks[slot]
        backend.locks.clear()

    def _rest(self, backend: _Backend) -> None:
        backend.busy = False
        backend.idle_no += 1
        if backend.idle_limit is not None:
            self.after(backend.idle_limit, self._idle, backend, backend.idle_no)

    def _idle(self, backend: _Backend, no: int) -> None:
        if backend.alive and not backend.busy and backend.idle_no == no:
            self.world.log(self.name, "ends an idle session")
            self._end(backend)
            for session in [one for one in self._sessions if one.backend is backend]:
                self._sessions.remove(session)
                session.cut(also_result=False)

    # --- statements ---------------------------------------------------------------------------------

    def arrive(self, session: Session, no: int, name: str, params: list[Any] | None) -> None:
        """A statement has reached the server."""
        backend = session.backend
        if not backend.alive:
            session.cut(also_result=True)
            return
        if (session.broken or session.closed) and self.world.rng.random() < 0.5:
            return
        backend.busy = True
        took = min(4.0, self.world.delay() * self.slow * (2.0 if name == "append_messages" else 1.0))
        self.after(took, self._finish, session, no, name, params)

    def _finish(self, session: Session, no: int, name: str, params: list[Any] | None) -> None:
        backend = session.backend
        if not backend.alive:
            return
        rows: list[tuple[Any, ...]] = []
        error: Exception | None = None
        warning = False
        trouble = self.fail_next.pop() if name == "append_messages" and self.fail_next else ""
        if trouble == "transient":
            error = psycopg.errors.DiskFull("could not extend file")
        else:
            try:
                if name:
                    rows = getattr(self, "_" + name)(backend, *(params or ()))
            except psycopg.Error as exc:
                error = exc
            warning = trouble == "warning"
        if self.world.tracing and (error or (rows and name != "lock_slots")):
            self.world.log(self.name, f"{name} for {session.node.name}: {error or rows}")
        self._rest(backend)
        session.result(no, rows, error, warning)

    def _append_messages(self, backend: _Backend, text: str) -> list[tuple[Any, ...]]:
        rows = _decode(text)
        if any(row["content"].startswith(POISON) for row in rows):
            raise psycopg.errors.UntranslatableCharacter("poison")
        known: list[tuple[Any, ...]] = []
        fresh: list[tuple[Any, ...]] = []
        new: list[Row] = []
        slot_rows: dict[int, int] = {}
        conversation_rows: dict[str, int] = {}
        for row in rows:
            conversation = row["conversation"]
            old = self.keys.get((conversation, row["sender"], row["key"]))
            if old is not None:
                same = old.content == row["content"] and old.extra == row["extra"]
                known.append((row["i"], old.id, old.seq, old.ordinal, old.at, False, same))
                continue
            slot_row = slot_rows[row["slot"]] = slot_rows.get(row["slot"], 0) + 1
            conversation_row = conversation_rows[conversation] = conversation_rows.get(conversation, 0) + 1
            seq, ordinal = row["seq"], row["ordinal"]
            last = self.rows.get(conversation)
            if seq is None:
                seq = last[-1].seq if last else 0
                last_ordinal = last[-1].ordinal if last else 0
            else:
                last_ordinal = 0
            one = Row(
                (row["slot"] << 47) + row["n"] + slot_row,
                conversation,
                seq + conversation_row,
                (last_ordinal if ordinal is None else ordinal) + conversation_row,
                row["sender"],
                row["recipient"],
                row["content"],
                row["key"],
                row["extra"],
                row["at"],
            )
            new.append(one)
            fresh.append((row["i"], one.id, one.seq, one.ordinal, one.at, True, True))
        self._insert(new)
        return known + fresh

    def _insert(self, new: list[Row]) -> None:
        keys = {(row.conversation, row.sender, row.key) for row in new}
        if len(keys) < len(new) or len({row.id for row in new}) < len(new):
            raise psycopg.errors.UniqueViolation("twice in a batch")
        for row in new:
            if any(one.seq == row.seq for one in self.rows.get(row.conversation, ())) or any(
                one.id == row.id for one in self.logs.get(row.id >> 47, ())
            ):
                raise psycopg.errors.UniqueViolation("messages_pkey")
        for row in new:
            insort(self.rows.setdefault(row.conversation, []), row, key=_seq)
            insort(self.logs.setdefault(row.id >> 47, []), row, key=_id)
            self.keys[row.conversation, row.sender, row.key] = row
            if row.seq == 1 and row.recipient is not None:
                for party in (row.sender, row.recipient):
                    self._open(party, row.conversation, 0)

    def _open(self, username: str, conversation: str, seq: int) -> None:
        if (username, conversation) not in self.cursors:
            self.cursors[username, conversation] = [seq, seq]
            self.first_contact[username, conversation] = seq

    def _move_cursors(self, backend: _Backend, text: str) -> list[tuple[Any, ...]]:
        moved: list[tuple[Any, ...]] = []
        for row in _decode(text):
            user, conversation = row["username"], row["conversation"]
            last = self.end(conversation)
            delivered, read = min(row["delivered"], last), min(row["read"], last)
            delivered = max(delivered, read)
            if delivered <= 0:
                continue
            cursor = self.cursors.get((user, conversation))
            if cursor is None:
                self.cursors[user, conversation] = cursor = [delivered, read]
                self.first_contact[user, conversation] = delivered
            elif cursor[0] < delivered or cursor[1] < read:
                cursor[0] = max(cursor[0], delivered)
                cursor[1] = max(cursor[1], read)
            else:
                continue
            moved.append((user, conversation, *cursor))
            if self.on_cursor is not None:
                self.on_cursor(user, conversation, cursor[0])
        return moved

    def _save_last_seen(self, backend: _Backend, text: str) -> list[tuple[Any, ...]]:
        for row in _decode(text):
            self.last_seen[row["username"]] = max(self.last_seen.get(row["username"], 0), row["at"])
        return []

    def _lock_slots(self, backend: _Backend, wanted: list[int]) -> list[tuple[Any, ...]]:
        got: list[tuple[Any, ...]] = []
        for slot in wanted:
            if self._locks.setdefault(slot, backend) is backend:
                backend.locks.add(slot)
                got.append((slot,))
        return got

    def _raise_terms(self, backend: _Backend, slots: list[int]) -> list[tuple[Any, ...]]:
        for slot in slots:
            self.terms[slot] = self.terms.get(slot, 0) + 1
        return [(slot, self.terms[slot]) for slot in slots]

    def _last_numbers(self, backend: _Backend, slots: list[int]) -> list[tuple[Any, ...]]:
        return [(slot, self.last_n(slot)) for slot in slots]

    def _read_epoch(self, backend: _Backend) -> list[tuple[Any, ...]]:
        return [(EPOCH,)]

    def _meet_lobby(self, backend: _Backend, text: str) -> list[tuple[Any, ...]]:
        for row in _decode(text):
            seq = max((one.seq for one in self.rows.get("lobby", ()) if one.id <= row["position"]), default=0)
            self._open(row["username"], "lobby", seq)
        return []

    def _list_conversations(self, backend: _Backend, text: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for question in _decode(text):
            mine: list[tuple[Any, ...]] = []
            user, positions = question["username"], question["positions"]
            for (owner, conversation), (delivered, read) in self.cursors.items():
                if owner != user:
                    continue
                rows = [row for row in self.rows.get(conversation, ()) if row.id & _N <= positions[row.id >> 47]]
                last_seq = rows[-1].seq if rows else 0
                ordinal = rows[-1].ordinal if rows else 0
                seen = max((row.ordinal for row in rows if row.seq <= read), default=0)
                other: tuple[Any, ...] = (None, None, None)
                if conversation.startswith("direct:"):
                    _, a, b = conversation.split(":")
                    peer = b if a == user else a
                    theirs = self.cursors.get((peer, conversation)) if peer != user else None
                    if theirs is not None:
                        other = (peer, *theirs)
                mine.append((question["i"], conversation, delivered, read, last_seq, ordinal - seen, *other))
            mine.sort(key=lambda one: (one[4] == 0, one[1]))
            found += mine
        return found

    def _newest_events(self, backend: _Backend, text: str) -> list[tuple[Any, ...]]:
        return self._events(text, newest=True)

    def _oldest_events(self, backend: _Backend, text: str) -> list[tuple[Any, ...]]:
        return self._events(text, newest=False)

    def _events(self, text: str, *, newest: bool) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for part in _decode(text):
            rows = [row for row in self.rows.get(part["conversation"], ()) if part["after"] < row.seq <= part["upto"]]
            rows = rows[-part["count"] :] if newest else rows[: part["count"]]
            found += [(part["i"], *row.event()) for row in rows]
        return found

    def _last_seq(self, backend: _Backend, conversation: str) -> list[tuple[Any, ...]]:
        return [(self.end(conversation),)]

    def _slot_log(self, backend: _Backend, after: int, to: int, limit: int) -> list[tuple[Any, ...]]:
        rows = [row for row in self.logs.get(after >> 47, ()) if after < row.id <= to]
        return [row.event() for row in rows[:limit]]

    # --- what the checks ask ------------------------------------------------------------------------

    def end(self, conversation: str) -> int:
        """The last seq of a conversation."""
        rows = self.rows.get(conversation)
        return rows[-1].seq if rows else 0

    def last_n(self, slot: int) -> int:
        """The last n of a slot."""
        rows = self.logs.get(slot)
        return rows[-1].id & _N if rows else 0
