"""The functions for bare torch loops: what they refuse, and that they refuse it before anything changes."""

import pytest
import torch

import tritonstdp
from rules_of_their_own import POWER, SPIKES_ALONE
from support import random_sparse
from tritonstdp import (
    Conv2d,
    Dense,
    Local2d,
    OneToOne,
    Rule,
    istdp_,
    modulated,
    per_post,
    per_pre,
    prepare,
    rstdp_,
    stdp_,
    trace_,
    update_,
)
from tritonstdp.functional import step_, weight_change
from tritonstdp.interpretation import swift_interpreter
from tritonstdp.library import triplet
from tritonstdp.problems import make_problem
from tritonstdp.rules import Formula, rstdp, soft_bound, stdp

BACKENDS = ("cpu", "triton", "reference")
TOPOLOGIES = {
    "dense": Dense(7, 5),
    "one_to_one": OneToOne(9),
    "sparse": random_sparse(7, 5, 0.4),
    "conv2d": Conv2d((2, 5, 4), (3, 3, 3), (3, 2)),
    "local2d": Local2d((2, 5, 4), (3, 3, 3), (3, 2)),
}


def arguments(**changes):
    given = {
        "weights": torch.full((2, 3), 0.5),
        "pre_spike": torch.tensor([True, False]),
        "pre_trace": torch.ones(2),
        "post_spike": torch.tensor([False, True, False]),
        "post_trace": torch.ones(3),
        "a_plus": 0.1,
        "a_minus": 0.2,
    }
    return given | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_spike": torch.ones(3, dtype=torch.bool)}, r"pre_spike has shape \(3,\); dense needs \(2,\)"),
        ({"post_trace": torch.ones(2)}, r"post_trace has shape \(2,\); dense needs \(3,\)"),
        ({"pre_trace": torch.ones(2).double()}, r"pre_trace is torch.float64, the weights torch.float32"),
        ({"pre_trace": torch.ones(2, device="meta")}, r"pre_trace is on meta, the weights on cpu"),
        ({"positive_bound": "sotf"}, r"unknown bound 'sotf': use one of hard_bound"),
        ({"weights": torch.full((2, 3), 0.5, requires_grad=True)}, r"weights require grad"),
        ({"weights": torch.rand(2, 3, 1, 1)}, r"pass topology=Conv2d"),
        ({"backend": "gpu"}, r"unknown backend 'gpu'"),
        ({"a_plus": torch.ones(2)}, r"a_plus has shape \(2,\), which does not broadcast to the weights' \(2, 3\)"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_changes(changes, message):
    given = arguments(**changes)
    before = given["weights"].detach().clone()
    with pytest.raises(ValueError, match=message):
        stdp_(**given)
    assert torch.equal(given["weights"].detach(), before)


def test_parameters_that_are_missing_are_all_named():
    given = {name: value for name, value in arguments().items() if name not in ("a_plus", "a_minus")}
    with pytest.raises(ValueError, match=r"stdp needs a_plus, a_minus: pass a_plus=... and a_minus=..."):
        update_("stdp", **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_spike": [True, False]}, "pre_spike is list, not a Tensor"),
        ({"post_trace": None}, "post_trace is NoneType, not a Tensor"),
        ({"a_minus": "much"}, "a_minus is 'much': pass a number or a tensor"),
        ({"a_plus": None}, "a_plus is None: pass a number or a tensor"),
        ({"positive_bound": 1}, "a bound is a name, a function"),
        ({"lr": 0.1}, "stdp takes no lr. It reads pre_spike, pre_trace, post_spike, post_trace, a_plus, a_minus"),
    ],
)
def test_what_is_of_the_wrong_kind_is_named(changes, message):
    with pytest.raises(TypeError, match=message):
        stdp_(**arguments(**changes))


