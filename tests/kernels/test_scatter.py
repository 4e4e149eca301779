"""What few spikes bring is scattered: the same currents as gathered ones, whatever the order of atomic additions."""

from __future__ import annotations

import pytest
import torch

from support import random_sparse
from tritonstdp.interpretation import swift_interpreter
from tritonstdp.kernels import items, scatter, sums
from tritonstdp.kernels.launch import Launch
from tritonstdp.kernels.propagation import PROPAGATION, PropagationCase
from tritonstdp.problems import make_problem
from tritonstdp.registry import kernels_of
from tritonstdp.topology import Conv2d, Local2d, Sparse, Topology

_hubs = torch.eye(135)
_hubs[7], _hubs[:, 80] = 1.0, 1.0
SHAPES = (
    ((2, 7, 6), (3, 4, 5), (3, 2), (2, 1), (1, 0)),
    ((1, 9, 9), (2, 3, 3), (2, 2), (3, 3)),
    ((15, 3, 3), (3, 1, 1), 3),
)
GROUPS: dict[str, Topology] = {
    "csc": random_sparse(23, 31, 0.3),
    "csr": random_sparse(40, 17, 0.2, torch.sparse_csr),
    "csc with hubs": Sparse.from_weights(_hubs.to_sparse_csc()),
    "csr with hubs": Sparse.from_weights(_hubs.to_sparse_csr()),
    **{f"{kind.name} {k}": kind(*shape) for k, shape in enumerate(SHAPES) for kind in (Conv2d, Local2d)},
}
"""Strides, padding, gaps, and hubs and sums that several programs share."""
groups = pytest.mark.parametrize("group", GROUPS)


@pytest.fixture(autouse=True, scope="module")
def _swift():
    with swift_interpreter():
        yield


def build(topology: Topology, dtype: torch.dtype, bool_spikes: bool, **changes: float):
    module = kernels_of(topology.name, "propagation_gpu")
    case = PropagationCase.plain(topology, dtype, "cpu")._replace(bool_spikes=bool_spikes)
    return module.build(case, module.DEFAULT._replace(**changes))


@pytest.mark.parametrize("rate", [0.05, pytest.param(0.6, marks=pytest.mark.slow)])
@groups
def test_what_is_scattered_is_what_is_gathered_at_every_step(group, rate, monkeypatch):
    topology = GROUPS[group]
    monkeypatch.setattr(sums, "TURNS_OF_A_SHARE", 1)
    hubs = {"turns": 1} if topology.name == "sparse" else {}
    for dtype, floats in ((torch.float32, False), (torch.float16, True)):
        problem = make_problem(PROPAGATION, topology, rate=rate, dtype=dtype, float_spikes=floats)
        spikes, weights, current = problem.signals["pre_spike"], problem.weights, problem.signals["current"]
        scattered, gathered = current.fill_(-0.0), current.clone()
        exact = problem.to(torch.float64).signals["current"]
        steps = [build(topology, dtype, not floats, scatter_up_to=share, **hubs) for share in (1.0, 0.0)]
        exactly = build(topology, torch.float64, not floats)
        for shift in (0, 3):  # and back: nothing is left from a step
            moved = spikes.roll(shift)
            for step, found in zip(steps, (scattered, gathered), strict=True):
                step(topology, weights, found, moved)
            exactly(topology, weights.double(), exact, moved if moved.dtype == torch.bool else moved.double())
        tolerance = 4 * torch.finfo(dtype).eps
        for found in (scattered, gathered):
            torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)
        assert torch.equal(scattered.signbit(), gathered.signbit()), "what no spike reaches keeps its bits"


@groups
def test_currents_are_the_same_bits_in_whatever_order_weights_are_added(group, monkeypatch):
    topology = GROUPS[group]
    problem = make_problem(PROPAGATION, topology, rate=0.6)
    found = []
    for programs in (1, 5):
        monkeypatch.setattr(items, "interpreted_processors", programs)
        current = problem.signals["current"].clone()
        step = build(topology, torch.float32, True, scatter_up_to=1.0)
        step(topology, problem.weights, current, problem.signals["pre_spike"])
        found.append(current)
    assert torch.equal(*found)


def test_a_step_that_fails_half_way_leaves_nothing_to_the_next_one(monkeypatch):
    topology = GROUPS["csc"]
    problem = make_problem(PROPAGATION, topology, rate=0.1)
    current, spikes = problem.signals["current"], problem.signals["pre_spike"]
    step = build(topology, torch.float32, True, scatter_up_to=1.0)
    expected = current.clone()
    step(topology, problem.weights, expected, spikes)
    launch = Launch.__call__

    def interrupted(self, *arguments):
        if self.kernel.__name__ == "sparse_sums_kernel":
            raise KeyboardInterrupt
        launch(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Launch, "__call__", interrupted)
        step(topology, problem.weights, current, spikes)
    step(topology, problem.weights, current, spikes)
    assert torch.equal(current, expected)


@pytest.mark.parametrize(
    ("changes", "dtype", "fewest", "scatters"),
    [
        ({}, torch.bfloat16, 10, True),
        ({}, torch.float32, 10_000, False),
        ({}, torch.float64, 10, False),
        ({"scatter_up_to": 0.0}, torch.float32, 10, False),
    ],
)
@pytest.mark.parametrize("group", ["csr", "conv2d 0", "local2d 0"])
def test_small_groups_and_float64_weights_take_one_launch(group, changes, dtype, fewest, scatters, monkeypatch):
    monkeypatch.setattr(scatter, "fewest_synapses", lambda device: fewest)
    topology, launched = GROUPS[group], []
    problem = make_problem(PROPAGATION, topology, dtype=dtype)
    monkeypatch.setattr(Launch, "__call__", lambda self, *arguments: launched.append(self.kernel.__name__))
    step = build(topology, dtype, True, **changes)
    step(*problem.arguments)
    gathers = "sparse_sums_kernel" if group == "csr" else "patches_kernel"
    assert launched == (["event_lists_kernel", "scatter_kernel"] if scatters else []) + [gathers]
