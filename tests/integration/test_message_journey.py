"""One message on its way through all processes, and what can be seen of it at each step.

Read this first. Alice is connected to one shard, Bob to another:

    alice -> shard -> broker -> store -> PostgreSQL
                                  |
    alice <- shard <- broker <----+----> broker -> shard -> bob
"""

from typing import Any

from tests.integration.client import Connection, new_key, open_on, shard_of
from tests.integration.system import System


async def test_the_journey_of_a_message(system: System) -> None:
    alice = await Connection.open(system.ws, "journey-alice", syncing=True)
    alices_welcome = await alice.take("welcome")
    bob = await open_on(system.ws, "journey-bob", lambda shard: shard != shard_of(alices_welcome), syncing=True)
    bobs_welcome = await bob.take("welcome")

    # 1. Both say what they hold (nothing yet), and are sent what there is: of the lobby, if anything. From here on they
    #    are told what happens.
    for one in (alice, bob):
        await one.ask("synced", type="sync", have={})
        assert {message["conversation"] for message in one.unread("message")} <= {"lobby"}
    # Bob's program will say by itself what has arrived. (For one that does not, the server pings.)
    await bob.send(type="received", conversation="lobby", seq=0)

    # 2. The shards' logs say who is there, and from where.
    connected = log_lines(system, "connected", alices_welcome, bobs_welcome)
    assert [line["user"] for line in connected] == ["journey-alice", "journey-bob"]
    assert {line["remote"] for line in connected} == {"127.0.0.1"}
    assert {line["process"] for line in connected} == {"shard-0", "shard-1"}

    # 3. Alice's program gives the message a key of its own, so that it may send it again without fear.
    key = new_key()
    await alice.send(type="send", id=key, recipient="journey-bob", content="Is this thing on?")

    # 4. The acknowledgement says where the message stands: first in their conversation.
    ack = await alice.take("ack", id=key)
    assert ack["conversation"] == "direct:journey-alice:journey-bob"
    assert ack["seq"] == 1
    assert "duplicate" not in ack

    # 5. It is only sent after the commit, so the row is there.
    (row,) = system.rows("select * from messages where id = %s", ack["message_id"])
    assert row["conversation"] == ack["conversation"]
    assert row["seq"] == row["ordinal"] == 1
    assert (row["sender"], row["recipient"]) == ("journey-alice", "journey-bob")
    assert row["content"] == "Is this thing on?"
    assert row["client_key"] == key
    assert row["timestamp"].isoformat(timespec="milliseconds").replace("+00:00", "Z") == ack["timestamp"]

    # 6. The store has published it, the broker has passed it to the shards that listen for Alice or Bob, and Bob's
    #    has written it to his socket. Alice, who was told by the acknowledgement, does not get it again.
    message = await bob.take("message")
    assert message == {
        "type": "message",
        "id": ack["message_id"],
        "conversation": "direct:journey-alice:journey-bob",
        "seq": 1,
        "ordinal": 1,
        "sender": "journey-alice",
        "recipient": "journey-bob",
        "content": "Is this thing on?",
        "timestamp": ack["timestamp"],
        "client_id": key,
    }
    await alice.settled()
    assert alice.unread("message") == []

    # 7. Nobody has said yet that it arrived. That is what would be served to a Bob who comes back without a memory.
    assert delivery(system, ack) == ("undelivered", False)

    # 8. Bob's program says so. It is written within about a second, and then Alice sees a second tick.
    await bob.send(type="received", conversation=message["conversation"], seq=message["seq"])
    receipt = await alice.take("receipt", username="journey-bob", delivered_seq=1)
    assert receipt["conversation"] == ack["conversation"]
    assert receipt["read_seq"] == 0
    assert delivery(system, ack) == ("delivered", False)

    # 9. Bob himself looks at it.
    await bob.send(type="read", conversation=message["conversation"], seq=message["seq"])
    await alice.take("receipt", username="journey-bob", delivered_seq=1, read_seq=1)
    assert delivery(system, ack) == ("delivered", True)

    # 10. Whoever asks later, by HTTP for example, gets the same words.
    page = system.get("/api/messages?with=journey-bob&username=journey-alice").json
    assert page["messages"] == [message]
    assert (page["from"], page["to"], page["more"]) == (0, 1, False)

    # 11. Alice did not trust the acknowledgement and says it again: it is known, and not stored twice.
    await alice.send(type="send", id=key, recipient="journey-bob", content="Is this thing on?")
    again = await alice.take("ack", id=key)
    assert again == {**ack, "duplicate": True}
    assert system.rows("select count(*) from messages where client_key = %s", key) == [{"count": 1}]

    # 12. They go, and the logs say so.
    await alice.close()
    await bob.close()
    left = log_lines(system, "left", alices_welcome, bobs_welcome)
    assert [line["user"] for line in left] == ["journey-alice", "journey-bob"]
    assert {(line["code"], line["by"]) for line in left} == {(1000, "client")}


def log_lines(system: System, event: str, *welcomes: dict[str, Any]) -> list[dict[str, Any]]:
    """What the shards' logs say of *event* in the sessions that had these welcomes."""

    def find(welcome: dict[str, Any]) -> list[dict[str, Any]]:
        lines = system.log(shard_of(welcome))
        return [line for line in lines if line["event"] == event and line["session"] == welcome["session"]]

    system.until(lambda: all(map(find, welcomes)), 10, f"{event!r} in the logs")
    return [line for welcome in welcomes for line in find(welcome)]


def delivery(system: System, ack: dict[str, Any]) -> tuple[str, bool]:
    """What the view for operators says of a message."""
    (row,) = system.rows("select delivery, read from direct_messages where id = %s", ack["message_id"])
    return row["delivery"], row["read"]
