"""What the system and this generator use meanwhile: memory, CPU and the queues' lengths, by process, once a second."""

import asyncio
import http.client
import re
import time
from collections import defaultdict

from bench import procs
from bench.server import Server

EVERY = 1.0
# Asked of a shard, which merges the numbers of all processes: a few milliseconds of its time.
METRICS_EVERY = 3.0
GAUGES = (
    "hubbub_store_queue",
    "hubbub_store_reads_queue",
    "hubbub_shard_pending_requests",
    "hubbub_shard_unsent_bytes",
    "hubbub_shard_connections",
)
_SAMPLE = re.compile(r'^(\w+)\{.*?process="([^"]+)".*?\} ([0-9.e+]+)$', re.MULTILINE)


class Observer:
    """Samples from its creation until `stop`.

    `rss_mib`, `rss_peak_mib`: by role, last and highest. `cpu`: cores by role over the whole time, restarts included.
    `peaks`: the highest sum over processes of each of `GAUGES`.
    """

    def __init__(self, server: Server) -> None:
        self.rss_mib: dict[str, float] = {}
        self.rss_peak_mib: defaultdict[str, float] = defaultdict(float)
        self.peaks: defaultdict[str, float] = defaultdict(float)
        self._server = server
        self._spent: defaultdict[str, int] = defaultdict(int)  # microseconds
        self._last = {pid: stat.own_us for pid, (_, stat) in procs.processes(server.pid).items()}
        self._began = time.perf_counter()
        self._own = time.process_time()
        self._busy = procs.machine_busy()
        self._asked = 0.0
        self._task = asyncio.create_task(self._run(), name="observer")

    async def stop(self) -> dict[str, float]:
        """End; the CPU figures: cores by role, of the generator, and of everything else on the machine."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._sample_cpu()
        seconds = time.perf_counter() - self._began
        cores = {f"cores {role}": spent / 1e6 / seconds for role, spent in sorted(self._spent.items())}
        cores["cores generator"] = (time.process_time() - self._own) / seconds
        machine = (procs.machine_busy() - self._busy) / 1e6 / seconds
        cores["cores others"] = max(0.0, machine - sum(cores.values()))
        return {name: round(value, 2) for name, value in cores.items()}

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await asyncio.to_thread(self._sample)

    def _sample(self) -> None:
        self._sample_cpu()
        self.rss_mib = {role: used.rss / 2**20 for role, used in procs.memory(self._server.pid).items()}
        for role, size in self.rss_mib.items():
            self.rss_peak_mib[role] = max(self.rss_peak_mib[role], size)
        if time.monotonic() - self._asked >= METRICS_EVERY:
            self._asked = time.monotonic()
            sums: defaultdict[str, float] = defaultdict(float)
            for name, _, value in _SAMPLE.findall(self._metrics()):
                sums[name] += float(value)
            for name in GAUGES:
                self.peaks[name] = max(self.peaks[name], sums[name])

    def _sample_cpu(self) -> None:
        now: dict[int, int] = {}
        for pid, (role, stat) in procs.processes(self._server.pid).items():
            now[pid] = stat.own_us
            self._spent[role] += stat.own_us - self._last.get(pid, 0)  # born since: all of it
        self._last = now

    def _metrics(self) -> str:
        connection = http.client.HTTPConnection(self._server.host, self._server.port, timeout=5)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return ""  # nobody answers just now: that is what is being done to it
        finally:
            connection.close()
