"""Which kernel serves what, and what users register."""

import logging
from dataclasses import replace

import pytest
import torch

import tritonstdp
from tritonstdp import registry
from tritonstdp.functional import per_post, per_pre, step_
from tritonstdp.kernels.one_to_one import cpu
from tritonstdp.rules import BOUNDS, RULES, Formula, Rule, stdp
from tritonstdp.topology import OneToOne


@pytest.fixture(autouse=True)
def registered():
    """Take back what a test registers."""
    kept = list(registry._ENTRIES), dict(BOUNDS), dict(RULES)
    yield
    registry._ENTRIES[:] = kept[0]
    registry.forget_choices()
    for known, before in ((BOUNDS, kept[1]), (RULES, kept[2])):
        known.clear()
        known.update(before)


def one_step(rule="stdp", backend="cpu", **options):
    weights = torch.full((3,), 0.5)
    spikes, traces = torch.tensor([True, False, False]), torch.ones(3)
    signals = {"pre_spike": spikes, "pre_trace": traces, "post_spike": ~spikes, "post_trace": traces}
    values = {"a_plus": 0.1, "a_minus": 0.2}
    return tritonstdp.update_(rule, weights, backend=backend, **signals, **values, **options)


def steep_bound(w, w_min, w_max):
    return 2 * (w_max - w) + 1


def test_a_registered_bound_runs_under_its_name_on_every_backend():
    tritonstdp.register_bound("steep_bound", steep_bound)
    results = [
        one_step(backend=backend, positive_bound="steep_bound", negative_bound="steep_bound")
        for backend in ("reference", "cpu", "triton")
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], one_step())


def test_a_registered_rule_runs_on_every_backend():
    def twice(potentiation, depression, positive, negative, *, a_plus, a_minus):
        return 2.0 * (potentiation * a_plus * positive - depression * a_minus * negative)

    tritonstdp.register_rule(replace(stdp, name="twice", change=twice))
    results = [one_step("twice", backend) for backend in ("reference", "cpu", "triton")]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    torch.testing.assert_close(results[0] - 0.5, 2 * (one_step() - 0.5))


def test_names_that_are_taken_are_refused():
    with pytest.raises(ValueError, match="already registered"):
        tritonstdp.register_bound("soft_bound", steep_bound)
    with pytest.raises(ValueError, match="already registered"):
        tritonstdp.register_rule(replace(stdp, on_pre=_other_on_pre))


def test_a_rule_that_acts_without_spikes_is_refused():
    with pytest.raises(ValueError, match="without a spike"):
        replace(stdp, name="leaky", on_pre=lambda pre_spike, post_trace: post_trace)


def test_the_most_specific_and_then_the_newest_kernel_is_used():
    built = []

    def spy(name):
        def build(case, *config):
            built.append(name)
            return cpu.build(case)

        return build

    place = {"topology": "one_to_one", "backend": "cpu"}
    tritonstdp.register_kernel(spy("specific"), rule="stdp", bound="soft_bound", **place)
    tritonstdp.register_kernel(spy("any"), **place)
    one_step(positive_bound="soft_bound", negative_bound="soft_bound")
    one_step(positive_bound="hard_bound")
    assert built == ["specific", "any"]


def test_a_kernel_for_something_unknown_is_refused():
    with pytest.raises(ValueError, match=r"unknown topology 'torus'.*dense"):
        tritonstdp.register_kernel(cpu.build, topology="torus", backend="cpu")


