"""A recorded stretch in one call does what its steps do one by one."""

import pytest
import torch

import tritonstdp as ts
from tritonstdp.library import triplet

STEPS, N_PRE, N_POST = 7, 9, 5
LEARNING = {"a_plus": 0.01, "a_minus": 0.02, "positive_bound": "soft_bound", "clamp": True}
TAUS = {"pre_trace": 10.0, "post_trace": 20.0}
NESTED = torch.nested.nested_tensor([torch.ones(N_PRE)] * STEPS, layout=torch.jagged)


def recording(*samples):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(STEPS, *samples, n, generator=generator) < 0.3
        for name, n in (("pre_spike", N_PRE), ("post_spike", N_POST))
    }


def start(*samples):
    weights = torch.rand(N_PRE, N_POST, generator=torch.Generator().manual_seed(1))
    return weights, {"pre_trace": torch.zeros(*samples, N_PRE), "post_trace": torch.zeros(*samples, N_POST)}


def advance(traces, spikes, taus, dt=1.0):
    for name, tau in taus.items():
        ts.trace_(traces[name], spikes[name.split("_")[0] + "_spike"], tau=tau, dt=dt)


@pytest.mark.parametrize("trace_first", [True, False])
@pytest.mark.parametrize("samples", [(), (4,)])
def test_weights_and_traces_are_those_of_a_loop(samples, trace_first):
    spikes = recording(*samples)
    weights, traces = start(*samples)
    for t in range(STEPS):
        of_step = {name: values[t] for name, values in spikes.items()}
        if trace_first:
            advance(traces, of_step, TAUS, 0.5)
        ts.update_("stdp", weights, **of_step, **traces, **LEARNING)
        if not trace_first:
            advance(traces, of_step, TAUS, 0.5)
    found, found_traces = start(*samples)
    ts.replay_("stdp", found, **spikes, **found_traces, tau=TAUS, dt=0.5, trace_first=trace_first, **LEARNING)
    assert torch.equal(found, weights)
    assert all(torch.equal(found_traces[name], trace) for name, trace in traces.items())


def test_a_rule_whose_parameter_is_a_traces_setting_is_named():
    rule = ts.Rule("timed", lambda pre_spike, *, dt: pre_spike * dt, lambda post_spike, *, dt: post_spike * dt)
    with pytest.raises(ValueError, match="timed has a parameter 'dt'"):
        ts.replay_(rule, start()[0], **recording(), tau=10.0)


def test_further_traces_are_read_as_they_were_before_a_step():
    spikes = recording()
    amplitudes = {"a2_plus": 0.01, "a2_minus": 0.02, "a3_plus": 0.03, "a3_minus": 0.01}
    (weights, traces), (found, found_traces) = start(), start()
    slow = {"pre_slow": torch.zeros(N_PRE), "post_slow": torch.zeros(N_POST)}
    taus = {name: 100.0 for name in slow if name in (*triplet.pre, *triplet.post)}
    slow = {name: slow[name] for name in taus}
    found_slow = {name: trace.clone() for name, trace in slow.items()}
    parameters = {name: amplitudes[name] for name in triplet.parameters}
    for t in range(STEPS):
        of_step = {name: values[t] for name, values in spikes.items()}
        advance(traces, of_step, TAUS)
        ts.update_(triplet, weights, **of_step, **traces, **slow, **parameters)
        advance(slow, of_step, taus)
    ts.replay_(triplet, found, **spikes, **found_traces, **found_slow, tau=TAUS | taus, **parameters)
    assert torch.equal(found, weights)