def test_istdp_needs_a_target():
    given = arguments()
    del given["a_plus"], given["a_minus"]
    with pytest.raises(ValueError, match="alpha, or rho"):
        istdp_(**given)
    by_rate, by_alpha = (istdp_(**given | {"weights": torch.ones(2, 3)}, lr=0.1, **target)
                         for target in ({"rho": 5.0, "tau": 20.0}, {"alpha": 0.2}))  # fmt: skip
    assert torch.equal(by_rate, by_alpha)


def test_reward_modulation_needs_eligibility_and_dopamine():
    given = arguments(tau_c=10.0)
    with pytest.raises(ValueError, match="dopamine is missing"):
        rstdp_(c=torch.zeros(2, 3), dopamine=None, **given)
    with pytest.raises(ValueError, match="c is missing"):
        update_("rstdp", dopamine=1.0, **given)
    with pytest.raises(ValueError, match=r"c has shape \(3, 2\)"):
        rstdp_(c=torch.zeros(3, 2), dopamine=1.0, **given)
    with pytest.raises(ValueError, match=r"dopamine has shape \(2,\)"):
        rstdp_(c=torch.zeros(2, 3), dopamine=torch.ones(2), **given)


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
def test_dopamine_may_be_a_number_a_scalar_tensor_or_a_column(backend):
    results = []
    for dopamine in (0.5, torch.tensor(0.5), torch.full((3,), 0.5)):
        weights = torch.full((2, 3), 0.5)
        rstdp_(c=torch.zeros(2, 3), dopamine=dopamine, tau_c=10.0, backend=backend, **arguments(weights=weights))
        results.append(weights)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], torch.full((2, 3), 0.5))


def test_a_geometry_that_does_not_give_dst_shape_is_refused():
    with pytest.raises(ValueError, match=r"dst_shape \(4, 5, 6\) does not fit.*\(6, 6\)"):
        Conv2d((1, 8, 8), (4, 5, 6), 3)


def test_numbers_of_any_kind_are_taken():
    weights = [stdp_(**arguments(a_plus=value)) for value in (1, 1.0, torch.tensor(1.0), torch.tensor(1.0).numpy())]
    assert all(torch.equal(weights[0], w) for w in weights)


