"""What a step hands to the driver: the launches of kernels that were compiled for a GPU, none of which is there."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import pytest
import torch
from fake_driver import Launched, fake_driver
from pymonntorch import Behavior, Network, NeuronGroup, SynapseGroup
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from support import random_sparse
from tritonstdp import functional
from tritonstdp.behaviors import PostSpikeCatcher, PostTrace, PreSpikeCatcher, PreTrace, SimpleSTDP
from tritonstdp.functional import prepare, step_, trace_
from tritonstdp.inspection import gpu_module
from tritonstdp.kernels import sums
from tritonstdp.kernels.event_lists import _ROOM, Listing
from tritonstdp.kernels.launch import Launch
from tritonstdp.kernels.spikes import carry_lists
from tritonstdp.problems import Problem, make_problem
from tritonstdp.propagation import propagate_
from tritonstdp.registry import forget_choices
from tritonstdp.rules import RULES, Formula, soft_bound
from tritonstdp.topology import TOPOLOGIES, Conv2d, Dense, Local2d, OneToOne, Sparse

SHAPE = (2, 7, 6), (3, 4, 5), (3, 2), (2, 1), (1, 0)
GROUPS = {
    "dense": Dense(37, 41),
    "one_to_one": OneToOne(133),
    "sparse": random_sparse(23, 31, 0.3),
    "conv2d": Conv2d(*SHAPE),
    "local2d": Local2d((2, 7, 6), (3, 4, 5), (3, 2), (2, 1), (1, 0)),
}
topologies = pytest.mark.parametrize("topology", TOPOLOGIES)
rules = pytest.mark.parametrize("rule", ["stdp", "rstdp", "triplet"])


@pytest.fixture
def driver():
    with fake_driver() as fake:
        # what was bound for another driver would go there
        forget_choices()
        functional._trace_step.cache_clear()
        functional._known_traces.clear()
        yield fake


def problem_of(rule: str, topology: str, **options) -> Problem:
    return make_problem(Formula.of(RULES[rule], soft_bound, soft_bound), GROUPS[topology], **options)


def step_of(problem: Problem):
    return gpu_module(problem.topology.name, problem.case.operation).build(problem.case)


def plain(launched: list[Launched]) -> list[tuple]:
    """Launches as values that can be compared: a tensor is where it lies and what describes it."""

    def value(argument):
        if isinstance(argument, Tensor):
            return argument.data_ptr(), argument.dtype
        return tuple(map(value, argument)) if isinstance(argument, tuple) else argument

    return [(one.kernel, one.programs, value(one.arguments)) for one in launched]


VIEWS = tuple(f"aten.{name}.default" for name in ("values", "ccol_indices", "row_indices", "detach"))
"""What neither allocates nor launches anything."""


class Recorded(TorchDispatchMode):
    """Keeps the operators that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        if str(operator) not in VIEWS:
            self.ran.append(str(operator))
        return operator(*arguments, **(keywords or {}))


@rules
@topologies
def test_later_steps_launch_what_the_first_one_did_and_nothing_else_runs(driver, rule, topology):
    problem = problem_of(rule, topology, dopamine="scalar" if rule == "rstdp" else "number")
    step = step_of(problem)
    problem.run(step)
    first = plain(driver.take())
    assert first
    with Recorded() as recorded:
        for _ in range(2):
            problem.run(step)
            assert plain(driver.take()) == first
    assert recorded.ran == [], "a captured graph would not replay it, or can't hold it"


@pytest.mark.parametrize("rule", ["stdp", pytest.param("rstdp", marks=pytest.mark.slow)])
@topologies
def test_a_batch_is_learnt_from_by_the_same_launches_at_every_step(driver, rule, topology):
    problem, other = (problem_of(rule, topology, samples=samples, reduction="mean") for samples in (2, 3))
    step = step_of(problem)
    for batch in (problem, other):
        batch.run(step)
        first = plain(driver.take())
        with Recorded() as recorded:
            batch.run(step)
        assert plain(driver.take()) == first
        assert recorded.ran == []
    kernels = {"dense": "items_kernel", "sparse": "items_kernel", "local2d": "items_kernel"}
    lists = ["masks_kernel", *(["event_lists_kernel"] if rule == "stdp" else [])]
    if topology == "one_to_one":
        lists = []
    if topology == "conv2d":
        lists = ["event_lists_kernel"]
    assert [kernel for kernel, *_ in first] == [*lists, kernels.get(topology, f"{topology}_kernel")]


