"""Pictures of plasticity: learning windows, weights over time, receptive fields and rasters.

Each function draws on the ``axes`` that it is given, or on those of a figure of its own, which no window shows:
``axes.figure.savefig("window.png")``. matplotlib is an extra: ``pip install 'tritonstdp[plot]'``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tritonstdp.replay import replay_
from tritonstdp.rules import Rule, resolve_rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["learning_window", "raster", "receptive_fields", "weights_over_time", "window"]

REACH_IN_TAUS = 4
SINGLE_SYNAPSES = 20


def window(
    rule: str | Rule,
    *,
    tau_pre: float,
    tau_post: float,
    tau_slow: Mapping[str, float] | None = None,
    trace_first: bool = True,
    reach: float | None = None,
    dt: float = 1.0,
    w: float = 0.5,
    **arguments: Any,
) -> tuple[Tensor, Tensor]:
    """What one pair of spikes changes, by the interval between them, as the engine itself computes it.

    Each interval has a synapse of its own, silent but for one spike on either side. Synapses step through time together
    until the second spike of each.

    Parameters
    ----------
    rule : str or Rule
        Any rule, or the name of one.
    tau_pre, tau_post : float
        The time constants of ``pre_trace`` and ``post_trace``, in milliseconds.
    tau_slow : mapping of str to float, optional
        The time constants of what else the rule reads, by signal, as ``{"post_slow": 114.0}``: traces that count a
        spike once learning has read them, as triplet STDP wants it.
    trace_first : bool
        Whether ``pre_trace`` and ``post_trace`` count the spikes of a step before learning reads them, or after.
    reach : float, optional
        The longest interval, in milliseconds; four times the longer of ``tau_pre`` and ``tau_post`` unless given.
    dt : float
        The length of a step, in milliseconds.
    w : float
        The weight of each synapse before, which bounds read.
    **arguments
        The rule's parameters, and ``w_min, w_max, positive_bound, negative_bound, clamp, backend`` of
        :func:`tritonstdp.update_`.

    Returns
    -------
    intervals : Tensor
        ``t_post - t_pre`` in milliseconds, float64, from ``-reach`` to ``reach`` in steps of ``dt``.
    changes : Tensor
        The change of the weight, float64, of the intervals' shape; of a modulated rule, the eligibility trace that is
        left right after the second spike.

    Raises
    ------
    ValueError
        If ``tau_slow`` does not name exactly the rule's further traces, or ``reach`` is less than a step.
    ValueError, TypeError
        As :func:`tritonstdp.update_` and :func:`tritonstdp.trace_`.

    Examples
    --------
    >>> intervals, changes = window("stdp", tau_pre=10.0, tau_post=20.0, reach=2.0, a_plus=1.0, a_minus=1.0)
    >>> intervals.tolist()
    [-2.0, -1.0, 0.0, 1.0, 2.0]
    >>> [round(change, 4) for change in changes.tolist()]
    [-0.8574, -0.9025, -0.05, 0.81, 0.729]
    """
    rule = resolve_rule(rule)
    fast = _only_read(rule, {"pre_trace": tau_pre, "post_trace": tau_post})
    slow = dict(tau_slow or {})
    _check_slow(rule, slow)
    last = _steps(REACH_IN_TAUS * max(tau_pre, tau_post) if reach is None else reach, dt)

    lags = torch.arange(-last, last + 1, device="cpu")
    steps = torch.arange(last + 1, device="cpu")[:, None]
    spikes: dict[str, Any] = {
        "pre_spike": steps == last - lags.clamp(min=0),
        "post_spike": steps == last + lags.clamp(max=0),
    }
    weights = torch.full(lags.shape, w, dtype=torch.float64, device="cpu")
    traces: dict[str, Any] = {signal: torch.zeros_like(weights) for signal in (*fast, *slow)}
    eligibility = torch.zeros_like(weights)
    state: dict[str, Any] = {"c": eligibility, "dopamine": 0.0} if rule.modulated else {}
    replay_(
        rule, weights, tau=fast | slow, dt=dt, trace_first=trace_first, **spikes, **traces, **state, **arguments
    )  # fmt: skip
    return lags.double() * dt, eligibility if rule.modulated else weights - w


def _only_read(rule: Rule, taus: dict[str, float]) -> dict[str, float]:
    return {signal: tau for signal, tau in taus.items() if signal in (*rule.pre, *rule.post)}


def _check_slow(rule: Rule, slow: Mapping[str, float]) -> None:
    own = {"pre_spike", "post_spike", "pre_trace", "post_trace"}
    wanted = [signal for signal in (*rule.pre, *rule.post) if signal not in own]
    if set(wanted) != set(slow):
        needs = f"time constants of {', '.join(wanted)}" if wanted else "none"
        raise ValueError(f"tau_slow names {', '.join(slow) or 'no signal'}: rule {rule.name!r} needs {needs} in it")


def _steps(reach: float, dt: float) -> int:
    if not 0 < dt <= reach:
        raise ValueError(f"reach is {reach} and dt {dt}: a step is above 0, and the longest interval a step or more")
    return round(reach / dt)


def learning_window(rule: str | Rule, *, axes: Axes | None = None, trace_first: bool = True, **arguments: Any) -> Axes:
    """Draw what one pair of spikes changes against the interval between them, the figure of every STDP paper.

    Intervals of 0 are drawn apart, for either order of traces and learning: there alone they may differ in sign.

    Parameters
    ----------
    rule : str or Rule
        Any rule, or the name of one.
    axes : Axes, optional
        Where to draw.
    trace_first : bool
        As for :func:`window`.
    **arguments
        What else :func:`window` takes: ``tau_pre``, ``tau_post``, the rule's parameters.

    Returns
    -------
    Axes
        Where it is drawn.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError, TypeError
        As :func:`window`.

    Examples
    --------
    >>> axes = learning_window("stdp", tau_pre=17.0, tau_post=34.0, a_plus=0.01, a_minus=0.006)
    >>> axes.get_xlabel()
    't_post - t_pre (ms)'
    """
    rule = resolve_rule(rule)
    axes = _axes_or_new(axes)
    intervals, changes = window(rule, trace_first=trace_first, **arguments)
    _, changes_of_other = window(rule, trace_first=not trace_first, **arguments)
    for side in (intervals < 0, intervals > 0):
        axes.plot(intervals[side].numpy(), changes[side].numpy(), color="tab:blue", linewidth=2)
    at_once = intervals == 0
    for first, change in ((trace_first, changes[at_once]), (not trace_first, changes_of_other[at_once])):
        fill, order = ("tab:blue", "traces first") if first else ("white", "learning first")
        axes.plot(0, change.item(), "o", color="tab:blue", markerfacecolor=fill, zorder=3, label=f"0 ms, {order}")
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.axvline(0, color="gray", linewidth=0.8)
    changing = "eligibility" if rule.modulated else "weight"
    axes.set(title=rule.name, xlabel="t_post - t_pre (ms)", ylabel=f"change of the {changing}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    return axes


def weights_over_time(history: Tensor, *, times: Tensor | None = None, axes: Axes | None = None) -> Axes:
    """Draw the median of weights over time, where nine tenths of them lie, and some single ones.

    Parameters
    ----------
    history : Tensor
        Weights at one time after the other, ``(n_times, ...)``.
    times : Tensor, optional
        When, ``(n_times,)``; steps from 0 unless given.
    axes : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        Where it is drawn.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If there are no weights, or not as many times as rows.

    Examples
    --------
    >>> axes = weights_over_time(torch.rand(10, 4, 3).cumsum(0))
    >>> len(axes.lines)  # of 12 synapses, and their median
    13
    """
    if history.dim() < 2 or history.numel() == 0:
        raise ValueError(f"history has shape {tuple(history.shape)}: pass weights of several times, (n_times, ...)")
    if times is not None and times.shape != history.shape[:1]:
        raise ValueError(f"times have shape {tuple(times.shape)}: history has {len(history)} rows, pass one each")
    axes = _axes_or_new(axes)
    synapses = history.detach().cpu().flatten(1).double()
    when = torch.arange(len(history)).numpy() if times is None else times.cpu().numpy()
    shown = torch.linspace(0, synapses.shape[1] - 1, min(SINGLE_SYNAPSES, synapses.shape[1])).long()
    axes.plot(when, synapses[:, shown].numpy(), color="tab:gray", linewidth=0.6, alpha=0.6)
    # not by torch's quantile, which refuses the size of usual groups
    ordered = synapses.sort(1).values.numpy()
    low, middle, high = (ordered[:, round(share * (ordered.shape[1] - 1))] for share in (0.05, 0.5, 0.95))
    axes.fill_between(when, low, high, color="tab:blue", alpha=0.2, linewidth=0, label="90 % of the synapses")
    axes.plot(when, middle, color="tab:blue", linewidth=2, label="median")
    axes.set(xlabel="step" if times is None else "time", ylabel="weight", xmargin=0)
    axes.legend(framealpha=0.9)
    return axes


def receptive_fields(
    weights: Tensor, shape: tuple[int, int], *, columns: int | None = None, axes: Axes | None = None
) -> Axes:
    """Draw the weights that each post neuron has from its inputs, as pictures in a grid.

    Parameters
    ----------
    weights : Tensor
        Dense weights, ``(n_pre, n_post)``; those of a convolution as ``weights.flatten(1).T``. NaN is left blank.
    shape : tuple of int
        The rows and columns of the inputs, of product ``n_pre``.
    columns : int, optional
        How many fields stand in a row of the grid; as many as there are rows unless given.
    axes : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        Where it is drawn: blue below 0 and red above if there are weights below 0, from dark at 0 to bright else.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If the weights are not of that shape.

    Examples
    --------
    >>> axes = receptive_fields(torch.rand(64, 10), (8, 8), columns=5)
    >>> axes.images[0].get_array().shape  # fields of 8 x 8, and a line between each two
    (17, 44)
    """
    n_pre = shape[0] * shape[1]
    if weights.dim() != 2 or weights.numel() == 0 or weights.shape[0] != n_pre:
        raise ValueError(f"weights have shape {tuple(weights.shape)}: fields of shape {shape} need ({n_pre}, n_post)")
    if columns is not None and columns < 1:
        raise ValueError(f"columns is {columns}: pass 1 or more")
    axes = _axes_or_new(axes)
    fields = weights.detach().cpu().float().T.reshape(-1, *shape)
    sheet = _tiled(fields, columns or round(len(fields) ** 0.5))
    limit = fields.abs().nan_to_num().max().item()
    signed = bool((fields < 0).any())
    axes.imshow(sheet.numpy(), cmap="RdBu_r" if signed else "viridis", vmin=-limit if signed else 0.0, vmax=limit)
    axes.set(xticks=[], yticks=[])
    return axes


def _tiled(fields: Tensor, columns: int) -> Tensor:
    """Pictures ``(n, height, width)`` side by side in rows, with a line of NaN between each two."""
    n, height, width = fields.shape
    rows = -(-n // columns)
    sheet = fields.new_full((rows * columns, height + 1, width + 1), torch.nan)
    sheet[:n, :height, :width] = fields
    sheet = sheet.view(rows, columns, height + 1, width + 1).transpose(1, 2).flatten(2).flatten(0, 1)
    return sheet[:-1, :-1]


def raster(spikes: Tensor, *, dt: float = 1.0, axes: Axes | None = None) -> Axes:
    """Draw who spiked when.

    Parameters
    ----------
    spikes : Tensor
        Spikes of one step after the other, bool ``(n_steps, n_neurons)``.
    dt : float
        The length of a step, in milliseconds.
    axes : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
        Where it is drawn.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    ValueError
        If the spikes are no matrix.

    Examples
    --------
    >>> axes = raster(torch.rand(1000, 50) < 0.02)
    >>> axes.get_ylabel()
    'neuron'
    """
    if spikes.dim() != 2:
        raise ValueError(f"spikes have shape {tuple(spikes.shape)}: pass (n_steps, n_neurons)")
    axes = _axes_or_new(axes)
    steps, neurons = spikes.detach().cpu().nonzero(as_tuple=True)
    axes.plot((steps * dt).numpy(), neurons.numpy(), "|", color="black", markersize=3)
    axes.set(xlabel="time (ms)", ylabel="neuron", xlim=(0, len(spikes) * dt), ylim=(-0.5, spikes.shape[1] - 0.5))
    return axes


def _axes_or_new(axes: Axes | None) -> Axes:
    if axes is not None:
        return axes
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install 'tritonstdp[plot]'") from None
    # a figure that pyplot does not know needs no display, and leaves the user's backend alone
    return Figure(layout="constrained").subplots()
