"""What people do with CoNeX's learning classes keeps its meaning."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tritonstdp.behaviors as ours
from support import SMALL, Wiring, side_by_side, values_of
from tritonstdp.behaviors.synapse import conv2d

DENSE = SMALL["Simple"]
STDP = {"a_plus": 0.006, "a_minus": 0.008, "positive_bound": "soft_bound", "negative_bound": "soft_bound"}
BACKENDS = pytest.mark.parametrize("backend", ["cpu", "reference", "triton"])


def run(network, steps: int = 20) -> None:
    network.simulate_iterations(steps, measure_block_time=False)


def same_weights(groups) -> bool:
    theirs, mine = (values_of(group.weights) for group in groups)
    return torch.equal(theirs, mine)


@BACKENDS
def test_parameters_are_read_at_every_step(conex, backend):
    learning = conex.SimpleSTDP(**STDP), ours.SimpleSTDP(**STDP, backend=backend)
    network, groups = side_by_side(DENSE, *learning)
    for name, value in {"a_plus": 0.02, "a_minus": 0.001, "w_min": 0.1, "w_max": 1.5, "p_bound": ours.no_bound}.items():
        for behavior in learning:
            setattr(behavior, name, value)
        run(network, 3)
    assert same_weights(groups)


@BACKENDS
def test_parameters_of_inhibitory_learning_are_read_at_every_step(conex, backend):
    learning = conex.SimpleiSTDP(lr=0.01, rho=20.0), ours.SimpleiSTDP(lr=0.01, rho=20.0, backend=backend)
    network, groups = side_by_side(DENSE, *learning)
    for name, value in {"lr": 0.1, "alpha": 0.9, "change_sign": 1}.items():
        assert getattr(learning[0], name) == getattr(learning[1], name)
        for behavior in learning:
            setattr(behavior, name, value)
        run(network, 3)
    assert same_weights(groups)


@BACKENDS
@pytest.mark.parametrize("prefix", ["Conv2d", "Local2d"])
def test_divisor_and_eligibility_constant_are_read_at_every_step(conex, prefix, backend):
    learning = [
        getattr(source, f"{prefix}RSTDP")(**STDP, tau_c=8.0, **extra)
        for source, extra in ((conex, {}), (ours, {"backend": backend}))
    ]
    network, groups = side_by_side(SMALL[prefix], *learning)
    run(network, 3)
    for behavior in learning:
        behavior.tau_c, behavior.weight_divisor = 3.0, 5
    run(network, 3)
    torch.testing.assert_close(groups[1].weights, groups[0].weights, rtol=1e-6, atol=1e-7)


@BACKENDS
@pytest.mark.parametrize(
    "make",
    [float, torch.tensor, lambda value: value * torch.linspace(-1, 1, DENSE.n_post)],
    ids=["float", "0-d", "per-column"],
)
def test_dopamine_may_be_a_number_a_scalar_tensor_or_one_value_a_column(conex, backend, make):
    if backend == "cpu" and make is torch.tensor:
        backend = None
    arguments = {**STDP, "tau_c": 6.0}
    learning = conex.SimpleRSTDP(**arguments), ours.SimpleRSTDP(**arguments, backend=backend)
    network, groups = side_by_side(DENSE, *learning, dopamine=make)
    run(network, 8)
    assert same_weights(groups)
    assert torch.equal(groups[0].c, groups[1].c)


@pytest.mark.parametrize(
    "arguments",
    [
        {"a_plus": torch.linspace(0, 0.01, DENSE.n_post)},
        {"a_minus": torch.linspace(0, 0.01, DENSE.n_pre)[:, None]},
        {"w_max": torch.linspace(0.5, 2, DENSE.n_post)},
        {"a_plus": torch.tensor(0.003)},
        {"positive_bound": lambda w, w_min, w_max: w / w.mean()},
        {"negative_bound": lambda w, w_min, w_max: w_max - w.sum(0)},
    ],
    ids=["a_plus per column", "a_minus per row", "w_max per column", "0-d a_plus", "mean bound", "column sum bound"],
)
def test_tensor_parameters_and_bounds_that_are_not_pointwise_work(conex, arguments):
    arguments = {**STDP, **arguments}
    network, groups = side_by_side(DENSE, conex.SimpleSTDP(**arguments), ours.SimpleSTDP(**arguments))
    run(network)
    assert same_weights(groups)


@pytest.mark.parametrize("rule", ["STDP", "iSTDP", "RSTDP"])
@pytest.mark.parametrize("prefix", list(SMALL))
def test_compute_dw_gives_the_change_of_the_next_step_and_writes_nothing(prefix, rule):
    arguments = {"iSTDP": {"lr": 0.01, "alpha": 0.2}, "STDP": STDP, "RSTDP": {**STDP, "tau_c": 8.0}}[rule]
    behavior = getattr(ours, prefix + rule)(**arguments, backend="reference")
    network, (group,) = side_by_side(SMALL[prefix], behavior)
    run(network, 3)
    before = values_of(group.weights).clone()
    eligibility = group.c.clone() if rule == "RSTDP" else None
    dw = behavior.compute_dw(group)
    assert dw.shape == before.shape
    assert torch.count_nonzero(dw)
    assert torch.equal(values_of(group.weights), before)
    behavior(group)
    if rule == "RSTDP":
        assert torch.equal(group.c, eligibility + (-eligibility / 8.0 + dw))
    else:
        assert torch.equal(values_of(group.weights), before + dw)


def doubled(base: type) -> type:
    """A user's subclass that overrides ``compute_dw``."""
    return type("Doubled", (base,), {"compute_dw": lambda self, synapse: 2 * base.compute_dw(self, synapse)})


