"""`lifecycle.run` ends the process, so each test runs a small program and looks at how it ended."""

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from hubbub.runtime import lifecycle
from hubbub.runtime.lifecycle import Life, LockTimeout, generation_lock

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")

PROGRAM = """
import asyncio, os, signal, sys, threading, time
from contextlib import AsyncExitStack
from hubbub.runtime import lifecycle, logs
from hubbub.runtime.lifecycle import Life, LifecycleError

def say(*words):
    print(*words, flush=True)

logs.configure("test", format="json")
{body}
lifecycle.run(main, name="test", min_age=0, **{options})
"""


class Program:
    def __init__(self, body, **options):
        text = PROGRAM.format(body=textwrap.dedent(body), options=options)
        self.process = subprocess.Popen(
            [sys.executable, "-c", text],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def wait_for(self, word):
        assert self.process.stdout and self.process.stderr
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise AssertionError(f"ended without {word!r}: {self.process.stderr.read()}")

    def end(self, number=None):
        """Exit code, the rest of its output, its log."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out.split(), err


@pytest.fixture
def program():
    started = []

    def start(body, **options):
        started.append(Program(body, **options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


UNDOS = """
async def work(word):
    try:
        await asyncio.Event().wait()
    finally:
        say(word)

async def main(life):
    life.stack.callback(say, "undo-1")
    life.spawn(work("task-1"), "one")
    life.stack.callback(say, "undo-2")
    life.spawn(work("task-2"), "two")
    await asyncio.sleep(0)
    say("open")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_undoes_everything_in_reverse(program, number):
    running = program(UNDOS)
    running.wait_for("open")
    code, words, log = running.end(number)
    assert (code, words) == (0, ["task-2", "undo-2", "task-1", "undo-1"])
    assert number.name in log


def test_a_second_signal_changes_nothing(program):
    running = program(
        """
        async def slow():
            say("undoing")
            await asyncio.sleep(0.2)
            say("undone")
        async def main(life):
            life.stack.push_async_callback(slow)
            say("open")
        """
    )
    running.wait_for("open")
    running.process.terminate()
    running.wait_for("undoing")
    assert running.end(signal.SIGTERM)[:2] == (0, ["undone"])


def test_a_task_that_fails_ends_the_process_with_its_reason(program):
    code, words, log = program(
        """
        async def fail():
            raise ValueError("the cause")
        async def main(life):
            life.stack.callback(say, "undone")
            life.spawn(fail(), "reader of things")
        """
    ).end()
    assert (code, words) == (1, ["undone"])
    assert "reader of things" in log
    assert "the cause" in log
    assert "Traceback" in log


def test_a_task_that_returns_is_fine(program):
    running = program(
        """
        async def done():
            pass
        async def main(life):
            await life.spawn(done(), "short")
            say("open")
        """
    )
    running.wait_for("open")
    assert running.end(signal.SIGTERM)[0] == 0


def test_a_failed_opening_undoes_what_was_open(program):
    code, words, log = program(
        """
        async def main(life):
            life.stack.callback(say, "undone")
            raise LifecycleError("there is no such thing")
        """
    ).end()
    assert (code, words) == (1, ["undone"])
    assert "there is no such thing" in log
    assert "Traceback" not in log  # the text says it all


def test_a_failed_undo_is_a_failure_and_the_others_are_done(program):
    running = program(
        """
        def bad():
            raise OSError("stuck")
        async def main(life):
            life.stack.callback(say, "undone")
            life.stack.callback(bad)
            say("open")
        """
    )
    running.wait_for("open")
    code, words, log = running.end(signal.SIGTERM)
    assert (code, words) == (1, ["undone"])
    assert "stuck" in log


def test_a_signal_while_opening_ends_it(program):
    running = program(
        """
        async def main(life):
            life.stack.callback(say, "undone")
            say("opening")
            await asyncio.Event().wait()
        """
    )
    running.wait_for("opening")
    assert running.end(signal.SIGTERM)[:2] == (0, ["undone"])


@pytest.mark.parametrize("hang", ["await asyncio.Event().wait()", "time.sleep(60)"])
def test_the_deadline_is_hard(program, hang):
    running = program(
        f"""
        async def hang():
            {hang}
        async def main(life):
            life.stack.push_async_callback(hang)
            say("open")
        """,
        deadline=0.2,
    )
    running.wait_for("open")
    code, _, log = running.end(signal.SIGTERM)
    assert code == 70
    assert "did not stop in time" in log


def test_a_hanging_thread_does_not_hold_the_process(program):
    running = program(
        """
        async def main(life):
            threading.Thread(target=time.sleep, args=(60,)).start()
            say("open")
        """
    )
    running.wait_for("open")
    assert running.end(signal.SIGTERM)[0] == 0


def test_an_early_failure_is_held_back():
    text = PROGRAM.format(body="async def main(life):\n    raise LifecycleError('no')", options={})
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", text.replace("min_age=0", "min_age=1.5")],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=20,
    )
    assert done.returncode == 1
    assert time.monotonic() - started >= 1.5


