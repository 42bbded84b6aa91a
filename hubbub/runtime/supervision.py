"""An extension that supervisord loads into itself (see supervisord.conf), so that a restart takes no seconds.

supervisord looks at its children once a second: it notices a death at the next look, and acts on what it noticed at
the look after that. Measured from ``kill -9`` to the lock being taken again, that is 1.3 to 2.6 s; with this it is
the program's own start, about 0.3 s. Starting and stopping everything gain seconds too.

A stop that reaches a program in the moment of its start is not lost, see `signals_reach_children`.

A program that dies before its ``startsecs`` waits. supervisord would let it wait a second longer each time, and so
be late by minutes once the cause is gone; here it is always the same second.
"""

import functools
import os
import signal
import socket
import time
from typing import Any

from supervisor import events
from supervisor.medusa import asyncore_25 as asyncore

# So that a program that cannot even be imported does not eat a core.
BACK_OFF_SECONDS = 1.0


class Waker:
    """Ends supervisord's wait at each signal, SIGCHLD among them, and when a death calls for the next step."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        asyncore.socket_map[self._reader.fileno()] = self
        events.subscribe(events.SupervisorRunningEvent, self._wake)
        events.subscribe(events.ProcessStateExitedEvent, self._wake)
        events.subscribe(events.ProcessStateStoppedEvent, self._wake)
        events.subscribe(events.ProcessStateBackoffEvent, _back_off)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        # One byte a look: supervisord handles one signal a look.
        self._reader.recv(1)

    def handle_error(self) -> None:
        """Nothing was there to read; the loop goes on as it did without us."""

    def close(self) -> None:
        asyncore.socket_map.pop(self._reader.fileno(), None)
        self._reader.close()
        self._writer.close()

    def _wake(self, event: object = None) -> None:
        try:
            self._writer.send(b"\0")
        except BlockingIOError:
            pass  # it is awake


def _back_off(event: Any) -> None:
    event.process.backoff = 0  # supervisord counts it up, to wait longer and to give up in the end
    event.process.delay = time.time() + BACK_OFF_SECONDS


def make_waker(supervisord: object, **settings: str) -> object:
    """What ``supervisor.rpcinterface_factory`` names. Called again when supervisord reloads itself."""
    for old in [entry for entry in asyncore.socket_map.values() if isinstance(entry, Waker)]:
        old.close()
    Waker()
    signals_reach_children()
    return _NoMethods()


@functools.cache
def signals_reach_children() -> None:
    """Let a signal that reaches a child between fork and exec end it.

    Until then a child has supervisord's own handlers, which note the signal and go on: the program starts, knows
    nothing of it, and is killed once its ``stopwaitsecs`` are over. On a busy machine 2 of 8 stops right after a
    restart took those 30 s.
    """
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR2)

    def hold() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, handled)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)

    def end() -> None:
        signal.set_wakeup_fd(-1)  # supervisord has closed our end of it by then
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=end)


class _NoMethods:
    """The interface that is offered over the control socket: none."""
