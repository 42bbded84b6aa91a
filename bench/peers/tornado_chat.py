"""A chat with Tornado as its documentation shows it: one process, a handler for each client, users in a dictionary.

With ``DATABASE`` (the directory of PostgreSQL's socket) every message is inserted before it is acknowledged.
"""

import asyncio
import json
import os
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import uvloop
from tornado.web import Application
from tornado.websocket import WebSocketHandler

POOL = 16  # connections
INSERT = "INSERT INTO messages (sender, recipient, content) VALUES (%s, %s, %s) RETURNING id"

encode = json.JSONEncoder(separators=(",", ":")).encode
users: dict[str, "Chat"] = {}
# The semaphore serves in order; a queue of connections would let newcomers overtake those who wait for one.
turns = asyncio.Semaphore(POOL)
idle: list[psycopg.AsyncConnection[Any]] = []


class Chat(WebSocketHandler):
    """One client."""

    def open(self) -> None:
        """Make the user known."""
        self.set_nodelay(True)
        self.name = self.get_argument("username")
        users[self.name] = self

    def on_close(self) -> None:
        """Forget the user."""
        users.pop(self.name, None)

    async def on_message(self, message: str | bytes) -> None:
        """Store the message, send it to its recipients, acknowledge it."""
        command = json.loads(message)
        recipient = command.get("recipient")
        if stored:
            async with turns:
                connection = idle.pop()
                await connection.execute(INSERT, (self.name, recipient, command["content"]), prepare=True)
                idle.append(connection)
        event = encode({"type": "message", "sender": self.name, "content": command["content"]})
        if recipient is None:
            for user in users.values():
                if user is not self:
                    user.write_message(event)
        elif recipient in users:
            users[recipient].write_message(event)
        self.write_message(encode({"type": "ack", "id": command["id"]}))


async def main() -> None:
    """Serve until the process ends."""
    async with AsyncExitStack() as stack:
        for _ in range(POOL if stored else 0):
            connection = await psycopg.AsyncConnection.connect(
                host=os.environ["DATABASE"], user="hubbub", dbname="hubbub", autocommit=True
            )
            idle.append(await stack.enter_async_context(connection))
        Application([("/ws", Chat)]).listen(int(os.environ["PORT"]), "127.0.0.1", backlog=4096)
        print("ready", flush=True)
        await asyncio.Event().wait()


stored = bool(os.environ.get("DATABASE"))
if __name__ == "__main__":
    uvloop.run(main())
