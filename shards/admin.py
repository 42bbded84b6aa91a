"""What administrators see: every process at a glance."""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from hubbub.overview import Overview, Sample, overview, parse
from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.api import NoQuery
from shards.http import Context, Operation, Reader, Route

# Two samples nearer than that tell nothing: processes write theirs once a second.
_APART = 0.9


class Glance:
    """The newest samples of all processes on this host. *read*: the exposition; *talkers*: counts by name."""

    def __init__(self, read: Callable[[], bytes], talkers: Callable[[], dict[str, int]]) -> None:
        self._read = read
        self._talkers = talkers
        self._before: Sample | None = None
        self._last: Overview | None = None

    def look(self) -> Overview:
        """What happened since somebody last looked, a second ago or longer."""
        now = time.time()
        if self._last is not None and now - self._last.time < _APART:
            return self._last
        sample = parse(self._read().decode(), now)
        self._last = overview(self._before or sample, sample, self._talkers())
        self._before = sample
        return self._last


class AdminOverview(Reader):
    """``/api/admin/overview``."""

    def initialize(self, context: Context, glance: Glance) -> None:  # type: ignore[override]  # Tornado's keywords
        super().initialize(context)
        self.glance = glance

    async def get(self) -> None:
        """All processes, and who says most."""
        identity = await self.identify()
        self.query(NoQuery)
        if identity.role != "admin":
            raise Refusal(ErrorCode.FORBIDDEN, "for administrators only: `hubbub user role NAME admin` makes one")
        self.answer(msgspec.json.encode(self.glance.look()))


def routes(context: Context, glance: Glance) -> list[Route]:
    """The address of this module."""
    arguments: dict[str, Any] = {"context": context, "glance": glance}
    operation = Operation(summary="Every process at a glance", answers={200: Overview}, errors=(403,))
    return [Route("/api/admin/overview", AdminOverview, arguments, {"get": operation})]
