"""What kernels trust: topologies that are checked when they are made, and stay as they are."""

from __future__ import annotations

import copy
import math
import pickle
import weakref
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from support import random_sparse
from tritonstdp import Conv2d, Dense, Local2d, OneToOne, Sparse, stdp_
from tritonstdp.topology import TOPOLOGIES, Topology, example_topology, infer_topology, sparse

SRC, DST = (1, 8, 8), (4, 6, 6)
NAMES = sorted(TOPOLOGIES)
LAYOUTS = (torch.sparse_csc, torch.sparse_csr, torch.sparse_coo)


def raw(layout, starts, minor, shape=(4, 3), dtype=torch.int64):
    """A sparse tensor of whatever indices, made without torch's own checks."""
    make = torch.sparse_csc_tensor if layout is torch.sparse_csc else torch.sparse_csr_tensor
    indices = (torch.tensor(numbers, dtype=dtype) for numbers in (starts, minor))
    return make(*indices, torch.ones(len(minor)), shape, check_invariants=False)


def coo(rows, columns, shape=(4, 3)):
    indices = torch.tensor([rows, columns])
    return torch.sparse_coo_tensor(indices, torch.ones(len(rows)), shape, is_coalesced=True, check_invariants=False)


# sizes

NO_INT = [3.0, "3", "3x3", b"33", True, np.True_, np.float64(3), None, {}, {3}, 3j, torch.tensor(3), torch.tensor(True)]


@pytest.mark.parametrize("value", [*NO_INT, (3,), [3]], ids=repr)
def test_a_number_of_neurons_is_an_int(value):
    plan = example_topology("sparse")
    makers = {
        "n_pre": [lambda: Dense(value, 2), lambda: replace(plan, n_pre=value)],
        "n_post": [lambda: Dense(2, value), lambda: replace(plan, n_post=value)],
        "n": [lambda: OneToOne(value)],
    }
    for name, makes in makers.items():
        for make in makes:
            with pytest.raises(TypeError, match=f"^{name} is .*: give an int"):
                make()


@pytest.mark.parametrize("kind", [Conv2d, Local2d])
@pytest.mark.parametrize("name", ["kernel_size", "stride", "padding"])
@pytest.mark.parametrize("value", [*NO_INT, (3, 3.0), ("3", 3), (True, 3), [[3], 3]], ids=repr)
def test_an_extent_is_one_or_two_ints(kind, name, value):
    with pytest.raises(TypeError, match=f"^{name} is .*: give an int or "):
        kind(SRC, DST, **{"kernel_size": 3, name: value})


@pytest.mark.parametrize("kind", [Conv2d, Local2d])
@pytest.mark.parametrize("name", ["src_shape", "dst_shape"])
@pytest.mark.parametrize("value", [*NO_INT, "188", (1, 8, 8.0), (1, 8, True), (1, "8", 8)], ids=repr)
def test_a_shape_is_made_of_ints(kind, name, value):
    shapes = {"src_shape": SRC, "dst_shape": DST, name: value}
    with pytest.raises(TypeError, match=f"^{name} is .*: give \\(channels, height, width\\)"):
        kind(**shapes, kernel_size=3)


