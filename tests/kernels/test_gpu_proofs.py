"""What holds for every Triton kernel, shown in Triton's interpreter: no GPU is needed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

from rules_of_their_own import POWER, RULES_OF_TESTS, TELLING
from support import random_sparse, with_tensors
from tritonstdp.choice import choose
from tritonstdp.inspection import gpu_module
from tritonstdp.interpretation import swift_interpreter
from tritonstdp.kernels import event_lists, items, sums
from tritonstdp.kernels.propagation import PropagationCase
from tritonstdp.kernels.reference import HALF
from tritonstdp.library import power_lower_bound, power_upper_bound
from tritonstdp.problems import Problem, make_problem
from tritonstdp.propagation import propagate_
from tritonstdp.registry import kernels_of
from tritonstdp.rules import BOUNDS, RULES, Formula, hard_bound, no_bound, soft_bound
from tritonstdp.topology import TOPOLOGIES, Conv2d, Dense, Local2d, OneToOne, Sparse

GROUPS = {
    "dense": Dense(19, 37),
    "one_to_one": OneToOne(133),
    "sparse": random_sparse(23, 31, 0.3),
    "conv2d": Conv2d((2, 7, 6), (3, 4, 5), (3, 2), (2, 1), (1, 0)),
    "local2d": Local2d((2, 7, 6), (3, 4, 5), (3, 2), (2, 1), (1, 0)),
}
TOPOLOGY_NAMES = list(TOPOLOGIES)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAUNCHES = {"conv2d": 2, "dense": 2, "local2d": 2, "sparse": 2}
LISTED = ("dense", "local2d", "sparse")
"""Where those who spiked are listed, unless the rule changes every synapse."""
SUMMED = ("conv2d",)  # the order of a sum differs from torch's, and so do the last bits
POWERS = (power_lower_bound, power_upper_bound)  # each compiler has powers of its own

_cut = gpu_module("dense").cut_of(gpu_module("dense").DEFAULT, 4, False, 1, 10_001, (10_001, 1), (10_001, 1))
CHUNK = gpu_module("dense").DEFAULT.num_warps * 32 * _cut.unit
"""Weights of a row that an item takes at an odd width."""
BLOCK_OF_ROWS = gpu_module("dense").DEFAULT.blocks * _cut.height
"""Rows of some columns that an item takes then."""
_hubs = torch.eye(90)
_hubs[7], _hubs[:, 80] = 1.0, 1.0
SHARED = {
    "dense": Dense(9, CHUNK + 9),
    "local2d": Local2d((30, 4, 4), (16, 2, 2), 3),
    "sparse": Sparse.from_weights(_hubs.to_sparse_csc()),
}
"""Groups of which some neurons take several items."""

topologies = pytest.mark.parametrize("topology", TOPOLOGY_NAMES)
rules = pytest.mark.parametrize("rule", RULES)
telling_rules = pytest.mark.parametrize("rule", TELLING)


@pytest.fixture(autouse=True, scope="module")
def _swift():
    with swift_interpreter():
        yield


def formula_of(rule: str, positive=soft_bound, negative=soft_bound, clamp: bool = False) -> Formula:
    return Formula.of((RULES | RULES_OF_TESTS)[rule], positive, negative, clamp)


def triton_step(problem: Problem):
    return gpu_module(problem.topology.name).build(problem.case)


def reference_step(problem: Problem):
    return choose(problem.case, "reference").step


def assert_bits(one: Problem, other: Problem) -> None:
    for name, tensor in one.outputs.items():
        assert torch.equal(tensor, other.outputs[name]), name


def assert_matches_reference(problem: Problem) -> None:
    result, same = problem.copy(), problem.copy()
    exact = problem.copy().to(torch.float64)
    result.run(triton_step(problem))
    same.run(reference_step(problem))
    exact.run(reference_step(exact))
    dtype = problem.weights.dtype
    for name, tensor in result.outputs.items():
        tolerance = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(tensor.double(), exact.outputs[name], rtol=tolerance, atol=tolerance)
    # the interpreter does not round to bfloat16 as hardware does
    rounded_alike = problem.topology.name not in SUMMED and problem.formula.positive not in POWERS
    if rounded_alike and dtype != torch.bfloat16:
        assert_bits(result, same)
    assert not torch.equal(result.weights, problem.weights), "nothing changed: the case proves nothing"


@pytest.mark.parametrize(
    ("rule", "bound", "dtype"),
    [
        *((rule, "soft_bound", dtype) for rule in RULES for dtype in DTYPES),
        *(("stdp", bound, torch.float32) for bound in BOUNDS if bound != "soft_bound"),
    ],
    ids=str,
)
@topologies
def test_a_step_matches_the_reference(topology, rule, bound, dtype):
    problem = make_problem(formula_of(rule, BOUNDS[bound], BOUNDS[bound]), GROUPS[topology], dtype=dtype)
    assert_matches_reference(problem)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES_OF_TESTS)
@topologies
def test_a_step_of_a_rule_of_its_own_matches_the_reference(topology, rule, dtype):
    assert_matches_reference(make_problem(formula_of(rule, POWER, soft_bound), GROUPS[topology], dtype=dtype))


@pytest.mark.parametrize(
    "variant",
    [
        {"float_spikes": True},
        {"float_spikes": True, "dopamine": "scalar", "clamp": True},
        {"dopamine": "scalar", "clamp": True, "dtype": torch.bfloat16},
        {"rate": 0.0},
        {"rate": 1.0, "clamp": True},
        {"per_neuron": True},
        {"per_neuron": True, "float_spikes": True, "dopamine": "scalar", "clamp": True, "dtype": torch.float64},
    ],
    ids=lambda variant: "-".join(variant),
)
@telling_rules
@topologies
def test_a_variant_matches_the_reference(topology, rule, variant):
    options = {name: value for name, value in variant.items() if name != "clamp"}
    formula = formula_of(rule, soft_bound, hard_bound, variant.get("clamp", False))
    assert_matches_reference(make_problem(formula, GROUPS[topology], **options))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("clamp", [False, True])
@telling_rules
def test_dense_takes_either_layout_and_dopamine_per_neuron(rule, clamp, transposed):
    formula = formula_of(rule, no_bound, soft_bound, clamp)
    for side in ("pre", "post"):
        assert_matches_reference(make_problem(formula, Dense(19, 37), transposed=transposed, dopamine=side))


@rules
def test_dense_rows_may_take_several_programs(rule):
    for topology in (Dense(3, CHUNK + 9), Dense(BLOCK_OF_ROWS + 5, 9)):
        assert_matches_reference(make_problem(formula_of(rule), topology, rate=0.4))


@rules
def test_patches_and_what_looks_at_a_neuron_may_take_several_programs(rule):
    assert_matches_reference(make_problem(formula_of(rule), SHARED["local2d"], rate=0.4))


@rules
def test_sparse_hubs_may_take_several_programs(rule):
    for rate in (0.02, 0.5, 1.0):
        assert_matches_reference(make_problem(formula_of(rule), SHARED["sparse"], rate=rate))


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.4, 1.0])
@pytest.mark.parametrize("topology", LISTED)
@telling_rules
def test_lists_and_a_pass_over_all_give_the_same_and_so_does_one_without_lists(rule, topology, rate, monkeypatch):
    module = gpu_module(topology)
    problem = make_problem(formula_of(rule), GROUPS[topology], rate=rate)
    expected = problem.copy().run(reference_step(problem))
    for full_from, fewest_listed in ((0.0, 0), (9.0, 0), (9.0, 10**9)):
        monkeypatch.setattr(items, "fewest_listed", lambda device, fewest=fewest_listed: fewest)
        step = module.build(problem.case, module.DEFAULT._replace(full_from=full_from))
        assert_bits(problem.copy().run(step), expected)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.4, 1.0])
@telling_rules
def test_one_to_one_synapses_read_before_or_after_their_spikes_end_in_the_same_bits(rule, rate, monkeypatch):
    module = gpu_module("one_to_one")
    problem = make_problem(formula_of(rule), GROUPS["one_to_one"], rate=rate)
    expected = problem.copy().run(reference_step(problem))
    for fewest_listed in (0, 10**9):
        monkeypatch.setattr(items, "fewest_listed", lambda device, fewest=fewest_listed: fewest)
        assert_bits(problem.copy().run(module.build(problem.case)), expected)


@pytest.mark.parametrize(("rate", "largest"), [(0.05, 4096), (0.4, 32), (1.0, 32)])
def test_a_convolutions_events_may_be_shared_by_lanes_and_take_several_turns_and_segments(rate, largest, monkeypatch):
    monkeypatch.setattr(event_lists, "SMALLEST_OF_MAPS", 32)
    monkeypatch.setattr(event_lists, "LARGEST_SEGMENT", largest)
    topology = Conv2d((2, 9, 8), (3, 5, 5), (3, 2), (2, 2), (1, 1))
    problem = make_problem(formula_of("triplet"), topology, rate=rate)
    module = gpu_module("conv2d")
    exact = problem.copy().to(torch.float64)
    exact.run(reference_step(exact))
    for config in (module.Config(share=72), module.Config(share=1, events=2), module.Config(share=1, num_warps=1)):
        result = problem.copy().run(module.build(problem.case, config))
        for name, tensor in result.outputs.items():
            torch.testing.assert_close(tensor.double(), exact.outputs[name], rtol=5e-7, atol=5e-7)


_NONE = np.zeros((2, 0), np.int64)


def meetings(monkeypatch) -> list[str]:
    """Where two programs of a launch meet, of which one writes: filled as launches end.

    The interpreter runs one program after the other: no order of them would show that one undoes another's work.
    """
    builder, executor = interpreter.interpreter_builder, interpreter.GridExecutor
    load, store, begin, end = (
        builder.create_masked_load, builder.create_masked_store, executor._init_args_hst, executor._restore_args_dev
    )  # fmt: skip
    accesses: dict[str, list[np.ndarray]] = {}
    found: list[str] = []

    def note(kind, pointers, mask):
        x, y, z = builder.grid_idx
        program = (x * builder.grid_dim[1] + y) * builder.grid_dim[2] + z
        active = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)].astype(np.int64)
        accesses[kind].append(np.stack([active, np.full_like(active, program)]))

    def noted_load(pointers, mask, *rest):
        note("loads", pointers, mask)
        return load(pointers, mask, *rest)

    def noted_store(pointers, value, mask, *rest):
        note("stores", pointers, mask)
        return store(pointers, value, mask, *rest)

    def launch(self, *arguments):
        accesses.update(loads=[_NONE], stores=[_NONE])
        return begin(self, *arguments)

    def finish(self, *arguments):
        written, by = np.unique(np.concatenate(accesses["stores"], axis=1), axis=1)
        if np.unique(written).size < written.size:
            found.append("two programs write one element")
        read, reader = np.concatenate(accesses["loads"], axis=1)
        at = np.searchsorted(written, read).clip(max=max(0, written.size - 1))
        if written.size and ((written[at] == read) & (by[at] != reader)).any():
            found.append("a program reads what another writes")
        return end(self, *arguments)

    monkeypatch.setattr(builder, "create_masked_load", noted_load)
    monkeypatch.setattr(builder, "create_masked_store", noted_store)
    monkeypatch.setattr(executor, "_init_args_hst", launch)
    monkeypatch.setattr(executor, "_restore_args_dev", finish)
    return found


@pytest.mark.parametrize("rate", [0.05, 0.4, 1.0])
@telling_rules
@topologies
def test_each_element_has_one_owner_among_programs(topology, rule, rate, monkeypatch):
    problem = make_problem(formula_of(rule), SHARED.get(topology, GROUPS[topology]), rate=rate)
    with monkeypatch.context() as patch:
        found = meetings(patch)
        problem.run(triton_step(problem))
    assert found == []


@triton.jit
def meeting_kernel(to_ptr, from_ptr, STEP: tl.constexpr):
    """Each program writes one element, ``STEP`` behind the one before's."""
    tl.store(to_ptr + tl.program_id(0) * STEP, tl.load(from_ptr))