def test_importing_touches_no_gpu_and_little_else():
    import subprocess
    import sys

    script = (
        "import torch, sys, time; start = time.perf_counter(); import tritonstdp; spent = time.perf_counter() - start;"
        "assert spent < 1, spent; assert not torch.cuda.is_initialized();"
        "assert not {'triton', 'numba', 'pymonntorch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tritonstdp.__version__


# what a rule reads by name

TRIPLETS = {
    "pre_spike": torch.tensor([True, False]),
    "pre_trace": torch.tensor([0.25, 0.5]),
    "pre_slow": torch.tensor([0.5, 1.0]),
    "post_spike": torch.tensor([False, True, False]),
    "post_trace": torch.tensor([0.5, 0.25, 1.0]),
    "post_slow": torch.tensor([1.0, 2.0, 0.5]),
}
NUMBERS = {"a2_minus": 0.25, "a3_minus": 0.5, "a2_plus": 0.125, "a3_plus": 0.25}


@pytest.mark.parametrize("backend", BACKENDS)
def test_signals_and_parameters_are_given_by_name_in_any_order(backend):
    given = {**TRIPLETS, **NUMBERS}
    expected = torch.full((2, 3), 0.5)
    expected[0] -= TRIPLETS["post_trace"] * (0.25 + 0.5 * 0.5)
    expected[:, 1] += TRIPLETS["pre_trace"] * (0.125 + 0.25 * 2.0)
    for order in (given, dict(reversed(given.items())), dict(sorted(given.items()))):
        weights = torch.full((2, 3), 0.5)
        assert update_(triplet, weights, backend=backend, **order) is weights
        assert torch.equal(weights, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rule_of_spikes_alone_is_given_no_traces(backend):
    weights = torch.full((2, 3), 0.5)
    spikes = {name: TRIPLETS[name] for name in ("pre_spike", "post_spike")}
    update_(SPIKES_ALONE, weights, cost=0.125, backend=backend, **spikes)
    assert torch.equal(weights, torch.tensor([[0.375, 0.625, 0.375], [0.5, 0.75, 0.5]]))
    with pytest.raises(TypeError, match=r"spikes_alone takes no pre_trace.*It reads pre_spike, post_spike, cost"):
        update_(SPIKES_ALONE, weights, cost=0.125, pre_trace=torch.ones(2), **spikes)


@pytest.mark.parametrize(
    ("left_out", "added", "error", "message"),
    [
        (["pre_slow"], {}, ValueError, r"triplet needs pre_slow: pass pre_slow=\.\.\.$"),
        (
            ["post_slow", "pre_spike", "a3_plus"],
            {},
            ValueError,
            "triplet needs pre_spike, post_slow, a3_plus: pass pre_sp",
        ),
        (
            ["pre_slow"],
            {"pre_slwo": torch.ones(2)},
            TypeError,
            r"takes no pre_slwo: did you mean pre_slow\? It reads pre_spike",
        ),
        ([], {"post_fast": torch.ones(3)}, TypeError, "triplet takes no post_fast"),
        ([], {"spike": torch.ones(3), "reward": 1.0}, TypeError, "triplet takes no spike, reward"),
        (
            [],
            {"a_plus": 0.1},
            TypeError,
            r"takes no a_plus: did you mean a\d_plus\? It reads .*, a2_minus, a3_minus, a2_plus",
        ),
        ([], {"dopamine": 0.1}, TypeError, "takes no dopamine"),
        ([], {"negative_bond": POWER}, TypeError, r"takes no negative_bond: did you mean negative_bound\?"),
        ([], {"negative_bound": POWER}, ValueError, r"triplet needs mu: pass mu=\.\.\."),
        ([], {"pre_slow": torch.ones(3)}, ValueError, r"pre_slow has shape \(3,\); dense needs \(2,\)"),
        (
            [],
            {"post_slow": torch.ones(3).double()},
            ValueError,
            "post_slow is torch.float64, the weights torch.float32",
        ),
        ([], {"post_slow": torch.ones(3).bool()}, ValueError, "post_slow is torch.bool, the weights torch.float32"),
        ([], {"post_slow": torch.ones(3, device="meta")}, ValueError, "post_slow is on meta, the weights on cpu"),
        ([], {"pre_slow": None}, TypeError, "pre_slow is NoneType, not a Tensor"),
        ([], {"pre_slow": 0.5}, TypeError, "pre_slow is float, not a Tensor"),
        ([], {"pre_slow": per_pre(torch.ones(2))}, TypeError, "pre_slow is PerNeuron, not a Tensor"),
        ([], {"a3_plus": None}, TypeError, "a3_plus is None: pass a number or a tensor"),
        ([], {"a3_plus": float("nan")}, ValueError, "a3_plus is nan"),
    ],
)
def test_names_that_are_missing_or_wrong_are_said_before_anything_changes(left_out, added, error, message):
    weights = torch.full((2, 3), 0.5)
    given = {name: value for name, value in {**TRIPLETS, **NUMBERS}.items() if name not in left_out} | added
    with pytest.raises(error, match=message):
        update_(triplet, weights, **given)
    assert torch.equal(weights, torch.full((2, 3), 0.5))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bound_s_parameters_are_given_beside_the_rule_s(backend):
    def shifted(w, w_min, w_max, *, by):
        return w_max - w + by

    weights = torch.full((2, 3), 0.5)
    bounds = {"positive_bound": shifted, "negative_bound": POWER, "by": 0.25, "mu": 2.0}
    stdp_(**arguments(weights=weights, a_plus=0.5, a_minus=0.25), **bounds, backend=backend)
    potentiation, depression = 0.5 * 0.75, 0.25 * (0.5 * (2.0 * 0.5))
    assert torch.equal(
        weights, 0.5 + torch.tensor([[-depression, potentiation - depression, -depression], [0, potentiation, 0]])
    )
    one = stdp_(**arguments(), positive_bound=POWER, negative_bound=POWER, mu=2.0, backend=backend)
    assert not torch.equal(
        one, stdp_(**arguments(), positive_bound=POWER, negative_bound=POWER, mu=1.0, backend=backend)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rule_without_a_change_of_its_own_moves_weights_by_the_difference(backend):
    """What stdp's change is with coefficients of 1; and a number that each contribution takes in may vary by neuron."""
    plain = Rule("plain", stdp.on_pre, stdp.on_post)
    given = {name: value for name, value in arguments().items() if not name.startswith("a_")}
    bounds = {"positive_bound": "upper_bound", "negative_bound": "lower_bound", "backend": backend}
    expected = stdp_(**given | {"weights": torch.full((2, 3), 0.3), "a_plus": 1.0, "a_minus": 1.0}, **bounds)
    assert torch.equal(update_(plain, **given | {"weights": torch.full((2, 3), 0.3)}, **bounds), expected)
    assert not torch.equal(expected, torch.full((2, 3), 0.3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_rule_can_be_modulated(backend):
    """What moves the weights of the plain rule feeds the eligibility of the modulated one."""
    rewarded, given = modulated(triplet, "rewarded_triplet"), {**TRIPLETS, **NUMBERS, "backend": backend}
    weights, c = torch.full((2, 3), 0.5), torch.full((2, 3), 0.25)
    change = update_(triplet, weights.clone(), **given) - 0.5
    update_(rewarded, weights, c=c, tau_c=8.0, dopamine=0.5, **given)
    torch.testing.assert_close(c, 0.25 - 0.25 / 8 + change)
    torch.testing.assert_close(weights, 0.5 + 0.5 * c)
    for left_out, message in (
        ("dopamine", "needs dopamine: pass"),
        ("tau_c", "needs tau_c: pass"),
        ("c", "c is missing"),
    ):
        options = {"c": c, "tau_c": 8.0, "dopamine": 0.5}
        del options[left_out]
        with pytest.raises(ValueError, match=message):
            update_(rewarded, weights, **options, **given)
    with pytest.raises(ValueError, match=r"tau_c is 0\.0: a time constant is above 0"):
        update_(rewarded, weights, c=c, tau_c=0.0, dopamine=0.5, **given)


# one value a neuron


def _scaled_on_pre(pre_spike, post_trace, *, down):
    return pre_spike * post_trace * down


def _scaled_on_post(post_spike, pre_trace, *, up):
    return post_spike * pre_trace * up


SCALED = Rule("scaled", _scaled_on_pre, _scaled_on_post)


def on(topology, **given):
    """One step of SCALED on random signals, float spikes among them, and its weights."""
    generator = torch.Generator().manual_seed(1)
    backend = given.pop("backend")
    signals = {}
    for side, (n,) in (("pre", topology.pre_shape), ("post", topology.post_shape)):
        signals[f"{side}_spike"] = (torch.rand(n, generator=generator) < 0.5).float()
        signals[f"{side}_trace"] = torch.rand(n, generator=generator)
    factors = {name: given.pop(name) for name in signals if name in given}
    signals |= {name: signals[name] * factor for name, factor in factors.items()}
    weights = torch.rand(topology.weights_shape, generator=generator)
    plan = None if topology.name == "sparse" else topology
    update_(
        SCALED,
        topology.weights_of(weights),
        topology=plan,
        backend=backend,
        **signals,
        **{"up": 1.0, "down": 1.0} | given,
    )
    return weights


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_one_value_a_neuron_counts_as_if_that_neuron_s_signals_were_scaled(topology, backend):
    topology = TOPOLOGIES[topology]
    of_pre, of_post = (torch.linspace(0.25, 2, *shape) for shape in (topology.pre_shape, topology.post_shape))
    for given, scaled in (
        ({"up": per_pre(of_pre), "down": per_post(of_post)}, {"pre_trace": of_pre, "post_trace": of_post}),
        ({"up": per_post(of_post), "down": per_pre(of_pre)}, {"post_spike": of_post, "pre_spike": of_pre}),
    ):
        found = on(topology, backend=backend, **given)
        torch.testing.assert_close(found, on(topology, backend=backend, **scaled))
        assert not torch.allclose(found, on(topology, backend=backend))
        for other in (torch.Tensor.double, lambda values: torch.stack([values, values + 1], -1)[:, 0]):
            alike = {name: value._replace(values=other(value.values)) for name, value in given.items()}
            assert torch.equal(found, on(topology, backend=backend, **alike))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("topology", ["dense", "one_to_one", "local2d"])
def test_a_tensor_that_broadcasts_along_one_side_is_one_value_a_neuron(topology, backend):
    topology = TOPOLOGIES[topology]
    (n_pre,), (n_post,) = topology.pre_shape, topology.post_shape
    of_pre, of_post = torch.linspace(0.25, 2, n_pre), torch.linspace(0.25, 2, n_post)
    pairs = {
        "dense": [(of_post, per_post(of_post)), (of_post[None], per_post(of_post)), (of_pre[:, None], per_pre(of_pre))],
        "one_to_one": [(of_pre, per_pre(of_pre)), (of_post, per_post(of_post))],
        "local2d": [(of_post.view(*topology.weights_shape[:2], 1), per_post(of_post))] if n_post > 9 else [],
    }[topology.name]
    assert pairs
    for tensor, named in pairs:
        assert torch.equal(on(topology, up=tensor, backend=backend), on(topology, up=named, backend=backend))


@pytest.mark.parametrize("wrap", [per_pre, per_post])
@pytest.mark.parametrize("backend", BACKENDS)
def test_dopamine_may_be_one_value_a_neuron_of_either_side(backend, wrap):
    rewarded = modulated(SCALED, "rewarded_scaled")
    for n_pre, n_post, sparse in ((2, 3, False), (2, 3, True)):
        values = torch.linspace(-0.5, 1, n_pre if wrap is per_pre else n_post)
        weights = torch.full((n_pre, n_post), 0.5)
        weights = weights.to_sparse_csr() if sparse else weights
        c = torch.full_like(weights.values() if sparse else weights, 0.25)
        signals = {name: TRIPLETS[name] for name in ("pre_spike", "pre_trace", "post_spike", "post_trace")}
        given = {**signals, "up": 0.5, "down": 0.25, "tau_c": 8.0, "backend": backend}
        update_(rewarded, weights, c=c, dopamine=wrap(values), **given)
        expected = 0.5 + c.view(n_pre, n_post) * (values[:, None] if wrap is per_pre else values)
        torch.testing.assert_close(weights.to_dense() if sparse else weights, expected)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (per_pre(torch.ones(3)), ValueError, r"a_plus has shape \(3,\): per_pre takes \(2,\)"),
        (per_post(torch.ones(2)), ValueError, r"a_plus has shape \(2,\): per_post takes \(3,\)"),
        (per_post(torch.ones(3, device="meta")), ValueError, "a_plus is on meta, the weights on cpu"),
    ],
)
def test_one_value_a_neuron_must_be_one_for_each(value, error, message):
    given = arguments(a_plus=value)
    for _ in range(2):
        with pytest.raises(error, match=message):
            stdp_(**given)
        stdp_(**arguments(a_plus=per_pre(torch.ones(2))))
        stdp_(**arguments(a_plus=per_post(torch.ones(3))))
    assert torch.equal(given["weights"], torch.full((2, 3), 0.5))


@pytest.mark.parametrize("wrap", [per_pre, per_post])
def test_one_value_a_neuron_is_a_vector(wrap):
    side = wrap.__name__
    emptied = torch.ones(2, 2)
    emptied.untyped_storage().resize_(0)  # which can't be printed
    for values in (1.0, [1.0, 2.0], torch.tensor(1.0), torch.ones(2, 2), torch.eye(3).to_sparse(), emptied):
        with pytest.raises(TypeError, match=f"{side} is given .*: pass a vector with one value a {side[4:]} neuron"):
            wrap(values)
    for name in ("w_min", "w_max"):
        with pytest.raises(TypeError, match=f"{name} is PerNeuron"):
            stdp_(**arguments(), **{name: wrap(torch.ones(2))})


def test_shared_weights_take_one_value_a_neuron_where_a_spike_s_contribution_reads_it():
    topology, rewarded = TOPOLOGIES["conv2d"], modulated(SCALED, "rewarded_scaled")
    weights = torch.rand(topology.weights_shape)
    signals = {
        f"{side}_{kind}": torch.ones(shape, dtype=torch.bool if kind == "spike" else torch.float32)
        for side, shape in (("pre", topology.pre_shape), ("post", topology.post_shape))
        for kind in ("spike", "trace")
    }
    values, before = per_post(torch.ones(topology.post_shape)), weights.clone()
    numbers = {"up": 0.1, "down": 0.1, "tau_c": 8.0, "dopamine": 0.5}
    for name in ("dopamine", "tau_c"):
        with pytest.raises(
            ValueError, match=f"{name} is given one value a post neuron: conv2d shares a weight among many"
        ):
            given = {**signals, **numbers, name: values}
            update_(rewarded, weights, c=torch.zeros_like(weights), topology=topology, **given)
    with pytest.raises(ValueError, match="stdp reads a_plus once a weight; pass one number"):
        stdp_(weights, **signals, a_plus=values, a_minus=0.1, topology=topology)
    with pytest.raises(ValueError, match="reads mu once a weight"):
        bound = {"positive_bound": POWER, "mu": values}
        update_(SCALED, weights, **signals, up=0.1, down=0.1, topology=topology, **bound)
    assert torch.equal(weights, before)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_change_that_is_not_written_is_that_of_a_step(topology):
    topology = TOPOLOGIES[topology]
    formula = Formula.of(triplet, soft_bound, POWER)
    (n_pre,), (n_post,) = topology.pre_shape, topology.post_shape
    pre, post = (((torch.rand(n) < 0.5), torch.rand(n), torch.rand(n)) for n in (n_pre, n_post))
    parameters = (per_pre(torch.rand(n_pre)), 0.5, per_post(torch.rand(n_post)), 0.25, 2.0)
    weights = torch.rand(topology.weights_shape)
    before = weights.clone()
    dw = weight_change(formula, topology, topology.weights_of(weights), pre, post, parameters)
    assert torch.equal(weights, before) and dw.any()
    step_(formula, topology, topology.weights_of(weights), pre, post, parameters, backend="reference")
    torch.testing.assert_close(before + dw, weights)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_what_is_prepared_ends_as_it_began_and_then_steps_as_ever(topology, backend):
    formula = Formula.of(rstdp, soft_bound, soft_bound)
    problem = make_problem(formula, TOPOLOGIES[topology].example())
    expected, prepared = problem.copy(), problem.copy()

    def step(problem):
        topology, weights, c, pre, post, numbers, *limits = problem.arguments
        step_(formula, topology, topology.weights_of(weights), pre, post, numbers, *limits, c, backend)

    with prepare(), swift_interpreter():
        step(prepared)
    assert all(torch.equal(tensor, problem.outputs[name]) for name, tensor in prepared.outputs.items())
    with swift_interpreter():
        step(prepared), step(expected)
    assert all(torch.equal(tensor, expected.outputs[name]) for name, tensor in prepared.outputs.items())


def test_traces_are_prepared_and_an_error_within_ends_it():
    for trace in (torch.ones(4), torch.ones(4, 2)[:, 0]):
        for _ in range(2):
            with prepare():
                trace_(trace, torch.ones(4) > 0, tau=10.0)
            assert torch.equal(trace, torch.ones(4))
    with pytest.raises(KeyError), prepare():
        raise KeyError
    assert not torch.equal(trace_(torch.ones(4), torch.ones(4) > 0, tau=10.0), torch.ones(4))
