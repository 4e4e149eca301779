"""The weights into each post neuron add up to a target, on every topology, as CoNeX's do and where CoNeX can't."""

from __future__ import annotations

import pytest
import torch
from pymonntorch import Network, NeuronGroup, SynapseGroup

import tritonstdp as ts
import tritonstdp.behaviors as ours
from support import SMALL, Connect
from tritonstdp.topology import TOPOLOGIES

SPARSE = (torch.sparse_csc, torch.sparse_csr, torch.sparse_coo)


def group(name, dtype=torch.float32):
    """A topology and weights for it, of both signs."""
    topology = TOPOLOGIES[name].uneven_example()
    values = (torch.rand(topology.weights_shape, generator=torch.Generator().manual_seed(3)) - 0.1).to(dtype)
    return topology, topology.weights_of(values), values


def posts(topology):
    """Whose each weight is: its post neuron, or all that share it."""
    if topology.ends() is not None:
        return topology.ends()[1].long()
    index = torch.arange(topology.post_shape[0])
    if topology.name == "conv2d":
        return torch.arange(topology.weights_shape[0]).view(-1, 1, 1, 1).expand(topology.weights_shape)
    if topology.name == "local2d":
        return index.view(topology.weights_shape[0], -1, 1).expand(topology.weights_shape)
    return index.expand(topology.weights_shape)


@pytest.mark.parametrize("measure", ["sum", "norm"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", list(TOPOLOGIES))
def test_each_post_neuron_s_weights_come_to_the_target(name, dtype, measure):
    topology, weights, values = group(name, dtype)
    whose = posts(topology).flatten()
    first = whose == whose[0]
    values.view(-1)[first] = 0
    before = values.double().flatten()
    given = topology if topology.ends() is None else None  # sparse weights have their own
    assert ts.normalize_(weights, 2.5, measure=measure, topology=given) is weights
    after = values.double().flatten()
    assert torch.equal(after[first], before[first]), "where nothing is, nothing comes"
    of_each = before if measure == "sum" else before.square()
    total = torch.zeros(int(whose.max()) + 1, dtype=torch.float64).index_add_(0, whose, of_each)
    total = total if measure == "sum" else total.sqrt()
    expected = torch.where(first, 0, before * 2.5 / total[whose])
    torch.testing.assert_close(after, expected, rtol=50 * torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize("layout", SPARSE, ids=str)
def test_sparse_weights_of_any_layout_and_a_target_for_each_neuron(layout):
    dense = torch.rand(7, 5) * (torch.rand(7, 5) < 0.5)
    weights = dense.to_sparse().coalesce() if layout is torch.sparse_coo else dense.to_sparse(layout=layout)
    target = torch.rand(5)
    ts.normalize_(weights, target)
    expected = (dense * target / dense.sum(0)).nan_to_num()  # 0 / 0, where nothing is
    torch.testing.assert_close(weights.to_dense(), expected)


@pytest.mark.parametrize("kind", ["Simple", "Conv2d", "Local2d"])
def test_the_behavior_is_conex_s_bit_for_bit(kind, conex):
    results = []
    for module in (conex, ours):
        torch.manual_seed(1)
        wiring = SMALL[kind]
        network = Network()
        ends = [NeuronGroup(n, network, behavior={}) for n in (wiring.n_pre, wiring.n_post)]
        behavior = {5: Connect(wiring), 6: module.WeightNormalization(norm=3)}
        synapse = SynapseGroup(network, *ends, behavior=behavior)
        network.initialize(info=False)
        network.simulate_iterations(3)
        results.append(synapse.weights)
    assert torch.equal(*results)


def test_the_behavior_acts_every_so_many_steps_and_on_sparse_weights():
    network = Network()
    ends = [NeuronGroup(n, network, behavior={}) for n in (SMALL["Sparse"].n_pre, SMALL["Sparse"].n_post)]
    normalization = ours.WeightNormalization(norm=2.0, every=3)
    synapse = SynapseGroup(network, *ends, behavior={5: Connect(SMALL["Sparse"]), 6: normalization})
    network.initialize(info=False)
    acted = []
    for _ in range(7):
        synapse.weights.values().fill_(1.0)
        network.simulate_iteration()
        acted.append(bool((synapse.weights.values() != 1.0).any()))
    assert acted == [False, False, True, False, False, True, False]
    with pytest.raises(ValueError, match="every is 0"):
        ours.WeightNormalization(every=0)


def test_what_does_not_fit_is_refused_and_nothing_written():
    weights = torch.rand(3, 4)
    before = weights.clone()
    for arguments, text in (
        ({"measure": "mean"}, "measure is 'mean': use one of sum, norm"),
        ({"target": float("nan")}, "target is nan"),
        ({"target": torch.ones(3)}, r"target has shape \(3,\): give a number, or one for each of 4 sums"),
        ({"target": "much"}, "target is 'much'"),
    ):
        with pytest.raises((ValueError, TypeError), match=text):
            ts.normalize_(weights, **arguments)
    with pytest.raises(ValueError, match="weights has several elements at one address"):
        ts.normalize_(torch.ones(1, 4).expand(3, 4))
    with pytest.raises(ValueError, match="require grad"):
        ts.normalize_(torch.rand(3, 4, requires_grad=True))
    assert torch.equal(weights, before)
