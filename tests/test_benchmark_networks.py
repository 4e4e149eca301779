"""The networks that are benchmarks: each does what its reference does, and the checks of that can fail."""

from __future__ import annotations

import doctest
import importlib.util
import io
import json
import math
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for benchmarks; last, so that it hides nothing installed

from benchmarks.networks import behaviors, brunel, izhikevich
from benchmarks.networks.benchmark import OURS, Result, check_agreement, table_of

SMALL_BRUNEL = brunel.Parameters(
    n_excitatory=80, n_inhibitory=20, probability=0.3, external_rate=60.0, excitatory_weight=0.15, rate=0.05
)
SMALL_IZHIKEVICH = izhikevich.Parameters(120, offset=25.0, a_plus=0.1, a_minus=0.12)


SECONDS = 0.03
brunel_by_tritonstdp = brunel.simulate


def event_driven(p: brunel.Parameters, pairs: brunel.Pairs, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The raster and the plastic weights of the network as Brian2's script has it: traces of a synapse, by events."""
    n, first = {"e": p.n_excitatory, "i": p.n_inhibitory}, {"e": 0, "i": p.n_excitatory}
    connected, w = {}, {}
    for name, ends in pairs.items():
        connected[name] = np.zeros((n[name[0]], n[name[1]]), bool)
        connected[name][tuple(ends.numpy())] = True
        w[name] = connected[name] * (p.excitatory_weight if name[0] == "e" else p.inhibitory_weight)
    probability = p.external_rate * p.dt / 1000
    external = [brunel.Binomial(size, p.n_external, probability, k + 1) for k, size in enumerate(n.values())]
    x, y, updated = (np.zeros_like(w["ee"]) for _ in range(3))
    v, last = np.zeros(sum(n.values())), np.full(sum(n.values()), -1000)
    raster = np.zeros((steps, len(v)), bool)

    def update(i, j, step):
        kept = np.exp((updated[i, j] - step) * p.dt / p.tau_trace)
        x[i, j] *= kept
        y[i, j] *= kept
        updated[i, j] = step

    for step in range(steps):
        v -= v * p.dt / p.tau_m
        raster[step] = (v > p.threshold) & (step - last >= p.steps(p.refractory))
        last[raster[step]] = step
        v += p.excitatory_weight * torch.cat([spikes.draw() for spikes in external]).numpy()
        arrived = raster[step - p.steps(p.delay)] if step >= p.steps(p.delay) else np.zeros(len(v), bool)
        for name in pairs:
            pre, post = (slice(first[side], first[side] + n[side]) for side in name)
            v[post] += w[name][arrived[pre]].sum(0)
        for i in np.flatnonzero(arrived[: n["e"]]):
            j = np.flatnonzero(connected["ee"][i])
            update(i, j, step)
            x[i, j] += 1
            w["ee"][i, j] -= p.rate * p.alpha * w["ee"][i, j] * y[i, j]
        for j in np.flatnonzero(raster[step, : n["e"]]):
            i = np.flatnonzero(connected["ee"][:, j])
            update(i, j, step)
            y[i, j] += 1
            w["ee"][i, j] += p.rate * (p.w_max - w["ee"][i, j]) * x[i, j]
        v[raster[step]] = 0
    return raster, w["ee"][connected["ee"]]


def test_brunels_network_does_what_the_event_driven_script_says():
    p = SMALL_BRUNEL
    found = simulated(p)
    raster, weights = event_driven(p, brunel.draw_pairs(p), p.steps(1000 * SECONDS))
    expected = np.argwhere(raster)
    assert len(expected) > 400 and np.abs(weights - p.excitatory_weight).max() > 0.01
    assert (np.stack([found.step, found.neuron], 1) == expected).all()
    np.testing.assert_allclose(found.weights, weights, rtol=1e-4)
    assert math.isclose(sum(found.shares.values()), 1.0) and found.wall > 0


@lru_cache
def simulated(p: brunel.Parameters) -> brunel.Run:
    return brunel_by_tritonstdp(p, brunel.draw_pairs(p), SECONDS)


def results_of(ours: brunel.Parameters, monkeypatch) -> list[Result]:
    """Those of the benchmark, with the small network for Brian2's and another for tritonstdp's."""
    monkeypatch.setattr(brunel, "Parameters", lambda: SMALL_BRUNEL)
    monkeypatch.setattr(brunel, "simulate_by_brian2", lambda *_: simulated(SMALL_BRUNEL))
    monkeypatch.setattr(brunel, "simulate", lambda *_: simulated(ours))
    return brunel.run(SECONDS)


def test_brunels_results_are_reported_beside_the_references(monkeypatch):
    results = results_of(SMALL_BRUNEL, monkeypatch)
    assert [r.who for r in results] == [brunel.REFERENCE, OURS] and results[0].activity == results[1].activity
    screen = io.StringIO()
    Console(width=250, file=screen).print(table_of(brunel.BENCHMARK, results))
    assert f"{results[0].seconds / results[1].seconds:.2f}x" in screen.getvalue() and "Hz of E" in screen.getvalue()
    rows = json.loads(json.dumps([r.row() for r in results]))
    assert rows[0]["ms_per_step"] == pytest.approx(1e3 * results[0].processor / 300)


@pytest.mark.parametrize("wrong", [{"alpha": 1.0}, {"w_max": 0.2}, {"refractory": 4.0}, {"delay": 0.5}])
def test_brunels_check_fails_where_the_network_is_another(wrong, monkeypatch):
    with pytest.raises(RuntimeError, match=r"\(f\): the activity is not the reference's"):
        results_of(replace(SMALL_BRUNEL, **wrong), monkeypatch)


def test_brunels_reference_is_not_passed_over_in_silence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="brian2 is not installed: pip install"):
        brunel.simulate_by_brian2(SMALL_BRUNEL, {}, 0.1)


