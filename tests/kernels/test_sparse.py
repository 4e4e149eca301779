"""Sparse connections: the backends against the reference, against CoNeX, and what a plan and a step cost."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support import random_sparse
from tritonstdp import Sparse, istdp_, rstdp_, stdp_
from tritonstdp.choice import choose
from tritonstdp.kernels.protocol import PerNeuron
from tritonstdp.kernels.sparse import cpu, gpu
from tritonstdp.problems import make_problem
from tritonstdp.rules import Formula, hard_bound, istdp, no_bound, rstdp, soft_bound, stdp
from tritonstdp.topology import infer_topology
from tritonstdp.topology import sparse as plans

LAYOUTS = {"csc": torch.sparse_csc, "csr": torch.sparse_csr, "coo": torch.sparse_coo}
FORMULAS = {
    "stdp soft": Formula.of(stdp, soft_bound, soft_bound),
    "stdp hard, none, clamped": Formula.of(stdp, hard_bound, no_bound, True),
    "istdp": Formula.of(istdp),
    "istdp soft, hard, clamped": Formula.of(istdp, soft_bound, hard_bound, True),
    "rstdp soft": Formula.of(rstdp, soft_bound, soft_bound),
    "rstdp none, hard, clamped": Formula.of(rstdp, no_bound, hard_bound, True),
}
BACKENDS = ("cpu", "triton")


def sparse(dense: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "coo":
        return dense.to_sparse_coo().coalesce()
    return dense.to_sparse_csc() if layout == "csc" else dense.to_sparse_csr()


def random_weights(n_pre: int, n_post: int, density: float, layout: str, dtype=torch.float32) -> torch.Tensor:
    present = torch.rand(n_pre, n_post) < density
    return sparse(torch.where(present, torch.rand(n_pre, n_post) + 0.1, 0.0).to(dtype), layout)


def pairs_of(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pre and the post neuron of each stored synapse, found independently of the plan."""
    if weights.layout is torch.sparse_coo:
        return tuple(weights.indices())
    csc = weights.layout is torch.sparse_csc
    starts, minor = (
        (weights.ccol_indices(), weights.row_indices()) if csc else (weights.crow_indices(), weights.col_indices())
    )
    major = torch.repeat_interleave(torch.arange(len(starts) - 1), starts.diff())
    return (minor, major) if csc else (major, minor)


def assert_same_bits(problem, step, tolerance=0.0):
    expected = problem.copy().run(choose(problem.case, "reference").step)
    found = problem.copy().run(step)
    for name, tensor in expected.outputs.items():
        torch.testing.assert_close(found.outputs[name], tensor, rtol=tolerance, atol=tolerance / 100, msg=name)


SHAPES = [(0, 3, 0.5), (3, 0, 0.5), (4, 5, 0.0), (1, 1, 1.0), (23, 37, 0.3), (40, 9, 0.1), (3, 90, 0.9)]
shapes = st.sampled_from(SHAPES)


@settings(max_examples=25, deadline=None)
@given(shapes, st.sampled_from(sorted(LAYOUTS)))
def test_a_plan_lists_every_synapse_once_on_either_side(shape, layout):
    weights = random_weights(*shape, layout)
    plan = Sparse.from_weights(weights)
    pre, post = pairs_of(weights)
    major, minor = (post, pre) if layout == "csc" else (pre, post)
    n_major, n_minor = (shape[1], shape[0]) if layout == "csc" else shape[:2]
    assert plan.post_is_major == (layout == "csc")
    assert torch.equal(plan.minor_of.long(), minor)
    assert torch.equal(plan.major_start.diff(), torch.bincount(major, minlength=n_major))
    assert torch.equal(plan.minor_start.diff(), torch.bincount(minor, minlength=n_minor))
    assert torch.equal(plan.by_minor.long().sort().values, torch.arange(len(pre)))
    assert torch.equal(minor[plan.by_minor.long()], minor.sort().values)
    assert torch.equal(plan.major_by_minor.long(), major[plan.by_minor.long()])


@settings(max_examples=12, deadline=None)
@given(shapes, st.sampled_from(sorted(LAYOUTS)), st.sampled_from([0.0, 0.2, 1.0]), st.booleans())
def test_the_reference_changes_stored_synapses_as_the_dense_rule_does(shape, layout, rate, float_spikes):
    weights = random_weights(*shape, layout, torch.float64)
    dense = weights.to_dense()
    spikes = [torch.rand(n) < rate for n in shape[:2]]
    if float_spikes:
        spikes = [s.double() * torch.rand(s.shape, dtype=torch.float64) for s in spikes]
    traces = [torch.rand(n, dtype=torch.float64) for n in shape[:2]]
    for w in (weights, dense):
        stdp_(
            w, spikes[0], traces[0], spikes[1], traces[1], a_plus=0.1, a_minus=0.12,
            positive_bound="soft_bound", negative_bound="hard_bound", backend="reference",
        )  # fmt: skip
    pre, post = pairs_of(weights)
    assert torch.equal(infer_topology(weights).values(weights), dense[pre, post])


