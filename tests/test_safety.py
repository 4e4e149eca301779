"""What would corrupt memory, or change a result unseen, is refused before anything is written, on every backend."""

import logging
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

import tritonstdp as ts
from rules_of_their_own import POWER
from support import random_sparse, stepped
from tritonstdp.functional import step_
from tritonstdp.kernels.memory import extent, meets_itself
from tritonstdp.kernels.protocol import PerNeuron
from tritonstdp.library import triplet_modulated
from tritonstdp.problems import make_problem
from tritonstdp.rules import Formula, rstdp, soft_bound, stdp

BACKENDS = ("cpu", "triton", "reference")
TOPOLOGIES = {
    "dense": ts.Dense(7, 5),
    "one_to_one": ts.OneToOne(9),
    "sparse": random_sparse(7, 5, 0.4),
    "conv2d": ts.Conv2d((2, 5, 4), (3, 3, 3), (3, 2)),
    "local2d": ts.Local2d((2, 5, 4), (3, 3, 3), (3, 2)),
}
READ = ("pre_spike", "pre_trace", "post_spike", "post_trace")


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        yield


def problem_of(topology, rule=rstdp, **options):
    return make_problem(Formula.of(rule, soft_bound, soft_bound), TOPOLOGIES[topology], rate=0.5, **options)


def problem_of_all(topology):
    """A problem with every kind of tensor that a step reads: traces, and what has one value a neuron of either side."""
    topology = TOPOLOGIES.get(topology, topology)
    formula, dopamine = (
        Formula.of(triplet_modulated, soft_bound, POWER),
        "number" if topology.shares_weights else "post",
    )
    problem = make_problem(formula, topology, rate=0.5, per_neuron=True, dopamine=dopamine)
    sides = {value.side for value in problem.parameters.values() if isinstance(value, PerNeuron)}
    assert sides == {"pre", "post"} and {"pre_slow", "post_slow"} < set(problem.tensors)
    return problem


def step(problem, backend, **changed):
    """A step with some of a problem's tensors or parameters changed; what has one value a neuron keeps its side."""
    for name, value in problem.parameters.items():
        if isinstance(value, PerNeuron) and isinstance(changed.get(name), torch.Tensor):
            changed[name] = {"pre": ts.per_pre, "post": ts.per_post}[value.side](changed[name])
    return stepped(problem.replaced(**changed), backend)


class Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls, like):
        return torch.Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError("has nothing to compute with")


def fake(like):
    with FakeTensorMode() as mode:
        return mode.from_tensor(like)


def without_storage(like):
    emptied = like.clone()
    emptied.untyped_storage().resize_(0)
    return emptied


def cut_short(like):
    shortened = torch.cat([like.reshape(-1), like.reshape(-1)])[like.numel() :].view(like.shape)
    shortened.untyped_storage().resize_(like.nbytes + like.itemsize)
    return shortened


