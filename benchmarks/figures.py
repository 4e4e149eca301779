"""Draw the README's figures from measured rows: ``draw(results, figures)`` reads and writes folders."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

from benchmarks.growth import SIDE_FOR_RATES
from tritonstdp.bench import is_other
from tritonstdp.kernels.propagation import PROPAGATION
from tritonstdp.measurement import OURS, Row, read_rows

COLOURS = {
    OURS: "#d1495b",
    "CoNeX": "#30638e",
    "CoNeX, allocator as it comes": "#8fb8de",
    "torch.compile, bool spikes": "#c9a66b",
    "torch.compile, float spikes": "#edae49",
    "indexed torch": "#66a182",
    "JAX": "#7b4b94",
    "BindsNET": "#8d99ae",
    "SpikingJelly": "#577590",
    "brainevent": "#43aa8b",
    "Brian2 C++": "#111111",
    "masked sum": "#edae49",
    "selected sum": "#66a182",
    "embedding bag": "#30638e",
    "torch product": "#7b4b94",
}


def draw(results: Path, figures: Path) -> list[Path]:
    """Draw every figure whose rows are there."""
    figures.mkdir(parents=True, exist_ok=True)
    drawn = []
    if (results / "steps.json").exists():
        drawn.append(_save(_steps(read_rows(results / "steps.json")), figures / "steps.png"))
    if (results / "growth.json").exists():
        drawn.append(_save(_growth(read_rows(results / "growth.json")), figures / "growth.png"))
    if (results / "simulations.json").exists():
        simulated = json.loads((results / "simulations.json").read_text())
        drawn.append(_save(_simulations(simulated), figures / "simulations.png"))
    return drawn


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=130, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    return path


def _grid(axes: Any) -> None:
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _steps(rows: list[Row]) -> Any:
    """By how much each provider is slower than tritonstdp, a line for each workload."""
    names = list(dict.fromkeys(row.workload for row in rows))
    names.sort(key=lambda name: next(r.topology for r in rows if r.workload == name))
    figure, axes = plt.subplots(figsize=(9.5, 0.3 * len(names) + 1.6))
    height = {name: len(names) - k for k, name in enumerate(names)}
    axes.axvline(1, color=COLOURS[OURS], linewidth=2, label=OURS, zorder=1)
    for provider, colour in COLOURS.items():
        shown = [r for r in rows if r.provider == provider and is_other(r) and r.ratio is not None]
        points = [(r.ratio, height[r.workload]) for r in shown]
        if points:
            axes.scatter(*zip(*points, strict=True), s=34, color=colour, label=provider, zorder=2, alpha=0.9)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    axes.set_yticks(list(height.values()), list(height), fontsize=8)
    axes.set_ylim(0.3, len(names) + 0.7)
    axes.set_xlabel("time of one step over tritonstdp's, one pinned thread (right of 1x: slower)")
    _grid(axes)
    below = -0.7 / (0.3 * len(names) + 1.6)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, below), ncol=4, fontsize=8, frameon=False)
    return figure


def _growth(rows: list[Row]) -> Any:
    """The cost of a step against the number of synapses and against the rate, with the time that the bytes need."""
    operations = {"stdp": "dense STDP, soft bounds", PROPAGATION.name: "dense spike propagation"}
    grown = {title: found for rule, title in operations.items() if (found := [r for r in rows if r.rule == rule])}
    figure, panels = plt.subplots(len(grown), 2, figsize=(11, 4.4 * len(grown)), squeeze=False)
    shape = f"{SIDE_FOR_RATES}x{SIDE_FOR_RATES}"
    for (by_size, by_rate), (title, found) in zip(panels, grown.items(), strict=True):
        _lines(by_size, [r for r in found if r.rate == 0.02], lambda r: math.prod(map(int, r.shape.split("x"))))
        _lines(by_rate, [r for r in found if r.shape == shape and r.rate != 0.02], lambda r: 100 * r.rate)
        by_size.set_xlabel(f"synapses ({title}, 2 % spikes)")
        by_rate.set_xlabel(f"% of neurons that spike in a step ({title}, 1e7 synapses)")
        by_size.set_ylabel("ms a step, one pinned thread")
        by_size.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    return figure


def _lines(axes: Any, rows: Iterable[Row], x_of: Any) -> None:
    rows = [r for r in rows if r.status == "ok" and r.median_us is not None]
    for provider, colour in COLOURS.items():
        points = sorted((x_of(r), r.median_us / 1000) for r in rows if r.provider == provider)
        if points:
            width = 2.4 if provider == OURS else 1.4
            axes.plot(*zip(*points, strict=True), marker="o", ms=4, color=colour, label=provider, linewidth=width)
    floor = sorted((x_of(r), r.median_us / r.floor_ratio / 1000) for r in rows if r.provider == OURS and r.floor_ratio)
    if floor:
        label = "bytes that must move, at a copy's speed"
        axes.plot(*zip(*floor, strict=True), color="#555555", linestyle=":", linewidth=1.4, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _grid(axes)


def _simulations(results: list[dict[str, Any]]) -> Any:
    """Milliseconds a step of whole networks, the part spent learning in full colour."""
    names = sorted({r["simulation"] for r in results})
    figure, panels = plt.subplots(1, len(names), figsize=(2.5 * len(names), 3.6))
    for axes, name in zip([panels] if len(names) == 1 else panels, names, strict=True):
        found = [r for r in results if r["simulation"] == name]
        for k, r in enumerate(found):
            colour = COLOURS["CoNeX" if r["classes"] == "CoNeX" else OURS]
            step = 1000 / r["steps_per_second"]
            share = r["learning_share"] * step
            axes.bar(k, share, color=colour, width=0.65)
            axes.bar(k, step - share, bottom=share, color=colour, alpha=0.3, width=0.65)
            axes.annotate(
                f"{step:.0f}" if step >= 100 else f"{step:.3g}", (k, step), ha="center", va="bottom", fontsize=8
            )
        faster = found[-1]["steps_per_second"] / found[0]["steps_per_second"]
        axes.set_title(f"({name}) {_folded(found[0]['what'])}\n{faster:.1f}x the steps/s", fontsize=8)
        axes.set_xticks(range(len(found)), [r["classes"].replace(" ", "\n") for r in found], fontsize=8)
        axes.tick_params(axis="y", labelsize=7)
        _grid(axes)
        axes.grid(False, axis="x")
    figure.supylabel("ms a step (full colour: learning)", fontsize=9)
    figure.tight_layout()
    return figure


def _folded(what: str) -> str:
    """A description on two lines: the neurons, and their synapses."""
    return ",\n".join(what.rsplit(", ", 1))
