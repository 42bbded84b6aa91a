"""What a comparison with peers leaves behind: a table, JSON, a chart, and a page that holds all of it."""

import html
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.measure import Result
from bench.peers import PEERS
from bench.report import FOREIGN_MAX
from bench.scenarios import SCENARIOS, figures

# For each kind of scenario the figures shown, the one compared first; and whether more of that one is better.
_FIGURES = {
    "direct": ("deliveries/s", "ack p50 ms", "ack p99 ms", "CPU-us/message"),
    "broadcast": ("deliveries/s", "delivery p50 ms", "delivery p99 ms", "CPU-us/delivery"),
    "latency": ("ack p50 ms", "ack p99 ms", "CPU-us/message"),
    "connect": ("synced/s", "synced p50 ms", "CPU-us/synced"),
    "idle": ("KiB/connection",),
}
_LESS_IS_BETTER = ("latency", "idle")
# The one fault that is told and does not make a peer's figures void: none of them promises an order.
_TOLD = {"changed order"}


class Measured(msgspec.Struct, kw_only=True):
    """One scenario, with every run of every contestant; all of it measured in one go."""

    scenario: str
    kind: str
    size: str
    machine: dict[str, object]
    versions: dict[str, str]
    runs: dict[str, list[Result]]


@dataclass(frozen=True)
class Figure:
    """A median over runs, with the least and the most."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return number(self.median)
        return f"{number(self.median)} ({number(self.low)} to {number(self.high)})"


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def acceptable(name: str, result: Result) -> bool:
    """Whether the figures of a run mean something: nothing lost or repeated; for Hubbub nothing out of order."""
    return result.clean or (name in PEERS and set(result.problems) <= _TOLD)


def summary(runs: Sequence[Result], names: Sequence[str]) -> dict[str, Figure]:
    """Medians of the figures *names* over *runs*; those that a run lacks are left out."""
    found = [figures(one) for one in runs]
    return {
        name: Figure(statistics.median(values), min(values), max(values))
        for name in names
        if (values := [one[name] for one in found if name in one])
    }


def remarks(name: str, runs: Sequence[Result]) -> str:
    """What a reader must know of these runs besides their figures."""
    said = []
    changed = sum(one.problems.get("changed order", 0) for one in runs)
    if changed:
        said.append(f"changed the order of {changed:,} messages")
    unclean = [one for one in runs if not acceptable(name, one)]
    if unclean:
        kinds = sorted({kind for one in unclean for kind in one.problems})
        said.append(f"**not clean** in {len(unclean)} of {len(runs)} runs: {', '.join(kinds)}")
    foreign = [one.foreign_cpu_share for one in runs if one.foreign_cpu_share > FOREIGN_MAX]
    if foreign:
        said.append(f"others took up to {max(foreign):.2f} cores in {len(foreign)} runs")
    return "; ".join(said)


def rows(measured: Measured) -> tuple[list[str], list[list[str]]]:
    """The head of a scenario's table and its lines, the contestant that does best first."""
    names = _FIGURES[measured.kind]
    less = measured.kind in _LESS_IS_BETTER
    found = {name: summary(runs, names) for name, runs in measured.runs.items()}
    ours = next(iter(found.values())).get(names[0])

    def rank(name: str) -> float:
        first = found[name].get(names[0])
        return float("inf") if first is None else first.median if less else -first.median

    lines = []
    for name in sorted(found, key=rank):
        first = found[name].get(names[0])
        ratio = "-" if ours is None or first is None or not first.median else f"{ours.median / first.median:.2f}"
        stored = "yes" if name not in PEERS or PEERS[name].stored else "no"
        shown = [str(found[name][figure]) if figure in found[name] else "-" for figure in names]
        lines.append([name, stored, *shown, ratio, remarks(name, measured.runs[name])])
    return ["server", "stored", *names, f"hubbub / it ({names[0]})", "remarks"], lines


def markdown(all_measured: Sequence[Measured]) -> str:
    """A table for each scenario, with what it was measured on."""
    parts = []
    for measured in all_measured:
        head, lines = rows(measured)
        count = len(next(iter(measured.runs.values())))
        parts.append(f"## {measured.scenario}\n")
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines]) + "\n")
        parts.append(f"{_setting(measured)}; medians of {count} interleaved runs (least to most).\n")
    return "\n".join(parts)