@pytest.mark.parametrize(("n", "probability"), [(1000, 0.002), (1000, 0.006), (3, 0.5)])
def test_the_number_of_external_spikes_is_binomial(n, probability):
    size = 400_000
    counts = brunel.Binomial(size, n, probability, seed=0).draw().long().bincount(minlength=16).double()
    mass = [math.comb(n, k) * probability**k * (1 - probability) ** (n - k) for k in range(16)]
    expected = size * torch.tensor(mass, dtype=torch.float64)
    assert ((counts - expected).abs() <= 4 * expected.sqrt() + 1).all()


def test_the_izhikevich_networks_spike_and_learn_alike():
    reference, found = izhikevich.compare(SMALL_IZHIKEVICH, 120)
    assert reference.activity == pytest.approx(found.activity, rel=1e-3)
    assert found.activity["Hz"] > 20 and found.activity["spread of weight changes"] > 0.02


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"a_minus": 0.125}, "mean weight change is"),
        ({"tau": 10.0}, "the spikes differ from step"),
        ({"c": -60.0}, "the spikes differ from step"),
    ],
)
def test_the_izhikevich_networks_checks_fail_where_one_is_another(wrong, words, monkeypatch):
    built, other = izhikevich.build, replace(SMALL_IZHIKEVICH, **wrong)

    def build(p, learning, steps):
        is_ours = izhikevich.CATCH in learning
        return built(other, izhikevich.ours(other), steps) if is_ours else built(p, learning, steps)

    monkeypatch.setattr(izhikevich, "build", build)
    with pytest.raises(RuntimeError, match=words):
        izhikevich.compare(SMALL_IZHIKEVICH, 120)


def test_no_number_agrees_with_none():
    with pytest.raises(
        RuntimeError, match=r"net: the activity is not the reference's: Hz is nan against 3 \(within 5%\)"
    ):
        check_agreement("net", {"Hz": math.nan, "n": 1.0}, {"Hz": 3.0, "n": 1.0}, {"Hz": 0.05, "n": 0.0})


@pytest.mark.parametrize("module", [behaviors, brunel])
def test_the_examples_in_docstrings_hold(module):
    assert doctest.testmod(module).failed == 0
