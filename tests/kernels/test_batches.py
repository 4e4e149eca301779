"""Batches: one step changes weights by the sum, or the mean, of what each sample changes by itself."""

import pytest
import torch

import tritonstdp as ts
from rules_of_their_own import RULES_OF_TESTS
from tritonstdp.choice import choose
from tritonstdp.functional import step_, weight_change
from tritonstdp.kernels import threads
from tritonstdp.kernels.loops import bounds_checked
from tritonstdp.kernels.one_to_one import batch_cpu as one_to_one_batches
from tritonstdp.kernels.sparse import batch_cpu as sparse_batches
from tritonstdp.library import triplet
from tritonstdp.problems import make_problem
from tritonstdp.rules import Formula, hard_bound, istdp, no_bound, rstdp, soft_bound, stdp
from tritonstdp.topology import TOPOLOGIES

PLAIN, MODULATED = Formula.of(stdp, soft_bound, hard_bound, True), Formula.of(rstdp, no_bound, soft_bound, True)
topologies = pytest.mark.parametrize("topology", TOPOLOGIES)


def batch(formula, topology, samples=3, **options):
    return make_problem(formula, TOPOLOGIES[topology].uneven_example(), samples=samples, **options)


def run(problem, backend):
    return problem.copy().run(choose(problem.case, backend).step).outputs


def change(problem, **signals):
    signals, rule = problem.signals | signals, problem.formula.rule
    pre, post = (tuple(signals[name] for name in names) for names in (rule.pre, rule.post))
    parameters = tuple(problem.parameters.values())
    group = problem.formula, problem.topology, problem.weights
    return weight_change(*group, pre, post, parameters, *problem.limits, problem.reduction)


def assert_right(problem, backend):
    """Of sums in the samples' order the same bits as the reference's; others within their rounding."""
    found = run(problem, backend)
    for name, expected in run(problem, "reference").items():
        in_order = problem.topology.name in ("dense", "one_to_one", "local2d")
        tolerance = 0 if in_order else 8 * torch.finfo(expected.dtype).eps
        torch.testing.assert_close(found[name], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("rule", [stdp, istdp, rstdp, triplet, *RULES_OF_TESTS.values()], ids=lambda rule: rule.name)
@topologies
def test_a_batch_changes_what_its_samples_change_by_themselves(topology, rule, reduction):
    problem = batch(Formula.of(rule, soft_bound, hard_bound), topology, dtype=torch.float64, reduction=reduction)
    of_each = [change(problem, **{name: values[b] for name, values in problem.signals.items()}) for b in range(3)]
    expected = sum(of_each) / (3 if reduction == "mean" else 1)
    torch.testing.assert_close(change(problem), expected)
    if not rule.modulated:
        torch.testing.assert_close(run(problem, "reference")["weights"], problem.weights + expected)


@pytest.mark.parametrize("formula", [PLAIN, pytest.param(MODULATED, marks=pytest.mark.slow)], ids=["stdp", "rstdp"])
@topologies
def test_compiled_loops_do_as_the_reference(topology, formula):
    for samples, rate in ((1, 0.2), (3, 0.0), (33, 0.02), (5, 1.0)):
        assert_right(batch(formula, topology, samples, rate=rate, seed=samples), "cpu")


@pytest.mark.slow
@topologies
def test_compiled_loops_do_as_the_reference_for_rules_and_signals_of_all_kinds(topology):
    kind, bounds = TOPOLOGIES[topology], (soft_bound, hard_bound, True)
    dopamine = "number" if kind.uneven_example().shares_weights else "post"
    everything = {"float_spikes": True, "per_neuron": True, "transposed": kind.takes_strides}
    assert_right(batch(Formula.of(triplet, *bounds), topology, **everything), "cpu")
    tagged = Formula.of(RULES_OF_TESTS["tagged"], *bounds)
    assert_right(batch(tagged, topology, dtype=torch.float64, reduction="mean", dopamine=dopamine), "cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("formula", "samples"), [(PLAIN, 2), (PLAIN, 5), (PLAIN, 33), (MODULATED, 5)])
def test_long_one_to_one_groups_do_as_the_reference_where_few_spike_and_where_many_do(formula, samples):
    topology = ts.OneToOne(2 * one_to_one_batches.SPAN + 9500)
    problem = make_problem(formula, topology, samples=samples, rate=0.3)
    silenced = torch.arange(topology.n) // 7000 % 2 == 0
    rare = torch.rand(samples, topology.n) < 0.99
    spikes = {name: problem.signals[name].masked_fill(silenced & rare, False) for name in ("pre_spike", "post_spike")}
    problem = problem.replaced(**spikes)
    assert_right(problem, "cpu")
    with bounds_checked():
        checked = problem.copy().run(choose(_again(problem.case), "cpu").step).outputs
    for name, values in run(problem, "cpu").items():
        assert torch.equal(checked[name], values), name


def _again(case):
    """The same case of a formula that no step is known for yet."""
    return case._replace(formula=Formula(*case.formula.__reduce__()[1]))


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["dense", "sparse", "local2d"])
def test_threads_do_as_one(topology, monkeypatch):
    problem = batch(PLAIN, topology, 7, rate=0.3)
    expected = run(problem, "cpu")
    monkeypatch.setattr(threads, "by_work", lambda compile_loop, work: lambda synapses: compile_loop(True))
    step = choose(_again(problem.case), "cpu").step
    for name, values in problem.copy().run(step).outputs.items():
        assert torch.equal(values, expected[name]), name


@pytest.mark.slow
@topologies
def test_a_batch_of_one_is_a_step(topology):
    problem = batch(PLAIN, topology, 1)
    alone = problem.replaced(**{name: values[0] for name, values in problem.signals.items()}, reduction="")
    for name, values in run(alone, "cpu").items():
        assert torch.equal(run(problem, "cpu")[name], values)


def test_a_batch_is_told_by_its_spikes_and_takes_every_option():
    w, n = torch.full((2, 3), 0.5), 4
    pre, post = torch.rand(n, 2) < 0.5, torch.rand(n, 3) < 0.5
    signals = {"pre_spike": pre, "pre_trace": torch.rand(n, 2), "post_spike": post, "post_trace": torch.rand(n, 3)}
    options = {"a_plus": 0.1, "a_minus": ts.per_pre(torch.tensor([0.1, 0.2])), "clamp": True}
    total, mean = (ts.update_("stdp", w.clone(), **signals, **options, reduction=r) - w for r in ("sum", "mean"))
    torch.testing.assert_close(total, n * mean)
    assert torch.equal(ts.stdp_(w.clone(), *signals.values(), **options), total + w)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [("post_spike", (3,), "post_spike has shape .3,.; dense needs .4, 3."), ("pre_trace", (5, 2), "needs .4, 2."),
     ("pre_spike", (0, 2), "a batch has one sample or more"), ("pre_spike", (2, 4, 2), "or .B, 2. of a batch")],
)  # fmt: skip
def test_a_batch_that_does_not_fit_is_named_and_changes_nothing(name, shape, said):
    shapes = {"pre_spike": (4, 2), "pre_trace": (4, 2), "post_spike": (4, 3), "post_trace": (4, 3)} | {name: shape}
    w = torch.full((2, 3), 0.5)
    with pytest.raises(ValueError, match=said):
        ts.update_("stdp", w, **{n: torch.ones(s) for n, s in shapes.items()}, a_plus=0.1, a_minus=0.1)
    assert (w == 0.5).all()


