"""``Learning`` runs any rule on any synapse group, by the names of what the rule reads."""

import copy
import pickle

import pytest
import torch
from pymonntorch import Network, NeuronGroup, SynapseGroup

import tritonstdp as ts
import tritonstdp.behaviors as ours
from support import SMALL, Connect, RandomSpikes, side_by_side, values_of
from tritonstdp.behaviors import Learning, PostSpikeCatcher, PostTrace, PreSpikeCatcher, PreTrace
from tritonstdp.rules import Rule, resolve_bound

TRIPLET = {"a2_plus": 0.02, "a3_plus": 0.01, "a2_minus": 0.03, "a3_minus": 0.01}
STDP = {
    "a_plus": 0.05, "a_minus": 0.04, "positive_bound": "soft_bound", "negative_bound": "hard_bound", "backend": "cpu",
}  # fmt: skip


@pytest.mark.parametrize("convention", ["neurons", "synapse"])
@pytest.mark.parametrize("prefix", SMALL)
@pytest.mark.parametrize(("rule", "suffix", "extra"), [("stdp", "STDP", {}), ("rstdp", "RSTDP", {"tau_c": 9.0})])
def test_a_built_in_rule_learns_what_its_class_for_the_topology_learns(rule, suffix, extra, prefix, convention):
    of_class = getattr(ours, f"{prefix}{suffix}")(**STDP, **extra)
    network, (any_rule, own_class) = side_by_side(
        SMALL[prefix], Learning(rule, **STDP, **extra), of_class, convention=convention
    )
    start = values_of(any_rule.weights).clone()
    network.simulate_iterations(10)
    assert not torch.equal(values_of(any_rule.weights), start)
    assert torch.equal(values_of(any_rule.weights), values_of(own_class.weights))


def triplet_group(prefix="Simple", backend="cpu", **more):
    """A group that learns by triplets: slow traces are updated after learning, as the paper reads them."""
    wiring = SMALL[prefix]
    network = Network()
    neurons = [NeuronGroup(n, network, behavior={1: RandomSpikes(0.2)}) for n in (wiring.n_pre, wiring.n_post)]
    behavior = {
        5: Connect(wiring), 10: PreSpikeCatcher(), 11: PostSpikeCatcher(), 12: PreTrace(tau_s=10.0),
        13: PostTrace(tau_s=20.0), 20: Learning("triplet", **(TRIPLET | more), backend=backend),
        30: PreTrace(tau_s=80.0, signal="pre_slow"), 31: PostTrace(tau_s=90.0, signal="post_slow"),
    }  # fmt: skip
    group = SynapseGroup(network, *neurons, tag="group", behavior=behavior)
    network.initialize(info=False)
    return network, group


@pytest.mark.parametrize("prefix", SMALL)
def test_a_rule_with_two_traces_a_side_reads_them_off_the_group_on_every_topology(prefix):
    torch.manual_seed(0)
    _, compiled = triplet_group(prefix)
    torch.manual_seed(0)
    _, reference = triplet_group(prefix, "reference")
    for group in (compiled, reference):
        torch.manual_seed(1)
        group.network.simulate_iterations(20)
    found, expected = values_of(compiled.weights), values_of(reference.weights)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 if prefix == "Conv2d" else 0)
    assert not torch.equal(found, SMALL[prefix].weights() if prefix != "Sparse" else values_of(SMALL[prefix].weights()))
    assert compiled.post_slow.max() > compiled.post_trace.max()


def test_what_a_group_does_not_have_is_read_off_its_neurons():
    def on_pre(pre_spike, post_v, *, a):
        return pre_spike * post_v * a

    def on_post(post_spike, pre_gain):
        return post_spike * pre_gain

    _, group = triplet_group()
    group.src.gain, group.dst.v = torch.full((23,), 0.5), torch.linspace(0, 1, 17)
    del group.pre_trace
    rule = ts.Rule("by_voltage", on_pre, on_post)
    behavior = Learning(rule, a=0.2)
    behavior.initialize(group)
    weights = group.weights.clone()
    behavior.forward(group)
    expected = ts.update_(
        rule, weights, pre_spike=group.pre_spike, pre_gain=group.src.gain, post_spike=group.post_spike,
        post_v=group.dst.v, a=0.2,
    )  # fmt: skip
    assert torch.equal(group.weights, expected)


