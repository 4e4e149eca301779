"""Spike propagation: every backend of every topology sums the same, and what does not fit is refused."""

import copy
import logging

import pytest
import torch
from torch.nn.functional import conv2d, unfold

import tritonstdp as ts
from tritonstdp import propagate_, registry
from tritonstdp.binding import Binding
from tritonstdp.kernels.propagation import PROPAGATION, PropagationCase
from tritonstdp.kernels.sparse.propagation_cpu import is_ordered
from tritonstdp.registry import BACKENDS, entries, kernels_of, meeting_of, register_kernel
from tritonstdp.rules import RULES, Rule, stdp
from tritonstdp.topology import DTYPES, TOPOLOGIES, OneToOne, Sparse

GROUPS = {name: kind.uneven_example() for name, kind in TOPOLOGIES.items()} | {
    "sparse by pre neuron": Sparse.random(70, 90, 1300, torch.sparse_csr),
    "one synapse": ts.Dense(1, 1),
    "no post neurons": ts.Dense(5, 0),
    "no pre neurons": ts.Dense(0, 5),
    "no synapses": Sparse.random(5, 4, 0),
}
SERVED = [
    (name, backend.name)
    for name, group in GROUPS.items()
    for backend in BACKENDS
    if any(e.serves(PropagationCase.plain(group, torch.float32, "cpu"), backend.name) for e in entries())
]
THREADED = [
    name
    for name, group in GROUPS.items()
    if "parallel_work" in getattr(kernels_of(group.name, "propagation_cpu"), "SPACE", ())
]
of_every_backend = pytest.mark.parametrize(("group", "backend"), SERVED, ids=map("-".join, SERVED))


def drawn(topology, dtype=torch.float64, rate=0.3, float_spikes=False):
    """A current, weights and spikes, the same for each dtype but for its rounding."""
    generator = torch.Generator().manual_seed(3)
    uniform = [torch.rand(shape, generator=generator) - 0.3 for shape in (topology.post_shape, topology.weights_shape)]
    current, weights = (tensor.to(dtype) for tensor in uniform)
    spikes = torch.rand(topology.pre_shape, generator=generator) < rate
    return current, weights, spikes * torch.rand(topology.pre_shape, generator=generator) if float_spikes else spikes


def propagated(topology, current, values, spikes, backend=None):
    plan = None if isinstance(topology, Sparse) else topology
    return propagate_(current, topology.weights_of(values), spikes, topology=plan, backend=backend)


def taken(backend, topology):
    """The dtypes that a backend takes."""
    refuse = next(b.refuse for b in BACKENDS if b.name == backend)
    return [d for d in DTYPES.values() if refuse(PropagationCase.plain(topology, d, "cpu")) is None]


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_reference_is_the_product_of_spikes_and_weights(name):
    topology = GROUPS[name]
    current, w, spikes = drawn(topology, float_spikes=True)
    spikes, image = spikes.double(), spikes.double().reshape(1, *getattr(topology, "src_shape", (1, 1, -1)))
    geometry = {key: getattr(topology, key) for key in ("stride", "padding") if hasattr(topology, key)}
    products = {
        "dense": lambda: spikes @ w,
        "one_to_one": lambda: spikes * w,
        "sparse": lambda: spikes @ topology.weights_of(w).to_dense(),
        "conv2d": lambda: conv2d(image, w, **geometry).view(-1),
        "local2d": lambda: torch.einsum("cps,sp->cp", w, unfold(image, topology.kernel_size, **geometry)[0]).flatten(),
    }
    expected = current + products[name]()
    torch.testing.assert_close(propagated(topology, current, w, spikes, "reference"), expected)


@of_every_backend
def test_every_backend_is_right_within_the_rounding_of_a_sum(group, backend):
    topology = GROUPS[group]
    for dtype, float_spikes in zip(taken(backend, topology), (False, True) * 2, strict=False):
        for rate in (0.0, 0.01, 0.3, 1.0):  # few spikes are scattered
            current, w, spikes = drawn(topology, dtype, rate, float_spikes)
            spikes = spikes.to(dtype) if float_spikes else spikes
            exact, magnitude = (
                propagated(topology, f(current.double()), f(w.double()), spikes.double(), "reference")
                for f in (torch.Tensor.clone, torch.Tensor.abs)
            )
            found = propagated(topology, current, w, spikes, backend)
            assert found is current
            sums = torch.finfo(torch.promote_types(dtype, torch.float32)).eps * (len(spikes) + 1) * magnitude
            stored = torch.finfo(dtype).eps * exact.abs() if dtype.itemsize == 2 else 0
            assert ((found.double() - exact).abs() <= sums + stored).all(), (dtype, rate, float_spikes)


