"""What is missing or does not fit is said before anything changes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pymonntorch import Network, NeuronGroup, SynapseGroup

import tritonstdp.behaviors as ours
from support import SMALL, Connect, RandomSpikes, Wiring, side_by_side
from tritonstdp.behaviors import synapse as groups

DENSE = SMALL["Simple"]
STDP = {"a_plus": 0.006, "a_minus": 0.008}
RSTDP = {**STDP, "tau_c": 5.0}


def bare_group(*behaviors, neurons=(), wiring: Wiring = DENSE) -> tuple[Network, SynapseGroup]:
    """A group between neurons that have spikes and nothing else, not yet initialized."""
    network = Network()
    ends = [
        NeuronGroup(n, network, behavior={1: RandomSpikes(), **dict(enumerate(neurons, start=2))})
        for n in (wiring.n_pre, wiring.n_post)
    ]
    behavior = {5: Connect(wiring), **dict(enumerate(behaviors, start=40))}
    return network, SynapseGroup(network, *ends, behavior=behavior)


CATCHERS = (ours.PreSpikeCatcher, ours.PostSpikeCatcher)
TRACES = (ours.PreTrace, ours.PostTrace)


@pytest.mark.parametrize("missing", ["a_plus", "a_minus", "tau_c"])
@pytest.mark.parametrize("name", ["SimpleRSTDP", "SparseRSTDP", "One2OneRSTDP", "Conv2dRSTDP", "Local2dRSTDP"])
def test_a_missing_parameter_is_named(name, missing):
    behavior = getattr(ours, name)(**{**RSTDP, missing: None})
    with pytest.raises(ValueError, match=f"{name} needs {missing}: pass {missing}=..."):
        side_by_side(SMALL[name.removesuffix("RSTDP")], behavior)


@pytest.mark.parametrize("side", ["positive_bound", "negative_bound"])
@pytest.mark.parametrize("name", ["SimpleSTDP", "SimpleiSTDP"])
def test_an_unknown_bound_is_refused_with_the_names_that_exist(name, side):
    arguments = STDP if name == "SimpleSTDP" else {"alpha": 0.2}
    with pytest.raises(ValueError, match=r"unknown bound 'softbound': use one of hard_bound, lower_bound"):
        side_by_side(DENSE, getattr(ours, name)(**arguments, **{side: "softbound"}))


def test_an_unknown_backend_is_refused_with_the_names_that_exist():
    network, _ = side_by_side(DENSE, ours.SimpleSTDP(**STDP, backend="cuda"))
    with pytest.raises(ValueError, match="unknown backend 'cuda': use one of triton, cpu, reference"):
        network.simulate_iteration()


def test_missing_dopamine_is_said_before_anything_changes():
    network, (group,) = side_by_side(DENSE, ours.SimpleRSTDP(**RSTDP))
    network.simulate_iteration()
    weights, c = group.weights.clone(), group.c.clone()
    del network.dopamine_concentration
    with pytest.raises(ValueError, match=r"group_0 has no dopamine: set network.dopamine_concentration"):
        group.behavior[60](group)
    assert torch.equal(group.weights, weights) and torch.equal(group.c, c)


@pytest.mark.parametrize("name", ["SimpleSTDP", "SparseSTDP", "SimpleiSTDP", "SimpleRSTDP"])
@pytest.mark.parametrize("absent", ["set to None", "never set"])
def test_missing_weights_are_said(name, absent):
    arguments = {"SimpleiSTDP": {"alpha": 0.2}, "SimpleRSTDP": RSTDP}.get(name, STDP)
    behavior = getattr(ours, name)(**arguments)
    network, group = bare_group(*(kind() for kind in CATCHERS), *(kind(tau_s=9.0) for kind in TRACES), behavior)
    if absent == "never set":
        group.remove_behavior("Connect")
    with pytest.raises(ValueError, match=r"has no weights: set synapse\.weights before learning"):
        network.initialize(info=False)
        group.weights = None
        network.simulate_iteration()


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ((), "lacks pre_spike, post_spike, pre_trace, post_trace: add PreSpikeCatcher, PostSpikeCatcher, PreTrace"),
        (CATCHERS, "lacks pre_trace, post_trace: add PreTrace, PostTrace"),
        ((*CATCHERS, ours.PreTrace), "lacks post_trace: add PostTrace"),
    ],
)
def test_missing_spikes_and_traces_are_named_with_what_sets_them(present, message):
    behaviors = [kind(tau_s=9.0) if kind in TRACES else kind() for kind in present]
    network, group = bare_group(*behaviors, ours.SimpleSTDP(**STDP))
    network.initialize(info=False)
    before = group.weights.clone()
    with pytest.raises(ValueError, match=message):
        network.simulate_iteration()
    assert torch.equal(group.weights, before)


def test_an_axon_without_a_trace_is_no_source_of_traces(conex):
    network, group = bare_group(ours.SimpleSTDP(**STDP))
    for neurons in (group.src, group.dst):
        neurons.add_behavior(30, conex.NeuronAxon(), initialize=False)
    network.initialize(info=False)
    with pytest.raises(ValueError, match="a SpikeTrace and then a NeuronAxon"):
        network.simulate_iteration()


@pytest.mark.parametrize("attribute", ["src_delay", "dst_delay"])
def test_an_axon_without_a_delay_on_the_synapse_is_said(attribute):
    network, (group,) = side_by_side(DENSE, ours.SimpleSTDP(**STDP), max_delay=3)
    delattr(group, attribute)
    with pytest.raises(ValueError, match=f"group_0 has no {attribute}, which the axon needs"):
        network.simulate_iteration()


def test_neurons_without_spikes_are_said_by_the_catchers():
    network, group = bare_group(ours.PreSpikeCatcher())
    group.src.remove_behavior("RandomSpikes")
    with pytest.raises(ValueError, match=r"NeuronGroup_1 has no spikes: set neurons\.spikes"):
        network.initialize(info=False)


@pytest.mark.parametrize("kind", TRACES)
def test_a_missing_time_constant_is_named(kind):
    network, _ = bare_group(*(kind() for kind in CATCHERS), kind(tau_s=None))
    with pytest.raises(ValueError, match=f"{kind.__name__} needs tau_s"):
        network.initialize(info=False)


def test_inhibitory_learning_needs_alpha_or_rho():
    with pytest.raises(ValueError, match=r"SimpleiSTDP needs alpha, or rho \(Hz\)"):
        side_by_side(DENSE, ours.SimpleiSTDP())
    network, _ = bare_group(ours.SimpleiSTDP(rho=5.0))
    with pytest.raises(ValueError, match=r"finds no trace of the pre neurons: add PreTrace and PostTrace"):
        network.initialize(info=False)


@pytest.mark.parametrize("arguments", [{"rho": 5.0}, {"alpha": 0.2}])
def test_unequal_time_constants_are_refused_for_inhibitory_learning(arguments):
    traces = ours.PreTrace(tau_s=10.0), ours.PostTrace(tau_s=20.0)
    network, _ = bare_group(*(kind() for kind in CATCHERS), *traces, ours.SimpleiSTDP(**arguments))
    with pytest.raises(ValueError, match=r"pre trace has tau_s=10.0 and the post trace tau_s=20.0"):
        network.initialize(info=False)


def test_unequal_time_constants_on_the_neurons_are_refused(conex):
    network, group = bare_group(ours.SimpleiSTDP(rho=5.0))
    for neurons, tau in ((group.src, 10.0), (group.dst, 20.0)):
        neurons.add_behavior(20, conex.SpikeTrace(tau_s=tau), initialize=False)
    with pytest.raises(ValueError, match=r"tau_s=10.0 and the post trace tau_s=20.0"):
        network.initialize(info=False)


def test_weights_that_require_grad_are_refused():
    network, (group,) = side_by_side(DENSE, ours.SimpleSTDP(**STDP))
    group.weights.requires_grad_()
    with pytest.raises(ValueError, match="weights require grad"):
        network.simulate_iteration()


@pytest.mark.parametrize("name", ["Conv2dSTDP", "Conv2diSTDP", "Conv2dRSTDP", "Local2dSTDP", "Local2diSTDP"])
def test_a_geometry_that_does_not_give_dst_shape_is_refused(name):
    prefix, _, rule = name.partition("2d")
    arguments = {"iSTDP": {"alpha": 0.2}, "RSTDP": RSTDP}.get(rule, STDP)
    network, (group,) = side_by_side(SMALL[f"{prefix}2d"], getattr(ours, name)(**arguments, backend="reference"))
    network.simulate_iteration()
    before = group.weights.clone()
    group.padding = 2
    with pytest.raises(ValueError, match=r"dst_shape \(3, 4, 5\) does not fit"):
        network.simulate_iteration()
    del group.stride
    with pytest.raises(ValueError, match=r"group_0 has no stride: set synapse.stride"):
        network.simulate_iteration()
    assert torch.equal(group.weights, before)


def refused_step(prefix, error, message, **changes):
    """Take a step, so that what is right has been cached; then change attributes, and see the next one refused."""
    network, (group,) = side_by_side(SMALL[prefix], getattr(ours, f"{prefix}STDP")(**STDP, backend="reference"))
    network.simulate_iteration()
    weights, before = group.weights, group.weights.clone()
    for name, value in changes.items():
        setattr(group.behavior[60] if name == "weight_divisor" else group, name, value)
    with pytest.raises(error, match=message):
        network.simulate_iteration()
    assert torch.equal(weights, before)


@pytest.mark.parametrize("prefix", ["Conv2d", "Local2d"])
@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("stride", "2", TypeError, "stride is '2': give an int or"),
        ("stride", (2.0, 1), TypeError, r"stride is \(2\.0, 1\): give an int or"),
        ("stride", (2, True), TypeError, r"stride is \(2, True\): give an int or"),
        ("stride", [2, [1]], TypeError, r"stride is \(2, \[1\]\): give an int or"),
        ("stride", (2, 1, 1), ValueError, r"stride is \(2, 1, 1\): give an int or"),
        ("stride", torch.tensor(2), TypeError, r"stride is tensor\(2\): give an int or"),
        ("padding", (True, False), TypeError, r"padding is \(True, False\): give an int or"),
        ("padding", (1, 0.0), TypeError, r"padding is \(1, 0\.0\): give an int or"),
        ("src_shape", (2, 7.0, 6), TypeError, r"src_shape is \(2, 7\.0, 6\): give \(channels, height, width\)"),
        ("src_shape", "276", TypeError, "src_shape is '276': give"),
        ("dst_shape", (3, 4), ValueError, r"dst_shape is \(3, 4\): give \(channels, height, width\)"),
    ],
    ids=str,
)
def test_odd_geometry_is_named_whatever_was_cached_before(prefix, name, value, error, message):
    refused_step(prefix, error, f"^group_0: {message}", **{name: value})


@pytest.mark.parametrize("value", [3, "32", (3,), (3.0, 2), {}], ids=repr)
def test_an_odd_kernel_shape_is_named(value):
    refused_step("Local2d", ValueError, r"^group_0: kernel_shape is .*: give \(\.\.\., kh, kw\)", kernel_shape=value)


@pytest.mark.parametrize("value", ["345", (3,), 3, (3.0, 4.0, 5.0)], ids=repr)
def test_a_convolution_needs_a_shape_to_divide_by(value):
    with pytest.raises(ValueError, match=r"^group: dst_shape is .*: give \(channels, height, width\)"):
        groups.positions(SimpleNamespace(tag="group", dst_shape=value))


@pytest.mark.parametrize("value", [0, 0.0, float("nan"), float("inf"), "20", True, [20], torch.tensor(20)], ids=repr)
def test_a_divisor_that_can_t_divide_is_named(value):
    message = r"^group_0: divisor \(a behavior's weight_divisor\) is .*: give a finite number other than 0"
    refused_step("Conv2d", (ValueError, TypeError), message, weight_divisor=value)


@pytest.mark.parametrize("prefix", ["Simple", "One2One", "Conv2d", "Local2d"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: w.numpy(), r"are ndarray, not a Tensor: pass torch\.as_tensor"),
        (lambda w: w.tolist(), r"are list, not a Tensor: pass torch\.as_tensor"),
        (lambda w: 1, "are int, not a Tensor"),
        (lambda w: w.long(), r"are torch\.int64"),
        (lambda w: w.cfloat(), r"are torch\.complex64"),
    ],
    ids=["array", "list", "int", "integers", "complex"],
)
def test_what_can_t_be_weights_is_named(prefix, make, message):
    refused_step(prefix, TypeError, f"^synapse.weights {message}", weights=make(SMALL[prefix].weights()))


def test_neurons_whose_spikes_are_no_tensor_are_said():
    network, group = bare_group(ours.PreSpikeCatcher())
    group.src.remove_behavior("RandomSpikes")
    group.src.spikes = [True, False]
    with pytest.raises(TypeError, match=r"NeuronGroup_1\.spikes are list: set torch\.as_tensor"):
        network.initialize(info=False)


@pytest.mark.parametrize(
    ("prefix", "other"), [("Simple", "One2One"), ("Simple", "Sparse"), ("One2One", "Simple"), ("Conv2d", "Local2d")]
)
def test_weights_of_another_topology_are_refused(prefix, other):
    behavior = getattr(ours, f"{prefix}STDP")(**STDP)
    network, _ = side_by_side(SMALL[other], behavior)
    with pytest.raises(ValueError, match="use the behavior of their topology"):
        network.simulate_iteration()


def test_signals_of_another_size_or_dtype_are_refused():
    network, (group,) = side_by_side(DENSE, ours.SimpleSTDP(**STDP), convention="synapse")
    network.simulate_iteration()
    behavior, before = group.behavior[60], group.weights.clone()
    good = group.pre_trace
    group.pre_trace = good.double()
    with pytest.raises(ValueError, match=r"pre_trace is torch.float64, the weights torch.float32"):
        behavior(group)
    group.pre_trace = good[:-1]
    with pytest.raises(ValueError, match=r"pre_trace has shape \(22,\); dense needs \(23,\)"):
        behavior(group)
    group.pre_trace, group.post_spike = good, None
    with pytest.raises(TypeError, match="post_spike is NoneType"):
        behavior(group)
    assert torch.equal(group.weights, before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("much", TypeError, "compute_dw gives 'much'"),
        (None, TypeError, "compute_dw gives None"),
        (torch.zeros(3, 3).to_sparse(), TypeError, "strided"),
        (torch.zeros(5, 1, 1), ValueError, "it must be"),
    ],
)
@pytest.mark.parametrize("clamp", [False, True])
def test_a_compute_dw_that_gives_no_change_is_refused(change, error, message, clamp):
    behavior = ours.SimpleRSTDP(**RSTDP, clamp=clamp)
    _, (group,) = side_by_side(DENSE, behavior, convention="synapse")
    behavior.compute_dw = lambda synapse: change
    before, c = group.weights.clone(), group.c.clone()
    with pytest.raises(error, match=message):
        behavior.forward(group)
    assert torch.equal(group.weights, before) and torch.equal(group.c, c)


def test_a_change_that_is_one_number_is_added_everywhere():
    behavior = ours.SimpleSTDP(**STDP, clamp=True)
    _, (group,) = side_by_side(DENSE, behavior, convention="synapse")
    behavior.compute_dw = lambda synapse: 0.25
    before = group.weights.clone()
    behavior.forward(group)
    assert torch.equal(group.weights, (before + 0.25).clamp(0, 1))


def test_a_negative_firing_rate_is_refused():
    with pytest.raises(ValueError, match="rho=-5"):
        side_by_side(DENSE, ours.SimpleiSTDP(rho=-5.0), convention="synapse")
