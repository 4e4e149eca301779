"""Triplet STDP as a rule of one's own, beside pair STDP (as Pfister & Gerstner 2006): python own_rule.py [PICTURE]"""

import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure

import tritonstdp as ts

TAU_PRE, TAU_POST, TAU_SLOW = 16.8, 33.7, 114.0  # ms


def on_pre(pre_spike, post_trace, *, a2_minus):
    return pre_spike * post_trace * a2_minus


def on_post(post_spike, pre_trace, post_slow, *, a2_plus, a3_plus):
    return post_spike * pre_trace * (a2_plus + a3_plus * post_slow)


TRIPLET = ts.Rule("my_triplet", on_pre, on_post)


def change_after_pairs(rates: torch.Tensor, lags: torch.Tensor, pairs: int = 60, **parameters: float) -> torch.Tensor:
    """The weight's change after so many pairs at each rate (Hz) with each lag (ms) of post: a synapse each."""
    periods = (1000 / rates).round().long()
    weights = torch.full(rates.shape, 0.5)
    pre_trace, post_trace, post_slow = torch.zeros(3, len(rates))
    for t in range(int(periods.max()) * pairs):
        pre, post = ((at % periods == 0) & (t < periods * pairs) for at in (t, t - lags))
        ts.trace_(pre_trace, pre, tau=TAU_PRE)
        ts.trace_(post_trace, post, tau=TAU_POST)
        traces = {"pre_trace": pre_trace, "post_trace": post_trace, "post_slow": post_slow}
        ts.update_(TRIPLET, weights, pre_spike=pre, post_spike=post, **traces, **parameters)
        ts.trace_(post_slow, post, tau=TAU_SLOW)  # after learning: the triplet is of earlier spikes
    return weights - 0.5


def main(picture: Path) -> None:
    rates, lags = torch.cartesian_prod(torch.arange(5.0, 51.0, 5.0), torch.tensor([10.0, -10.0])).T
    axes = Figure(figsize=(7, 5), layout="constrained").subplots()
    for name, style, parameters in (
        ("pair", "--", {"a2_plus": 6e-3, "a3_plus": 0.0, "a2_minus": 3e-3}),
        ("triplet", "-", {"a2_plus": 0.0, "a3_plus": 6.5e-3, "a2_minus": 7.1e-3}),
    ):
        every_change = change_after_pairs(rates, lags, **parameters)
        for lag, color in ((10, "tab:red"), (-10, "tab:blue")):
            changes = every_change[lags == lag]
            axes.plot(rates[lags == lag], changes, style, color=color, marker="o", label=f"{name}, post {lag:+} ms")
            print(f"{name} rule, post {lag:+} ms: {changes[0]:+.2f} at 5 Hz, {changes[-1]:+.2f} at 50 Hz")
    axes.set(xlabel="pairs a second (Hz)", ylabel="change of the weight after 60 pairs")
    axes.legend(frameon=False)
    axes.figure.savefig(picture)


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or (tempfile.gettempdir(), "own_rule.png")))
