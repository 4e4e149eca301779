"""A learning window is what the engine does with a pair of spikes; pictures leave a user's backend alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tritonstdp import RULES, Rule, plot

TAUS = {"tau_pre": 10.0, "tau_post": 25.0}
PARAMETERS = {
    "stdp": {"a_plus": 0.02, "a_minus": 0.01},
    "rstdp": {"a_plus": 0.02, "a_minus": 0.01, "tau_c": 50.0},
    "triplet": {"a2_plus": 0.02, "a3_plus": 0.5, "a2_minus": 0.01, "a3_minus": 0.5},
}
SLOW = {"pre_slow": 100.0, "post_slow": 120.0}
ISTDP = {"lr": 0.01, "alpha": 0.2, "sign": -1.0}


@pytest.fixture(autouse=True)
def _as_in_a_plain_process(monkeypatch):
    """No interpreter stands in for a GPU."""
    monkeypatch.delenv("TRITON_INTERPRET")


def halves(rule, **options):
    """The changes of post before pre, from the shortest interval on, the change at 0, and those of pre before post."""
    intervals, changes = plot.window(rule, **TAUS | options)
    at = int((intervals == 0).nonzero())
    return changes[:at].flip(0), changes[at].item(), changes[at + 1 :]


def assert_decays(changes, first, tau):
    steps = torch.arange(len(changes), dtype=torch.float64)
    torch.testing.assert_close(changes, first * (1 - 1 / tau) ** steps)


@pytest.mark.parametrize("rule", PARAMETERS)
@pytest.mark.parametrize("trace_first", [True, False])
def test_pairs_potentiate_with_tau_pre_and_depress_with_tau_post(rule, trace_first):
    slow = {"tau_slow": SLOW} if rule == "triplet" else {}
    before, at_once, after = halves(rule, trace_first=trace_first, **slow, **PARAMETERS[rule])
    # traces decay in the step that counts their spike, so that learning reads the first one a step of decay later
    decays = 2 if trace_first else 1
    plus, minus = 0.02 * 0.9**decays, 0.01 * 0.96**decays
    assert_decays(after, plus, tau=10.0)
    assert_decays(before, -minus, tau=25.0)
    assert at_once == pytest.approx(0.02 * 0.9 - 0.01 * 0.96 if trace_first else 0.0)


@pytest.mark.parametrize("trace_first", [True, False])
def test_inhibitory_stdp_is_symmetric_about_what_a_lone_pre_spike_takes(trace_first):
    before, at_once, after = halves("istdp", tau_post=10.0, trace_first=trace_first, **ISTDP)
    torch.testing.assert_close(before, after)
    lone = -0.01 * 0.2
    assert_decays(after - lone, 0.01 * 0.9 ** (1 + trace_first), tau=10.0)
    assert at_once == pytest.approx(lone + 2 * 0.01 * 0.9 if trace_first else lone)


def test_oja_pairs_alike_in_either_order_of_spikes():
    before, _, after = halves("oja", tau_post=10.0, trace_first=False, lr=0.1, decay=0.5)
    torch.testing.assert_close(before, after)
    assert_decays(after, 0.09, tau=10.0)


@pytest.mark.slow
def test_every_registered_rule_has_a_window():
    values = {name: 0.1 for p in (*PARAMETERS.values(), ISTDP, {"lr": 0, "decay": 0}) for name in p} | {"tau_c": 50.0}
    for rule in list(RULES.values()):
        if set(rule.parameters) <= set(values):  # others are of tests beside this one
            given = {name: values[name] for name in (*rule.parameters, *rule.eligibility_parameters)}
            slow = {name: tau for name, tau in SLOW.items() if name in (*rule.pre, *rule.post)}
            _, changes = plot.window(rule, **TAUS, tau_slow=slow, reach=3.0, **given)
            assert changes.isfinite().all() and changes.abs().max() > 0, rule.name


def test_a_step_s_length_and_bounds_count():
    before, _, after = halves(
        "stdp", dt=0.5, reach=20.0, w=0.75, trace_first=False, positive_bound="upper_bound", a_plus=0.1, a_minus=0.0
    )
    assert len(after) == 40 and not before.any()
    assert after[0].item() == pytest.approx(0.1 * 0.95 * 0.25)


def on_pre(pre_spike, post_trace):
    return pre_spike * post_trace


def on_post(post_spike, post_v):
    return post_spike * post_v


@pytest.mark.parametrize(
    ("rule", "wrong", "said"),
    [
        ("triplet", {}, "tau_slow names no signal: rule 'triplet' needs time constants of pre_slow, post_slow"),
        ("stdp", {"tau_slow": {"pre_slo": 1.0}}, "tau_slow names pre_slo: rule 'stdp' needs none"),
        (Rule("voltage", on_pre, on_post), {}, "time constants of post_v"),
        ("stdp", {"dt": 0.0}, "dt 0.0: a step is above 0"),
        ("stdp", {"reach": 0.5}, "reach is 0.5"),
    ],
)
def test_what_does_not_fit_is_named(rule, wrong, said):
    with pytest.raises(ValueError, match=said):
        plot.window(rule, **TAUS, **PARAMETERS.get(rule, {}) | wrong)


def test_the_window_s_picture_shows_its_numbers_and_both_orders_at_zero():
    axes = plot.learning_window("stdp", **TAUS, **PARAMETERS["stdp"], reach=5.0)
    _, changes = plot.window("stdp", **TAUS, **PARAMETERS["stdp"], reach=5.0)
    before, after, first, then = (torch.as_tensor(line.get_ydata()) for line in axes.lines[:4])
    torch.testing.assert_close(torch.cat([before, first.double(), after]), changes)
    assert then.item() == 0 and "learning first" in axes.lines[3].get_label()


def test_fields_lie_in_rows_with_a_line_between_each_two():
    weights = torch.arange(1.0, 19.0).view(3, 6).T  # three fields of 2 x 3
    sheet = torch.as_tensor(plot.receptive_fields(weights, (2, 3), columns=2).images[0].get_array().filled(0))
    expected = [
        [1, 2, 3, 0, 7, 8, 9],
        [4, 5, 6, 0, 10, 11, 12],
        [0] * 7,
        [13, 14, 15, 0, 0, 0, 0],
        [16, 17, 18] + [0] * 4,
    ]
    assert sheet.tolist() == expected


def test_rasters_and_weights_are_where_and_when_they_were():
    spikes = torch.zeros(10, 3, dtype=torch.bool)
    spikes[4, 2] = True
    (mark,) = plot.raster(spikes, dt=0.5).lines
    assert (mark.get_xdata().tolist(), mark.get_ydata().tolist()) == ([2.0], [2])
    history = torch.tensor([[1.0, 2.0, 3.0], [4.0, 6.0, 5.0]])
    median = plot.weights_over_time(history, times=torch.tensor([0.0, 10.0])).lines[-1]
    assert (median.get_xdata().tolist(), median.get_ydata().tolist()) == ([0.0, 10.0], [2.0, 5.0])
    with pytest.raises(ValueError, match="times have shape"):
        plot.weights_over_time(history, times=torch.zeros(3))


@pytest.mark.slow
def test_matplotlib_is_imported_for_pictures_alone_and_no_backend_is_chosen():
    script = """if True:
        import sys, tritonstdp, tritonstdp.plot as plot, torch
        assert "matplotlib" not in sys.modules
        plot.raster(torch.ones(2, 2) > 0)
        assert "matplotlib.pyplot" not in sys.modules
        sys.modules["matplotlib.figure"] = None
        plot.raster(torch.ones(2, 2) > 0)
    """
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.stderr.endswith("ImportError: pictures need matplotlib: pip install 'tritonstdp[plot]'\n")
