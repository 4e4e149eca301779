"""Every compiled loop with checked bounds: over random geometry it stays in its arrays and does as the reference."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rules_of_their_own import POWER, RULES_OF_TESTS, SPIKES_ALONE, TAGGED, WEIGHTED
from support import with_tensors
from tritonstdp import Conv2d, Dense, Local2d, OneToOne, Sparse
from tritonstdp.choice import choose
from tritonstdp.kernels import loops, threads
from tritonstdp.kernels.propagation import PropagationCase
from tritonstdp.kernels.protocol import Case
from tritonstdp.kernels.trace import TraceCase
from tritonstdp.kernels.trace import cpu as trace_cpu
from tritonstdp.library import triplet
from tritonstdp.problems import Problem, make_problem
from tritonstdp.registry import kernels_of
from tritonstdp.rules import Formula, hard_bound, istdp, no_bound, rstdp, soft_bound, stdp, updated_trace
from tritonstdp.topology import Topology, sparse

FORMULAS = {
    "stdp": Formula.of(stdp, soft_bound, hard_bound, True),
    "istdp": Formula.of(istdp, soft_bound, no_bound),
    "rstdp": Formula.of(rstdp, no_bound, soft_bound, True),
    "triplet": Formula.of(triplet, POWER, soft_bound),
    "tagged": Formula.of(TAGGED, soft_bound, POWER, True),
    "weighted": Formula.of(WEIGHTED, hard_bound, POWER),
    "spikes_alone": Formula.of(SPIKES_ALONE, soft_bound, hard_bound),
}
SPARSE = {"csc": torch.sparse_csc, "csr": torch.sparse_csr, "coo": torch.sparse_coo}


class Loop(NamedTuple):
    """What a loop is specialised on.

    ``form`` is how weights lie in memory (dense, one-to-one), the sparse layout and whether positions are wide, or the
    kernel's size and its stride.
    """

    topology: str
    rule: str
    form: Any
    dtype: torch.dtype = torch.float32
    float_spikes: bool = False
    dopamine: str = "number"
    parallel: bool = True
    per_neuron: bool = False
    samples: int = 0


LOOPS = [
    Loop("dense", "stdp", "pre"),
    Loop("dense", "istdp", "strided", torch.float64, float_spikes=True),
    Loop("dense", "rstdp", "post", float_spikes=True, dopamine="post"),
    Loop("one_to_one", "stdp", "contiguous"),
    Loop("one_to_one", "rstdp", "strided", torch.float64, float_spikes=True, dopamine="post"),
    Loop("sparse", "stdp", ("csc", False)),
    Loop("sparse", "rstdp", ("csr", True), float_spikes=True),
    Loop("conv2d", "stdp", ((3, 2), (1, 1))),
    Loop("conv2d", "rstdp", ((2, 5), (3, 2)), float_spikes=True),
    Loop("local2d", "stdp", ((3, 2), (1, 1))),
    Loop("local2d", "rstdp", ((1, 3), (2, 1)), float_spikes=True),
    Loop("local2d", "istdp", ((2, 3), (3, 4))),
    Loop("dense", "triplet", "post", per_neuron=True),
    Loop("one_to_one", "tagged", "contiguous", dopamine="pre"),
    Loop("sparse", "triplet", ("csc", False), per_neuron=True),
    Loop("conv2d", "weighted", ((3, 2), (1, 1)), per_neuron=True),
    Loop("local2d", "tagged", ((3, 2), (1, 1)), dopamine="pre", per_neuron=True),
]
_KEYS = (((1, 1), (1, 1)), ((5, 4), (2, 3)), ((2, 9), (4, 1)))
_PATCHES = product(("conv2d", "local2d"), ("stdp", "rstdp"), _KEYS)
MORE = [
    *(Loop("dense", rule, form, parallel=threads) for rule, form, threads in
      product(("stdp", "rstdp"), ("pre", "post", "strided"), (False, True))),
    *(Loop("one_to_one", rule, form, dopamine="post") for rule, form in
      product(("istdp", "rstdp"), ("contiguous", "strided"))),
    *(Loop("sparse", rule, (layout, wide), parallel=threads) for rule, layout, wide, threads in
      product(("istdp", "rstdp"), ("csc", "coo"), (False, True), (False, True))),
    *(Loop(topology, rule, key, dtype, spikes, parallel=False) for (topology, rule, key), (dtype, spikes) in
      product(_PATCHES, ((torch.float32, False), (torch.float64, True)))),
    *(Loop(topology, rule, form, per_neuron=True) for (topology, form), rule in product(
      (("dense", "pre"), ("dense", "strided"), ("one_to_one", "strided"), ("sparse", ("csc", True)),
       ("sparse", ("csr", False)), ("conv2d", ((2, 5), (3, 2))), ("local2d", ((1, 3), (2, 1)))),
      ("triplet", *RULES_OF_TESTS))),
]  # fmt: skip

SIZES = st.sampled_from([0, 1, 2, 7, 8, 63, 64, 65, 130])


@st.composite
def topologies(draw: Any, loop: Loop) -> Topology:
    """Groups of every size, down to none, and around what is seen at one glance."""
    if loop.topology == "dense":
        return Dense(draw(SIZES), draw(SIZES))
    if loop.topology == "one_to_one":
        return OneToOne(draw(st.one_of(SIZES, st.sampled_from([1000, 1024, 1025, 2100]))))
    return draw(plans(*loop.form) if loop.topology == "sparse" else maps(loop))


@st.composite
def plans(draw: Any, layout: str, wide: bool) -> Sparse:
    """Connectivities of which some rows and columns are empty."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    n_pre, n_post = draw(SIZES), draw(SIZES)
    connected = torch.rand(n_pre, n_post, generator=generator) < draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    kept = draw(st.sampled_from([0.5, 1.0]))
    connected &= torch.rand(n_pre, 1, generator=generator) < kept
    connected &= torch.rand(1, n_post, generator=generator) < kept
    weights = connected.float().to_sparse(layout=SPARSE[layout])
    with mock.patch.object(sparse, "INT32_SYNAPSES", -1 if wide else sparse.INT32_SYNAPSES):
        return Sparse.from_weights(weights.coalesce() if layout == "coo" else weights)


