"""A whole CoNeX network in which nothing but the import of the learning classes changes."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import random

import pytest
import torch
from pymonntorch import Behavior, NeuronDimension, NeuronGroup, SynapseGroup

import tritonstdp as ts
import tritonstdp.behaviors as ours
from support import values_of

BOUNDS = {"positive_bound": "soft_bound", "negative_bound": "soft_bound"}
STDP = {"a_plus": 0.01, "a_minus": 0.012, **BOUNDS}
NAMES = [name for name in ours.__all__ if name.endswith("STDP")]
IN_CONEX = [name for name in NAMES if name not in ("Conv2diSTDP", "Local2diSTDP")]
ARGUMENTS = {"iSTDP": {"lr": 0.01, "rho": 40.0}, "RSTDP": {**STDP, "tau_c": 8.0}, "STDP": STDP}


def arguments_of(name: str) -> dict:
    rule = next(rule for rule in ARGUMENTS if name.endswith(rule))
    return ARGUMENTS[rule]


def population(conex, network, size):
    behaviors = [
        conex.SimpleDendriteStructure(),
        conex.SimpleDendriteComputation(),
        conex.LIF(R=4.0, threshold=1.0, tau=8.0, v_reset=0.0, v_rest=0.0),
        conex.InherentNoise(scale=0.35),
        conex.Fire(),
        conex.SpikeTrace(tau_s=10.0),
        conex.NeuronAxon(max_delay=3),
    ]
    return NeuronGroup(size, network, behavior=conex.prioritize_behaviors(behaviors))


def connection(conex, network, src, dst, initializer, dendrite, *more: Behavior) -> SynapseGroup:
    behaviors = [conex.SynapseInit(), conex.WeightInitializer(**initializer), dendrite, *more]
    return SynapseGroup(network, src, dst, tag="Proximal", behavior=conex.prioritize_behaviors(behaviors))


def cortex(conex, learning, without: str | None = None, seed: int = 3, dendrites=None):
    """A layer of spiking neurons with every kind of connection, whose learning classes come from ``learning``."""
    dendrites = conex if dendrites is None else dendrites
    random.seed(seed)
    torch.manual_seed(seed)
    dopamine = [conex.Payoff(initial_payoff=0.05), conex.Dopamine(tau_dopamine=4.0, initial_dopamine_concentration=0.4)]
    network = conex.Neocortex(dt=1, behavior=conex.prioritize_behaviors(dopamine))
    image = population(conex, network, NeuronDimension(depth=2, height=6, width=6))
    features = population(conex, network, NeuronDimension(depth=3, height=4, width=4))
    relay = population(conex, network, NeuronDimension(depth=1, height=1, width=48))
    half = {"mode": "rand", "scale": 0.5}
    kernel = {**half, "weight_shape": (3, 2, 3, 3), "kernel_shape": (3, 2, 3, 3)}
    local = {**half, "weight_shape": (3, 16, 18), "kernel_shape": (3, 4, 4, 2, 3, 3)}
    one = {**half, "weight_shape": (48,)}
    sparse = {**half, "density": 0.3}
    dense = dendrites.SimpleDendriticInput
    plan = [
        ("SimpleSTDP", image, relay, half, dense(), conex.DelayInitializer(mode=2), conex.WeightNormalization(norm=3)),
        ("SimpleSTDP", relay, relay, half, dense(current_coef=0.1), conex.WeightClip(w_min=0.1, w_max=0.7)),
        ("SimpleiSTDP", relay, features, half, dense(current_coef=0.1)),
        ("SimpleRSTDP", image, features, half, dense(current_coef=0.1)),
        ("SparseSTDP", image, relay, sparse, dendrites.SparseDendriticInput()),
        ("SparseiSTDP", relay, features, sparse, dendrites.SparseDendriticInput()),
        ("SparseRSTDP", relay, image, sparse, dendrites.SparseDendriticInput()),
        ("One2OneSTDP", features, relay, one, dendrites.One2OneDendriticInput()),
        ("One2OneiSTDP", relay, features, one, dendrites.One2OneDendriticInput()),
        ("One2OneRSTDP", features, relay, one, dendrites.One2OneDendriticInput()),
        ("Conv2dSTDP", image, features, kernel, dendrites.Conv2dDendriticInput()),
        ("Conv2dRSTDP", image, features, kernel, dendrites.Conv2dDendriticInput()),
        ("Local2dSTDP", image, features, local, dendrites.Local2dDendriticInput()),
        ("Local2dRSTDP", image, features, local, dendrites.Local2dDendriticInput()),
    ]
    groups = []
    for name, src, dst, initializer, dendrite, *more in plan:
        if without is not None and name.startswith(without):
            continue
        rule = getattr(learning, name)(**arguments_of(name))
        groups.append(connection(conex, network, src, dst, initializer, dendrite, rule, *more))
    layer = conex.Layer(network, neurongroups=[image, features, relay], synapsegroups=groups, tag="layer")
    return network, layer, groups


@pytest.fixture(scope="module", autouse=True)
def _default_backend_of_a_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)
        yield


@pytest.fixture(scope="module")
def learnt(conex):
    """The groups of CoNeX's network and of ours after 100 iterations."""
    result = []
    for learning in (conex, ours):
        network, _, groups = cortex(conex, learning)
        network.initialize(info=False)
        start = [values_of(group.weights).clone() for group in groups]
        network.simulate_iterations(100, measure_block_time=False)
        result.append((start, groups))
    return result