@pytest.mark.parametrize("name", ["SimpleSTDP", "SparseSTDP", "One2OneSTDP", "SimpleRSTDP", "SparseRSTDP"])
def test_an_overridden_compute_dw_is_what_is_used(conex, name):
    arguments = {**STDP, "tau_c": 8.0} if name.endswith("RSTDP") else STDP
    learning = doubled(getattr(conex, name))(**arguments), doubled(getattr(ours, name))(**arguments)
    network, groups = side_by_side(SMALL[name.removesuffix("STDP").removesuffix("R")], *learning)
    run(network)
    assert same_weights(groups)


def test_a_compute_dw_set_on_the_instance_is_what_is_used():
    behavior = ours.SimpleSTDP(**STDP)
    network, (group,) = side_by_side(DENSE, behavior)
    before = group.weights.clone()
    behavior.compute_dw = lambda synapse: torch.full_like(synapse.weights, 0.25)
    run(network, 2)
    assert torch.equal(group.weights, before + 0.25 + 0.25)


def test_own_learning_classes_build_on_base_learning():
    class Halving(ours.BaseLearning):
        def compute_dw(self, synapse):
            return -0.5 * synapse.weights

    network, (group,) = side_by_side(DENSE, Halving())
    before = group.weights.clone()
    run(network, 2)
    assert torch.equal(group.weights, before / 4)


@pytest.mark.parametrize("base", ["SimpleSTDP", "SimpleRSTDP"])
def test_overridden_signals_are_what_is_used(conex, base):
    def get_spike_and_trace(self, synapse):
        pre_spike, post_spike, pre_trace, post_trace = super(type(self), self).get_spike_and_trace(synapse)
        return ~pre_spike, post_spike, pre_trace.sqrt(), post_trace

    arguments = {**STDP, "tau_c": 8.0} if base == "SimpleRSTDP" else STDP
    learning = [
        type("Silent", (getattr(source, base),), {"get_spike_and_trace": get_spike_and_trace})(**arguments)
        for source in (conex, ours)
    ]
    network, groups = side_by_side(DENSE, *learning)
    run(network, 8)
    assert same_weights(groups)


@BACKENDS
def test_weights_may_be_bound_to_a_new_tensor_between_steps(conex, backend):
    network, groups = side_by_side(DENSE, conex.SimpleSTDP(**STDP), ours.SimpleSTDP(**STDP, backend=backend))
    for group in groups:
        group.add_behavior(80, conex.WeightClip(w_min=0.2, w_max=0.6))
    first = groups[1].weights
    run(network, 8)
    assert groups[1].weights is not first
    assert same_weights(groups)


@BACKENDS
def test_transposed_weights_keep_their_strides(conex, backend):
    weights = DENSE.weights().t().contiguous().t()
    learning = conex.SimpleSTDP(**STDP), ours.SimpleSTDP(**STDP, backend=backend)
    network, groups = side_by_side(DENSE, *learning, weights=weights)
    run(network, 8)
    assert groups[1].weights.stride() == weights.stride() == (1, DENSE.n_pre)
    assert same_weights(groups)


@BACKENDS
def test_a_float_spike_counts_with_its_value(conex, backend):
    def get_spike_and_trace(self, synapse):
        pre_spike, post_spike, *traces = super(type(self), self).get_spike_and_trace(synapse)
        return pre_spike * 0.75, post_spike * 0.5, *traces

    learning = [
        type("Graded", (source.SimpleSTDP,), {"get_spike_and_trace": get_spike_and_trace})(**STDP, **extra)
        for source, extra in ((conex, {}), (ours, {"backend": backend}))
    ]
    network, groups = side_by_side(DENSE, *learning)
    run(network, 8)
    assert same_weights(groups)


