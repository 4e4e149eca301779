"""Batches beside BindsNET's own learning rules, where it is installed: the same numbers."""

import importlib.util

import pytest
import torch

import tritonstdp as ts

N_PRE, N_POST, SAMPLES, STEPS, NU = 30, 20, 5, 12, (1e-3, 1e-2)


def batch_of_signals():
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        yield tuple(
            signal
            for n in (N_PRE, N_POST)
            for signal in (
                torch.rand(SAMPLES, n, generator=generator) < 0.2,
                torch.rand(SAMPLES, n, generator=generator),
            )
        )


@pytest.mark.skipif(importlib.util.find_spec("bindsnet") is None, reason="BindsNET is not installed")
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(
    ("rule", "bounds"), [("PostPre", (None, None)), ("WeightDependentPostPre", ("upper_bound", "lower_bound"))]
)
def test_a_batch_gives_the_numbers_of_bindsnets_rules(rule, bounds, reduction):
    import benchmarks.providers.bindsnet_rules  # noqa: F401  (stands in for torchvision, which BindsNET wants)

    # isort: split
    from bindsnet import learning
    from bindsnet.network.nodes import Input
    from bindsnet.network.topology import Connection

    source, target = Input(n=N_PRE, traces=True), Input(n=N_POST, traces=True)
    for nodes in (source, target):
        nodes.set_batch_size(SAMPLES)
    reduce = {"sum": torch.sum, "mean": torch.mean}[reduction]
    connection = Connection(
        source, target, update_rule=getattr(learning, rule), nu=NU, reduction=reduce, wmin=0.0, wmax=1.0
    )
    weights = connection.w.detach().clone()
    before = weights.clone()
    for source.s, source.x, target.s, target.x in batch_of_signals():
        connection.update_rule.update()
        ts.stdp_(
            weights, source.s, source.x, target.s, target.x, a_plus=NU[1], a_minus=NU[0], positive_bound=bounds[0],
            negative_bound=bounds[1], clamp=True, reduction=reduction,
        )  # fmt: skip
    assert (weights - before).abs().max() > 0.01
    torch.testing.assert_close(weights, connection.w.detach(), rtol=1e-5, atol=1e-6)