def test_programs_that_meet_are_noticed(monkeypatch):
    source, target = torch.ones(1), torch.zeros(8)
    for arguments, wanted in (
        ((target, source, 1), []),
        ((target, source, 0), ["two programs write one element"]),
        ((target, target[1:], 1), ["a program reads what another writes"]),
    ):
        with monkeypatch.context() as patch:
            found = meetings(patch)
            meeting_kernel[(4,)](*arguments)
        assert found == wanted


def poisoned(tensor: torch.Tensor, gap: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The tensor amid poison (NaN, or a spike), with ``gap`` elements of it behind each row; and the whole buffer."""
    poison = True if tensor.dtype == torch.bool else math.nan
    margin = 2048
    strides = tensor.stride()
    if gap:
        major = max(range(tensor.dim()), key=lambda d: strides[d])
        strides = tuple(s + gap if d == major else s for d, s in enumerate(strides))
    span = sum((n - 1) * stride for n, stride in zip(tensor.shape, strides, strict=True)) + 1
    buffer = torch.full((span + 2 * margin,), poison, dtype=tensor.dtype)
    inner = buffer.as_strided(tensor.shape, strides, margin)
    inner.copy_(tensor)
    return inner, buffer


def span_of(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses from a tensor's first element to its last."""
    n = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return tensor.data_ptr(), tensor.data_ptr() + n * tensor.element_size()


def flat(arguments: tuple) -> list:
    """What tuples in tuples hold."""
    return [part for a in arguments for part in (flat(a) if isinstance(a, tuple) else [a])]


def confine(monkeypatch) -> None:
    """Refuse every access that is not masked out and lies in no tensor of the launch."""
    builder, executor = interpreter.interpreter_builder, interpreter.GridExecutor
    load, store, prepare = builder.create_masked_load, builder.create_masked_store, executor._init_args_hst
    add = builder.create_atomic_rmw
    spans: list[tuple[int, int]] = []

    def note_spans(self, arguments, named):
        spans[:] = [span_of(argument) for argument in flat(arguments) if isinstance(argument, torch.Tensor)]
        return prepare(self, arguments, named)

    def check(pointers, mask):
        active = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
        allowed = np.zeros(active.shape, dtype=bool)
        for first, end in spans:
            allowed |= (active >= first) & (active < end)
        assert allowed.all(), "an access outside every tensor"

    def checked_load(pointers, mask, *rest):
        check(pointers, mask)
        return load(pointers, mask, *rest)

    def checked_store(pointers, value, mask, *rest):
        check(pointers, mask)
        return store(pointers, value, mask, *rest)

    def checked_add(operation, pointers, value, mask, *rest):
        check(pointers, mask)
        return add(operation, pointers, value, mask, *rest)

    monkeypatch.setattr(executor, "_init_args_hst", note_spans)
    monkeypatch.setattr(builder, "create_atomic_rmw", checked_add)
    monkeypatch.setattr(builder, "create_masked_load", checked_load)
    monkeypatch.setattr(builder, "create_masked_store", checked_store)


@pytest.mark.parametrize(("topology", "transposed"), [*((name, False) for name in TOPOLOGY_NAMES), ("dense", True)])
@telling_rules
def test_nothing_beside_a_tensor_is_read_or_written(topology, transposed, rule, monkeypatch):
    problem = make_problem(formula_of(rule), GROUPS[topology], rate=0.4, transposed=transposed, per_neuron=True)
    gap = 5 if topology == "dense" else 0
    amid = {name: poisoned(tensor, gap if name in ("weights", "c") else 0) for name, tensor in problem.tensors.items()}
    guarded = with_tensors(problem, {name: inner for name, (inner, _) in amid.items()})
    before = {name: buffer.clone() for name, (_, buffer) in amid.items()}
    with monkeypatch.context() as patch:
        confine(patch)
        guarded.run(triton_step(guarded))
    assert_bits(guarded, problem.copy().run(triton_step(problem)))
    for name, (inner, buffer) in amid.items():
        inner.copy_(problem.tensors[name])  # what may be written is put back: the rest must be as it was
        assert torch.equal(buffer.view(torch.uint8), before[name].view(torch.uint8)), name


PATCHES_SHARED = (30, 3, 3), (5, 1, 1), 3
PROPAGATED = SHARED | {
    "dense": Dense(300, 37),
    "sparse": Sparse.random(300, 4, 900),
    "conv2d": Conv2d(*PATCHES_SHARED),
    "local2d": Local2d(*PATCHES_SHARED),
}
"""Groups of which the sums of a post neuron are shared by programs, if a share is a turn."""


@pytest.mark.parametrize("rate", [0.05, 1.0])
@pytest.mark.parametrize("shared", [False, True])
@topologies
def test_currents_have_one_owner_and_nothing_beside_a_tensor_is_touched(topology, shared, rate, monkeypatch):
    group = (PROPAGATED if shared else GROUPS).get(topology, GROUPS[topology])
    module = kernels_of(topology, "propagation_gpu")
    changes = {"turns": 1, "scatter_up_to": 0.1} if "scatter_up_to" in module.SPACE else {}
    config = module.DEFAULT._replace(
        **{name: value for name, value in changes.items() if name in module.DEFAULT._fields}
    )
    monkeypatch.setattr(sums, "TURNS_OF_A_SHARE", 1)
    problem = make_problem(formula_of("stdp"), group, rate=rate)
    (spikes, _), (weights, _), (current, room) = (
        poisoned(tensor) for tensor in (problem.signals["pre_spike"], problem.weights, torch.rand(group.post_shape))
    )
    given = group.weights_of(problem.weights), problem.signals["pre_spike"]
    plan = None if topology == "sparse" else group
    expected = propagate_(current.clone(), *given, topology=plan, backend="reference")
    with monkeypatch.context() as patch:
        confine(patch)
        found = meetings(patch)
        module.build(PropagationCase.plain(group, torch.float32, "cpu"), config)(group, weights, current, spikes)
    assert found == []
    torch.testing.assert_close(current, expected)
    margin = (len(room) - len(current)) // 2
    assert room[:margin].isnan().all() and room[-margin:].isnan().all()


class NoOperators(TorchDispatchMode):
    """Refuse every torch operator: none may allocate, copy, or wait for a device."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        raise AssertionError(f"the launch path calls {operator}")


@pytest.mark.parametrize("per_neuron", [False, True])
@pytest.mark.parametrize("dopamine", ["number", "scalar"])
@telling_rules
@topologies
def test_a_step_launches_without_synchronising_or_allocating(topology, rule, dopamine, per_neuron, monkeypatch):
    problem = make_problem(formula_of(rule), GROUPS[topology], dopamine=dopamine, per_neuron=per_neuron)
    step = triton_step(problem)
    problem.run(step)
    launches = []
    monkeypatch.setattr(
        interpreter.InterpretedFunction, "run", lambda kernel, *arguments, **options: launches.append(kernel)
    )

    def refuse(*arguments, **options):
        raise AssertionError("the launch path reads a tensor on the host")

    names = ("item", "cpu", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__")
    for name in names:
        monkeypatch.setattr(torch.Tensor, name, refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    with NoOperators():
        problem.run(step)
    unlisted = topology in LISTED and problem.case.modulated  # which takes all synapses: nobody is listed
    assert len(launches) == LAUNCHES.get(topology, 1) - unlisted


@pytest.mark.parametrize("call", ["item", "nonzero", "cpu", "clone"])
def test_what_refuses_synchronising_calls_notices_them(call):
    with pytest.raises(AssertionError, match="launch path"), NoOperators():
        getattr(torch.ones(2).sum() if call == "item" else torch.ones(2), call)()


@pytest.mark.parametrize("topology", ["dense", "transposed", "one_to_one"])
def test_addresses_beyond_two_to_the_31_elements_are_right(topology, tmp_path, monkeypatch):
    """The weights lie in a file with holes, with rows more than 2**31 elements apart."""
    far = 2**31 + 24
    group = OneToOne(3) if topology == "one_to_one" else Dense(3, 11)
    problem = make_problem(
        formula_of("rstdp"), group, dtype=torch.float16, rate=0.6, transposed=topology == "transposed"
    )
    shape, strides = problem.weights.shape, list(problem.weights.stride())
    distant = strides.index(max(strides))
    strides[distant] = far
    span = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1
    changes = {}
    for name, tensor in problem.outputs.items():
        path = tmp_path / name
        with open(path, "wb") as file:
            file.truncate(span * 2)
        holey = torch.from_file(str(path), shared=True, size=span, dtype=torch.float16)
        changes[name] = holey.as_strided(shape, strides).copy_(tensor)
    # the arguments are shared with the interpreter as they are; copying them back would fill the holes
    monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *arguments: None)
    distant_problem = problem.replaced(**changes)
    distant_problem.run(triton_step(distant_problem))
    assert_bits(distant_problem, problem.copy().run(triton_step(problem)))


def test_half_precision_is_rounded_once():
    problem = make_problem(formula_of("rstdp"), Dense(19, 37), dtype=torch.float16)
    assert problem.weights.dtype in HALF
    single = problem.to(torch.float32)
    problem.run(triton_step(problem))
    single.run(triton_step(single))
    for name, tensor in problem.outputs.items():
        assert torch.equal(tensor, single.outputs[name].half()), name
