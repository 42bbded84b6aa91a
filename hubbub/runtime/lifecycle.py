"""How a process lives and ends: `run` is the last line of every ``__main__``.

    def main() -> None:
        settings = from_environ(os.environ).broker()
        lifecycle.run(partial(app.open, settings), name=settings.name)

    async def open(settings: BrokerSettings, life: Life) -> None:
        await life.lock(settings.run_dir / "broker.lock")
        socket = life.stack.enter_context(bind(settings))
        life.spawn(serve(socket), "serve")

The function given to `run` opens everything and returns; the process then lives until SIGTERM or SIGINT, or until
a spawned task fails. What was put on ``life.stack`` is undone in reverse, within a deadline.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn

import structlog
import uvloop

log = structlog.get_logger()

# Whoever restarts us does so at once and without end. A program that cannot start keeps its exit back to this age, so
# that its restarts do not eat a core.
MIN_AGE = 1.0
# How long a new generation waits for the old one to let go: more than supervisord gives any program to stop.
LOCK_SECONDS = 45.0
LAG_EVERY = 0.1

_PR_SET_PDEATHSIG = 1


class LifecycleError(Exception):
    """A start that cannot go on; its text is the reason, fit for the log. No traceback is shown for it."""


class LockTimeout(LifecycleError):
    """Another process still holds the lock at `path`."""

    def __init__(self, path: Path, seconds: float, holder: str) -> None:
        super().__init__(f"{path} is still held{f' by pid {holder}' if holder else ''} after {seconds:g} s")
        self.path = path
        self.holder = holder


class Life:
    """One process's life, given to what opens it.

    `stop` is set once the process shall end. `stack` holds the undos. `lag` is the event loop's lag in seconds: by
    how much the last look at the clock came late.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.stop = asyncio.Event()
        self.stack = AsyncExitStack()
        self.lag = 0.0
        self.exit_code = 0
        self._lag_hooks: list[Callable[[float], None]] = []

    def spawn(self, coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run *coro* in the background, for as long as the process lives. If it fails, the process logs why and
        ends with exit code 1; if it returns, fine. Its cancellation goes on the stack, so what was opened before
        it is still there for it, and what is undone before it may still need it (a drain, its bus)."""
        task = asyncio.create_task(coro, name=name)
        task.add_done_callback(self._ended)
        self.stack.push_async_callback(_cancel, task)
        return task

    def fail(self, reason: str, exc: BaseException | None = None) -> None:
        """End the process with exit code 1 because of *reason*."""
        log.error("process failed", reason=reason, exc_info=exc)
        self.exit_code = 1
        self.stop.set()

    async def lock(self, path: Path, *, seconds: float = LOCK_SECONDS) -> None:
        """Hold the `generation_lock` at *path* until the process is gone. Raises `LockTimeout`."""
        # Not on the stack: an older generation has let go only when it has really ended.
        await generation_lock(path, seconds=seconds)

    def on_lag(self, hook: Callable[[float], None]) -> None:
        """Call *hook* with the loop's lag in seconds, ten times a second."""
        self._lag_hooks.append(hook)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.fail(f"the task {task.get_name()!r} failed: {exc!r}", None if isinstance(exc, LifecycleError) else exc)

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY
            await asyncio.sleep(LAG_EVERY)
            self.lag = max(0.0, loop.time() - due)
            for hook in self._lag_hooks:
                hook(self.lag)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])  # unlike `await task`, this tells its cancellation from ours


def run(
    main: Callable[[Life], Awaitable[None]],
    *,
    name: str,
    deadline: float = 10.0,
    min_age: float = MIN_AGE,
    parent_signal: signal.Signals | None = signal.SIGTERM,
) -> NoReturn:
    """Run *main* on uvloop until the process shall end, then exit.

    The exit code is 0 after SIGTERM or SIGINT, 1 after a failure, 70 if the undoing took longer than *deadline*
    seconds. *parent_signal* is sent to this process when its parent dies (Linux); ``None`` leaves that out.
    """
    born = time.monotonic()
    if parent_signal is not None and not die_with_parent(parent_signal):
        sys.exit(1)
    _allow_descriptors()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_live(main, name, deadline))
    except BaseException as exc:
        log.critical("process crashed", reason=repr(exc), exc_info=exc)
        code = 1
    if code:
        time.sleep(max(0.0, min_age - (time.monotonic() - born)))
    sys.stdout.flush()
    os._exit(code)  # threads that still hang on a socket or a file must not hold the process