MEMORYLESS = {
    "fake": fake,
    "wrapper": Wrapper,
    "implicit zeros": lambda like: torch._efficientzerotensor(like.shape, dtype=like.dtype),
    "storage of size 0": without_storage,
    "storage cut short": cut_short,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", MEMORYLESS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_tensor_without_memory_is_refused_by_name(topology, kind, backend):
    for name in problem_of_all(topology).tensors:
        if (topology, name) == ("sparse", "weights") and kind in ("fake", "wrapper"):
            continue  # torch makes no sparse tensor of these
        problem = problem_of_all(topology)
        before = problem.copy()
        with pytest.raises(ValueError, match=f"{name}.*(memory|one address)"):
            step(problem, backend, **{name: MEMORYLESS[kind](problem.tensors[name])})
        assert torch.equal(problem.weights, before.weights) and torch.equal(problem.c, before.c)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dopamine_of_another_device_or_without_memory_is_refused(backend):
    problem = problem_of("dense")
    for dopamine in (torch.tensor(0.5, device="meta"), torch.zeros(5, device="meta")):
        with pytest.raises(ValueError, match="dopamine is on meta"):
            step(problem, backend, dopamine=dopamine)
    with pytest.raises(ValueError, match=r"dopamine.*memory"):
        step(problem, backend, dopamine=without_storage(torch.zeros(5)))


@pytest.mark.parametrize("name", ["a_plus", "tau_c", "w_min"])
def test_a_parameter_without_memory_is_refused(name):
    weights, spikes = torch.rand(3, 3), torch.ones(3, dtype=torch.bool)
    options = {"a_plus": 0.1, "a_minus": 0.1, "tau_c": 10.0, "dopamine": 1.0}
    options |= {name: without_storage(torch.ones(3, 3))}
    with pytest.raises(ValueError, match=f"{name}.*memory"):
        ts.rstdp_(weights, torch.zeros(3, 3), spikes, torch.ones(3), spikes, torch.ones(3), **options)
    with pytest.raises(ValueError, match=r"tau.*memory"):
        ts.trace_(torch.rand(3), spikes, tau=without_storage(torch.ones(3)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("written", ["weights", "c"])
def test_dopamine_that_shares_memory_with_what_is_written_is_refused(written, backend):
    problem = problem_of("dense")
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{written} shares memory with dopamine"):
            step(problem, backend, dopamine=problem.tensors[written][0])
        step(problem.copy(), backend, dopamine=torch.zeros(5))


@pytest.mark.parametrize(
    "options",
    [{"a_plus": 2**70}, {"tau_c": 2**70}, {"dopamine": 2**70}, {"w_max": 10**30}, {"w_max": 1e300}, {"a_plus": 1e300}],
    ids=str,
)
def test_large_numbers_are_the_same_on_every_backend(options):
    results = []
    for backend in BACKENDS:
        problem = problem_of("one_to_one")
        given = {"a_plus": 0.1, "a_minus": 0.1, "tau_c": 10.0, "dopamine": 1.0, "clamp": True} | options
        signals = problem.signals
        ts.rstdp_(problem.weights, problem.c, **signals, backend=backend, positive_bound="soft_bound", **given)
        results.append(problem.weights)
    for result in results:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_limit_beyond_half_precision_counts_in_the_precision_that_is_computed_in(dtype, backend):
    weights, spikes, traces = torch.zeros(2, dtype=dtype), torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=dtype)
    given = {"a_plus": 1e-20, "a_minus": 0.0, "w_max": 1e20, "positive_bound": "upper_bound", "backend": backend}
    ts.stdp_(weights, spikes, traces, spikes, traces, **given)
    assert weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("n", [0, 3, 5])
def test_too_few_or_too_many_numbers_are_said(n):
    problem = problem_of("dense")
    signals = tuple(problem.signals.values())
    with pytest.raises(ValueError, match=f"parameters has {n} values: rstdp takes a_plus, a_minus, tau_c, dopamine"):
        step_(problem.formula, problem.topology, problem.weights, signals[:2], signals[2:], (0.5,) * n, c=problem.c)


@pytest.mark.parametrize("n", [(1, 2), (2, 1), (3, 2), (2, 3), (0, 0)])
def test_too_few_or_too_many_signals_are_said(n):
    problem = problem_of("dense")
    before = problem.copy()
    pre, post = (torch.ones(size, dtype=torch.bool) for size in (7, 5))
    wrong = "pre_spike, pre_trace" if n[0] != 2 else "post_spike, post_trace"
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"\d signals are given of one side, which has {wrong}"):
            step_(
                problem.formula, problem.topology, problem.weights, (pre, *(torch.ones(7),) * 2)[: n[0]],
                (post, *(torch.ones(5),) * 2)[: n[1]], (0.1, 0.1, 7.0, 0.5), c=problem.c,
            )  # fmt: skip
        step(problem.copy(), None)
    assert torch.equal(problem.weights, before.weights) and torch.equal(problem.c, before.c)


@pytest.mark.parametrize("topology", ("sparse", "conv2d", "local2d"))
def test_one_dopamine_a_post_neuron_is_refused_where_it_would_meet_other_synapses(topology):
    problem = problem_of(topology)
    n = TOPOLOGIES[topology].post_shape[0]
    with pytest.raises(ValueError, match="one value a synapse"):
        step(problem, None, dopamine=torch.ones(n))


def test_one_dopamine_a_post_neuron_is_refused_even_where_it_would_broadcast():
    topology = ts.Local2d((1, 3, 3), (1, 2, 2), (2, 2))  # four taps, and four post neurons
    problem = make_problem(Formula.of(rstdp, soft_bound, soft_bound), topology)
    with pytest.raises(ValueError, match="one value a synapse"):
        step(problem, None, dopamine=torch.arange(4.0))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"a_plus": 10**400}, ValueError, "larger than any float"),
        ({"w_max": 10**400}, ValueError, "larger than any float"),
        ({"a_plus": 1j}, TypeError, "a_plus is 1j"),
        ({"a_plus": torch.ones(3, 3).to_sparse()}, TypeError, "a_plus is torch.sparse_coo"),
        ({"w_min": torch.zeros(3, 3, dtype=torch.bool)}, TypeError, "w_min is torch.bool"),
        ({"clamp": "no"}, TypeError, "clamp is 'no'"),
        ({"topology": "dense"}, TypeError, "topology is 'dense'"),
    ],
)
def test_odd_values_are_named(changed, error, message):
    weights, spikes, traces = torch.rand(3, 3), torch.ones(3, dtype=torch.bool), torch.ones(3)
    before = weights.clone()
    with pytest.raises(error, match=message):
        ts.stdp_(weights, spikes, traces, spikes, traces, **({"a_plus": 0.1, "a_minus": 0.1} | changed))
    assert torch.equal(weights, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_made_in_inference_mode_learn_outside_it_as_well(backend):
    problem = problem_of("dense")
    expected = problem.copy()
    step(expected, "reference")
    with torch.inference_mode():
        c = problem.c.clone()
    step(problem, backend, c=c)
    assert torch.equal(problem.weights, expected.weights) and torch.equal(c, expected.c)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_changes_nothing(backend):
    problem = problem_of("conv2d")
    expected = problem.copy()
    step(expected, backend)
    with torch.autocast("cpu", torch.bfloat16):
        step(problem, backend)
    assert torch.equal(problem.weights, expected.weights)


def test_the_package_imports_under_another_default_device():
    script = "import torch; torch.set_default_device('meta'); import tritonstdp as ts; print(ts.Rule)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_what_is_written_and_overlaps_is_refused(topology, backend):
    problem = problem_of_all(topology)
    before = problem.copy()
    weights = problem.weights
    alike = {"weights": weights, "c": weights}
    expanded = weights.reshape(-1)[:1].expand(weights.numel()).view(weights.shape)
    for changed in (alike, {"weights": expanded}, {"c": expanded}):
        with pytest.raises(ValueError, match=r"one address|shares memory"):
            step(problem, backend, **changed)
    for name in set(problem.tensors) - {"weights", "c", "pre_spike", "post_spike"}:
        n = problem.tensors[name].numel()
        if n <= weights.numel():
            for written in ("weights", "c"):
                part = problem.tensors[written].view(-1)[:n]
                with pytest.raises(ValueError, match=f"{written} shares memory with {name}"):
                    step(problem, backend, **{name: part})
    assert torch.equal(weights, before.weights) and torch.equal(problem.c, before.c)


@pytest.mark.parametrize("backend", BACKENDS)
def test_neighbours_in_one_storage_that_do_not_overlap_are_taken(backend):
    problem = problem_of("dense")
    both = torch.cat([problem.weights, problem.c], 1)
    expected = problem.copy()
    step(expected, "reference")
    step(problem, backend, weights=both[:, :5], c=both[:, 5:])
    assert torch.equal(both, torch.cat([expected.weights, expected.c], 1))


def test_the_exact_rule_for_overlaps_agrees_with_a_list_of_all_elements():
    for n, m, first, second in np.ndindex(5, 5, 6, 6):
        places = [i * first + j * second for i in range(n) for j in range(m)]
        assert meets_itself((n, m), (first, second)) == (len(set(places)) < len(places))
        assert extent((n, m), (first, second)) == max(places, default=-1) + 1


def negated(like):
    """A tensor whose numbers are negated in name alone."""
    held = torch.view_as_complex(torch.stack([torch.zeros_like(like), -like], -1).contiguous())
    return held.conj().imag


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_negated_view_is_read_with_its_sign_and_not_written(topology, backend):
    problem = problem_of_all(topology)
    problem = problem.replaced(**{name: problem.tensors[name] * 0.5 for name in ("pre_spike", "post_spike")})
    expected = problem.copy()
    step(expected, backend)
    done, read = problem.copy(), set(problem.tensors) - {"weights", "c"}
    step(done, backend, **{name: negated(problem.tensors[name]) for name in read})
    assert torch.equal(done.weights, expected.weights) and torch.equal(done.c, expected.c)
    for name in ("c",) if topology == "sparse" else ("weights", "c"):  # a sparse tensor holds no such values
        with pytest.raises(ValueError, match=f"{name} is negated in name alone"):
            step(problem, backend, **{name: negated(problem.tensors[name])})


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backward_after_a_step_is_refused_as_after_any_other_write(backend):
    problem = problem_of("dense")
    for written in (problem.weights, problem.c):
        source = torch.ones_like(written, requires_grad=True)
        product = (source * written).sum()
        step(problem, backend)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()
    trace, source = torch.ones(3), torch.ones(3, requires_grad=True)
    product = (source * trace).sum()
    ts.trace_(trace, torch.ones(3, dtype=torch.bool), tau=10.0, backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_what_is_read_may_require_grad_and_leaves_weights_that_do_not(topology, backend):
    for problem in (problem_of_all(topology), problem_of(topology, dopamine="scalar")):
        expected = problem.copy()
        step(expected, backend)
        read = set(problem.tensors) - {"weights", "c", "pre_spike", "post_spike"}
        step(problem, backend, **{name: problem.tensors[name].clone().requires_grad_() for name in read})
        assert not problem.weights.requires_grad and not problem.c.requires_grad
        assert torch.equal(problem.weights, expected.weights)


def test_a_sparse_tensor_that_was_saved_for_backward_is_noticed():
    weights = torch.rand(6, 4).to_sparse_csr()
    source = torch.ones(6, requires_grad=True)
    product = (source * weights.values()[:6]).sum()
    spikes = torch.ones(6, dtype=torch.bool)
    ts.stdp_(weights, spikes, torch.ones(6), spikes[:4], torch.ones(4), a_plus=0.1, a_minus=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"w_min": 0.9, "w_max": 0.1}, "w_min is 0.9 and w_max 0.1"),
        ({"w_min": float("nan")}, "w_min is nan"),
        ({"a_plus": float("nan")}, "a_plus is nan"),
        ({"tau_c": 0.0}, "tau_c is 0.0: a time constant is above 0"),
        ({"tau_c": -3}, "tau_c is -3"),
        ({"tau_c": float("nan")}, "tau_c is nan"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(changed, message, backend):
    weights, c, spikes = torch.full((2, 3), 0.5), torch.zeros(2, 3), torch.ones(3, dtype=torch.bool)
    options = {"a_plus": 0.1, "a_minus": 0.1, "tau_c": 10.0, "dopamine": 1.0, "backend": backend} | changed
    with pytest.raises(ValueError, match=message):
        ts.rstdp_(weights, c, spikes[:2], torch.ones(2), spikes, torch.ones(3), **options)
    assert torch.equal(weights, torch.full((2, 3), 0.5)) and not c.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"tau": 0.0}, ValueError, "tau is 0.0"),
        ({"tau": -1}, ValueError, "tau is -1"),
        ({"tau": float("nan")}, ValueError, "tau is nan"),
        ({"dt": float("inf")}, ValueError, "dt is inf"),
        ({"dt": -1.0}, ValueError, "dt is -1.0"),
        ({"scale": float("nan")}, ValueError, "scale is nan"),
        ({"tau": "10"}, TypeError, "tau is '10'"),
        ({"trace": np.ones(3)}, TypeError, "trace is ndarray"),
        ({"spikes": [1, 0, 1]}, TypeError, "spikes is list"),
        ({"spikes": torch.ones(3, dtype=torch.complex64)}, TypeError, "spikes is torch.complex64"),
        ({"trace": torch.ones(1).expand(3)}, ValueError, "one address"),
        ({"trace": without_storage(torch.ones(3))}, ValueError, "trace.*memory"),
    ],
)
def test_a_trace_s_bad_input_is_refused(changed, error, message, backend):
    given = {"trace": torch.ones(3), "spikes": torch.ones(3, dtype=torch.bool), "tau": 10.0} | changed
    trace, spikes = given.pop("trace"), given.pop("spikes")
    with pytest.raises(error, match=message):
        ts.trace_(trace, spikes, backend=backend, **given)


