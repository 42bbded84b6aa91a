"""Logs: one line an event, JSON for machines or pretty for people, on standard error, never with a secret in it."""

import contextlib
import logging
import os
import re
import stat
import sys
from collections.abc import MutableMapping
from typing import IO, Any, Literal

import structlog

HIDDEN = "***"
_SECRET_KEYS = re.compile(r"token|secret|password|passwd|authorization|cookie|credential|api_?key", re.IGNORECASE)
# What may stand inside a text: the password of a URL, a token in a query, a bearer header, a JWT.
_SECRET_TEXT = re.compile(
    r"(?P<url>://[^/\s:@]*:)[^/\s@]+(?=@)"
    r"|(?P<query>(?:token|password|secret)=)[^&\s\"']+"
    r"|(?P<bearer>bearer[ .])[\w.~+/=-]+"
    r"|eyJ[\w-]+\.[\w-]+\.[\w-]*",
    re.IGNORECASE,
)


def configure(
    process: str,
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["auto", "json", "pretty"] = "auto",
    stream: IO[str] | None = None,
) -> None:
    """Set up structlog, and the standard library's logging through it, for the process named *process*.

    Afterwards ``structlog.get_logger()`` gives a logger whose every line says ``process``.
    """
    stream = stream if stream is not None else sys.stderr
    pretty = format == "pretty" or (format == "auto" and stream.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not pretty),
        _Named(process),
    ]
    last: list[structlog.typing.Processor] = [
        # Before the secrets are hidden: a traceback may hold one.
        structlog.processors.format_exc_info,
        hide_secrets,
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if pretty
        else structlog.processors.JSONRenderer(),
    ]
    number = logging.getLevelNamesMapping()[level.upper()]
    out = _Lines(stream)
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: out,
        cache_logger_on_first_use=False,
    )
    handler = _Handler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=max(number, logging.INFO), handlers=[handler], force=True)
    # Each request would be a line; who connects and leaves is logged by us.
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def hide_secrets(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: values under telling keys, and telling parts of any text, become ``***``."""
    for key, value in event.items():
        event[key] = _hidden(key, value)
    return event


def _hidden(key: str, value: Any) -> Any:
    if _SECRET_KEYS.search(key) and value is not None and not isinstance(value, bool):
        return HIDDEN
    if isinstance(value, str):
        return _SECRET_TEXT.sub(_mask, value)
    if isinstance(value, bytes):
        return _SECRET_TEXT.sub(_mask, value.decode("utf-8", "replace"))
    if isinstance(value, dict):
        return {inner: _hidden(str(inner), item) for inner, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hidden("", item) for item in value]
    if isinstance(value, (int, float)) or value is None:
        return value
    return _SECRET_TEXT.sub(_mask, repr(value))


def _mask(match: re.Match[str]) -> str:
    return (match["url"] or match["query"] or match["bearer"] or "") + HIDDEN


class _Named:
    """A structlog processor that adds the process's name."""

    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("process", self._process)
        return event


class _Lines:
    """The end of the chain: writes lines, and loses one rather than stop the process.

    Under supervisord the stream is a pipe. Where nobody empties it (supervisord is stopped) or nobody holds its
    other end (it was killed), a blocking or raising write would take the chat down with its supervisor.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._pipe: int | None = None
        self._cut = False
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
                os.set_blocking(stream.fileno(), False)
                self._pipe = stream.fileno()

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # EAGAIN, EPIPE; ValueError: closed
            if self._pipe is None:
                self._stream.write(line + "\n")
                self._stream.flush()
                return
            data = (("\n" if self._cut else "") + line + "\n").encode("utf-8", "backslashreplace")
            self._cut = os.write(self._pipe, data) < len(data)

    log = debug = info = warning = warn = error = critical = exception = fatal = msg


class _Handler(logging.Handler):
    """The standard library's records, as lines."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.msg(self.format(record))
