"""What is saved, loaded and continued ends in the bits of what never stopped; what does not fit is refused whole."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pymonntorch import Behavior, Network, NeuronDimension, NeuronGroup, SynapseGroup

import tritonstdp as ts
import tritonstdp.behaviors as ours
from support import SMALL, Connect, Dopamine, RandomSpikes, import_conex, values_of
from tritonstdp.state import attributes, is_state, owners


@pytest.fixture(scope="module", autouse=True)
def _default_backend_of_a_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)
        yield


BOUNDS = {"positive_bound": "soft_bound", "negative_bound": "soft_bound"}
STDP = {"a_plus": 0.02, "a_minus": 0.024, **BOUNDS}
ROOT = Path(__file__).parents[1]


class Noise(Behavior):
    """Draws from all that draws random numbers, and keeps state of each kind."""

    def initialize(self, neurons):
        self.generator = torch.Generator().manual_seed(4)
        self.recent, self.calls, self.by_name = [], 0, {}

    def forward(self, neurons):
        drawn = torch.rand(neurons.size, generator=self.generator) + torch.rand(neurons.size)
        neurons.I += 0.2 * drawn + 0.1 * random.random() + 0.1 * np.random.rand()
        self.calls += 1
        self.recent = [*self.recent, drawn][-2:]
        self.by_name[f"step {self.calls % 3}"] = self.calls, drawn.sum()
        if self.calls == 4:
            self.latest = drawn.clone()


def caught(tau=12.0):
    return {
        40: ours.PreSpikeCatcher(), 41: ours.PostSpikeCatcher(),
        42: ours.PreTrace(tau_s=tau), 43: ours.PostTrace(tau_s=tau),
    }  # fmt: skip


def network_of(max_delay=1, dtype=torch.float32, size=23) -> Network:
    """Neurons of CoNeX between this package's traces, axons, dendrites, and every topology's learning."""
    conex = import_conex()
    torch.manual_seed(0)
    network = Network(behavior={1: conex.TimeResolution(dt=1), 2: Dopamine(torch.tensor)}, dtype=dtype)

    def cells(size, tag):
        behavior = {
            20: ours.SimpleDendriteStructure(Proximal_max_delay=2, Distal_max_delay=0, Apical_max_delay=0),
            21: ours.SimpleDendriteComputation(I_tau=3.0),
            22: Noise(),
            23: conex.LIF(R=6.0, threshold=1.0, tau=8.0, v_reset=0.0, v_rest=0.0),
            24: conex.Fire(),
            25: ours.SpikeTrace(tau_s=10.0),
            26: ours.NeuronAxon(max_delay=max_delay),
        }
        return NeuronGroup(size, network, tag=tag, behavior=behavior)

    src, dst, one = cells(size, "src"), cells(17, "dst"), cells(19, "one")
    image = cells(NeuronDimension(depth=2, height=7, width=6), "image")
    maps = cells(NeuronDimension(depth=3, height=4, width=5), "maps")
    of_patches = {"stride": (2, 1), "padding": (1, 0)}
    plan = [
        ("Simple", src, dst, ours.SimpleSTDP(**STDP), ours.SimpleDendriticInput()),
        ("Simple", src, dst, ours.SimpleRSTDP(tau_c=5.0, **STDP), ours.SimpleDendriticInput()),
        ("Sparse", src, dst, ours.SparseRSTDP(tau_c=5.0, **STDP), ours.SparseDendriticInput()),
        ("One2One", one, one, ours.One2OneSTDP(**STDP), ours.One2OneDendriticInput()),
        ("Conv2d", image, maps, ours.Conv2dRSTDP(tau_c=5.0, **STDP), ours.Conv2dDendriticInput(**of_patches)),
        ("Local2d", image, maps, ours.Local2dSTDP(**STDP), ours.Local2dDendriticInput(**of_patches)),
    ]  # fmt: skip
    for k, (kind, *ends, rule, dendrite) in enumerate(plan):
        behavior = {3: Connect(SMALL[kind]), 10: dendrite, **caught(), 50: rule}
        SynapseGroup(network, *ends, tag=f"Proximal,{kind}_{k}", behavior=behavior)
    network.initialize(info=False, warnings=False)
    for group in network.SynapseGroups:
        group.src_delay = torch.arange(group.src.size) % max_delay
    return network


def small(learning=None, dtype=torch.float32, size=5, more=None) -> Network:
    """Neurons that fire at random, with two groups that share what they catch."""
    torch.manual_seed(0)
    network = Network(dtype=dtype)
    cells = NeuronGroup(size, network, tag="cells", behavior={10: RandomSpikes()} | ({11: more} if more else {}))
    for k in range(2):
        rule = learning or ours.SimpleSTDP(**STDP)
        SynapseGroup(network, cells, cells, tag=f"group_{k}", behavior={5: Weights(), **caught(), 50: rule})
        learning = None
    network.initialize(info=False)
    return network


class Weights(Behavior):
    def initialize(self, synapse):
        synapse.weights = torch.rand(synapse.src.size, synapse.dst.size, dtype=synapse.network.def_dtype)


def run(network, steps):
    for _ in range(steps):
        network.simulate_iteration()


def bits(network) -> dict[tuple[int, str], object]:
    """All tensors, numbers and containers of a network, in a form that compares by bits."""

    def of(value):
        if isinstance(value, torch.Tensor):
            values = values_of(value).detach().contiguous().view(-1)
            return str(value.dtype), tuple(value.shape), values.view(torch.uint8).tolist()
        if isinstance(value, torch.Generator):
            return value.get_state().tolist()
        if isinstance(value, dict):
            return {key: of(each) for key, each in value.items()}
        return [of(each) for each in value] if isinstance(value, (list, tuple)) else repr(value)

    return {
        (k, name): of(value)
        for k, owner in enumerate(owners(network))
        for _, name, value in attributes(owner)
        if is_state(value)
    }


def seed(number):
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.mark.slow  # most of it compiles
@pytest.mark.parametrize("max_delay", [1, 3])
@pytest.mark.parametrize("has_run", [False, True])
def test_continued_it_ends_in_the_bits_of_what_never_stopped(tmp_path, max_delay, has_run):
    expected = network_of(max_delay)
    seed(1)
    run(expected, 7)
    ts.save(expected, tmp_path / "x")
    run(expected, 6)
    network = network_of(max_delay)
    seed(2)
    run(network, 7 if has_run else 0)  # to the same step, so that what is keyed by the step could be taken for fresh
    ts.load(network, tmp_path / "x")
    run(network, 6)
    found, wanted = bits(network), bits(expected)
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if found[key] != wanted[key]] == []
    assert network.iteration == 13 and all(cells.trace.any() for cells in network.NeuronGroups)


@pytest.mark.slow
def test_continued_in_a_fresh_process_it_ends_in_the_same_bits(tmp_path):
    network = small(ours.SimpleRSTDP(tau_c=5.0, **STDP), more=Reward())
    run(network, 3)
    ts.save(network, tmp_path / "x")
    run(network, 5)
    script = (
        "import sys, test_checkpoints as t, tritonstdp as ts\n"
        "network = t.small(t.ours.SimpleRSTDP(tau_c=5.0, **t.STDP), more=t.Reward())\n"
        f"ts.load(network, {str(tmp_path / 'x')!r})\n"
        "t.run(network, 5)\n"
        "print(repr(t.bits(network)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT / "tests")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr(bits(network))


class Reward(Behavior):
    def initialize(self, neurons):
        neurons.network.dopamine_concentration = 0.5

    def forward(self, neurons):
        neurons.network.dopamine_concentration *= -0.9


def versions_of(network):
    tensors = {(id(o), n): v for o in owners(network) for _, n, v in attributes(o) if isinstance(v, torch.Tensor)}
    return {name: tensor._version for name, tensor in tensors.items() if tensor.dtype is not torch.int64}


def places(network):
    strided = (
        (o, n, v) for o in owners(network) for _, n, v in attributes(o) if getattr(v, "layout", 0) is torch.strided
    )
    return {(id(owner), name): (id(tensor), tensor.data_ptr()) for owner, name, tensor in strided}


@pytest.mark.slow
def test_tensors_stay_where_they_are_and_what_shared_memory_shares_it_still(tmp_path):
    network = network_of(2)
    run(network, 4)
    ts.save(network, tmp_path / "x")
    run(network, 2)
    lay, versions = places(network), versions_of(network)
    ts.load(network, tmp_path / "x")
    assert places(network) == lay
    assert all(version > versions[name] for name, version in versions_of(network).items()), "nothing is taken for fresh"
    fresh = network_of(2)
    ts.load(fresh, tmp_path / "x")
    cells = fresh["dst", 0]
    assert cells.I_proximal.data_ptr() == cells.proximal_input.data_ptr(), "which a first step has yet to set"
    cells.proximal_input += 1
    assert cells.I_proximal._version == cells.proximal_input._version


class Alias(Behavior):
    """Keeps one tensor under several names, or several, as it is told."""

    def initialize(self, neurons):
        neurons.a, neurons.b = torch.zeros(2, 3), torch.zeros(3)
        neurons.turned = torch.arange(6.0).view(2, 3).t()
        neurons.wide = torch.ones(1).expand(3)
        neurons.bits = torch.zeros(2, dtype=torch.int32)
        neurons.parameter = torch.nn.Parameter(torch.ones(2))
        neurons.nothing = torch.empty(0)
        neurons.odd, neurons.even = torch.arange(6.0).view(3, 2).unbind(1)


def test_names_of_one_memory_are_names_of_one_memory_again_whatever_they_were(tmp_path):
    shared, apart = small(more=Alias())["cells", 0], small(more=Alias())["cells", 0]
    shared.a += 1
    shared.b = shared.a[1]
    shared.bits = shared.a[0, :2].view(torch.int32)
    shared.odd += 1
    with torch.no_grad():
        shared.parameter += 1
    ts.save(shared.network, tmp_path / "shared")
    ts.save(apart.network, tmp_path / "apart")
    for cells, name in ((apart, "shared"), (shared, "apart")):
        ts.load(cells.network, tmp_path / name)
        cells.a += 1
        assert torch.equal(cells.b, cells.a[1]) == (name == "shared")
        assert cells.bits.tolist() == ([0x40000000] * 2 if name == "shared" else [0, 0])
        assert cells.turned.tolist() == [[0, 3], [1, 4], [2, 5]] and not cells.turned.is_contiguous()
        assert cells.odd.tolist() == ([1, 3, 5] if name == "shared" else [0, 2, 4]) and cells.even.tolist() == [1, 3, 5]
        assert cells.wide.stride() == (0,) and isinstance(cells.parameter, torch.nn.Parameter)
        assert cells.parameter.tolist() == ([2, 2] if name == "shared" else [1, 1])


@pytest.mark.parametrize("parts", ["saved", "loaded"])
def test_traces_that_were_shared_and_part_or_the_other_way_round_go_on_as_they_were(tmp_path, parts):
    network, other = small(), small()
    for each in (network, other):
        run(each, 2)
    behavior = (network if parts == "saved" else other)["PreTrace"][1]
    behavior.tau_s = 3.0
    behavior.tau_s = 12.0
    ts.save(network, tmp_path / "x")
    run(network, 4)
    ts.load(other, tmp_path / "x")
    run(other, 4)
    assert bits(other) == bits(network)


def test_numbers_are_set_as_behaviors_set_them_and_what_was_not_there_goes(tmp_path):
    network = small()
    run(network, 2)
    network["SimpleSTDP", 0].a_plus = torch.tensor(0.3)
    network["PreTrace", 0].tau_s, network["PostTrace", 1].behavior_enabled = 4.0, False
    ts.save(network, tmp_path / "x")
    run(network, 4)
    other = small()
    run(other, 1)
    other["cells", 0].later, other["cells", 0].by = torch.ones(1), print
    ts.load(other, tmp_path / "x")
    run(other, 4)
    assert not hasattr(other["cells", 0], "later") and other["cells", 0].by is print
    assert bits(other) == bits(network)


def changed(file, **of):
    """A checkpoint with another header."""
    from safetensors.torch import safe_open, save_file

    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["tritonstdp"])
        data = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change = of.pop("change", lambda header, data: None)
    change(header, data)
    save_file(data, file, {"tritonstdp": json.dumps(header | of)})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: small(size=6),
            r"is cells \(NeuronGroup of 6 neurons\) in .* of 5 neurons",
        ),
        (lambda: small(ours.SimpleiSTDP(lr=0.1, rho=1.0)), r"group_0.SimpleiSTDP \(SimpleiSTDP\) in the network"),
        (lambda: small(more=Reward()), r"where it has group_0.Pre"),
        (
            lambda: small(dtype=torch.float64),
            r"group_0.weights is .*float64 \(5, 5\) in .*float32",
        ),
    ],
)
def test_another_network_is_refused_and_stays_as_it_was(tmp_path, make, said):
    ts.save(small(), tmp_path / "x")
    network = make()
    before = bits(network)
    with pytest.raises(ValueError, match=said):
        ts.load(network, tmp_path / "x")
    assert bits(network) == before


def test_a_network_that_is_not_initialized_is_refused(tmp_path):
    ts.save(small(), tmp_path / "x")
    network = Network()
    NeuronGroup(5, network, tag="cells", behavior={10: RandomSpikes()})
    with pytest.raises(ValueError, match=r"is not initialized: call network.initialize\(\)"):
        ts.load(network, tmp_path / "x")


def test_parameters_of_each_neuron_are_kept_where_there_are_such(tmp_path):
    def of(**parameters):
        return small(ours.Learning("stdp", **parameters))

    one, each = ts.per_pre(torch.rand(5)), ts.per_pre(torch.rand(5))
    ts.save(of(a_plus=one, a_minus=0.1), tmp_path / "x")
    network = of(a_plus=each, a_minus=0.2)
    ts.load(network, tmp_path / "x")
    assert torch.equal(network["Learning", 0].a_plus.values, one.values) and network["Learning", 0].a_minus == 0.1
    with pytest.raises(ValueError, match=r"a_plus is float in the network where it has PerNeuron"):
        ts.load(of(a_plus=0.1, a_minus=0.2), tmp_path / "x")


def test_sparse_indices_are_compared_and_never_taken_over(tmp_path):
    def of(column):
        network = small()
        connected = torch.zeros(5, 5)
        connected[0, 0], connected[1, column] = 0.5, 0.7
        network.SynapseGroups[0].weights = connected.to_sparse_coo()
        return network

    ts.save(of(2), tmp_path / "x")
    with pytest.raises(ValueError, match=r"group_0\.weights connects other neurons"):
        ts.load(of(3), tmp_path / "x")
    ts.load(of(2), tmp_path / "x")


def longer(header, data):
    next(each for each in header["tensors"] if each["name"].endswith("weights"))["shape"] = [5, 9]


def shorter(header, data):
    data["random.torch"] = data["random.torch"][:9].clone()


def nameless(header, data):
    del data[header["tensors"][0]["piece"]]


def pythons(header, data):
    header["objects"][0]["kept"]["__class__"] = 1


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ({"change": pythons}, "is damaged"),
        ({"format": 99}, "has format 99, and 1 is read here"),
        ({"change": longer}, "is damaged"),
        ({"change": shorter}, "is damaged"),
        ({"change": nameless}, "is damaged"),
        ({"tensors": None}, "is damaged"),
    ],
)
def test_a_file_that_is_not_sound_changes_nothing(tmp_path, of, said):
    network = small()
    ts.save(network, tmp_path / "x")
    changed(tmp_path / "x", **of)
    run(network, 1)
    before, state = bits(network), torch.get_rng_state()
    with pytest.raises(ValueError, match=said):
        ts.load(network, tmp_path / "x")
    assert bits(network) == before and torch.equal(torch.get_rng_state(), state)


def test_what_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "x").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="no checkpoint"):
        ts.load(small(), tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        ts.load(small(), tmp_path / "y")


def test_a_generator_of_another_device_goes_on_with_a_warning(tmp_path, caplog):
    network = network_of()
    ts.save(network, tmp_path / "x")

    def to_cuda(header, data):
        for each in header["objects"]:
            if "generator" in each["kept"]:
                each["kept"]["generator"]["device"] = "cuda"

    changed(tmp_path / "x", device="cuda", change=to_cuda)
    ts.load(network, tmp_path / "x")
    assert "src.Noise.generator goes on as it is" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_killed_while_it_saves_it_leaves_the_old_file_whole(tmp_path):
    network = small()
    ts.save(network, tmp_path / "x")
    old, before = (tmp_path / "x").read_bytes(), bits(network)
    run(network, 3)

    def killed(descriptor):
        os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        os.fsync = killed
        ts.save(network, tmp_path / "x")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "x").read_bytes() == old
    assert [path.stat().st_size > 1000 for path in tmp_path.glob("tmp-x-*")] == [True], "which it was writing"
    ts.load(network, tmp_path / "x")
    assert bits(network) == before


def test_without_safetensors_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"pip install 'tritonstdp\[save\]'"):
        ts.save(small(), tmp_path / "x")