@pytest.mark.parametrize("kind", [Conv2d, Local2d])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_size": ()}, "kernel_size is "),
        ({"kernel_size": (3, 3, 3)}, "kernel_size is .*two ints"),
        ({"stride": [1, 1, 1]}, "stride is .*two ints"),
        ({"padding": (0, 0, 0, 0)}, "padding is .*two ints"),
        ({"kernel_size": 0}, "kernel_size is 0: every size must be at least 1"),
        ({"stride": (1, 0)}, "stride is .*at least 1"),
        ({"padding": -1}, "padding is -1: every size must be at least 0"),
        ({"src_shape": (8, 8)}, "src_shape is .*three ints"),
        ({"src_shape": (1, 1, 8, 8)}, "src_shape is .*three ints"),
        ({"src_shape": (0, 8, 8)}, "src_shape is .*at least 1"),
        ({"dst_shape": (4, 6, -6)}, "dst_shape is .*at least 1"),
        ({"dst_shape": (4, 6, 7)}, "dst_shape .* does not fit"),
        ({"padding": 2**62}, "does not fit"),
        ({"dst_shape": (2**60, 6, 6)}, r"more than 2\*\*62: give smaller sizes"),
        ({"src_shape": (2**60, 8, 8)}, r"more than 2\*\*62: give smaller sizes"),
        (
            {"stride": 2**61, "padding": 2**60, "dst_shape": (1, 2, 2)},
            r"more than 2\*\*62: give smaller sizes",
        ),
    ],
    ids=str,
)
def test_a_geometry_that_makes_no_sense_is_refused(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"src_shape": SRC, "dst_shape": DST, "kernel_size": 3, **changes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(-1, 3), "n_pre is -1: give an int from 0"),
        (lambda: OneToOne(-1), "n is -1"),
        (lambda: OneToOne(2**63), "n is 9223372036854775808"),
        (lambda: Dense(2**40, 2**40), r"weights, more than 2\*\*62: give smaller sizes"),
        (lambda: replace(example_topology("sparse"), n_pre=2**31), "n_pre is 2147483648"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_integers_of_any_kind_are_sizes_and_are_kept_as_python_s():
    expected = repr(Conv2d(SRC, DST, (3, 3)))
    for kernel in (3, [3, 3], (3,), np.int32(3), np.array([3, 3]), torch.zeros(3, 3).shape):
        assert repr(Conv2d(np.array(SRC), list(DST), kernel, np.uint8(1))) == expected
    assert repr(Dense(np.int64(0), 3)) == "Dense(n_pre=0, n_post=3)"


small = st.integers(1, 7)
pairs = st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3)))
paddings = st.one_of(st.integers(0, 3), st.tuples(st.integers(0, 3), st.integers(0, 3)))


@settings(max_examples=150, deadline=None)
@given(st.tuples(small, small, small), small, st.tuples(small, small), pairs, pairs, paddings)
def test_geometries_are_those_of_torch(src_shape, c_out, size, kernel_size, stride, padding):
    kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    image = torch.zeros(1, *src_shape)
    try:
        out = torch.nn.functional.conv2d(image, torch.zeros(c_out, src_shape[0], *kernel), None, stride, padding)
    except RuntimeError:  # the kernel is larger than what it sees
        out = None
    geometry = (kernel_size, stride, padding)
    if out is None or out.shape[2:] != size:
        for kind in (Conv2d, Local2d):
            with pytest.raises(ValueError, match="does not fit"):
                kind(src_shape, (c_out, *size), *geometry)
    if out is None:
        return
    dst_shape = tuple(out.shape[1:])
    conv, local = (kind(src_shape, dst_shape, *geometry) for kind in (Conv2d, Local2d))
    assert conv.weights_shape == (c_out, src_shape[0], *kernel)
    assert conv.positions == dst_shape[1] * dst_shape[2] == conv.weight_divisor
    taps, positions = torch.nn.functional.unfold(image, kernel, 1, padding, stride).shape[1:]
    assert local.weights_shape == (c_out, positions, taps)
    for made in (conv, local):
        assert (made.pre_shape, made.post_shape) == ((math.prod(src_shape),), (math.prod(dst_shape),))


# what a convolution divides by


@pytest.mark.parametrize("divisor", [5, 2.5, -3, np.float32(0.5), np.int64(7), 1e-300])
def test_a_divisor_leaves_the_number_of_positions(divisor):
    conv = Conv2d(SRC, DST, 3, divisor=divisor)
    assert (conv.positions, conv.weight_divisor) == (36, float(divisor))


@pytest.mark.parametrize("divisor", [0, 0.0, -0.0, math.nan, math.inf, -math.inf, 10**400], ids=str)
def test_a_divisor_is_finite_and_not_0(divisor):
    with pytest.raises(ValueError, match=r"divisor .*weight_divisor.* give a finite number other than 0"):
        Conv2d(SRC, DST, 3, divisor=divisor)


@pytest.mark.parametrize("divisor", ["5", True, np.True_, 5j, (5,), [5], torch.tensor(5)], ids=repr)
def test_a_divisor_is_a_number(divisor):
    with pytest.raises(TypeError, match=r"divisor .*weight_divisor.* give a finite number other than 0"):
        Conv2d(SRC, DST, 3, divisor=divisor)


# topologies stay as they are


@pytest.mark.parametrize("name", NAMES)
def test_a_topology_can_t_be_changed(name):
    made = example_topology(name)
    assert not hasattr(made, "__dict__")
    for attribute in (f.name for f in fields(made)):
        with pytest.raises(FrozenInstanceError):
            setattr(made, attribute, (1,))
        with pytest.raises(FrozenInstanceError):
            delattr(made, attribute)
    with pytest.raises((AttributeError, TypeError)):
        made.another = 1


