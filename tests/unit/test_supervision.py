"""What supervisord's children do with a signal that comes at once."""

import subprocess
import sys

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
