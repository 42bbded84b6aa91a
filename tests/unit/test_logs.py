import io
import json
import logging
import os

import pytest
import structlog

from hubbub.runtime import logs

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


@pytest.fixture
def out():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    yield stream
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def lines(out):
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_json_and_names_its_process(out):
    logs.configure("shard-1", format="json", stream=out)
    structlog.get_logger().info("session opened", username="ann")
    (line,) = lines(out)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "session opened", "username": "ann", "level": "info", "process": "shard-1"}


def test_auto_is_json_where_there_is_no_terminal(out):
    logs.configure("broker", stream=out)
    structlog.get_logger().info("x")
    assert lines(out)


def test_pretty(out):
    logs.configure("broker", format="pretty", stream=out)
    try:
        raise ValueError("the cause")
    except ValueError:
        structlog.get_logger().exception("it failed", token="abc")
    assert "it failed" in out.getvalue()
    assert "the cause" in out.getvalue()
    assert "abc" not in out.getvalue()


def test_the_level_is_respected(out):
    logs.configure("broker", format="json", level="warning", stream=out)
    structlog.get_logger().info("quiet")
    logging.getLogger("tornado.general").info("quiet")
    structlog.get_logger().warning("heard")
    assert [line["event"] for line in lines(out)] == ["heard"]


def test_the_standard_library_logs_through_it(out):
    logs.configure("store", format="json", stream=out)
    logging.getLogger("psycopg.pool").warning("error connecting to %s", "postgresql://u:hunter2@h/d")
    (line,) = lines(out)
    assert line["event"] == "error connecting to postgresql://u:***@h/d"
    assert (line["logger"], line["process"], line["level"]) == ("psycopg.pool", "store", "warning")


@pytest.mark.parametrize(
    ("fields", "secret"),
    [
        ({"token": JWT}, JWT),
        ({"access_token": "s3cr3t"}, "s3cr3t"),
        ({"password": "s3cr3t"}, "s3cr3t"),
        ({"headers": {"Authorization": "Basic s3cr3t"}}, "s3cr3t"),
        ({"headers": [("x", f"Bearer {JWT}")]}, JWT),
        ({"subprotocols": ["hubbub.v1", f"bearer.{JWT}"]}, JWT),
        ({"url": f"/ws?username=ann&token={JWT}&x=1"}, JWT),
        ({"url": "/ws?token=s3cr3t"}, "s3cr3t"),
        ({"database": "postgresql://hubbub:s3cr3t@db.example/hubbub"}, "s3cr3t"),
        ({"raw": f"GET /ws {JWT}".encode()}, JWT),
        ({"error": ValueError(f"bad token {JWT}")}, JWT),
        ({"deep": {"list": [{"secret": ["s3cr3t"]}]}}, "s3cr3t"),
    ],
)
def test_secrets_are_hidden(out, fields, secret):
    logs.configure("shard-0", format="json", stream=out)
    structlog.get_logger().info("x", **fields)
    assert secret not in out.getvalue()
    assert logs.HIDDEN in out.getvalue()


def test_secrets_in_a_traceback_are_hidden(out):
    logs.configure("shard-0", format="json", stream=out)
    try:
        raise ValueError(f"cannot connect to postgresql://u:s3cr3t@h/d with {JWT}")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "s3cr3t" not in out.getvalue()
    assert JWT not in out.getvalue()
    assert "cannot connect" in out.getvalue()


def test_what_is_no_secret_stays(out):
    logs.configure("shard-0", format="json", stream=out)
    structlog.get_logger().info(
        "x", username="ann", count=3, share=0.5, path="/api/messages?with=bob", token_given=True
    )
    (line,) = lines(out)
    assert (line["username"], line["count"], line["share"]) == ("ann", 3, 0.5)
    assert line["path"] == "/api/messages?with=bob"
    assert line["token_given"] is True


def test_a_full_pipe_loses_lines_and_blocks_nobody(out):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        logs.configure("shard-0", format="json", stream=stream)
        log = structlog.get_logger()
        for number in range(3000):
            log.info("x" * 100, number=number)  # more than a pipe holds, and nobody reads
        held = os.read(reader, 1 << 20)
        log.info("after")
        first, *_ = held.decode().splitlines()
        assert json.loads(first)["number"] == 0
        after = os.read(reader, 1 << 20).decode().splitlines()
        assert json.loads(after[-1])["event"] == "after"
        os.close(reader)
        log.info("nobody holds the other end")