@pytest.mark.parametrize("kind", [Conv2d, Local2d])
def test_a_list_that_changes_later_changes_nothing(kind):
    shapes = [list(SRC), list(DST), [3, 3], [1, 1], [0, 0]]
    made = kind(*shapes)
    for shape in shapes:
        shape[-1] = 10**6
    assert repr(made) == repr(kind(SRC, DST, 3))
    assert made.weights_shape == kind(SRC, DST, 3).weights_shape


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, *(lambda made, n=n: pickle.loads(pickle.dumps(made, n)) for n in range(6))],
    ids=["copy", "deepcopy", *map(str, range(6))],
)
def test_a_copy_is_the_same_topology_and_works(name, copied):
    made = random_sparse(7, 5, 0.4) if name == "sparse" else example_topology(name)
    other = copied(made)
    assert other is not made and repr(other) == repr(made)
    for attribute in (f.name for f in fields(made) if not f.name.startswith("_")):
        ours, theirs = getattr(made, attribute), getattr(other, attribute)
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
    other.check()
    assert weakref.ref(other)() is other


def test_a_pickled_plan_carries_its_connectivity_alone():
    plan = random_sparse(300, 300, 0.5)
    needed = plan.minor_of.nbytes + plan.major_start.nbytes
    assert needed < len(pickle.dumps(plan)) < needed + 2000


# plans of sparse weights

BROKEN = {
    "starts too few": (lambda: raw(torch.sparse_csc, [0, 1, 2], [0, 1]), "has 3 entries: 3 neurons need 4"),
    "starts too many": (lambda: raw(torch.sparse_csr, [0, 1, 1, 1, 2, 2], [0, 1]), "has 6 entries: 4 neurons need 5"),
    "no starts": (lambda: raw(torch.sparse_csc, [], []), "has 0 entries"),
    "starts fall": (lambda: raw(torch.sparse_csc, [0, 2, 1, 3], [0, 1, 2]), "must rise from 0"),
    "starts beyond": (lambda: raw(torch.sparse_csc, [0, 9, 9, 3], [0, 1, 2]), "must rise from 0"),
    "starts late": (lambda: raw(torch.sparse_csc, [1, 1, 2, 3], [0, 1, 2]), "must rise from 0"),
    "ends early": (lambda: raw(torch.sparse_csr, [0, 1, 2, 2, 2], [0, 1, 2]), "must rise from 0"),
    "row too large": (lambda: raw(torch.sparse_csc, [0, 1, 2, 3], [0, 1, 4]), "from 0 to 4: outside the 4 neurons"),
    "column negative": (lambda: raw(torch.sparse_csr, [0, 1, 2, 2, 2], [0, -1]), "from -1 to 0: outside the 3 neurons"),
    "COO row too large": (lambda: coo([0, 4], [0, 1]), "outside the 4 neurons"),
    "COO column too large": (lambda: coo([0, 1], [0, 3]), "outside the 3 neurons"),
    "COO out of order": (lambda: coo([1, 0], [0, 1]), "rows are not in order"),
    "CSC twins": (
        lambda: raw(torch.sparse_csc, [0, 3, 3, 3], [1, 0, 1]),
        "pre neuron 1 and post neuron 0 have",
    ),
    "CSR twins": (
        lambda: raw(torch.sparse_csr, [0, 0, 2, 2, 2], [2, 2]),
        "pre neuron 1 and post neuron 2 have",
    ),
    "COO twins": (lambda: coo([0, 2, 2], [0, 1, 1]), "pre neuron 2 and post neuron 1 have"),
    "batched": (lambda: torch.ones(2, 3, 4).to_sparse_csr(), "not a matrix"),
    "hybrid": (lambda: torch.ones(4, 3, 2).to_sparse_csr(dense_dim=1), "not a matrix"),
    "not coalesced": (lambda: torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (4, 3)), r"pass weights\.coalesce"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_indices_that_are_no_connectivity_are_refused(broken):
    make, message = BROKEN[broken]
    for plan in (Sparse.from_weights, Sparse.of, infer_topology):
        with pytest.raises(ValueError, match=message):
            plan(make())


def test_twins_are_found_wherever_they_stand():
    indices = torch.tensor([[0, 0, 0, 1, 1], [0, 2, 1, 2, 0]])
    for k in range(5):
        rows, columns = torch.cat((indices, indices[:, k : k + 1]), 1).tolist()
        order = sorted(range(6), key=rows.__getitem__)
        with pytest.raises(ValueError, match="several synapses"):
            Sparse.from_weights(coo([rows[i] for i in order], [columns[i] for i in order]))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"minor_of": [0, 1]}, TypeError, "minor_of .* is list: give a vector of int32 or int64"),
        ({"minor_of": torch.zeros(4)}, TypeError, "minor_of .* is torch.float32"),
        ({"minor_of": torch.zeros(2, 2, dtype=torch.int64)}, ValueError, r"minor_of .* of shape \(2, 2\)"),
        ({"minor_of": torch.zeros(4, dtype=torch.int64, device="meta")}, ValueError, "minor_of .* is on meta"),
        ({"minor_of": torch.tensor([0, 1, 2, 4])}, ValueError, "outside the 4 neurons"),
        ({"minor_of": torch.tensor([0, 1])}, ValueError, "must rise from 0 to the number of synapses, 2"),
        ({"major_start": torch.tensor([0, 1, 2, 4])}, ValueError, "has 4 entries: 4 neurons need 5"),
        ({"major_start": torch.tensor([0, 2, 1, 3, 4])}, ValueError, "must rise"),
        ({"n_pre": 5}, ValueError, "5 neurons need 6"),
        ({"n_post": 3}, ValueError, "outside the 3 neurons"),
        ({"post_is_major": 1}, TypeError, "post_is_major is 1: give True or False"),
    ],
    ids=str,
)
def test_a_plan_by_hand_is_checked_as_well(changes, error, message):
    with pytest.raises(error, match=message):
        replace(example_topology("sparse"), **changes)