def test_dopamine_and_recorded_traces_may_have_a_value_for_each_step():
    spikes, dopamine = recording(), torch.linspace(-1, 1, STEPS)
    recorded = {"pre_trace": torch.rand(STEPS, N_PRE), "post_trace": torch.rand(STEPS, N_POST)}
    (weights, _), (found, _) = start(), start()
    c, found_c = torch.zeros_like(weights), torch.zeros_like(weights)
    for t in range(STEPS):
        of_step = {name: values[t] for name, values in (spikes | recorded).items()}
        ts.update_("rstdp", weights, **of_step, c=c, dopamine=dopamine[t], tau_c=10.0, a_plus=0.1, a_minus=0.1)
    signals = spikes | recorded
    ts.replay_("rstdp", found, **signals, tau={}, c=found_c, dopamine=dopamine, tau_c=10.0, a_plus=0.1, a_minus=0.1)
    assert torch.equal(found, weights)
    assert torch.equal(found_c, c)


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"pre_spike": torch.ones(N_PRE)}, "pass all steps' spikes"), ({"post_spike": None}, "pass all steps' spikes"),
     ({"post_spike": torch.ones(STEPS, 1, N_POST)}, "pre_spike has 2 dimensions, post_spike 3"),
     ({"pre_spike": NESTED}, "pre_spike is a nested tensor"),
     ({"post_spike": torch.ones(STEPS + 1, N_POST)}, "post_spike has 8 steps, pre_spike 7"),
     ({"tau": {"pre_trace": 1.0}}, "tau names pre_trace: the traces given are pre_trace, post_trace"),
     ({"post_trace": torch.zeros(3)}, "they must agree"), ({"a_plus": torch.ones(3)}, "a_plus has shape"),
     ({"reduction": "max"}, "reduction is 'max'")],
)  # fmt: skip
def test_what_does_not_fit_is_named_and_changes_nothing(changed, said):
    weights, traces = start()
    arguments = {**recording(), **traces, **LEARNING, "tau": 10.0, **changed}
    with pytest.raises(ValueError, match=said):
        ts.replay_("stdp", weights, **arguments)
    assert torch.equal(weights, start()[0])
    assert not any(trace.any() for trace in traces.values())


def test_a_recurrent_group_has_one_trace_for_both_sides():
    spikes = recording()["pre_spike"]
    (weights, found), (trace, found_trace) = torch.full((2, N_PRE, N_PRE), 0.5), torch.zeros(2, N_PRE)
    for of_step in spikes:
        ts.trace_(trace, of_step, tau=10.0)
        ts.stdp_(weights, of_step, trace, of_step, trace, backend="reference", **LEARNING)
    sides = {"pre_spike": spikes, "post_spike": spikes, "pre_trace": found_trace, "post_trace": found_trace}
    ts.replay_("stdp", found, **sides, tau=10.0, backend="reference", **LEARNING)
    assert torch.equal(found_trace, trace)
    assert torch.equal(found, weights)


@pytest.mark.parametrize("name", ["pre_trace", "weights", "c"])
def test_what_is_written_shares_no_memory_with_what_a_later_step_reads(name):
    spikes = {key: values.float() for key, values in recording().items()}
    read = torch.cat([values.flatten() for values in spikes.values()])  # both recordings, one after the other
    n = STEPS * N_PRE
    spikes = {"pre_spike": read[:n].view(STEPS, N_PRE), "post_spike": read[n:].view(STEPS, N_POST)}
    written = {"weights": start()[0], "c": torch.zeros(N_PRE, N_POST), **start()[1]}
    written[name] = spikes["pre_spike"][3] if name == "pre_trace" else read[N_PRE : n - 9].view(N_PRE, N_POST)
    before = read.clone()
    learning = LEARNING | {"dopamine": 1.0, "tau_c": 10.0}
    with pytest.raises(ValueError, match=f"{name} shares memory with pre_spike"):
        ts.replay_("rstdp", **spikes, **written, tau=10.0, **learning)
    assert torch.equal(read, before)


def test_traces_share_no_memory_with_each_other():
    weights, memory = start()[0], torch.zeros(N_PRE + N_POST - 1)
    traces = {"pre_trace": memory[:N_PRE], "post_trace": memory[N_PRE - 1 :]}
    with pytest.raises(ValueError, match="pre_trace shares memory with post_trace"):
        ts.replay_("stdp", weights, **recording(), **traces, tau=10.0, **LEARNING)
    assert not memory.any()


@pytest.mark.slow
def test_a_recording_compiles_into_one_graph():
    def learn(weights, traces, spikes):
        return ts.replay_("stdp", weights, **spikes, **traces, tau=10.0, **LEARNING)

    (weights, traces), (found, found_traces), spikes = start(), start(), recording()
    learn(weights, traces, spikes)
    torch.compile(learn, fullgraph=True, backend="aot_eager")(found, found_traces, spikes)
    assert torch.equal(found, weights)