def test_a_parameter_may_have_one_value_a_neuron_and_is_read_at_every_step():
    torch.manual_seed(0)
    _, group = triplet_group(a2_plus=ts.per_pre(torch.linspace(0, 0.1, 23)))
    torch.manual_seed(0)
    _, alike = triplet_group(a2_plus=torch.linspace(0, 0.1, 23)[:, None])
    for one in (group, alike):
        torch.manual_seed(1)
        one.network.simulate_iterations(5)
    assert torch.equal(group.weights, alike.weights)
    [learning] = [b for b in group.behavior.values() if isinstance(b, Learning)]
    learning.a2_plus = learning.a2_minus = learning.a3_plus = learning.a3_minus = 0.0
    before = group.weights.clone()
    group.network.simulate_iterations(5)
    assert torch.equal(group.weights, before)


def test_the_bound_of_a_behavior_may_have_a_parameter_of_its_own():
    bounds = {"positive_bound": "power_upper_bound", "negative_bound": "power_lower_bound", "mu": 0.5, "backend": "cpu"}
    of_class = ours.SimpleSTDP(a_plus=0.05, a_minus=0.04, **bounds)
    network, (any_rule, own_class) = side_by_side(
        SMALL["Simple"], Learning("stdp", a_plus=0.05, a_minus=0.04, **bounds), of_class, convention="synapse"
    )
    network.simulate_iterations(10)
    assert torch.equal(any_rule.weights, own_class.weights)
    assert of_class.p_bound is resolve_bound("power_upper_bound") and of_class.mu == 0.5
    with pytest.raises(ValueError, match="SimpleSTDP needs mu: pass mu="):
        without = ours.SimpleSTDP(a_plus=0.05, a_minus=0.04, positive_bound="power_upper_bound")
        side_by_side(SMALL["Simple"], without, convention="synapse")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a_plus": 0.1}, "Learning by stdp needs a_minus: its parameters are a_plus, a_minus"),
        ({"a_plus": 0.1, "a_minus": 0.1, "tau": 3}, "Learning by stdp takes no tau"),
    ],
)
def test_wrong_parameters_are_named_when_it_is_made(given, message):
    with pytest.raises(TypeError, match=message):
        Learning("stdp", **given)


def test_a_signal_that_is_found_nowhere_is_named_with_what_sets_it():
    network, group = triplet_group()
    del group.post_slow
    with pytest.raises(ValueError, match=r"no post_slow is found: add a PostTrace\(tau_s=..., signal="):
        network.simulate_iteration()


@pytest.mark.parametrize("signal", ["slow", "post_slow", "pre_spike", 3])
def test_a_trace_has_a_name_of_its_side(signal):
    with pytest.raises(ValueError, match=r"signal is .*: name a trace of these neurons, as pre_slow"):
        PreTrace(tau_s=1.0, signal=signal)


def test_nearest_traces_forget_all_spikes_but_the_last():
    network = Network()
    neurons = NeuronGroup(3, network, behavior={1: RandomSpikes(1.0)})
    behavior = {10: PreSpikeCatcher(), 11: PreTrace(tau_s=10.0, nearest=True)}
    group = SynapseGroup(network, neurons, neurons, tag="group", behavior=behavior)
    network.initialize(info=False)
    network.simulate_iterations(5)
    torch.testing.assert_close(group.pre_trace, torch.full((3,), 0.9))


def test_it_can_be_copied_and_pickled_and_learns_on():
    behavior = Learning("triplet", **TRIPLET, positive_bound="soft_bound")
    for twin in (copy.deepcopy(behavior), pickle.loads(pickle.dumps(behavior))):
        assert twin.rule is behavior.rule or twin.rule.name == "triplet"
        assert twin.tags == behavior.tags


@pytest.mark.parametrize("name", ["forward", "sides", "compute_dw", "weight_divisor", "p_bound", "training"])
def test_a_parameter_may_not_hide_what_a_behavior_has(name):
    scope = {}
    exec(f"def on_post(post_spike, pre_trace, *, {name}): return post_spike * pre_trace * {name}", scope)
    rule = Rule("hiding", lambda pre_spike: 0.0 * pre_spike, scope["on_post"])
    with pytest.raises(TypeError, match=f"'hiding' has a parameter {name}: a behavior has that already"):
        Learning(rule, **{name: 0.1})


def test_what_every_behavior_takes_is_no_parameter_of_a_rule():
    behavior = Learning("stdp", a_plus=0.1, a_minus=0.1, tag="mine")
    assert "mine" in behavior.tags and "init_c_mode" not in behavior.init_kwargs