@pytest.mark.parametrize(
    "name, layout",
    [*((name, "csc") for name in FORMULAS), *zip(sorted(FORMULAS)[1::2], ("csr", "coo", "csr"), strict=True)],
)
def test_compiled_loops_give_the_bits_of_the_reference(name, layout):
    # the rates lead through both passes: few spikes are visited one by one, many in one sweep
    for n, (shape, rate) in enumerate(
        (((23, 37, 0.3), 0.2), ((23, 37, 0.3), 0.0), ((23, 37, 0.3), 1.0), ((90, 300, 0.5), 0.03), ((1, 1, 1.0), 0.5))
    ):
        problem = make_problem(FORMULAS[name], random_sparse(*shape, LAYOUTS[layout]), rate=rate, seed=n)
        assert_same_bits(problem, choose(problem.case, "cpu").step)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_triton_gives_the_bits_of_the_reference(name, dtype):
    for layout in ("csc", "csr"):
        problem = make_problem(FORMULAS[name], random_sparse(9, 21, 0.4, LAYOUTS[layout]), dtype=dtype)
        # the interpreter truncates to bfloat16 where hardware rounds
        tolerance = 2**-7 if dtype is torch.bfloat16 else 0.0
        assert_same_bits(problem, choose(problem.case, "triton").step, tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_float_spikes_count_with_their_value(backend, dtype):
    problem = make_problem(FORMULAS["stdp soft"], random_sparse(23, 37, 0.3), dtype=dtype, float_spikes=True)
    assert_same_bits(problem, choose(problem.case, backend).step)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 0.5), (3, 0, 0.5), (4, 5, 0.0)], ids=str)
def test_groups_without_neurons_or_synapses_are_left_alone(backend, shape):
    problem = make_problem(FORMULAS["stdp soft"], random_sparse(*shape), rate=0.5)
    assert_same_bits(problem, choose(problem.case, backend).step)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_outside_the_values_is_read_or_written(backend):
    problem = make_problem(FORMULAS["rstdp soft"], random_sparse(9, 21, 0.4))
    poisoned = {name: torch.full((len(tensor) + 128,), torch.nan) for name, tensor in problem.outputs.items()}
    for name, tensor in problem.outputs.items():
        poisoned[name][64:-64] = tensor
    step = choose(problem.case, backend).step
    guarded = problem.replaced(**{name: tensor[64:-64] for name, tensor in poisoned.items()}).run(step)
    expected = problem.copy().run(step)
    for name, tensor in expected.outputs.items():
        assert torch.equal(guarded.outputs[name], tensor)
        assert poisoned[name][:64].isnan().all() and poisoned[name][-64:].isnan().all()


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    # numba's threads are OpenMP's as well, and so are torch's
    torch.set_num_threads(threads)


def test_threads_give_the_bits_of_one(two_threads):
    for name, rate in product(("stdp soft", "rstdp soft"), (0.0, 0.02, 0.3)):
        problem = make_problem(FORMULAS[name], random_sparse(90, 300, 0.5), rate=rate)
        assert_same_bits(problem, cpu.build(problem.case, cpu.Config(parallel_work=0, tasks=7)))


def test_parts_of_long_rows_cover_each_synapse_once():
    dense = torch.rand(3, 150)
    dense[1] = 0
    for layout in ("csc", "csr"):
        plan = Sparse.from_weights(sparse(dense, layout))
        for name, blocks in product(("stdp soft", "rstdp soft"), (1, 8)):
            problem = make_problem(FORMULAS[name], plan, rate=0.4)
            assert_same_bits(problem, gpu.build(problem.case, gpu.DEFAULT._replace(blocks=blocks)))


