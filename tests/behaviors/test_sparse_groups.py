"""Sparse groups: every format, and what CoNeX can't do with them."""

from __future__ import annotations

import pytest
import torch
from pymonntorch import Recorder

import tritonstdp.behaviors as ours
from support import SMALL, side_by_side, values_of

SPARSE = SMALL["Sparse"]
STDP = {"a_plus": 0.006, "a_minus": 0.008, "positive_bound": "soft_bound", "negative_bound": "soft_bound"}
RULES = {"SparseSTDP": STDP, "SparseiSTDP": {"lr": 0.01, "alpha": 0.2}, "SparseRSTDP": {**STDP, "tau_c": 8.0}}
BACKENDS = pytest.mark.parametrize("backend", ["cpu", "reference", "triton"])


def formats() -> dict[str, torch.Tensor]:
    csc = SPARSE.weights()
    return {"csc": csc, "csr": csc.to_dense().to_sparse_csr(), "coo": csc.to_dense().to_sparse_coo().coalesce()}


@pytest.mark.parametrize("name", list(RULES))
def test_every_format_learns_the_same(name):
    given = formats()
    network, groups = side_by_side(SPARSE, *(getattr(ours, name)(**RULES[name], backend="reference") for _ in given))
    for group, weights in zip(groups, given.values(), strict=True):
        group.weights = weights.clone()
    start = groups[0].weights.to_dense()
    network.simulate_iterations(12, measure_block_time=False)
    dense = [group.weights.to_dense() for group in groups]
    assert torch.equal(dense[0], dense[1]) and torch.equal(dense[0], dense[2])
    assert not torch.equal(dense[0], start)
    assert (dense[0][start == 0] == 0).all()


@BACKENDS
@pytest.mark.parametrize("name", list(RULES))
def test_strided_weights_as_density_one_makes_them_learn_as_all_to_all(name, backend):
    simple = getattr(ours, name.replace("Sparse", "Simple"))
    options = {**RULES[name], "backend": backend}
    network, (sparse, dense) = side_by_side(SMALL["Simple"], getattr(ours, name)(**options), simple(**options))
    assert sparse.weights.layout is torch.strided
    start = sparse.weights.clone()
    network.simulate_iterations(10, measure_block_time=False)
    assert torch.equal(sparse.weights, dense.weights)
    assert not torch.equal(sparse.weights, start)


@BACKENDS
def test_clamp_clips_sparse_weights(backend):
    network, (group,) = side_by_side(SPARSE, ours.SparseSTDP(a_plus=0.9, a_minus=0.9, clamp=True, backend=backend))
    network.simulate_iterations(12, measure_block_time=False)
    values = values_of(group.weights)
    assert values.min() == 0 and values.max() == 1


def test_values_of_sparse_weights_can_be_recorded():
    network, (group,) = side_by_side(SPARSE, ours.SparseSTDP(**STDP, backend="reference"))
    recorder = Recorder(variables=["synapse.weights.values()"], auto_annotate=False)
    group.add_behavior(90, recorder)
    network.simulate_iterations(5, measure_block_time=False)
    recorded = recorder.variables["synapse.weights.values()"]
    assert recorded.shape == (5, group.weights._nnz())
    assert torch.equal(recorded[-1], group.weights.values())
    assert not torch.equal(recorded[0], recorded[-1])


@BACKENDS
def test_sparse_weights_may_be_bound_to_a_new_tensor(backend):
    network, groups = side_by_side(SPARSE, *(ours.SparseSTDP(**STDP, backend=backend) for _ in range(2)))
    for _ in range(5):
        network.simulate_iteration()
        other = groups[1].weights
        groups[1].weights = torch.sparse_csc_tensor(
            other.ccol_indices().clone(), other.row_indices().clone(), other.values().clone(), other.shape
        )
    assert torch.equal(groups[0].weights.values(), groups[1].weights.values())


@BACKENDS
def test_a_new_connectivity_is_noticed(backend):
    network, (group,) = side_by_side(SPARSE, ours.SparseSTDP(**STDP, backend=backend))
    network.simulate_iteration()
    fewer = group.weights.to_dense()
    fewer[::2] = 0
    group.weights = fewer.to_sparse_csc()
    expected = group.weights.values() + group.behavior[60].compute_dw(group)
    group.behavior[60](group)
    assert torch.equal(group.weights.values(), expected)


def test_a_tensor_that_is_not_coalesced_is_refused():
    network, (group,) = side_by_side(SPARSE, ours.SparseSTDP(**STDP))
    index = torch.tensor([[0, 0], [1, 1]])
    group.weights = torch.sparse_coo_tensor(index, torch.ones(2), (SPARSE.n_pre, SPARSE.n_post))
    with pytest.raises(ValueError, match=r"not coalesced: pass weights\.coalesce\(\)"):
        network.simulate_iteration()