@st.composite
def maps(draw: Any, loop: Loop) -> Topology:
    """Maps of one row, one column or one channel, maps wider than a glance, and padding beyond the kernel."""
    kernel, stride = loop.form
    wide = draw(st.sampled_from([0, 1]))
    few, many = st.integers(1, 9), st.sampled_from([1, 2, 15, 31, 63, 64, 65, 129, 140])
    src = [draw(many if side == wide else few) for side in (0, 1)]
    padding = tuple(draw(st.integers(0, kernel[side] + 1)) for side in (0, 1))
    dst = [(src[side] + 2 * padding[side] - kernel[side]) // stride[side] + 1 for side in (0, 1)]
    assume(min(dst) >= 1)
    channels = [draw(st.integers(1, 3)) for _ in range(2)]
    kind = Conv2d if loop.topology == "conv2d" else Local2d
    return kind((channels[0], *src), (channels[1], *dst), kernel, stride, padding)


def in_parts(compile_loop: Callable[[bool], Any], parallel: Any) -> Callable[[int], Any]:
    """The variant for several threads, of which a checked loop takes the parts one by one."""
    loop = compile_loop(bool(parallel))
    return lambda synapses: loop


@pytest.fixture(scope="module", autouse=True)
def _checked():
    with loops.bounds_checked(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "by_work", in_parts)
        yield
    steps.cache_clear(), propagation_step.cache_clear()


@cache
def steps(loop: Loop, case: Case) -> list[Callable[..., Any]]:
    """The loop in configurations that take each way through it, in few parts and in many."""
    module = importlib.import_module(f"tritonstdp.kernels.{loop.topology}.{'batch_' if loop.samples else ''}cpu")
    names = set(module.DEFAULT._fields)
    parallel = {"parallel_work": loop.parallel} if "parallel_work" in names else {}
    cached = {"cached_bytes": 0} if "cached_bytes" in names else {}
    ways = [{name: share} for name in names & {"dense_pass_rate", "full_pass_share"} for share in (-1.0, 2.0)] or [{}]
    parts = [{name: n} for name in names & {"rows_per_task", "tasks"} for n in (3, 1000)] or [{}]
    return [
        module.build(case, module.DEFAULT._replace(**parallel, **cached, **w, **p)) for w, p in product(ways, parts)
    ]


def between(tensor: torch.Tensor) -> torch.Tensor:
    """The vector between numbers that must not be read."""
    fill = True if tensor.dtype is torch.bool else torch.nan
    around = torch.full((tensor.numel() + 128,), fill, dtype=tensor.dtype)
    around[64:-64] = tensor.flatten()
    return around[64:-64].view(tensor.shape)


def laid_out(tensor: torch.Tensor, form: Any) -> torch.Tensor:
    """A copy whose memory runs the other way round ("post") or has gaps ("strided")."""
    if form == "post":
        return tensor.t().clone(memory_format=torch.contiguous_format).t()
    if form != "strided":
        return tensor.clone(memory_format=torch.contiguous_format)
    *rows, n = tensor.shape
    return tensor.new_full((*rows, 2 * n + 3), torch.nan)[..., : 2 * n : 2].copy_(tensor)


def wild(problem: Problem) -> Problem:
    """The problem with infinities, NaN and zeros of either sign among its numbers."""
    changed = {}
    real = {name: tensor for name, tensor in problem.tensors.items() if not name.endswith("_spike")}
    for shift, (name, tensor) in enumerate(real.items()):
        places = (torch.arange(tensor.numel()).view(tensor.shape) + shift) % 7
        for place, value in enumerate((torch.nan, torch.inf, -torch.inf, -0.0)):
            tensor = torch.where(places == place, torch.tensor(value, dtype=tensor.dtype), tensor)
        changed[name] = tensor
    return with_tensors(problem, changed)


def apart(problem: Problem) -> Problem:
    """The problem with its vectors between numbers that must not be read."""
    read = {name: tensor for name, tensor in problem.tensors.items() if name not in problem.outputs}
    return with_tensors(problem, {name: between(tensor) for name, tensor in read.items()})


def assert_right(loop: Loop, topology: Topology, rate: float, seed: int, finite: bool) -> None:
    problem = make_problem(
        FORMULAS[loop.rule], topology, rate=rate, seed=seed, dtype=loop.dtype, float_spikes=loop.float_spikes,
        dopamine=loop.dopamine, per_neuron=loop.per_neuron, samples=loop.samples,
    )  # fmt: skip
    problem = apart(problem if finite else wild(problem))
    if rate == 0:
        problem.signals["pre_spike"].zero_(), problem.signals["post_spike"].zero_()
    expected = problem.copy().run(choose(problem.case, "reference").step).outputs

    def copy() -> Problem:
        return problem.replaced(**{name: laid_out(tensor, loop.form) for name, tensor in problem.outputs.items()})

    layout = loop.form if loop.topology in ("dense", "one_to_one") else "contiguous"
    for step in steps(loop, copy().case._replace(layout=layout)):
        done = copy().run(step).outputs
        for name, tensor in expected.items():
            # a convolution takes its sums in another order, and sparse connections those of a batch
            in_order = loop.topology != "conv2d" and not (loop.topology == "sparse" and loop.samples)
            rtol, atol = (0, 0) if in_order else (1e-5, 1e-6)
            torch.testing.assert_close(done[name], tensor, rtol=rtol, atol=atol, equal_nan=True)


def prove(loop: Loop, data: st.DataObject) -> None:
    topology = data.draw(topologies(loop))
    rate, seed = data.draw(st.sampled_from([0.0, 0.02, 0.3, 1.0])), data.draw(st.integers(0, 1000))
    assert_right(loop, topology, rate, seed, finite=data.draw(st.booleans()))


def name_of(loop: Loop) -> str:
    return f"{loop.topology}-{loop.rule}-{loop.form}"


@pytest.mark.parametrize("loop", LOOPS, ids=name_of)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_loop_stays_in_its_arrays_and_does_as_the_reference(loop, data):
    prove(loop, data)


BATCHES = [
    Loop("dense", "triplet", "post", per_neuron=True),
    Loop("one_to_one", "tagged", "strided", dopamine="pre"),
    Loop("sparse", "stdp", ("csc", False)),
    Loop("sparse", "rstdp", ("csr", True), float_spikes=True),
    Loop("conv2d", "stdp", ((3, 2), (1, 1))),
    Loop("local2d", "stdp", ((2, 3), (3, 4))),
    Loop("local2d", "tagged", ((3, 2), (1, 1)), dopamine="pre"),
]


@pytest.mark.slow
@pytest.mark.parametrize("loop", [loop._replace(samples=3) for loop in BATCHES], ids=name_of)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_loop_over_a_batch_stays_in_its_arrays_and_does_as_the_reference(loop, data):
    prove(loop, data)


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize("loop", [*LOOPS, *MORE, *(loop._replace(samples=3) for loop in LOOPS)], ids=name_of)
@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_a_loop_stays_in_its_arrays_over_many_geometries(loop, data):
    prove(loop, data)


PROPAGATIONS = [
    Loop("dense", "propagation", "pre"),
    Loop("one_to_one", "propagation", "strided", torch.float64, float_spikes=True),
    Loop("sparse", "propagation", ("csc", False)),
    Loop("sparse", "propagation", ("csr", True), float_spikes=True, parallel=False),
    Loop("conv2d", "propagation", ((3, 2), (1, 1))),
    Loop("local2d", "propagation", ((3, 2), (1, 1))),
]
MORE_PROPAGATIONS = [
    *(Loop("dense", "propagation", form, dtype, spikes, parallel=threads) for form, (dtype, spikes), threads in product(
      ("pre", "post", "strided"), ((torch.float32, False), (torch.float64, True)), (False, True))),
    *(Loop("sparse", "propagation", form, torch.float64, spikes, parallel=threads) for form, spikes, threads in
      product(product(("csc", "csr", "coo"), (False, True)), (False, True), (False, True))),
    *(Loop(topology, "propagation", key, torch.float64, spikes, parallel=threads) for topology, key, spikes, threads in
      product(("conv2d", "local2d"), _KEYS, (False, True), (False, True))),
]  # fmt: skip


def with_a_file(propagations: list[Loop]) -> list[Loop]:
    return [loop for loop in propagations if kernels_of(loop.topology, "propagation_cpu")]


@cache
def propagation_step(loop: Loop, case: PropagationCase) -> Callable[..., Any]:
    """The loop in few parts."""
    module = kernels_of(loop.topology, "propagation_cpu")
    parts = {"parallel_work": loop.parallel, "tasks": 3}
    config = module.DEFAULT._replace(**{name: n for name, n in parts.items() if name in module.DEFAULT._fields})
    return module.build(case, config)


def prove_propagation(loop: Loop, data: st.DataObject) -> None:
    topology = data.draw(topologies(loop))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    current, w = (torch.rand(shape, generator=generator).to(loop.dtype) for shape in
                  (topology.post_shape, topology.weights_shape))  # fmt: skip
    w = torch.where(w < data.draw(st.sampled_from([0.0, 0.02])), torch.inf, w - 0.5)
    fired = torch.rand(topology.pre_shape, generator=generator) < data.draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    spikes = fired * torch.rand(topology.pre_shape, generator=generator).to(loop.dtype) if loop.float_spikes else fired
    case = PropagationCase.plain(topology, loop.dtype, "cpu")._replace(bool_spikes=not loop.float_spikes)
    case = case._replace(layout=loop.form) if loop.topology == "dense" else case
    expected, found = current.clone(), between(current)
    choose(case, "reference").step(topology, w, expected, spikes)
    propagation_step(loop, case)(topology, laid_out(w, loop.form), found, between(spikes))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("loop", with_a_file(PROPAGATIONS), ids=name_of)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_loop_of_propagation_stays_in_its_arrays_and_does_as_the_reference(loop, data):
    prove_propagation(loop, data)


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize("loop", with_a_file(PROPAGATIONS + MORE_PROPAGATIONS), ids=name_of)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_loop_of_propagation_stays_in_its_arrays_over_many_geometries(loop, data):
    prove_propagation(loop, data)


@pytest.mark.parametrize("n", [0, 1, 65])
def test_the_loop_of_traces_stays_in_its_arrays(n):
    trace, spikes = torch.rand(n), torch.rand(n) < 0.3
    expected = updated_trace(trace, spikes.float(), 1.0, 10.0, 1.0)
    trace_cpu.build(TraceCase(torch.float32, "cpu", True))(trace, spikes, 1.0, 10.0, 1.0)
    torch.testing.assert_close(trace, expected, rtol=0, atol=0)