@topologies
def test_signals_that_start_elsewhere_are_not_taken_for_those_that_a_kernel_was_compiled_for(driver, topology):
    problem = problem_of("stdp", topology)
    step = step_of(problem)
    for _ in range(2):
        problem.run(step)
        usual = [launched.source.attrs for launched in driver.take()]
    moved = torch.empty(len(problem.signals["pre_trace"]) + 1)[1:].copy_(problem.signals["pre_trace"])
    elsewhere = problem.replaced(pre_trace=moved)
    for run, wanted in ((elsewhere, True), (problem, False), (elsewhere, True)):
        run.run(step)
        assert ([launched.source.attrs for launched in driver.take()] != usual) == wanted


@topologies
def test_groups_of_one_geometry_share_what_is_compiled_and_not_what_is_written(driver, topology):
    problem = problem_of("stdp", topology)
    other = problem.copy()
    step = step_of(problem)
    plan = [getattr(problem.topology, field.name) for field in dataclasses.fields(problem.topology)]
    known = [tensor.data_ptr() for tensor in (*plan, *problem.tensors.values(), *other.tensors.values())
             if isinstance(tensor, Tensor)]  # fmt: skip
    kept = []
    for group in (problem, other):
        group.run(step)
        tensors = [a for launched in driver.take() for a in launched.arguments if isinstance(a, Tensor) and a.numel()]
        kept.append({tensor.data_ptr() for tensor in tensors} - set(known))
    assert not kept[0] & kept[1]


@rules
@topologies
def test_after_preparation_a_first_step_launches_and_nothing_else_runs(driver, rule, topology):
    problem = problem_of(rule, topology)
    formula, group = problem.formula, problem.topology
    _, values, c, pre, post, numbers, *limits = problem.arguments
    weights = group.weights_of(values)

    def step() -> None:
        step_(formula, group, weights, pre, post, numbers, *limits, c, "triton")

    with prepare():
        step()
    prepared = plain(driver.take())
    with Recorded() as recorded:
        step()
    assert plain(driver.take()) == prepared
    assert recorded.ran == []


def test_traces_are_launched_alike_at_every_step(driver):
    trace, spikes = torch.rand(100), torch.rand(100) < 0.3
    trace_(trace, spikes, tau=10.0, backend="triton")
    first = plain(driver.take())
    with Recorded() as recorded:
        trace_(trace, spikes, tau=10.0, backend="triton")
    assert plain(driver.take()) == first
    assert recorded.ran == []


@topologies
def test_spikes_are_propagated_by_the_same_launches_at_every_step(driver, topology, monkeypatch):
    monkeypatch.setattr(sums, "TURNS_OF_A_SHARE", 1)
    group = {"dense": Dense(300, 41), "sparse": random_sparse(6000, 2, 0.9)}.get(topology, GROUPS[topology])
    weights, current = group.weights_of(torch.rand(group.weights_shape)), torch.zeros(group.post_shape)
    spikes, plan = torch.rand(group.pre_shape) < 0.2, Sparse.of(weights) if topology == "sparse" else group

    def step() -> list[tuple]:
        propagate_(current, weights, spikes, topology=plan, backend="triton")
        return plain(driver.take())

    with prepare():
        step()
    first = step()
    with Recorded() as recorded:
        assert step() == first
    assert recorded.ran == []
    assert [kernel for kernel, *_ in first] == {
        "dense": ["event_lists_kernel", "dense_sums_kernel", "shares_kernel"],
        "one_to_one": ["one_to_one_sums_kernel"],
        "sparse": ["event_lists_kernel", "scatter_kernel", "sparse_sums_kernel", "hubs_kernel"],
    }.get(topology, ["event_lists_kernel", "scatter_kernel", "patches_kernel"])


def test_what_learning_has_listed_is_not_listed_again_to_propagate_spikes(driver):
    problem = problem_of("stdp", "dense")
    spikes = problem.signals["pre_spike"]
    carry_lists(spikes)
    carry_lists(problem.signals["post_spike"])
    step = step_of(problem)
    for _ in range(2):
        spikes.logical_not_()
        problem.run(step)
        propagate_(torch.zeros(problem.topology.post_shape), problem.weights, spikes, backend="triton")
        kernels = [launched.kernel for launched in driver.take()]
        assert kernels == ["event_lists_kernel", "items_kernel", "dense_sums_kernel"]


