"""A chat with python-socketio: ASGI workers behind one port, joined by Redis; a room for each user.

``REDIS`` is Redis's URL; with ``DATABASE`` (the directory of PostgreSQL's socket) every message is inserted before
it is acknowledged.
"""

import asyncio
import os
from typing import Any
from urllib.parse import parse_qs

import psycopg
import socketio

POOL = 8  # connections of each of the two workers
INSERT = "INSERT INTO messages (sender, recipient, content) VALUES (%s, %s, %s) RETURNING id"

server = socketio.AsyncServer(
    async_mode="asgi",
    transports=["websocket"],
    client_manager=socketio.AsyncRedisManager(os.environ["REDIS"]),
    # Without a database the handlers hardly wait, and need no task for each message.
    async_handlers=bool(os.environ.get("DATABASE")),
)
# The semaphore serves in order; a queue of connections would let newcomers overtake those who wait for one.
turns = asyncio.Semaphore(POOL)
idle: list[psycopg.AsyncConnection[Any]] = []
names: dict[str, str] = {}


async def startup() -> None:
    """Connect to the database."""
    for _ in range(POOL if os.environ.get("DATABASE") else 0):
        idle.append(
            await psycopg.AsyncConnection.connect(
                host=os.environ["DATABASE"], user="hubbub", dbname="hubbub", autocommit=True
            )
        )
    print("ready", flush=True)


async def connect(sid: str, environ: dict[str, Any], auth: object) -> None:
    """Make the user known."""
    names[sid] = parse_qs(environ["QUERY_STRING"])["username"][0]
    await server.enter_room(sid, names[sid])


async def disconnect(sid: str, reason: object = None) -> None:
    """Forget the user."""
    names.pop(sid, None)


async def send(sid: str, message: dict[str, str]) -> None:
    """Store the message and send it to its recipients; returning acknowledges it."""
    sender, recipient = names[sid], message.get("recipient")
    if os.environ.get("DATABASE"):
        async with turns:
            connection = idle.pop()
            await connection.execute(INSERT, (sender, recipient, message["content"]), prepare=True)
            idle.append(connection)
    event = {"sender": sender, **message}
    if recipient is None:
        await server.emit("message", event, skip_sid=sid)
    else:
        await server.emit("message", event, room=recipient)


for handler in (connect, disconnect, send):
    server.on(handler.__name__, handler)
app = socketio.ASGIApp(server, on_startup=startup)
