"""What the server's processes cost: CPU time and memory of everything below supervisord, from /proc.

CPU is user + system time with the kernel's resolution of one clock tick (usually 10 ms) for each
process, so a measurement lasts seconds. Linux only.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stat:
    """The fields of ``/proc/PID/stat`` that are used; times in microseconds."""

    parent: int
    own_us: int
    reaped_us: int  # of children that ended and were waited for: PostgreSQL's short-lived workers


@dataclass(frozen=True)
class Cpu:
    """CPU time spent so far, in microseconds by role, and which processes were counted."""

    by_role: Mapping[str, int]
    pids: frozenset[tuple[int, str]]


@dataclass(frozen=True)
class Memory:
    """Bytes. `pss` counts a page shared by n processes as 1/n in each; ``None`` where the kernel refuses it."""

    rss: int
    pss: int | None


def parse_stat(text: str) -> Stat:
    """Read a line of ``/proc/PID/stat``. The command's name may itself hold spaces and brackets."""
    fields = text[text.rindex(")") + 2 :].split()
    utime, stime, cutime, cstime = (int(value) for value in fields[11:15])
    return Stat(int(fields[1]), (utime + stime) * _TICK_US, (cutime + cstime) * _TICK_US)


def role_of(argv: list[str], environ: Mapping[str, str], parent: str) -> str:
    """The name under which a process is counted.

    A helper process of unknown name counts for the process that started it.
    """
    name = os.path.basename(argv[0]) if argv else ""
    modules = {argv[i + 1] for i, word in enumerate(argv[:-1]) if word == "-m"}
    if name.startswith("postgres") or "hubbub.runtime.postgres" in modules:
        return "postgres"
    if "broker" in modules:
        return "broker"
    if "store" in modules:
        return "store"
    if "shards" in modules:
        return f"shard-{environ.get('HUBBUB_SHARD_INDEX', '?')}"
    return parent


def supervisor_pid(data_dir: Path) -> int:
    """The pid that supervisord wrote. Raises `FileNotFoundError` when nothing runs there."""
    return int((data_dir / "run" / "supervisord.pid").read_text())


def processes(root: int) -> dict[int, tuple[str, Stat]]:
    """Role and times of *root* (role ``supervisor``) and of all its descendants."""
    stats: dict[int, Stat] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = parse_stat((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended while we looked
            stats[int(entry.name)] = stat
            children[stat.parent].append(int(entry.name))
    if root not in stats:
        raise ProcessLookupError(f"no process {root}: is the server running?")
    found = {root: ("supervisor", stats[root])}
    queue = [root]
    while queue:
        parent = queue.pop()
        for pid in children[parent]:
            found[pid] = (_role(pid, found[parent][0]), stats[pid])
            queue.append(pid)
    return found


def cpu(root: int) -> Cpu:
    """CPU time of the server so far. A role's time includes that of its children that have ended."""
    total: defaultdict[str, int] = defaultdict(int)
    found = processes(root)
    for role, stat in found.values():
        total[role] += stat.own_us + stat.reaped_us
    # Backends and workers of PostgreSQL come and go; everything else that changes is a restart.
    return Cpu(dict(total), frozenset((pid, role) for pid, (role, _) in found.items() if role != "postgres"))


def cpu_between(before: Cpu, after: Cpu) -> dict[str, int]:
    """Microseconds spent by role. Raises `RuntimeError` when a process was restarted in between."""
    if before.pids != after.pids:
        changed = sorted({role for _, role in before.pids ^ after.pids})
        raise RuntimeError(f"processes ended or started during the measurement: {', '.join(changed)}")
    return {role: after.by_role[role] - before.by_role.get(role, 0) for role in sorted(after.by_role)}


def machine_busy() -> int:
    """CPU microseconds that the whole machine has spent on anything, over all cores; stolen time counts as spent."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (
        int(value) for value in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) * _TICK_US


def memory(root: int) -> dict[str, Memory]:
    """Resident memory by role, in bytes."""
    rss: defaultdict[str, int] = defaultdict(int)
    pss: defaultdict[str, int] = defaultdict(int)
    refused = False
    for pid, (role, _) in processes(root).items():
        try:
            rollup = (PROC / str(pid) / "smaps_rollup").read_text()
        except PermissionError:
            refused = True
            rollup = (PROC / str(pid) / "status").read_text().replace("VmRSS", "Rss")
        except (FileNotFoundError, ProcessLookupError):
            continue
        values = _kilobytes(rollup.splitlines())
        rss[role] += values.get("Rss", 0)
        pss[role] += values.get("Pss", 0)
    return {role: Memory(rss[role], None if refused else pss[role]) for role in sorted(rss)}


def _kilobytes(lines: Iterable[str]) -> dict[str, int]:
    values = {}
    for line in lines:
        name, _, rest = line.partition(":")
        if rest.endswith(" kB"):
            values[name] = int(rest[:-3]) * 1024
    return values


def _role(pid: int, parent: str) -> str:
    try:
        argv = (PROC / str(pid) / "cmdline").read_text(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return parent
    try:
        pairs = (PROC / str(pid) / "environ").read_text(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pairs = []  # another user's (PostgreSQL's): its name is enough
    return role_of(argv, dict(pair.split("=", 1) for pair in pairs if "=" in pair), parent)


def main(arguments: list[str] | None = None) -> int:
    """Print what a running server costs over a few seconds."""
    parser = argparse.ArgumentParser(prog="python -m bench.procs", description=__doc__)
    parser.add_argument("--pid", type=int, help="supervisord's process id")
    parser.add_argument("--data-dir", type=Path, help="or the data directory that it runs on")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args(arguments)
    if options.pid is None and options.data_dir is None:
        parser.error("give --pid or --data-dir")
    root = options.pid or supervisor_pid(options.data_dir)
    before = cpu(root)
    time.sleep(options.seconds)
    spent = cpu_between(before, cpu(root))
    print(f"{'role':<12} {'CPU %':>7} {'RSS MiB':>9} {'PSS MiB':>9}")
    for role, used in memory(root).items():
        share = spent.get(role, 0) / options.seconds / 10_000
        pss = "-" if used.pss is None else f"{used.pss / 2**20:.1f}"
        print(f"{role:<12} {share:>7.1f} {used.rss / 2**20:>9.1f} {pss:>9}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
