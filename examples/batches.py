"""A batch of images teaches shared weights, whose neurons become the bars they see: python batches.py [PICTURE]"""

import sys
import tempfile
from pathlib import Path

import torch

import tritonstdp as ts
from tritonstdp.plot import receptive_fields

SIDE, NEURONS, BATCH, BATCHES, STEPS = 8, 32, 32, 200, 20


def bars(count: int) -> torch.Tensor:
    """Images of one bar each, a row or a column; and which it is."""
    every = torch.zeros(2 * SIDE, SIDE, SIDE)
    for k in range(SIDE):
        every[k, k], every[SIDE + k, :, k] = 1.0, 1.0
    return every[torch.randint(2 * SIDE, (count,))].flatten(1)


def main(picture: Path) -> None:
    torch.manual_seed(0)
    weights = torch.rand(SIDE * SIDE, NEURONS)
    threshold = torch.full((NEURONS,), 2.0)
    for _ in range(BATCHES):
        images = bars(BATCH)
        v, x, y = torch.zeros(BATCH, NEURONS), torch.zeros(BATCH, SIDE * SIDE), torch.zeros(BATCH, NEURONS)
        for _ in range(STEPS):
            pre = torch.rand(BATCH, SIDE * SIDE) < 0.3 * images + 0.01
            v = 0.9 * v + pre.float() @ weights
            excess = v - threshold
            winner = torch.nn.functional.one_hot(excess.argmax(1), NEURONS).bool()
            post = winner & (excess > 0)
            v[post.any(1)] = 0.0  # who fires silences the others of its sample
            threshold += 0.1 * (post.float().mean(0) - 0.1 / NEURONS)
            ts.trace_(x, pre, tau=5.0)
            ts.trace_(y, post, tau=5.0)
            # each sample's change is taken from the weights as they are: they move once, by the mean
            ts.stdp_(weights, pre, x, post, y, a_plus=0.3, a_minus=0.01, clamp=True, reduction="mean")
            ts.normalize_(weights, float(SIDE))
    fields = weights.T / weights.T.norm(dim=1, keepdim=True)
    likeness = (fields @ bars(1000).unique(dim=0).T / SIDE**0.5).max(0).values
    print(f"{(likeness > 0.9).sum()} of the {2 * SIDE} bars have a neuron of their own")

    signals = pre, x, post, y
    ours = ts.stdp_(torch.zeros_like(weights), *signals, a_plus=1e-2, a_minus=1e-4)
    s, q = pre.float().unsqueeze(2), post.float().unsqueeze(1)  # as BindsNET's PostPre has it, nu = (1e-4, 1e-2)
    theirs = (torch.bmm(x.unsqueeze(2), q * 1e-2) - torch.bmm(s, y.unsqueeze(1) * 1e-4)).sum(0)
    print(f"the change of BindsNET's PostPre, within rounding: {torch.allclose(ours, theirs, atol=1e-6)}")
    receptive_fields(weights, (SIDE, SIDE)).figure.savefig(picture)


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or (tempfile.gettempdir(), "batches.png")))