def test_a_trace_may_not_be_its_own_spikes():
    trace = torch.ones(3)
    with pytest.raises(ValueError, match="trace shares memory with spikes"):
        ts.trace_(trace, trace, tau=10.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_input_of_another_kind_is_named(backend):
    weights, spikes, traces = torch.rand(3, 3), torch.ones(3, dtype=torch.bool), torch.ones(3)
    options = {"a_plus": 0.1, "a_minus": 0.1, "backend": backend, "topology": ts.Dense(3, 3)}
    for given, message in (
        ((weights.numpy(), spikes, traces, spikes, traces), "weights are ndarray"),
        ((weights, spikes.numpy(), traces, spikes, traces), "pre_spike is ndarray"),
        ((weights, spikes, traces.tolist(), spikes, traces), "pre_trace is list"),
        ((weights.to(torch.int32), spikes, traces.int(), spikes, traces.int()), "weights are torch.int32"),
        ((weights, spikes.to(torch.complex64), traces, spikes, traces), "pre_spike is torch.complex64"),
    ):
        with pytest.raises(TypeError, match=message):
            ts.stdp_(*given, **options)


def test_a_misspelt_option_is_answered_with_the_nearest():
    weights, spikes, traces = torch.rand(3, 3), torch.ones(3, dtype=torch.bool), torch.ones(3)
    for misspelt, meant in (("positive_bond", "positive_bound"), ("clam", "clamp"), ("wmax", "w_max")):
        with pytest.raises(TypeError, match=f"stdp takes no {misspelt}: did you mean {meant}\\?"):
            ts.stdp_(weights, spikes, traces, spikes, traces, a_plus=0.1, a_minus=0.1, **{misspelt: 1})
    signals = {"pre_spike": spikes, "pre_trace": traces, "post_spike": spikes, "post_trace": traces}
    with pytest.raises(TypeError, match="stdp takes no a_mius: did you mean a_minus"):
        ts.update_("stdp", weights, **signals, a_plus=0.1, a_mius=0.1)
    signals["pre_trce"] = signals.pop("pre_trace")
    with pytest.raises(TypeError, match="stdp takes no pre_trce: did you mean pre_trace"):
        ts.update_("stdp", weights, **signals, a_plus=0.1, a_minus=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_default_device_of_another_kind_changes_nothing(topology, backend):
    problem = problem_of(topology)
    expected = problem.copy()
    step(expected, backend)
    torch.set_default_device("meta")
    try:
        step(problem, backend)
        ts.trace_(problem.signals["pre_trace"], problem.signals["pre_spike"], tau=10.0, backend=backend)
    finally:
        torch.set_default_device(None)
    assert torch.equal(problem.weights, expected.weights)


INTERRUPTED = """
import signal, threading, torch, tritonstdp as ts
signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
w, s, x = torch.rand(40, 40), torch.rand(40) < 0.2, torch.rand(40)
options = dict(a_plus=0.1, a_minus=0.1, backend="cpu")
interrupted = 0
for delay in (0.02, 0.3, 0.6):
    signal.setitimer(signal.ITIMER_REAL, delay)
    try:
        ts.stdp_(w, s, x, s, x, positive_bound="soft_bound", **options)
    except KeyboardInterrupt:
        interrupted += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
before = w.clone()
ts.stdp_(w, s, x, s, x, positive_bound="soft_bound", **options)
ts.stdp_(w, s, x, s, x, positive_bound="hard_bound", **options)
print(interrupted, bool((w != before).any()))
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer signal")
@pytest.mark.slow
def test_an_interrupt_while_a_step_is_compiled_leaves_it_to_be_taken_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONSTDP_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    interrupted, changed = done.stdout.split()
    assert int(interrupted) >= 1 and changed == "True"


def test_first_steps_in_many_threads_give_what_one_gives():
    problem = problem_of("dense", rule=stdp)
    expected = problem.copy()
    step(expected, "cpu")
    problem.formula.choices.clear()
    copies = [problem.copy() for _ in range(6)]
    threads = [threading.Thread(target=step, args=(copy, "cpu")) for copy in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(copy.weights, expected.weights) for copy in copies)


def test_a_fallback_is_said_once(caplog, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    problem = problem_of("one_to_one", rule=stdp, dtype=torch.float16)
    with caplog.at_level(logging.WARNING, logger="tritonstdp"):
        for _ in range(3):
            step(problem, None)
    assert caplog.text.count("compiled loops take float32 and float64") <= 1