def test_a_plan_by_hand_derives_what_follows_from_its_connectivity():
    plan = random_sparse(9, 7, 0.4)
    by_hand = Sparse(9, 7, True, plan.major_start.to(torch.int32), plan.minor_of.long())
    for name in ("major_start", "minor_of", "minor_start", "by_minor", "major_by_minor"):
        ours, theirs = getattr(plan, name), getattr(by_hand, name)
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype
        assert ours.data_ptr() % 16 == 0


def test_what_is_written_to_given_tensors_does_not_reach_a_plan():
    starts, minor = torch.tensor([0, 1, 2]), torch.tensor([0, 1])
    plan = Sparse(2, 2, False, starts, minor)
    starts[1], minor[0] = 10**6, 10**6
    assert (plan.major_start.tolist(), plan.minor_of.tolist()) == ([0, 1, 2], [0, 1])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_neighbours_may_stand_in_any_order_and_indices_be_of_either_width(backend, dtype):
    spikes = torch.tensor([True, False, True, True]), torch.tensor([True, False, True])
    traces = torch.rand(4), torch.rand(3)
    for layout, starts, minor in (
        (torch.sparse_csc, [0, 3, 4, 6], [2, 0, 3, 1, 3, 0]),
        (torch.sparse_csr, [0, 2, 3, 3, 6], [2, 0, 1, 1, 2, 0]),
    ):
        weights = raw(layout, starts, minor, dtype=dtype)
        dense = weights.to_dense()
        for w in (weights, dense):
            stdp_(w, spikes[0], traces[0], spikes[1], traces[1], a_plus=0.1, a_minus=0.2, backend=backend)
        kept = weights.to_dense() != 0
        assert torch.equal(weights.to_dense()[kept], dense[kept]) and kept.sum() == 6


@pytest.mark.parametrize("name", ["major_start", "minor_of", "minor_start", "by_minor", "major_by_minor"])
@pytest.mark.parametrize("inference", [False, True], ids=["", "in inference mode"])
def test_writing_to_a_plan_is_noticed_and_mended(name, inference):
    with torch.inference_mode(inference):
        weights = torch.eye(4).to_sparse_csc()
        plan = Sparse.of(weights)
        plan.check()
        getattr(plan, name)[0] = 10**6
        with pytest.raises(ValueError, match=r"have been written to since it was made: plan anew, by Sparse\.of"):
            plan.check()
        assert not plan.fits(weights)
        anew = Sparse.of(weights)
        assert anew is not plan and getattr(anew, name)[0] != 10**6
        anew.check()