def test_parts_are_as_long_as_most_neurons_need():
    few, many = Sparse.random(500, 40, 400), Sparse.random(500, 40, 4000)
    for plan, expected in ((few, (1, 1)), (many, (4, 1))):
        cut = gpu.cut_of(plan, gpu.DEFAULT)
        assert (cut.wide, cut.high) == expected
        for start, blocks, further in zip((plan.major_start, plan.minor_start), expected, cut.further, strict=True):
            beyond = [(j, k) for j, n in enumerate(start.diff().tolist()) for k in range(1, -(-n // (32 * blocks)))]
            assert [tuple(part) for part in further.tolist()] == beyond


def test_positions_beyond_int32_take_int64(monkeypatch):
    monkeypatch.setattr(plans, "INT32_SYNAPSES", 3)
    plan = random_sparse(9, 21, 0.4)
    assert plan.by_minor.dtype is torch.int64
    problem = make_problem(FORMULAS["stdp soft"], plan)
    for backend in BACKENDS:
        assert_same_bits(problem, choose(problem.case, backend).step)


def test_a_0d_dopamine_is_read_on_the_device():
    problem = make_problem(FORMULAS["rstdp soft"], random_sparse(9, 21, 0.4), dopamine="scalar")
    assert choose(problem.case).backend == "triton"
    assert_same_bits(problem, choose(problem.case, "triton").step)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["csc", "csr"])
@pytest.mark.parametrize("name, side", [("dopamine", "post"), ("tau_c", "pre")])
def test_between_silent_neurons_it_counts_which_they_are_where_a_parameter_has_a_value_each(
    name, side, layout, backend
):
    plan = random_sparse(23, 37, 0.3, LAYOUTS[layout])
    problem = make_problem(FORMULAS["rstdp soft"], plan, rate=0.05)
    each = PerNeuron(side, torch.rand(37 if side == "post" else 23) + 0.5)
    problem = problem.replaced(**{name: each})
    assert_same_bits(problem, choose(problem.case, backend).step)


CONEX_OPTIONS = {"w_min": 0.0, "w_max": 1.0, "positive_bound": "soft_bound", "negative_bound": "soft_bound"}


class ConexSynapse:
    """As much of a CoNeX synapse group as its learning rules look at."""

    def __init__(self, conex, weights):
        trace = object.__new__(conex.SpikeTrace)
        trace.tau_s = 10.0
        self.weights = weights
        self.src_idx, self.dst_idx = pairs_of(weights)
        self.src_delay = self.dst_delay = None
        self.src, self.dst = (SimpleNamespace(axon=self.Axon(), behavior={1: trace}) for _ in range(2))
        self.network = SimpleNamespace(dopamine_concentration=0.3, def_dtype=weights.dtype)

    class Axon:
        def get_spike(self, neurons, delay):
            return neurons.spikes

        def get_spike_trace(self, neurons, delay):
            return neurons.trace

    def tensor(self, mode, dim):
        return torch.zeros(dim, dtype=self.weights.dtype)


@pytest.mark.parametrize(
    "backend, dtype, layout",
    [
        ("reference", torch.float32, "csc"),
        ("cpu", torch.float32, "csc"),
        ("cpu", torch.float64, "csr"),
        ("triton", torch.float32, "csr"),
    ],
)
@pytest.mark.parametrize("rule", ["stdp", "istdp", "rstdp"])
def test_200_steps_end_in_the_bits_of_conex(conex, rule, dtype, layout, backend):
    n_pre, n_post = (4, 3) if backend == "triton" else (40, 50)
    ours = random_weights(n_pre, n_post, 0.4, layout, dtype)
    theirs = ours.clone()
    synapse = ConexSynapse(conex, theirs)
    c = torch.zeros(ours._nnz(), dtype=dtype)
    behavior = {
        "stdp": lambda: conex.SparseSTDP(a_plus=0.1, a_minus=0.12, **CONEX_OPTIONS),
        "istdp": lambda: conex.SparseiSTDP(lr=0.1, alpha=0.4),
        "rstdp": lambda: conex.SparseRSTDP(a_plus=0.1, a_minus=0.12, tau_c=7.0, **CONEX_OPTIONS),
    }[rule]()
    behavior.initialize(synapse)
    for _ in range(200):
        spikes = [torch.rand(n) < 0.2 for n in (n_pre, n_post)]
        traces = [torch.rand(n, dtype=dtype) for n in (n_pre, n_post)]
        for side, group in enumerate((synapse.src, synapse.dst)):
            group.spikes, group.trace = spikes[side], traces[side]
        behavior.forward(synapse)
        signals = (spikes[0], traces[0], spikes[1], traces[1])
        if rule == "stdp":
            stdp_(ours, *signals, a_plus=0.1, a_minus=0.12, backend=backend, **CONEX_OPTIONS)
        elif rule == "istdp":
            istdp_(ours, *signals, lr=0.1, alpha=0.4, backend=backend)
        else:
            rstdp_(
                ours, c, *signals, a_plus=0.1, a_minus=0.12, tau_c=7.0, dopamine=0.3, backend=backend, **CONEX_OPTIONS
            )
    assert torch.equal(ours.values(), theirs.values())
    if rule == "rstdp":
        assert torch.equal(c, synapse.c)


def test_a_plan_takes_12_bytes_a_synapse():
    plan = random_sparse(300, 300, 0.5)
    per_synapse = (plan.minor_of, plan.by_minor, plan.major_by_minor)
    assert all(len(indices) == plan.weights_shape[0] for indices in per_synapse)
    assert sum(indices.itemsize for indices in per_synapse) == 12
    per_neuron = (plan.major_start, plan.minor_start)
    assert sum(starts.nbytes for starts in per_neuron) == 8 * (300 + 300 + 2)


def test_a_compiled_step_allocates_nothing_of_the_size_of_the_values():
    problem = make_problem(FORMULAS["rstdp soft"], random_sparse(300, 300, 0.5))
    step = choose(problem.case, "cpu").step
    problem.run(step)
    with torch.profiler.profile(profile_memory=True) as profile:
        problem.run(step)
    assert sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages()) == 0


def test_a_step_of_triton_allocates_nothing_after_the_first():
    problem = make_problem(FORMULAS["stdp soft"], random_sparse(9, 21, 0.4))
    step = choose(problem.case, "triton").step
    problem.run(step)
    cut = gpu.cut_of(problem.topology, gpu.DEFAULT)
    problem.run(step)
    assert gpu.cut_of(problem.topology, gpu.DEFAULT) is cut


def step(weights, topology=None, n_pre=7, n_post=5):
    stdp_(
        weights, torch.ones(n_pre, dtype=torch.bool), torch.ones(n_pre), torch.ones(n_post, dtype=torch.bool),
        torch.ones(n_post), a_plus=0.1, a_minus=0.2, topology=topology, backend="reference",
    )  # fmt: skip


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_plan_is_made_once_for_tensors_that_share_indices(layout, monkeypatch):
    weights = random_weights(7, 5, 0.5, layout)
    step(weights)
    monkeypatch.setattr(Sparse, "from_weights", None)
    step(weights)
    step(weights.detach())


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_plan_does_not_fit_other_connectivity(layout):
    weights = random_weights(7, 5, 0.5, layout)
    plan = Sparse.of(weights)
    assert plan.fits(weights)
    assert not plan.fits(random_weights(7, 5, 0.5, layout))
    assert not plan.fits(torch.rand(7, 5))
    with pytest.raises(ValueError, match="planned for other indices"):
        step(random_weights(7, 5, 0.5, layout), plan)


def test_plans_die_with_their_indices():
    weights = random_weights(7, 5, 0.5, "csc")
    Sparse.of(weights)
    known = len(plans._PLANS)
    del weights
    assert len(plans._PLANS) == known - 1


def raw_csc(starts, rows, shape=(4, 3)):
    values = torch.ones(len(rows))
    return torch.sparse_csc_tensor(torch.tensor(starts), torch.tensor(rows), values, shape, check_invariants=False)


@pytest.mark.parametrize(
    "weights, message",
    [
        (lambda: torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (4, 3)), "not coalesced"),
        (lambda: raw_csc([0, 1, 2, 3], [0, 1, 4]), "outside the 4 neurons"),
        (lambda: raw_csc([0, 1, 2, 3], [0, -1, 2]), "outside the 4 neurons"),
        (lambda: raw_csc([0, 2, 1, 3], [0, 1, 2]), "must rise"),
        (lambda: raw_csc([0, 1, 2, 2], [0, 1, 2]), "must rise"),
        (lambda: torch.rand(2, 3, 4).to_sparse_coo().coalesce(), "not a matrix"),
        (lambda: torch.rand(2, 3, 4).to_sparse(2).coalesce(), "not a matrix"),
    ],
    ids=["uncoalesced", "index too large", "index negative", "falling starts", "short starts", "3-d", "hybrid"],
)
def test_indices_that_do_not_make_a_matrix_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        step(weights(), n_pre=4, n_post=3)


def test_a_coo_tensor_out_of_order_is_refused():
    indices = torch.tensor([[1, 0], [0, 1]])
    weights = torch.sparse_coo_tensor(indices, torch.ones(2), (4, 3), is_coalesced=True)
    with pytest.raises(ValueError, match="rows are not in order"):
        Sparse.from_weights(weights)


def test_other_layouts_are_refused():
    with pytest.raises(TypeError, match="CSC, CSR or coalesced COO"):
        Sparse.from_weights(torch.eye(4).to_sparse_bsr(2))
    with pytest.raises(TypeError, match="CSC, CSR or coalesced COO"):
        Sparse.from_weights(torch.eye(4))


def test_what_groups_that_step_in_turns_need_of_their_plans_is_read_once_each():
    read = []

    @cpu.once_a_plan
    def facts_of(topology):
        read.append(topology)
        return len(read)

    plans = [Sparse.random(5, 7, 20, torch.sparse_csc) for _ in range(3)]
    assert [facts_of(plan) for _ in range(4) for plan in plans] == [1, 2, 3] * 4
    assert read == plans