@of_every_backend
def test_what_no_spike_reads_leaks_nothing(group, backend):
    topology = GROUPS[group]
    meeting = meeting_of(topology.name)
    current, w, spikes = drawn(topology, torch.float32, rate=0.02)
    current.fill_(-0.0)
    for given in (spikes, torch.zeros_like(spikes), spikes.float()):
        seen = meeting.at_pre(topology, given.float()) != 0
        seen = seen.expand(*w.shape, *seen.shape[-1:] if meeting.shares_weights else ())
        read, reached = seen, meeting.onto_post(topology, seen.float()) != 0
        if meeting.shares_weights:
            read = seen.any(-1)
        for wild in (torch.nan, torch.inf):
            leaky = torch.where(read, w, wild).contiguous()
            found = propagated(topology, current.clone(), leaky, given, backend)
            assert torch.equal(found, propagated(topology, current.clone(), w, given, backend))
            assert (found[~reached].signbit() & (found[~reached] == 0)).all()


@pytest.mark.parametrize("backend", ["triton", "cpu", "reference"])
def test_weights_are_taken_in_any_strides(backend):
    topology = ts.Dense(37, 21)
    current, w, spikes = drawn(topology, torch.float32)
    expected = propagate_(current.clone(), w, spikes)
    for other in (w.t().contiguous().t(), torch.stack([w, w + 1], -1)[..., 0], torch.cat([w, w], 1)[:, :21]):
        torch.testing.assert_close(propagate_(current.clone(), other, spikes, backend=backend), expected)
    gaps, line = torch.stack([current, current], 1), torch.stack([spikes, ~spikes], 1)
    assert propagate_(gaps[:, 0], w, line[:, 0], backend=backend).data_ptr() == gaps.data_ptr()
    torch.testing.assert_close(gaps, torch.stack([expected, current], 1))


@pytest.mark.parametrize("spikes", [torch.tensor([2, 0]), torch.tensor([2.0, 0.0], dtype=torch.float16)], ids=str)
def test_spikes_of_any_real_dtype_count_with_their_value(spikes):
    weights = torch.tensor([[0.5, 1.0], [torch.nan, torch.nan]])
    assert propagate_(torch.zeros(2), weights, spikes).tolist() == [1.0, 2.0]


def given(**changes):
    return {"current": torch.ones(3), "weights": torch.ones(2, 3), "pre_spike": torch.tensor([True, False]), **changes}


ROOM = torch.ones(9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"current": torch.ones(2)}, r"current has shape \(2,\); dense needs \(3,\)"),
        ({"current": torch.ones(3).double()}, r"current is torch.float64, the weights torch.float32"),
        ({"current": torch.ones(3, device="meta")}, "current is on meta, the weights on cpu"),
        ({"current": torch.ones(3, requires_grad=True)}, r"current requires grad.*pass current.detach\(\)"),
        ({"current": torch.ones(1).expand(3)}, "current has several elements at one address"),
        ({"current": torch.ones(3, dtype=torch.cfloat).conj().imag}, "current is negated in name alone"),
        ({"current": [1.0]}, "current is list, not a Tensor"),
        ({"current": ROOM[5:8], "weights": ROOM[:6].view(2, 3)}, "current shares memory with weights"),
        ({"current": ROOM[:3], "pre_spike": ROOM[2:4]}, "current shares memory with pre_spike"),
        ({"weights": torch.ones(2, 3, requires_grad=True)}, r"weights requires grad.*weights.detach\(\)"),
        ({"weights": torch.ones(2, 3).int()}, "weights are torch.int32"),
        ({"weights": torch.ones(2, 3, 1, 1)}, "pass topology=Conv2d"),
        ({"pre_spike": torch.ones(3)}, r"pre_spike has shape \(3,\); dense needs \(2,\)"),
        ({"pre_spike": torch.ones(2, requires_grad=True)}, "pre_spike requires grad"),
        ({"pre_spike": torch.ones(2, dtype=torch.cfloat)}, "spikes are bool or real"),
        ({"backend": "gpu"}, "unknown backend 'gpu'"),
        ({"topology": "dense"}, "topology is 'dense': pass a topology"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_before_anything_changes(changes, message):
    for known in (False, True):
        if known:
            propagate_(**given())
        arguments = given(**changes)
        before = [torch.as_tensor(arguments[name]).detach().clone() for name in ("current", "weights")]
        with pytest.raises((ValueError, TypeError), match=message):
            propagate_(**arguments)
        for name, kept in zip(("current", "weights"), before, strict=True):
            assert kept.device.type == "meta" or torch.equal(torch.as_tensor(arguments[name]).detach(), kept)


def test_a_call_on_tensors_of_a_known_kind_is_checked_by_a_look(monkeypatch):
    held, step_for = [], Binding.step_for
    monkeypatch.setattr(Binding, "step_for", lambda *a: held.append(step_for(*a)) or held[-1])
    PROPAGATION.choices.clear()
    results = [propagate_(**given()).tolist() for _ in range(3)]
    assert len(held) == 2 and all(held) and results == [[2.0] * 3] * 3
    arguments = given()
    version = arguments["current"]._version
    propagate_(**arguments)
    assert arguments["current"]._version == version + 1
    arguments["current"].untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"current.*has no memory"):
        propagate_(**arguments)