def test_topologies_without_tensors_have_nothing_to_check():
    for name in NAMES:
        assert example_topology(name).check() is None


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_steps_leave_the_plan_as_it_is(layout):
    weights = torch.eye(4).to_sparse(layout=layout)
    weights = weights.coalesce() if layout is torch.sparse_coo else weights
    plan, spikes = Sparse.of(weights), torch.ones(4, dtype=torch.bool)
    for backend in ("reference", "cpu", "triton"):
        stdp_(weights, spikes, torch.ones(4), spikes, torch.ones(4), a_plus=0.1, a_minus=0.2, backend=backend)
        plan.values(weights).mul_(0.5)
        assert Sparse.of(weights) is plan
        plan.check()


# the plans that are kept


def views_of_one_storage():
    """Tensors of different connectivity that lie in one storage."""
    starts = torch.tensor([0, 1, 2, 2, 0, 2, 2, 2])
    rows = torch.tensor([0, 1, 0, 1, 2])
    values = torch.ones(2)
    csc, csr = torch.sparse_csc_tensor, torch.sparse_csr_tensor
    return [
        csc(starts[:4], rows[:2], values, (3, 3)),
        csc(starts[:4], rows[1:3], values, (3, 3)),
        csc(starts[:4], rows[::2][:2] * 0 + rows[3:], values, (3, 3)),
        csc(starts[4:], rows[:2], values, (3, 3)),
        csr(starts[:4], rows[:2], values, (3, 3)),
        csr(starts[:4], rows[:2], values, (3, 4)),
    ]


def test_tensors_that_share_a_storage_are_planned_once_each(monkeypatch):
    tensors = views_of_one_storage()
    plans = [Sparse.of(w) for w in tensors]
    assert len(set(map(id, plans))) == len(tensors)
    monkeypatch.setattr(Sparse, "from_weights", None)
    for _ in range(3):
        assert all(Sparse.of(w) is plan for w, plan in zip(tensors, plans, strict=True))
    assert [[plan.fits(w) for w in tensors] for plan in plans] == torch.eye(len(tensors)).bool().tolist()


def test_plans_of_one_storage_are_few_and_die_with_it():
    known = len(sparse._PLANS)
    rows, starts = torch.arange(200), torch.tensor([0, 1])
    tensors = [torch.sparse_csc_tensor(starts, rows[k : k + 1], torch.ones(1), (200, 1)) for k in range(100)]
    plans = [weakref.ref(Sparse.of(w)) for w in tensors]
    assert len(sparse._PLANS) == known + 1
    alive = [plan() is not None for plan in plans]
    assert sum(alive) == sparse.PLANS_A_STORAGE and all(alive[-sparse.PLANS_A_STORAGE :])
    del tensors, rows
    assert len(sparse._PLANS) == known
    assert all(plan() is None for plan in plans)


def test_a_default_device_does_not_break_planning():
    weights = torch.eye(4).to_sparse_csc()
    expected = Sparse.from_weights(weights)
    torch.set_default_device("meta")
    try:
        plan, example = Sparse.from_weights(weights), example_topology("sparse")
    finally:
        torch.set_default_device(None)
    assert example.minor_of.device.type == plan.minor_of.device.type == "cpu"
    assert torch.equal(plan.by_minor, expected.by_minor)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("density", [0, 1])
def test_tensors_without_memory_can_t_be_planned(layout, density):
    weights = (density * torch.eye(4)).to_sparse(layout=layout)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    for bodiless in (weights.to("meta"), fake.from_tensor(weights)):
        with pytest.raises(ValueError, match="has no memory of its own"):
            Sparse.of(bodiless)


# weights

NO_WEIGHTS = {
    "array": (lambda: np.eye(3), r"are ndarray, not a Tensor: pass torch\.as_tensor"),
    "list": (lambda: [[1.0]], r"are list, not a Tensor: pass torch\.as_tensor"),
    "None": (lambda: None, "are NoneType, not a Tensor"),
    "number": (lambda: 3.0, "are float, not a Tensor"),
    "integers": (lambda: torch.eye(3, dtype=torch.int64), r"are torch\.int64: .*pass .*\.to\(torch\.float32\)"),
    "bools": (lambda: torch.eye(3).bool(), r"are torch\.bool"),
    "complex": (lambda: torch.eye(3).cfloat(), r"are torch\.complex64"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.eye(3), 1, 0, torch.quint8), r"are torch\.quint8"),
    "float8": (lambda: torch.eye(3).to(torch.float8_e4m3fn), r"are torch\.float8_e4m3fn"),
    "sparse integers": (lambda: torch.eye(3, dtype=torch.int64).to_sparse_csc(), r"are torch\.int64"),
}
ASKED = [infer_topology, Sparse.of, Sparse.from_weights, *(example_topology(name).values for name in NAMES)]