async def _live(main: Callable[[Life], Awaitable[None]], name: str, deadline: float) -> int:
    life = Life(name)
    loop = asyncio.get_running_loop()
    stopped_by: list[str] = []

    def on_signal(number: signal.Signals) -> None:
        if not stopped_by:
            stopped_by.append(number.name)
            log.info("stopping", signal=number.name)
        life.stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    life.spawn(life._measure_lag(), "loop lag")
    opening = asyncio.ensure_future(main(life))
    stopping = asyncio.create_task(life.stop.wait())
    log.info("starting", pid=os.getpid())
    await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
    if opening.done() and not opening.cancelled() and (exc := opening.exception()) is not None:
        life.fail(str(exc) or repr(exc), None if isinstance(exc, LifecycleError) else exc)
    _quiet_collector()
    await life.stop.wait()
    _hard_stop(deadline)  # and it stays armed: closing the loop waits for threads, which may hang as well
    opening.cancel()
    with contextlib.suppress(BaseException):
        await opening
    try:
        await life.stack.aclose()
    except Exception as exc:
        life.fail(f"closing failed: {exc!r}", exc)
    log.info("stopped", code=life.exit_code)
    return life.exit_code


def _quiet_collector() -> None:
    """What exists now stays; of what comes, hardly anything is cyclic. By default the collector takes 6 % of a busy
    store, looking at the same long-lived objects again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def refuse_to_start(reason: str) -> NoReturn:
    """Say on standard error why, before there are logs, and exit with code 1 (see `MIN_AGE`)."""
    print(reason, file=sys.stderr, flush=True)
    time.sleep(MIN_AGE)
    sys.exit(1)


def _hard_stop(deadline: float) -> None:
    """End the process in *deadline* seconds whatever the event loop is doing."""

    def end() -> None:
        log.critical("did not stop in time", seconds=deadline)
        os._exit(70)

    timer = threading.Timer(deadline, end)
    timer.daemon = True
    timer.start()


def _allow_descriptors() -> None:
    """As many open files as the hard limit has: the usual soft limit of 1,024 is for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS promises more than it gives
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> bool:
    """Have the kernel send *number* to this process when its parent dies. False: the parent is dead already.

    Only Linux can; elsewhere this does nothing and says True. The signal comes when the *thread* that started this
    process ends, so a parent starts its children from its main thread.
    """
    if not sys.platform.startswith("linux"):
        return True
    parent = os.getppid()
    set_parent_death_signal(number)
    if os.getppid() != parent:
        return False
    # The parent may have died before we could ask for its pid. Who adopted us then is no supervisord.
    if "SUPERVISOR_ENABLED" in os.environ:
        with contextlib.suppress(OSError):
            return b"supervisor" in Path(f"/proc/{parent}/cmdline").read_bytes()
    return True


def set_parent_death_signal(number: signal.Signals) -> None:
    """``prctl(PR_SET_PDEATHSIG)``; Linux only. A change of user clears it, so it comes after that. Raises OSError."""
    if _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        number_of_error = ctypes.get_errno()
        raise OSError(number_of_error, os.strerror(number_of_error), "prctl(PR_SET_PDEATHSIG)")


# Loaded here and not in the function: that one also runs between fork and exec, where dlopen could deadlock.
_libc = ctypes.CDLL(None, use_errno=True)


async def generation_lock(path: Path, *, seconds: float = LOCK_SECONDS) -> int:
    """Wait until no other process holds the lock at *path*, then hold it as long as this process lives.

    It is an flock, so it goes with its process however that ends, and is not inherited by children that are
    exec'ed. Returns the descriptor. Raises `LockTimeout`, with the holder's pid, after *seconds*.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up = time.monotonic() + seconds
    waited = False
    while not try_lock(descriptor):
        if time.monotonic() >= give_up:
            holder = lock_holder(path)
            os.close(descriptor)
            raise LockTimeout(path, seconds, holder)
        if not waited:
            waited = True
            log.info("waiting for an older generation", lock=str(path), pid=lock_holder(path))
        await asyncio.sleep(0.02)
    return descriptor


def try_lock(descriptor: int) -> bool:
    """Take the lock on an open file and write our pid into it, or say that another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return True


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock at *path*."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def lock_holder(path: Path) -> str:
    """The pid that the last holder of the lock wrote, or an empty text. For messages only."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
