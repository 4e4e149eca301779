"""Draw the landscape of a sweep: how the time of a step depends on configuration and rate."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tritonstdp.autotune.cost import Estimate
from tritonstdp.autotune.sweep import Outcome
from tritonstdp.storage import replace_whole

__all__ = ["Panel", "draw", "estimated_panel", "panel_of"]

_ROWS = 40
_BASE = 2.0


class Panel(NamedTuple):
    """One case.

    Attributes
    ----------
    title : str
        What was swept.
    rates : tuple of float
        The fractions of spiking neurons.
    rows : dict
        Each configuration's time over the default's, at each rate; the fastest first.
    default, best : NamedTuple
        The configurations to mark.
    """

    title: str
    rates: tuple[float, ...]
    rows: dict[Any, list[float]]
    default: Any
    best: Any


def panel_of(outcome: Outcome) -> Panel:
    """The landscape that a sweep has found, by all its samples."""
    rates = outcome.rates
    configs = dict.fromkeys(config for config, _ in outcome.ratios)
    rows = {config: [outcome.ratios[config, rate].median for rate in rates] for config in configs}
    key = outcome.key
    shape = "x".join(map(str, outcome.topology.weights_shape))
    title = f"{key.rule} {key.topology} {shape}\n{key.positive_bound}, {key.dtype}"
    ordered = sorted(rows, key=lambda config: math.prod(rows[config]))
    return Panel(title, rates, {config: rows[config] for config in ordered}, outcome.default, outcome.best)


def estimated_panel(title: str, rates: tuple[float, ...], estimates: Sequence[Estimate], default: Any) -> Panel:
    """The landscape as the model foresees it, whose estimates come with the fastest first."""
    reference = next(each for each in estimates if each.config == default)
    rows = {
        each.config: [mine / other for mine, other in zip(each.seconds, reference.seconds, strict=True)]
        for each in estimates
    }
    return Panel(title, rates, rows, default, estimates[0].config)


def draw(panels: Sequence[Panel], path: Path, title: str) -> None:
    """Write the landscape as a PNG: a row a configuration, a column a rate, in colour the time over the default's.

    Parameters
    ----------
    panels : sequence of Panel
        The cases.
    path : Path
        The file.
    title : str
        What the figure shows.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    across = min(3, len(panels))
    down = -(-len(panels) // across)
    rows = max(min(len(panel.rows), _ROWS) for panel in panels)
    figure = Figure(figsize=(1.0 + 4.6 * across, 1.0 + down * (1.2 + 0.17 * rows)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    norm = LogNorm(1 / _BASE, _BASE)
    for axis, panel in zip(axes, panels, strict=False):
        image = _draw_panel(axis, panel, norm)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    bar = figure.colorbar(image, ax=list(axes), shrink=0.6, ticks=[0.5, 0.7, 1.0, 1.4, 2.0], extend="both")
    bar.ax.set_yticklabels(["0.5", "0.7", "1 (default)", "1.4", "2"])
    bar.ax.minorticks_off()
    bar.set_label("time of a step over the default's")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=130)
    replace_whole(path, drawn.getvalue(), private=False)


def _draw_panel(axis: Any, panel: Panel, norm: Any) -> Any:
    configs = [c for n, c in enumerate(panel.rows) if n < _ROWS or c in (panel.default, panel.best)]
    values = [panel.rows[config] for config in configs]
    image = axis.imshow(values, norm=norm, cmap="RdYlGn_r", aspect="auto", interpolation="nearest")
    varied = [name for name in panel.default._fields if len({getattr(c, name) for c in configs}) > 1]
    axis.set_title(panel.title, fontsize=9)
    axis.set_xticks(range(len(panel.rates)), [f"{rate:g}" for rate in panel.rates], fontsize=8)
    axis.set_xlabel("rate (the fraction of neurons that spike)", fontsize=8)
    axis.set_yticks(range(len(configs)), [_label(c, panel, varied) for c in configs], fontsize=7)
    if len(configs) * len(panel.rates) <= 120:
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                colour = "white" if abs(math.log(value, _BASE)) > 0.8 else "black"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
    return image


def _label(config: Any, panel: Panel, varied: Sequence[str]) -> str:
    marks = [name for name, marked in (("default", panel.default), ("best", panel.best)) if config == marked]
    values = " ".join(f"{name}={getattr(config, name)}" for name in varied)
    return f"[{', '.join(marks)}] {values}" if marks else values
