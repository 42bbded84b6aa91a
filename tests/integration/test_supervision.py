"""supervisord with our extension: a dead program is back at once, one that cannot start does not spin."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONFIGURATION = """
[supervisord]
nodaemon=true
logfile={directory}/supervisord.log
pidfile={directory}/supervisord.pid

[unix_http_server]
file={directory}/s.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[rpcinterface:hubbub]
supervisor.rpcinterface_factory=hubbub.runtime.supervision:make_waker

[supervisorctl]
serverurl=unix://{directory}/s.sock

[program:lasting]
command=sh -c "echo $$ >> {directory}/lasting; exec sleep 60"
startsecs=1
autorestart=true
stdout_logfile=NONE
stderr_logfile=NONE

[program:failing]
command=sh -c "echo $$ >> {directory}/failing; exit 1"
startsecs=1
autorestart=true
stdout_logfile=NONE
stderr_logfile=NONE
"""


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "supervisord.conf").write_text(CONFIGURATION.format(directory=tmp_path))
    supervisord = run("supervisord", tmp_path)
    yield tmp_path
    supervisord.terminate()
    assert supervisord.wait(10) == 0


def run(program: str, directory: Path, *args: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", f"supervisor.{program}", "-c", directory / "supervisord.conf", *args],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE if program == "supervisorctl" else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def starts(directory: Path, name: str) -> list[int]:
    try:
        return [int(line) for line in (directory / name).read_text().splitlines()]
    except FileNotFoundError:
        return []


def wait_for_start(directory: Path, number: int) -> int:
    give_up = time.monotonic() + 20
    while len(starts(directory, "lasting")) < number:
        assert time.monotonic() < give_up, (directory / "supervisord.log").read_text()
        time.sleep(0.005)
    return starts(directory, "lasting")[number - 1]


def test_a_killed_program_is_back_at_once(directory):
    took = []
    for number in range(1, 5):
        pid = wait_for_start(directory, number)
        give_up = time.monotonic() + 1.1  # older than its startsecs, which is the condition here
        while time.monotonic() < give_up:
            time.sleep(0.01)
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        wait_for_start(directory, number + 1)
        took.append(time.monotonic() - killed)
    # By itself supervisord takes one look, a second, at the least.
    assert min(took) < 0.5, took


def test_a_program_that_cannot_start_does_not_spin(directory):
    wait_for_start(directory, 1)
    give_up = time.monotonic() + 20
    while len(starts(directory, "failing")) < 2:  # but it is tried again
        assert time.monotonic() < give_up
        time.sleep(0.01)
    began, before = time.monotonic(), len(starts(directory, "failing"))
    while time.monotonic() < began + 2:
        time.sleep(0.01)
    assert len(starts(directory, "failing")) - before <= 4
    # Nor does supervisord itself, whose wait we end.
    pid = int((directory / "supervisord.pid").read_text())
    assert cpu_seconds(pid) < 1.5


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_supervisorctl_still_works(directory):
    wait_for_start(directory, 1)
    control = run("supervisorctl", directory, "status")
    out, _ = control.communicate(timeout=20)
    assert "lasting" in out
    assert "failing" in out
    control = run("supervisorctl", directory, "restart", "lasting")
    assert "lasting: started" in control.communicate(timeout=20)[0]
    wait_for_start(directory, 2)