@linux_only
def test_it_ends_when_its_parent_dies():
    body = 'async def main(life):\n    life.stack.callback(say, "undone")\n    say("open")'
    child = PROGRAM.format(body=body, options={})
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout
    assert parent.stdout.readline() == "open\n"
    parent.kill()
    parent.wait()
    # End of file: the child, which holds the other end, is gone too.
    assert select.select([parent.stdout], [], [], 10)[0]
    assert parent.stdout.read() == "undone\n"
    parent.stdout.close()


@linux_only
def test_it_does_not_start_when_its_supervisor_is_dead_already(monkeypatch):
    # The test runner is the parent, and no supervisord: so it looks like an adopted orphan.
    text = PROGRAM.format(body="async def main(life):\n    say('open')", options={})
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SUPERVISOR_ENABLED": "1"},
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (1, b"")


HOLDER = """
from pathlib import Path
async def main(life):
    await life.lock(Path(sys.argv[1]))
    say("locked")
"""


@pytest.fixture
def holder(tmp_path):
    path = tmp_path / "a.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=HOLDER, options={}), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout
    assert process.stdout.readline() == "locked\n"
    yield path, process
    process.kill()
    process.wait()
    process.stdout.close()


async def test_a_lock_waits_for_the_older_generation(holder):
    path, process = holder
    assert lifecycle.is_locked(path)
    waiting = asyncio.create_task(generation_lock(path, seconds=20))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    process.kill()
    descriptor = await waiting
    assert lifecycle.lock_holder(path) == str(os.getpid())
    os.close(descriptor)
    assert not lifecycle.is_locked(path)


async def test_a_lock_is_not_waited_for_without_end(holder):
    path, process = holder
    with pytest.raises(LockTimeout, match=rf"{re.escape(str(path))} is still held by pid {process.pid} after 0.1 s"):
        await generation_lock(path, seconds=0.1)


async def test_children_do_not_inherit_a_lock(tmp_path):
    path = tmp_path / "a.lock"
    descriptor = await generation_lock(path, seconds=1)
    child = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=False,
    )
    assert child.stdout
    try:
        child.stdout.readline()  # it has been exec'ed
        os.close(descriptor)
        assert not lifecycle.is_locked(path)
    finally:
        child.communicate(b"\n")


async def test_the_loops_lag_is_measured():
    life = Life("test")
    seen: list[float] = []
    life.on_lag(seen.append)
    task = life.spawn(life._measure_lag(), "loop lag")
    await asyncio.sleep(0)
    time.sleep(lifecycle.LAG_EVERY + 0.1)  # a handler that blocks
    async with asyncio.timeout(5):
        while not seen:
            await asyncio.sleep(0.01)
    assert seen[0] == life.lag >= 0.09
    await life.stack.aclose()
    assert task.cancelled()
