"""Triplet STDP is the formula of Pfister & Gerstner (2006), and what they fitted by it."""

import math

import pytest
import torch

import tritonstdp as ts

TAU = {"pre_trace": 16.8, "pre_slow": 101.0, "post_trace": 33.7, "post_slow": 125.0}
PARAMETERS = {"a2_plus": 5e-3, "a3_plus": 6.2e-3, "a2_minus": 7e-3, "a3_minus": 2.3e-4}


def learnt(pre_times, post_times, parameters, backend):
    """The weight's change over trains of spikes at whole milliseconds, step by step."""
    w = torch.zeros(1, dtype=torch.float64)
    traces = {name: torch.zeros(1, dtype=torch.float64) for name in TAU}
    for t in range(max((*pre_times, *post_times)) + 1):
        spikes = {"pre": torch.tensor([t in pre_times]), "post": torch.tensor([t in post_times])}
        ts.update_(
            "triplet", w, pre_spike=spikes["pre"], post_spike=spikes["post"], **traces, **parameters,
            backend=backend,
        )  # fmt: skip
        for name, trace in traces.items():
            # a step's loss of exactly what an exponential loses in a millisecond
            ts.trace_(trace, spikes[name.split("_")[0]], tau=1 / (1 - math.exp(-1 / TAU[name])), backend=backend)
    return w.item()


def written_in_the_paper(pre_times, post_times, p):
    """Equations 3 and 4, as sums over all earlier spikes."""

    def trace(times, t, name):
        return sum(math.exp(-(t - s) / TAU[name]) for s in times if s < t)

    gained = sum(
        trace(pre_times, t, "pre_trace") * (p["a2_plus"] + p["a3_plus"] * trace(post_times, t, "post_slow"))
        for t in post_times
    )
    lost = sum(
        trace(post_times, t, "post_trace") * (p["a2_minus"] + p["a3_minus"] * trace(pre_times, t, "pre_slow"))
        for t in pre_times
    )
    return gained - lost


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_trains_of_spikes_give_what_the_papers_sums_give(backend):
    pre_times, post_times = [3, 20, 31, 80, 81, 140], [10, 24, 29, 79, 90, 150, 152]
    expected = written_in_the_paper(pre_times, post_times, PARAMETERS)
    assert learnt(pre_times, post_times, PARAMETERS, backend) == pytest.approx(expected, rel=1e-12)


def test_pairs_depress_at_a_low_frequency_and_potentiate_at_a_high_one():
    minimal = {"a2_plus": 0.0, "a3_plus": 6.5e-3, "a2_minus": 7.1e-3, "a3_minus": 0.0}

    def after_pairs(period):
        post = [10 + period * k for k in range(15)]
        return learnt([t + 10 for t in post], post, minimal, "cpu")  # post before pre by 10 ms

    assert after_pairs(200) < 0 < after_pairs(25)