def _setting(measured: Measured) -> str:
    machine = measured.machine
    versions = [f"Python {machine['python']}", *dict.fromkeys(text for text in measured.versions.values() if text)]
    return (
        f"Measured {machine['measured_at']}, commit {machine['commit']}, size {measured.size}, "
        f"on {machine['cores']} cores of {machine['cpu']}, {machine['system']}; "
        f"{', '.join(versions)}"
    )


def _svg(all_measured: Sequence[Measured], png: Path) -> str:
    """Draw the first figure of every scenario into *png*; the same as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        len(all_measured), 1, figsize=(11, 0.9 + 3.1 * len(all_measured)), layout="constrained", squeeze=False
    )
    for axes, measured in zip(panels[:, 0], all_measured, strict=True):
        name = _FIGURES[measured.kind][0]
        found = {who: summary(runs, [name]).get(name) for who, runs in measured.runs.items()}
        drawn = {who: one for who, one in found.items() if one is not None}
        order = sorted(drawn, key=lambda who: drawn[who].median, reverse=measured.kind not in _LESS_IS_BETTER)
        medians = [drawn[who].median for who in order]
        spread = [
            [drawn[who].median - drawn[who].low for who in order],
            [drawn[who].high - drawn[who].median for who in order],
        ]
        bars = axes.barh(order, medians, xerr=spread, color=[_colour(who) for who in order], ecolor="#555555")
        axes.bar_label(bars, labels=[number(value) for value in medians], padding=6, fontsize=8)
        side = "less" if measured.kind in _LESS_IS_BETTER else "more"
        axes.set_title(f"{measured.scenario}: {name} ({side} is better)", fontsize=10)
        axes.margins(x=0.15)
        axes.invert_yaxis()
    figure.suptitle("Blue: Hubbub, stored. Orange: stored. Grey: nothing stored. Black: the limit of one write a frame")
    figure.savefig(png, dpi=100)
    text = io.StringIO()
    figure.savefig(text, format="svg")
    pyplot.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _colour(name: str) -> str:
    if name not in PEERS:
        return "#4269d0"
    if name == "yardstick":
        return "#333333"
    return "#efb118" if PEERS[name].stored else "#9498a0"


_HEAD = """# Hubbub and its peers under the same load

Written by `python -m bench.compare`; what the peers are stands in `bench/peers/README.md`.
[The same as one page](peers.html).

"""
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Hubbub and its peers</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }}
th:first-child, td:first-child, td:last-child {{ text-align: left; }} svg {{ max-width: 100%; height: auto; }}
tr.hubbub {{ font-weight: 600; }} p {{ color: #555; }}
</style>
<h1>Hubbub and its peers under the same load</h1>
{tables}
{chart}
</html>
"""


def page(all_measured: Sequence[Measured], svg: str) -> str:
    """One HTML page that needs nothing else."""
    parts = []
    for measured in all_measured:
        head, lines = rows(measured)
        parts.append(f"<h2>{html.escape(measured.scenario)}</h2>\n<table>\n<tr>{_cells('th', head)}</tr>")
        for line in lines:
            kind = "" if line[0] in PEERS else ' class="hubbub"'
            parts.append(f"<tr{kind}>{_cells('td', line)}</tr>")
        parts.append(f"</table>\n<p>{html.escape(_setting(measured))}</p>")
    return _PAGE.format(tables="\n".join(parts), chart=svg)


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f"<{tag}>{html.escape(text.replace('**', ''))}</{tag}>" for text in texts)


def write(directory: Path, measured: Sequence[Measured]) -> None:
    """Write peers.json, peers.md, peers.png and peers.html; scenarios not measured now stay as the report has them."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "peers.json"
    known: Mapping[str, Measured] = {}
    if path.exists():
        known = {one.scenario: one for one in msgspec.json.decode(path.read_bytes(), type=list[Measured])}
    merged = {**known, **{one.scenario: one for one in measured}}
    ordered = [merged[scenario.name] for scenario in SCENARIOS if scenario.name in merged]
    path.write_bytes(msgspec.json.format(msgspec.json.encode(ordered)) + b"\n")
    (directory / "peers.md").write_text(_HEAD + markdown(ordered) + "\n![The same as a chart](peers.png)\n")
    svg = _svg(ordered, directory / "peers.png")
    (directory / "peers.html").write_text(page(ordered, svg))
