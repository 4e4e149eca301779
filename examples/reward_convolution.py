"""A convolution learns how bars lie from reward alone, by modulated STDP: python reward_convolution.py [PICTURE]"""

import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure

import tritonstdp as ts
from tritonstdp.plot import receptive_fields

SIDE, KERNEL, STEPS, TRIALS, TOTAL_WEIGHT, HOMEOSTASIS = 10, 5, 20, 400, 6.0, 0.01
CONVOLUTION = ts.Conv2d((1, SIDE, SIDE), (2, SIDE, SIDE), KERNEL, padding=KERNEL // 2)  # a map for either choice
LEARNING = {"topology": CONVOLUTION, "clamp": True, "a_plus": 0.2, "a_minus": 0.02, "tau_c": float(STEPS)}


def respond(image, weights, c, thresholds):
    """Show an image: how often each map fires; ``c`` keeps which synapses have had a part."""
    v, pre_trace, post_trace = (torch.zeros(n) for n in (2 * SIDE * SIDE, SIDE * SIDE, 2 * SIDE * SIDE))
    fired = torch.rand(2)  # chance decides between maps that fire alike
    for _ in range(STEPS):
        pre = torch.rand(SIDE * SIDE) < image.flatten()
        ts.propagate_(v.mul_(0.8), weights, pre, topology=CONVOLUTION)
        excess = v - thresholds.repeat_interleave(SIDE * SIDE)
        post = (excess == excess.max()) & (excess > 0)
        v.masked_fill_(post.any(), 0.0)  # the first to fire inhibits all
        ts.trace_(pre_trace, pre, tau=3.0)
        ts.trace_(post_trace, post, tau=3.0)
        ts.rstdp_(weights, c, pre, pre_trace, post, post_trace, dopamine=0.0, **LEARNING)
        fired += post.view(2, -1).sum(1)
    return fired


def main(picture: Path) -> None:
    torch.manual_seed(0)
    nobody = [torch.zeros(n, dtype=t) for n in (SIDE * SIDE, 2 * SIDE * SIDE) for t in (torch.bool, torch.float32)]
    weights, c = 0.2 + 0.1 * torch.rand(2, 1, KERNEL, KERNEL), torch.zeros(2, 1, KERNEL, KERNEL)
    thresholds, expected, right = torch.full((2,), 3.0), 0.5, torch.zeros(TRIALS)
    for trial in range(TRIALS):
        image, stands = torch.full((SIDE, SIDE), 0.03), int(torch.randint(2, ()))  # noise
        image[torch.randint(2, SIDE - 2, ())] = 0.6  # a bar, which spikes in more than every other step
        fired = respond(image.T if stands else image, weights, c.zero_(), thresholds)
        right[trial] = reward = float(fired.argmax() == stands)
        ts.rstdp_(weights, c, *nobody, dopamine=reward - expected, **LEARNING)
        weights *= TOTAL_WEIGHT / weights.sum((1, 2, 3), keepdim=True)  # the synapses of a map compete
        thresholds += HOMEOSTASIS * (fired - fired.mean())  # no map is to fire all the time
        expected += 0.05 * (reward - expected)
    print(f"right choices: {right[:50].mean():.0%} of the first 50, {right[-100:].mean():.0%} of the last 100")

    curve, kernels = Figure(figsize=(9, 4), layout="constrained").subplots(1, 2, width_ratios=(2, 1))
    curve.plot(range(20, TRIALS + 1), 100 * right.unfold(0, 20, 1).mean(1))
    curve.set(xlabel="trial", ylabel="right choices of the last 20 (%)", ylim=(0, 102))
    receptive_fields(weights.flatten(1).T, (KERNEL, KERNEL), columns=1, axes=kernels).set_title("kernels: lies, stands")
    curve.figure.savefig(picture)


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or (tempfile.gettempdir(), "reward_convolution.png")))
