"""What supervisord's children do with a signal that comes at once, and what it does itself on a full disk."""

import subprocess
import sys
from pathlib import Path

# A process of its own: what is registered for a fork stays for good.
FORKING = """
import os, signal, sys
from hubbub.runtime.supervision import signals_reach_children

if sys.argv[1] == "with":
    signals_reach_children()
    signals_reach_children()  # as after a reload
heard = []
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))  # as supervisord does
ended = 0
for _ in range(20):
    pid = os.fork()
    if not pid:
        os.execvp("sleep", ["sleep", "0.05"])
    os.kill(pid, signal.SIGTERM)
    ended += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
os.kill(os.getpid(), signal.SIGTERM)
print(ended, len(heard))
"""


def ended(how: str) -> tuple[int, int]:
    """How many of 20 children were ended by the signal, and how many signals the parent heard of."""
    done = subprocess.run([sys.executable, "-c", FORKING, how], check=True, capture_output=True, text=True, timeout=60)
    children, parents = done.stdout.split()
    return int(children), int(parents)


def test_a_stop_in_the_moment_of_a_start_is_not_lost():
    assert ended("with") == (20, 1)


def test_it_would_be_without_us():
    assert ended("without")[0] < 20


# /dev/full answers every write like a full disk: first that of each line, then that of the rollover, after which the
# log is opened anew and the disk has space again.
LOGGING = """
import sys
from supervisor import loggers
from hubbub.runtime.supervision import logs_may_be_lost

if sys.argv[1] == "with":
    logs_may_be_lost()
    logs_may_be_lost()  # as after a reload
log = loggers.getLogger()
loggers.handle_file(log, sys.argv[2], "%(message)s\\n", rotating=True, maxbytes=50, backups=1)
for i in range(100):
    if i == 10:
        log.handlers[0].stream = open("/dev/full", "ab")
    log.info("line %d" % i)
print("went on")
"""


def logged(how: str, path: Path) -> "subprocess.CompletedProcess[str]":
    """A program that logs while the disk is full for a while; its standard error is there too."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", LOGGING, how, str(path)]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, timeout=60, check=False)


def test_a_full_disk_takes_the_logs_only(tmp_path):
    assert logged("with", tmp_path / "log").stdout == "went on\n"
    assert "line 99" in (tmp_path / "log").read_text() + (tmp_path / "log.1").read_text()


def test_it_would_take_everything_without_us(tmp_path):
    assert logged("without", tmp_path / "log").stdout == ""
