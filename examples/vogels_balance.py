"""Inhibitory STDP brings neurons to one rate (Vogels et al. 2011): python vogels_balance.py [PICTURE]"""

import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure

import tritonstdp as ts

N_INHIBITORY, N_NEURONS, RATE = 200, 12, 0.02  # spikes a millisecond
TARGET, TAU = 10.0, 20.0  # Hz, ms
SECONDS = 20


def main(picture: Path) -> None:
    torch.manual_seed(0)
    drive = torch.linspace(1.2, 3.0, N_NEURONS)  # of threshold
    weights = torch.zeros(N_INHIBITORY, N_NEURONS)  # magnitudes of inhibition
    v, inhibition, post_trace = torch.zeros(3, N_NEURONS)
    pre_trace = torch.zeros(N_INHIBITORY)
    rates = torch.zeros(SECONDS, N_NEURONS)
    for t in range(1000 * SECONDS):
        pre = torch.rand(N_INHIBITORY) < RATE
        ts.propagate_(inhibition.mul_(0.9), weights, pre)
        v += (drive + 0.3 * torch.randn(N_NEURONS) - inhibition - v) / 20.0
        post = v > 1.0
        v[post] = 0.0
        ts.trace_(pre_trace, pre, tau=TAU)
        ts.trace_(post_trace, post, tau=TAU)
        ts.istdp_(weights, pre, pre_trace, post, post_trace, lr=2e-4, rho=TARGET, tau=TAU, clamp=True)
        rates[t // 1000] += post
    first, last = rates[0], rates[-5:].mean(0)
    print(f"rates in the first second: {first.min():.0f} to {first.max():.0f} Hz")
    print(f"rates in the last five: {last.min():.1f} to {last.max():.1f} Hz, wanted {TARGET:.0f} Hz")

    axes = Figure(figsize=(7, 5), layout="constrained").subplots()
    for neuron in range(N_NEURONS):
        color = (0.1 + 0.8 * neuron / N_NEURONS, 0.3, 0.6)
        axes.plot(range(1, SECONDS + 1), rates[:, neuron], color=color, linewidth=1)
    axes.axhline(TARGET, color="black", linestyle=":", label="wanted")
    axes.set(xlabel="time (s)", ylabel="firing rate (Hz)", title="neurons of weak (blue) to strong (red) drive")
    axes.legend(frameon=False)
    axes.figure.savefig(picture)


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or (tempfile.gettempdir(), "vogels_balance.png")))