@BACKENDS
def test_delays_of_the_axon_reach_learning(conex, backend):
    network, groups = side_by_side(
        DENSE, conex.SimpleSTDP(**STDP), ours.SimpleSTDP(**STDP, backend=backend), max_delay=4
    )
    for group in groups:
        group.src_delay = torch.arange(DENSE.n_pre) % 4
        group.dst_delay = torch.arange(DENSE.n_post) % 3
    run(network, 8)
    assert same_weights(groups)


@BACKENDS
def test_clamp_keeps_what_a_step_touches_inside_the_limits(backend):
    learning = (ours.SimpleSTDP(a_plus=0.9, a_minus=0.9, clamp=clamp, backend=backend) for clamp in (False, True))
    network, (free, clamped) = side_by_side(DENSE, *learning)
    assert not ours.SimpleSTDP(0.1, 0.1).clamp
    run(network, 8)
    assert free.weights.min() < 0 and free.weights.max() > 1
    assert clamped.weights.min() == 0 and clamped.weights.max() == 1


def test_clamp_holds_for_an_overridden_compute_dw():
    class Push(ours.SimpleSTDP):
        def compute_dw(self, synapse):
            dw = torch.zeros_like(synapse.weights)
            dw[0] = 5.0
            return dw

    network, (group,) = side_by_side(DENSE, Push(0.1, 0.1, clamp=True))
    group.weights[1] = 3.0
    run(network, 1)
    assert (group.weights[0] == 1).all()
    assert (group.weights[1] == 3).all()


@BACKENDS
@pytest.mark.parametrize("name", ["SimpleiSTDP", "One2OneiSTDP"])
def test_inhibitory_learning_takes_bounds_and_a_clamp(name, backend):
    wiring = SMALL[name.removesuffix("iSTDP")]
    options = {"lr": 0.5, "alpha": 1.0, "backend": backend}
    bounded = {"w_max": 0.8, "positive_bound": "hard_bound", "negative_bound": "soft_bound", "clamp": True}
    cls = getattr(ours, name)
    network, (free, limited) = side_by_side(wiring, cls(**options), cls(**options, **bounded))
    run(network, 20)
    assert free.weights.max() > 1
    assert limited.weights.min() >= 0 and limited.weights.max() <= 1


def test_inhibitory_learning_settles_where_the_post_trace_is_alpha():
    _, (group,) = side_by_side(DENSE, ours.SimpleiSTDP(lr=1.0, alpha=0.5, backend="reference"))
    group.pre_spike = torch.ones(DENSE.n_pre, dtype=torch.bool)
    group.post_spike = torch.zeros(DENSE.n_post, dtype=torch.bool)
    group.pre_trace = torch.zeros(DENSE.n_pre)
    group.post_trace = torch.full((DENSE.n_post,), 0.5)
    before = group.weights.clone()
    group.behavior[60](group)
    assert torch.equal(group.weights, before)
    group.post_trace += 0.25
    group.behavior[60](group)
    torch.testing.assert_close(group.weights, before + 0.25)


def test_local_learning_takes_the_post_spike_even_where_sizes_agree():
    wiring = Wiring("Local2d", (2, 4, 4), (2, 4, 4), kernel=(3, 3), padding=1)
    _, (group,) = side_by_side(wiring, ours.Local2dSTDP(0.1, 0.0, backend="reference"))
    group.pre_spike = torch.zeros(wiring.n_pre, dtype=torch.bool)
    group.post_spike = torch.zeros(wiring.n_post, dtype=torch.bool)
    group.post_spike[5] = True
    group.pre_trace, group.post_trace = torch.ones(wiring.n_pre), torch.zeros(wiring.n_post)
    before = group.weights.clone()
    group.behavior[60](group)
    changed = (group.weights != before).nonzero()[:, :2].unique(dim=0)
    assert changed.tolist() == [[0, 5]]


@pytest.mark.parametrize("made", [list, np.array], ids=["list", "array"])
def test_a_geometry_that_is_changed_in_place_is_read_anew(made):
    stride = made([2, 1])
    group = SimpleNamespace(tag="group", src_shape=(2, 7, 6), dst_shape=(3, 4, 5), stride=stride, padding=(1, 0))
    behavior, weights = SimpleNamespace(weight_divisor=20), torch.zeros(3, 2, 3, 2)
    assert conv2d(behavior, group, weights).stride == (2, 1)
    stride[0], group.dst_shape = 1, (3, 7, 5)
    assert conv2d(behavior, group, weights).stride == (1, 1)


def test_a_topology_is_found_again_by_what_described_it():
    group = SimpleNamespace(tag="group", src_shape=(2, 7, 6), dst_shape=(3, 4, 5), stride=(2, 1), padding=(1, 0))
    behavior, weights = SimpleNamespace(weight_divisor=20), torch.zeros(3, 2, 3, 2)
    assert conv2d(behavior, group, weights) is conv2d(behavior, group, weights.clone())
    behavior.weight_divisor = 20.5
    assert conv2d(behavior, group, weights).divisor == 20.5