@pytest.mark.parametrize("given", NO_WEIGHTS)
@pytest.mark.parametrize("ask", ASKED, ids=["infer", "of", "from_weights", *NAMES])
def test_what_can_t_be_weights_is_named(ask, given):
    make, message = NO_WEIGHTS[given]
    with pytest.raises(TypeError, match=f"^weights {message}"):
        ask(make())


@pytest.mark.parametrize("ask", ASKED, ids=["infer", "of", "from_weights", *NAMES])
def test_other_sparse_layouts_are_refused(ask):
    for weights in (torch.eye(4).to_sparse_bsr(2), torch.eye(4).to_sparse_bsc(2)):
        with pytest.raises(TypeError, match=r"weights are torch\.sparse_bs[rc]"):
            ask(weights)


def test_weights_of_the_other_kind_are_refused():
    with pytest.raises(TypeError, match=r"weights are torch\.sparse_csc, dense takes torch\.strided: leave out"):
        Dense(4, 4).values(torch.eye(4).to_sparse_csc())
    with pytest.raises(TypeError, match=r"weights are torch\.strided: pass a CSC, CSR or coalesced COO"):
        example_topology("sparse").values(torch.eye(4))


# what topologies say to tools


@pytest.mark.parametrize("name", NAMES)
def test_examples_can_be_made_and_take_what_is_foreseen(name):
    kind = TOPOLOGIES[name]
    examples = kind.examples
    for sizes in (examples.compiled, examples.metered, examples.timed[0], examples.tuned[0]):
        made, needs = kind.of_sizes(sizes), kind.needs(sizes)
        assert needs.weights == math.prod(made.weights_shape) <= made.synapses
        assert needs.neurons == made.pre_shape[0] + made.post_shape[0]
        assert needs.scratch >= 8 * needs.weights
    uneven = kind.uneven_example()
    assert any(size % 16 for size in (*uneven.pre_shape, *uneven.post_shape))
    assert (made.synapses > needs.weights) == kind.shares_weights


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", [(), (9,) * 6])
def test_other_sizes_than_a_topology_takes_are_refused_with_what_to_give(name, sizes):
    kind = TOPOLOGIES[name]
    assert not kind.takes(sizes)
    for ask in (kind.of_sizes, kind.needs):
        with pytest.raises(ValueError, match=f"is no shape of {name}: give {kind.sizes}"):
            ask(sizes)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_made_of_values_and_written_through(name):
    made = TOPOLOGIES[name].uneven_example()
    values = torch.rand(made.weights_shape)
    weights = made.weights_of(values)
    assert made.values(weights).data_ptr() == values.data_ptr()


@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_a_plan_s_ends_are_the_neurons_of_its_synapses(layout):
    plan = Sparse.random(9, 7, 40, layout)
    pre, post = plan.ends()
    dense = torch.zeros(9, 7)
    dense[pre, post] = torch.arange(1.0, 41.0)
    assert torch.equal(plan.weights_of(torch.arange(1.0, 41.0)).to_dense(), dense)


@pytest.mark.parametrize(("n_pre", "n_post", "synapses"), [(0, 4, 0), (4, 0, 0), (3, 5, 15), (300, 200, 7000)])
def test_random_connectivity_has_as_many_pairs_as_asked_for_and_is_the_same_again(n_pre, n_post, synapses):
    plan, again = (Sparse.random(n_pre, n_post, synapses) for _ in range(2))
    assert plan.weights_shape == (synapses,)
    assert torch.equal(plan.minor_of, again.minor_of) and torch.equal(plan.major_start, again.major_start)


def test_rows_of_a_group_are_a_group():
    assert Dense(5, 3).rows(slice(3, 9)).weights_shape == torch.zeros(5, 3)[3:9].shape
    assert example_topology("sparse").rows(slice(0, 2)) is None


def test_a_topology_that_says_no_sizes_is_left_out_in_words():
    class Bare(Topology):
        name = "bare"

    for ask in (Bare.of_sizes, Bare.needs):
        with pytest.raises(ValueError, match="bare does not say by which sizes"):
            ask((3,))