def network_of(groups: int, **settings: float) -> tuple[Network, list[SynapseGroup]]:
    """A network whose synapse groups share their neurons."""

    class Spikes(Behavior):
        def initialize(self, neurons):
            neurons.spikes = torch.rand(neurons.size) < 0.2

    class Weights(Behavior):
        def initialize(self, synapse):
            synapse.weights = torch.rand(synapse.src.size, synapse.dst.size)

    network = Network()
    ends = [NeuronGroup(n, network, behavior={1: Spikes()}) for n in (37, 41)]
    made = []
    for _ in range(groups):
        learning = SimpleSTDP(a_plus=0.1, a_minus=0.1, backend="triton")
        traces = {4: PreTrace(tau_s=10.0, backend="triton"), 5: PostTrace(tau_s=10.0, backend="triton")}
        caught = {2: PreSpikeCatcher(), 3: PostSpikeCatcher()}
        made.append(SynapseGroup(network, *ends, behavior={1: Weights(), **caught, **traces, 6: learning}))
    network.initialize(info=False)
    return network, made


@pytest.mark.parametrize("groups", [1, 3])
def test_traces_list_spikes_in_passing_and_groups_that_share_neurons_share_traces_and_lists(driver, groups):
    network, _ = network_of(groups)
    network.simulate_iteration()
    first = [launched.kernel for launched in driver.take()]
    assert first == ["trace_kernel"] * 2 + ["event_lists_kernel"] + ["items_kernel"] * groups
    network.simulate_iteration()
    later = driver.take()
    assert [launched.kernel for launched in later] == ["trace_kernel"] * 2 + ["items_kernel"] * groups
    with Recorded() as recorded:
        network.simulate_iteration()
    assert plain(driver.take()) == plain(later)
    assert recorded.ran == ["aten.copy_.default"] * 2, "the spikes are caught, once for all groups"


def test_lists_are_made_again_for_spikes_that_are_caught_again(driver):
    network, [group] = network_of(1)
    for _ in range(2):
        network.simulate_iteration()
    driver.take()
    learning, catcher = group.behavior[6], group.behavior[2]
    learning.forward(group)
    assert [launched.kernel for launched in driver.take()] == ["items_kernel"]
    for write in (lambda: catcher.forward(group), group.pre_spike.logical_not_):
        write()
        learning.forward(group)
        assert [launched.kernel for launched in driver.take()] == ["event_lists_kernel", "items_kernel"]


def test_a_launch_goes_to_the_device_of_its_tensors_whatever_the_current_one_is(driver, monkeypatch):
    current = [0]

    class OtherDevice:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            self.before, current[0] = current[0], self.index

        def __exit__(self, *_) -> None:
            current[0] = self.before

    seen = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "device", OtherDevice)
    launch = Launch({(3,): lambda *arguments: seen.append((current[0], arguments))}, 3, torch.device("cuda", 1), (7,))
    launch(False, "w")
    assert seen == [(1, ("w", 7))]
    assert current == [0]


def test_what_is_kept_goes_with_the_weights_and_holds_no_topology(driver):
    formula = Formula.of(RULES["stdp"], soft_bound, soft_bound)
    problem = make_problem(formula, GROUPS["conv2d"])
    _, weights, _, pre, post, numbers, *limits = problem.arguments
    topologies = []
    for _ in range(5):
        topology = Conv2d(*SHAPE)
        topologies.append(weakref.ref(topology))
        step_(formula, topology, weights, pre, post, numbers, *limits, None, "triton")
        del topology
    gc.collect()
    assert [topology() for topology in topologies] == [None] * 5
    kept = list(_ROOM.get(weights.untyped_storage(), {}))
    assert len(kept) == 1, "groups of one geometry that come by turns share their room"
    storage = weakref.ref(weights.untyped_storage())
    driver.take()
    del weights, problem, _
    gc.collect()
    assert storage() is None


def test_lists_of_very_many_neurons_have_few_segments():
    listing = Listing.of(3_000_000)
    assert listing.segments <= 256 and listing.segments * listing.segment >= 3_000_000