def test_what_is_no_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction is 'max'"):
        ts.stdp_(torch.ones(1), *[torch.ones(1)] * 4, a_plus=0.1, a_minus=0.1, reduction="max")


def test_silent_samples_leave_weights_as_they_are():
    problem = batch(PLAIN, "dense")
    silent = {name: torch.zeros_like(v) for name, v in problem.signals.items() if name.endswith("_spike")}
    wild = torch.tensor([torch.nan, torch.inf, -0.0]).repeat(problem.weights.numel())
    problem = problem.replaced(weights=wild[: problem.weights.numel()].view(problem.weights.shape), **silent)
    for backend in ("cpu", "reference"):
        found = run(problem, backend)["weights"]
        assert torch.equal(found.view(torch.int32), problem.weights.view(torch.int32)), backend


def test_groups_whose_weights_start_at_one_address_keep_sums_of_their_own():
    memory = torch.full((12,), 0.5)
    for shape in ((2, 3), (3, 4)):
        topology = ts.Sparse.of(torch.ones(shape).to_sparse_csc())
        pre, post = ((torch.ones(2, n) > 0, torch.ones(2, n)) for n in shape)
        step_(PLAIN, topology, memory[: topology.synapses], pre, post, (0.1, 0.2), backend="cpu")
    kept = sparse_batches._SUMS[memory.untyped_storage()]
    assert sorted(map(len, kept.values())) == [6, 12]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_no_batch():
    nested, ones = torch.nested.nested_tensor([torch.ones(2)] * 4), torch.ones(4, 2)
    with pytest.raises(TypeError, match="pre_spike is a nested tensor"):
        ts.stdp_(torch.ones(2, 2), nested, ones, ones, ones, a_plus=0.1, a_minus=0.1)
