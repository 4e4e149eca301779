"""STDP makes inputs compete, in a bare torch loop (after Song, Miller & Abbott 2000): python torch_loop.py [PICTURE]"""

import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure

import tritonstdp as ts
from tritonstdp.plot import weights_over_time

N_INPUTS, N_NEURONS, RATE = 200, 10, 0.015  # spikes a millisecond
THRESHOLD, LEAK, MILLISECONDS = 10.0, 0.95, 20_000


def main(picture: Path) -> None:
    torch.manual_seed(0)
    weights = torch.rand(N_INPUTS, N_NEURONS)
    v, pre_trace, post_trace = torch.zeros(N_NEURONS), torch.zeros(N_INPUTS), torch.zeros(N_NEURONS)
    history = []
    for t in range(MILLISECONDS):
        pre = torch.rand(N_INPUTS) < RATE
        post = v > THRESHOLD
        v[post] = 0.0
        ts.stdp_(weights, pre, pre_trace, post, post_trace, a_plus=0.03, a_minus=0.0315, clamp=True)
        ts.trace_(pre_trace, pre, tau=20.0)
        ts.trace_(post_trace, post, tau=20.0)
        ts.propagate_(v.mul_(LEAK), weights, pre)  # after the neurons have fired: what causes a spike comes before it
        if t % 100 == 0:
            history.append(weights.clone())
    weak, strong = ((weights < 0.2).float().mean(), (weights > 0.8).float().mean())
    print(f"{weak:.0%} of the weights end below 0.2, {strong:.0%} above 0.8 (a fifth each at first)")

    figure = Figure(figsize=(8, 7), layout="constrained")
    over_time, ends = figure.subplots(2)
    weights_over_time(torch.stack(history), times=torch.arange(0, MILLISECONDS, 100) / 1000, axes=over_time)
    over_time.set_xlabel("time (s)")
    both = [history[0].flatten().numpy(), weights.flatten().numpy()]
    ends.hist(both, bins=20, range=(0, 1), label=["before", "after"], color=["lightgray", "tab:blue"])
    ends.set(xlabel="weight", ylabel="synapses")
    ends.legend(frameon=False)
    figure.savefig(picture)


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or (tempfile.gettempdir(), "torch_loop.png")))