def test_explain_names_the_backend_and_the_reason_against_each_other(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    chosen = tritonstdp.explain("stdp", "one_to_one")
    assert chosen.backend == "cpu"
    assert "cuda" in chosen.rejected["triton"]
    half = tritonstdp.explain("stdp", "one_to_one", dtype=torch.float16)
    assert half.backend == "reference"
    assert "float16" in half.rejected["cpu"]


def test_a_backend_that_cant_take_the_case_is_refused_when_asked_for(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match=r"'triton' can't take this case: the weights are on cpu"):
        one_step(backend="triton")
    with pytest.raises(ValueError, match=r"unknown backend 'gpu'.*triton.*cpu.*reference"):
        one_step(backend="gpu")


def test_a_triton_that_is_too_old_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setattr(registry, "_triton_version", lambda: (3, 2))
    chosen = tritonstdp.explain("stdp", "dense", device="cuda")
    assert chosen.backend == "reference"
    assert chosen.rejected["triton"].startswith("Triton 3.2 is installed, and the kernels need 3.6 or newer")


def test_a_fallback_is_logged_once_with_its_reason(caplog, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")

    def whole_tensor_bound(w, w_min, w_max):
        return w_max - w.mean()

    with caplog.at_level(logging.WARNING, logger="tritonstdp"):
        for _ in range(3):
            one_step(backend=None, positive_bound=whole_tensor_bound)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "reference" in messages[0] and "whole_tensor_bound" in messages[0]


PER_COLUMN, PER_ROW = torch.tensor([0.0, 0.1, 0.2]), torch.tensor([0.3, 0.4])


@pytest.mark.parametrize("backend", ["triton", "cpu", "reference"])
@pytest.mark.parametrize(
    ("a_minus", "expected"),
    [
        (PER_COLUMN, PER_COLUMN),
        (PER_COLUMN[None], PER_COLUMN),
        (PER_ROW[:, None], PER_ROW[:, None]),
        (per_post(PER_COLUMN), PER_COLUMN),
        (per_pre(PER_ROW), PER_ROW[:, None]),
    ],
    ids=["column", "row of columns", "row", "post", "pre"],
)
def test_parameters_of_one_side_run_compiled(a_minus, expected, backend):
    formula, topology, weights = Formula.of(stdp), tritonstdp.Dense(2, 3), torch.full((2, 3), 0.5)
    pre = torch.tensor([True, True]), torch.ones(2)
    post = torch.zeros(3, dtype=torch.bool), torch.ones(3)
    chosen = step_(formula, topology, weights, pre, post, (0.1, a_minus), backend=backend)
    assert chosen.backend == backend
    assert torch.equal(weights, (0.5 - expected).expand(2, 3))


def test_one_value_a_synapse_runs_on_the_reference(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    weights, per_synapse = torch.full((2, 3), 0.5), torch.rand(2, 3)
    pre = torch.tensor([True, True]), torch.ones(2)
    post = torch.zeros(3, dtype=torch.bool), torch.ones(3)
    chosen = step_(Formula.of(stdp), tritonstdp.Dense(2, 3), weights, pre, post, (0.1, per_synapse))
    assert chosen.backend == "reference" and chosen.rejected["cpu"].startswith("a_minus is a tensor")
    assert torch.equal(weights, 0.5 - per_synapse)


def test_the_same_text_may_be_registered_again_as_a_notebook_does():
    def cell():
        def bound(w, w_min, w_max):
            return w_max - w

        def on_post(post_spike, pre_trace):
            return post_spike * pre_trace

        registry.register_bound("cell", bound)
        registry.register_rule(Rule("cell", _silent, on_post))

    cell(), cell()
    with pytest.raises(ValueError, match="already registered"):
        registry.register_bound("cell", lambda w, w_min, w_max: w - w_min)
    for changed in ({"on_pre": _other_on_pre}, {"positive": ("tau",), "on_post": _timed}):
        with pytest.raises(ValueError, match="already registered"):
            registry.register_rule(replace(RULES["cell"], **changed))


def _silent(pre_spike):
    return 0.0 * pre_spike


def _timed(post_spike, pre_trace, *, tau):
    return post_spike * pre_trace / tau


def _other_on_pre(pre_spike):
    return 0.5 * pre_spike


@pytest.mark.parametrize("folder", ["no.such.folder", ".relative", "/tmp", None])
def test_a_folder_without_kernels_is_no_topologys(folder):
    class Another(OneToOne):
        name = "another"

    with pytest.raises(ValueError, match=r"is no package with a reference\.py"):
        registry.register_topology(Another, folder)


def test_a_topology_keeps_its_kernels():
    with pytest.raises(ValueError, match=r"the kernels of one_to_one are in tritonstdp\.kernels\.one_to_one already"):
        registry.register_topology(OneToOne, "tritonstdp.kernels.dense")


@pytest.mark.parametrize(
    "fields", [("", lambda case: None, "x"), (None, lambda case: None, "x"), ("a", None, "x"), ("a", print, None)]
)
def test_a_backend_that_can_t_be_asked_or_built_is_refused(fields):
    with pytest.raises(TypeError, match="backend"):
        registry.register_backend(registry.Backend(*fields))


def test_a_backend_of_a_users_own_leaves_traces_to_the_others():
    mine = registry.Backend("mine", lambda case: None, "mine")
    registry.register_backend(mine)
    try:
        trace = torch.ones(3, dtype=torch.float16)
        assert tritonstdp.trace_(trace, torch.zeros(3, dtype=torch.bool), tau=10.0)[0] < 1
    finally:
        registry.BACKENDS.remove(mine)