def test_only_the_import_changes_and_the_weights_stay_the_same(learnt):
    (start, theirs), (_, mine) = learnt
    for before, expected, group in zip(start, theirs, mine, strict=True):
        weights, wanted = values_of(group.weights), values_of(expected.weights)
        assert torch.isfinite(wanted).all() and not torch.equal(wanted, before)
        # a convolution's sum is rounded in another order, and its spikes reach every other group only as spikes
        torch.testing.assert_close(weights, wanted, rtol=1e-5, atol=1e-6)
        if "Conv2dDendriticInput" not in group.tags:
            assert torch.equal(weights, wanted), group


def test_dendritic_inputs_take_the_place_of_conex_s_by_a_changed_import(conex):
    networks = []
    for dendrites in (conex, ours):
        network, _, groups = cortex(conex, conex, dendrites=dendrites)
        network.initialize(info=False)
        network.simulate_iterations(20, measure_block_time=False)
        networks.append((network, groups))
    (theirs, expected), (mine, groups) = networks
    assert sum(neurons.spikes.sum() for neurons in theirs.NeuronGroups) > 0
    for neurons, wanted in zip(mine.NeuronGroups, theirs.NeuronGroups, strict=True):
        assert torch.equal(neurons.spikes, wanted.spikes)
        torch.testing.assert_close(neurons.v, wanted.v, rtol=1e-4, atol=1e-4)
    for group, wanted in zip(groups, expected, strict=True):
        assert group.tags[-1] == wanted.tags[-1]
        torch.testing.assert_close(group.I, wanted.I, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(values_of(group.weights), values_of(wanted.weights), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", IN_CONEX)
def test_names_arguments_tags_and_priorities_are_those_of_conex(conex, name):
    theirs, mine = getattr(conex, name), getattr(ours, name)
    wanted, offered = (inspect.signature(cls.__init__).parameters for cls in (theirs, mine))
    positional = [key for key, value in wanted.items() if value.kind is value.POSITIONAL_OR_KEYWORD]
    assert [key for key, value in offered.items() if value.kind is value.POSITIONAL_OR_KEYWORD] == positional
    for key in set(wanted) - {"self", "args", "kwargs"}:
        accepted = {key: 1} | dict.fromkeys(positional[1:], 1)
        assert mine(**accepted).init_kwargs[key] == theirs(**accepted).init_kwargs[key]
    behaviors = [cls(**arguments_of(name)) for cls in (theirs, mine)]
    assert behaviors[0].tags == behaviors[1].tags == [name, "weight_learning"]
    for key, value in behaviors[0].init_kwargs.items():
        assert behaviors[1].init_kwargs[key] == value
    assert list(conex.prioritize_behaviors([behaviors[1]])) == list(conex.prioritize_behaviors([behaviors[0]]))


@pytest.mark.parametrize("name", IN_CONEX)
def test_bases_are_those_of_conex(conex, name):
    bases = {cls.__name__ for cls in getattr(conex, name).__mro__}
    assert bases <= {cls.__name__ for cls in getattr(ours, name).__mro__}
    assert issubclass(getattr(ours, name), (Behavior, ours.BaseLearning))


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_a_plain_function_that_does_something(name):
    behavior = getattr(ours, name)(**arguments_of(name))
    assert inspect.isfunction(type(behavior).forward)
    assert not behavior.empty_iteration_function


def test_attributes_are_those_that_conex_sets(learnt):
    (_, theirs), (_, mine) = learnt
    for expected, group in zip(theirs, mine, strict=True):
        wanted, behavior = (
            next(b for b in each.behavior.values() if "weight_learning" in b.tags) for each in (expected, group)
        )
        for key, value in vars(wanted).items():
            if key in vars(torch.nn.Module()) or key in vars(Behavior()):
                continue
            if callable(value):
                assert getattr(behavior, key).__name__ == value.__name__
            else:
                assert getattr(behavior, key) == value, key
        assert hasattr(expected, "c") == hasattr(group, "c")


def test_nothing_is_warned_of_at_initialization(conex, capsys):
    for learning in (conex, ours):
        network, _, _ = cortex(conex, learning)
        capsys.readouterr()
        network.initialize(info=False, warnings=False)
        assert "Warning" not in capsys.readouterr().out


def test_a_network_that_has_learnt_can_be_copied(conex):
    network, _, groups = cortex(conex, ours, without="Sparse")  # torch can't copy a CSC tensor
    network.initialize(info=False)
    network.simulate_iterations(3, measure_block_time=False)
    twin = copy.deepcopy(network)
    for each in (network, twin):
        torch.manual_seed(5)
        each.simulate_iterations(3, measure_block_time=False)
    for group, other in zip(groups, twin.SynapseGroups, strict=True):
        assert group is not other
        assert torch.equal(group.weights, other.weights)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_network_that_is_loaded_goes_on_as_the_one_that_was_saved(conex, tmp_path, steps):
    networks = []
    for run_before in (3, steps):
        network, _, groups = cortex(conex, ours)
        network.initialize(info=False)
        network.simulate_iterations(run_before, measure_block_time=False)
        networks.append((network, groups))
    (saved, expected), (loaded, found) = networks
    ts.save(saved, tmp_path / "x")
    saved.simulate_iterations(4, measure_block_time=False)
    ts.load(loaded, tmp_path / "x")
    loaded.simulate_iterations(4, measure_block_time=False)
    for group, wanted in zip(found, expected, strict=True):
        assert torch.equal(values_of(group.weights), values_of(wanted.weights)) and torch.equal(group.I, wanted.I)
        assert torch.equal(group.dst.v, wanted.dst.v) and torch.equal(group.dst.spikes, wanted.dst.spikes)


def test_a_behavior_that_has_learnt_can_be_copied_and_pickled(learnt):
    for group in learnt[1][1]:
        behavior = next(b for b in group.behavior.values() if "weight_learning" in b.tags)
        for twin in (copy.deepcopy(behavior), pickle.loads(pickle.dumps(behavior))):
            assert type(twin) is type(behavior)
            assert twin.init_kwargs == behavior.init_kwargs
            assert twin.compute_dw(group).equal(behavior.compute_dw(group))


def test_a_layer_can_be_replicated_and_saved_to_json(conex, tmp_path):
    _, layer, groups = cortex(conex, ours)
    twin, saved = conex.replicate(layer, conex.Neocortex(dt=1))
    path = tmp_path / "layer.json"
    for group in saved["built_structures"].values():
        for behavior in group["behavior"]:
            behavior["parameters_kwargs"].pop("device", None)
    saved.pop("device")
    conex.save_structure_dict_to_json(saved, str(path))
    loaded = conex.load_structure_dict_from_json(str(path))
    for copied in (twin.synapsegroups, conex.create_structure_from_dict(conex.Neocortex(dt=1), loaded).synapsegroups):
        for group, other in zip(groups, copied, strict=True):
            mine, theirs = (
                next(b for b in each.behavior.values() if "weight_learning" in b.tags) for each in (group, other)
            )
            assert type(mine) is type(theirs)
            assert json.dumps(mine.init_kwargs) == json.dumps(theirs.init_kwargs)