def test_what_is_prepared_is_taken_back():
    for _ in range(2):
        arguments = given()
        with ts.prepare():
            propagate_(**arguments)
        assert arguments["current"].tolist() == [1.0] * 3


def test_a_backend_without_kernels_is_passed_over_and_that_is_said(monkeypatch, caplog):
    monkeypatch.delenv("TRITON_INTERPRET")
    mine = [e for e in entries() if (e.operation, e.backend) != ("propagation", "cpu")]
    monkeypatch.setattr(registry, "_ENTRIES", mine)
    registry.forget_choices()
    with caplog.at_level(logging.WARNING, logger="tritonstdp"):
        chosen = ts.explain("propagation", OneToOne(3))
    assert chosen.backend == "reference" and chosen.rejected["cpu"] == "cpu has no propagation kernel for one_to_one"
    assert "propagation on one_to_one runs on the reference, not on cpu" in caplog.text
    register_kernel(
        lambda case: lambda topology, weights, current, pre_spike: current.fill_(7),
        topology="one_to_one", backend="cpu", operation="propagation",
    )  # fmt: skip
    assert propagate_(torch.zeros(2), torch.zeros(2), torch.zeros(2)).tolist() == [7.0, 7.0]
    monkeypatch.undo()
    registry.forget_choices()


def test_a_topology_that_does_not_say_how_synapses_sum_up_says_so(monkeypatch):
    monkeypatch.setattr(registry, "meeting_of", lambda topology: meeting_of(topology)._replace(onto_post=None))
    registry.forget_choices()
    with pytest.raises(ValueError, match=r"one_to_one does not say how synapses sum up.*MEETING.*needs onto_post"):
        propagate_(torch.zeros(2), torch.zeros(2), torch.zeros(2), backend="reference")


def test_propagation_is_no_rule_s_name_and_has_no_bound():
    with pytest.raises(ValueError, match="'propagation', as spike propagation is"):
        ts.register_rule(Rule("propagation", stdp.on_pre, stdp.on_post))
    assert "propagation" not in RULES and copy.deepcopy(PROPAGATION) is PROPAGATION
    with pytest.raises(ValueError, match="propagation has neither"):
        register_kernel(print, topology="dense", backend="cpu", rule="stdp", operation="propagation")


@pytest.mark.slow
@pytest.mark.parametrize("name", THREADED)
def test_threads_give_the_bits_of_one(name):
    topology = GROUPS[name]
    case = PropagationCase.plain(topology, torch.float32, "cpu")
    loops = kernels_of(topology.name, "propagation_cpu")
    current, w, spikes = drawn(topology, torch.float32)
    alone, together = current.clone(), current.clone()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for found, least in ((alone, 2**40), (together, -1)):
            loops.build(case, loops.DEFAULT._replace(parallel_work=least))(topology, w, found, spikes)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, together)


def test_rows_whose_post_neurons_stand_in_any_order_are_told_from_others():
    starts, minor = torch.tensor([0, 2, 2, 4]), torch.tensor([1, 3, 0, 2])
    assert is_ordered(Sparse(3, 4, False, starts, minor)) and is_ordered(GROUPS["no synapses"])
    shuffled = Sparse(3, 4, False, starts, torch.tensor([1, 3, 2, 0]))
    assert not is_ordered(shuffled)
    spikes, values = torch.tensor([True, False, True]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = spikes.float() @ shuffled.weights_of(values).to_dense()
    assert torch.equal(propagated(shuffled, torch.zeros(4), values, spikes, "cpu"), expected)
