"""Tuning chooses by honest timing among right results only, and what it has found is used and costs nothing."""

from __future__ import annotations

import functools
import importlib
import math
import time
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch

from tritonstdp import Conv2d, Dense, OneToOne, autotune, propagate_, registry, storage, update_
from tritonstdp.autotune import busy, cache, cost, space, sweep, timing, use
from tritonstdp.autotune.timing import Scratch, Timing, take_turns
from tritonstdp.choice import choose
from tritonstdp.kernels.dense import cpu as dense
from tritonstdp.kernels.dense import gpu as dense_gpu
from tritonstdp.kernels.dense.work import work as dense_work
from tritonstdp.kernels.propagation import PROPAGATION
from tritonstdp.kernels.protocol import Case
from tritonstdp.kernels.work import Work
from tritonstdp.machine import device_name
from tritonstdp.problems import disagreement
from tritonstdp.registry import KernelEntry, Space, kernels_of, register_kernel, serving_entry
from tritonstdp.rules import Formula, rstdp, soft_bound, stdp
from tritonstdp.topology import TOPOLOGIES, example_topology

FORMULA = Formula.of(stdp, soft_bound, soft_bound)
CASE = Case(FORMULA, "one_to_one", None, "contiguous", torch.float32, "cpu", True, FORMULA.all_numbers)
GROUP = OneToOne(64)


class Config(NamedTuple):
    """A planted kernel: the reference, late by some microseconds, and off by an error."""

    delay: int = 300
    error: float = 0.0


@pytest.fixture(autouse=True)
def _own_cache_and_registry(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONSTDP_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITONSTDP_AUTOTUNE", raising=False)
    monkeypatch.delenv("TRITONSTDP_RATE", raising=False)
    monkeypatch.setattr(busy, "cpu_share", lambda threads: 1.0)
    monkeypatch.setattr(storage, "_warned", set())
    monkeypatch.setattr(registry, "_ENTRIES", list(registry._ENTRIES))
    registry.forget_choices()
    yield
    registry.forget_choices()


@pytest.fixture
def plant():
    """Register a kernel with a space; gives the list of configurations that it was built in."""

    def registered(values, default=Config(), build=None, **serves):  # noqa: B008
        built = []

        def planted(case, config):
            built.append(config)
            return (build or planted_step)(case, config)

        serves = serves or {"rule": "stdp"}
        register_kernel(planted, topology="one_to_one", backend="cpu", default=default, space=values, **serves)
        return built

    return registered


def planted_step(case, config):
    reference = serving_entry(case, "reference").build(case)

    def step(topology, weights, *rest):
        reference(topology, weights, *rest)
        if config.error:
            weights[0] += config.error
        until = time.perf_counter() + config.delay * 1e-6
        while time.perf_counter() < until:
            pass

    return step


def tuned(**options):
    return autotune.tune(FORMULA, GROUP, rates=(0.05, 0.2), seconds=0.3, **options)


def step_of(choice, topology=GROUP):
    """Let a choice's step act once on some group."""
    n = topology.post_shape[0]
    spikes, traces = torch.ones(n, dtype=torch.bool), torch.ones(n)
    weights = torch.full(topology.weights_shape, 0.5)
    choice.step(topology, weights, None, (spikes, traces), (spikes, traces), (0.1, 0.1), 0.0, 1.0)


def test_the_fastest_configuration_is_chosen_and_a_slow_one_is_not(plant):
    plant({"delay": (100, 300, 900)})
    outcome = tuned()
    assert outcome.best == Config(delay=100)
    assert 1.3 < outcome.speedup < 4
    assert outcome.ratios[Config(delay=900), 0.05].median > 1.5


def test_a_candidate_that_sleeps_is_slow_too(plant):
    def sleeping(case, config):
        quick = planted_step(case, Config(delay=0))

        def step(*arguments):
            quick(*arguments)
            time.sleep(config.delay * 1e-6)

        return step

    plant({"delay": (300, 10000)}, build=sleeping)
    outcome = tuned()
    assert outcome.best == Config()
    assert outcome.ratios[Config(delay=10000), 0.05].median > 1.5


def test_a_wrong_candidate_is_rejected_named_and_reported_however_fast_it_is(plant, caplog):
    plant({"delay": (0, 300), "error": (0.0, 0.01)}, default=Config())
    outcome = tuned()
    wrong = Config(delay=0, error=0.01)
    assert outcome.best == Config(delay=0)
    assert set(outcome.rejected) == {wrong, Config(delay=300, error=0.01)}
    assert "weights off by 0.01" in outcome.rejected[wrong]
    assert (wrong, 0.05) not in outcome.ratios, "a wrong candidate was timed"
    assert "Config(delay=0, error=0.01) of stdp on one_to_one is rejected" in caplog.text


def test_a_candidate_that_is_wrong_only_where_much_spikes_is_caught(plant):
    def wrong_above_a_tenth(case, config):
        right = planted_step(case, config)

        def step(topology, weights, c, pre, *rest):
            right(topology, weights, c, pre, *rest)
            if config.delay == 0 and pre[0].float().mean() > 0.1:
                weights[0] += 0.01

        return step

    plant({"delay": (0, 300)}, build=wrong_above_a_tenth)
    outcome = tuned()
    assert outcome.best == Config()
    assert "at a rate of 0.2" in outcome.rejected[Config(delay=0)]


def test_nan_is_not_mistaken_for_right():
    weights = torch.rand(64)
    broken = weights.clone()
    broken[3] = float("nan")
    assert "off by nan" in disagreement("weights", broken, weights, weights)


def test_a_candidate_that_fails_is_rejected_and_the_others_go_on(plant):
    def failing(case, config):
        if config.delay == 100:
            raise ValueError("too much shared memory")
        right = planted_step(case, config)
        if config.delay != 150:
            return right

        def step(*arguments):
            raise RuntimeError("out of resources")

        return step

    plant({"delay": (50, 100, 150, 300)}, build=failing)
    outcome = tuned()
    assert outcome.best == Config(delay=50)
    assert "too much shared memory" in outcome.rejected[Config(delay=100)]
    assert "out of resources" in outcome.rejected[Config(delay=150)]


def test_a_wrong_default_is_an_error_and_nothing_is_kept(plant):
    plant({"delay": (0, 300)}, default=Config(error=0.01))
    with pytest.raises(RuntimeError, match=r"the default configuration .* was rejected: weights off"):
        tuned()
    assert cache.load_all() == []


def test_the_default_stays_where_nothing_is_surely_faster(plant):
    plant({"delay": (300, 301)})
    outcome = tuned()
    assert outcome.best == Config()
    assert outcome.speedup == 1


def test_a_configuration_that_loses_at_one_rate_is_not_chosen(plant):
    def slow_at_low_rates(case, config):
        quick, slow = planted_step(case, Config(delay=50)), planted_step(case, Config(delay=600))
        default = planted_step(case, config)

        def step(topology, weights, c, pre, *rest):
            chosen = default if config.delay == 300 else slow if pre[0].sum() < 7 else quick
            chosen(topology, weights, c, pre, *rest)

        return step

    plant({"delay": (0, 300)}, build=slow_at_low_rates)
    outcome = tuned()
    assert outcome.ratios[Config(delay=0), 0.2].median < 0.8
    assert outcome.best == Config()


def test_a_configuration_that_is_quick_but_stalls_now_and_then_is_not_chosen(plant):
    def stalling(case, config):
        quick, slow = planted_step(case, Config(delay=50)), planted_step(case, Config(delay=3000))
        calls = []

        def step(*arguments):
            calls.append(None)
            (slow if len(calls) % 3 == 0 else quick)(*arguments)

        return planted_step(case, config) if config.delay == 300 else step

    plant({"delay": (0, 300)}, build=stalling)
    assert tuned().best == Config()


def test_a_tuned_configuration_is_used_for_its_sizes_and_the_default_for_others(plant):
    built = plant({"delay": (50, 300)})
    tuned()
    built.clear()
    choice = choose(CASE, "cpu")
    step_of(choice, OneToOne(60))
    assert built == [Config(delay=50)]
    step_of(choice, OneToOne(4096))
    assert built == [Config(delay=50), Config()]


def propagated(n):
    return propagate_(torch.zeros(n), torch.full((n,), 0.5), torch.ones(n, dtype=torch.bool), backend="cpu")


def test_propagation_is_tuned_as_rules_are_and_uses_its_setting(plant):
    def wrong_somewhere(case, config):
        right = planted_step(case, config._replace(error=0.0))

        def step(topology, weights, current, spikes):
            right(topology, weights, current, spikes)
            (current if config.error == 0.01 else weights)[0] += config.error

        return step

    built = plant({"delay": (50, 300), "error": (0.0, 0.01, 0.02)}, build=wrong_somewhere, operation="propagation")
    outcome = autotune.tune(PROPAGATION, GROUP, rates=(0.05, 0.2), seconds=0.3)
    assert outcome.best == Config(delay=50) and use.why_not_here(outcome.key) == ""
    assert "current off by 0.01" in outcome.rejected[Config(delay=50, error=0.01)]
    assert "weights off by 0.02" in outcome.rejected[Config(delay=50, error=0.02)]
    built.clear()
    assert propagated(60).tolist() == [0.5] * 60 and built == [Config(delay=50)]
    assert propagated(4096).sum() == 2048 and built == [Config(delay=50), Config()]


def test_the_environment_asks_for_tuning_of_propagation_too(plant, monkeypatch):
    plant({"delay": (0, 300)}, operation="propagation")
    monkeypatch.setenv("TRITONSTDP_AUTOTUNE", "1")
    tunings = count_tunings(monkeypatch)
    assert [propagated(n).sum() for n in (64, 64, 70, 2000)] == [32, 32, 35, 1000]
    assert tunings == [64, 2000]


@pytest.mark.parametrize("field", ["torch", "triton", "numba", "driver", "source", "space"])
def test_a_changed_kernel_or_machine_misses(plant, field):
    built = plant({"delay": (50, 300)})
    entry = tuned().entry
    cache.clear()
    cache.save([entry._replace(key=entry.key._replace(**{field: "another"}))])
    built.clear()
    step_of(choose(CASE, "cpu"))
    assert built == [Config()]


def test_the_hash_of_the_source_covers_the_kernel_the_shared_code_and_the_formula(monkeypatch):
    entry, case = serving_entry(CASE, "cpu"), CASE
    before = space.key_of(entry.space(), case, "cpu", 64, None).source
    other = Formula.of(stdp, soft_bound, lambda w, w_min, w_max: w)
    assert space.key_of(entry.space(), case._replace(formula=other), "cpu", 64, None).source != before
    asked = []
    monkeypatch.setattr(space, "digest_of", lambda path: asked.append(path) or "another")
    assert space.key_of(entry.space(), case, "cpu", 64, None).source != before
    assert all(path.endswith("test_autotune.py") or "one_to_one" in path for path in asked) and asked


def test_a_setting_outside_the_space_is_not_used(plant, caplog):
    built = plant({"delay": (50, 300)})
    entry = tuned().entry
    cache.save([entry._replace(config={"delay": 7, "error": 0.0})])
    registry.forget_choices()
    built.clear()
    step_of(choose(CASE, "cpu"))
    assert built == [Config()]
    assert "outside the kernel's space" in caplog.text


def test_nothing_is_tuned_unless_asked(plant):
    built = plant({"delay": (50, 300)})
    step_of(choose(CASE, "cpu"))
    assert built == [Config()]
    assert cache.load_all() == []


def test_the_environment_asks_for_tuning_at_the_first_step_of_a_size(plant, monkeypatch):
    plant({"delay": (0, 300)})
    monkeypatch.setenv("TRITONSTDP_AUTOTUNE", "1")
    tunings = count_tunings(monkeypatch)
    choice = choose(CASE, "cpu")
    for topology in (GROUP, GROUP, OneToOne(70), OneToOne(2000), OneToOne(2000)):
        step_of(choice, topology)
    assert tunings == [64, 2000]
    assert {entry.key.synapses: entry.config["delay"] for entry in cache.load_all()} == {64: 0, 1024: 0}


def test_an_argument_asks_for_tuning_and_the_users_tensors_are_left_alone(plant):
    plant({"delay": (0, 300)})
    weights, expected = torch.rand(64), None
    spikes, traces = torch.rand(64) < 0.5, torch.rand(64)
    options = {"a_plus": 0.1, "a_minus": 0.1, "positive_bound": "soft_bound", "negative_bound": "soft_bound"}
    before = [t.clone() for t in (spikes, traces)]
    options |= {"pre_spike": spikes, "pre_trace": traces, "post_spike": spikes, "post_trace": traces}
    expected = update_("stdp", weights.clone(), backend="reference", **options)
    update_("stdp", weights, backend="cpu", autotune=True, **options)
    assert len(cache.load_all()) == 1
    assert torch.equal(weights, expected), "tuning wrote to the user's weights"
    assert torch.equal(spikes, before[0]) and torch.equal(traces, before[1])


def test_nothing_is_tuned_while_a_graph_is_captured(plant, monkeypatch):
    plant({"delay": (0, 300)})
    tunings = count_tunings(monkeypatch)
    choice = choose(CASE, "cpu", autotune=True)
    with monkeypatch.context() as captured:
        captured.setattr(use, "_capturing", lambda device: True)
        step_of(choice)
    assert tunings == []
    step_of(choice)
    assert tunings == [64], "the first step after the capture tunes"


def test_capture_is_asked_of_the_device_that_captures(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert use._capturing("cuda")
    assert not use._capturing("cpu")


def test_the_interpreter_never_tunes(monkeypatch):
    monkeypatch.setattr(use, "_tuned_now", lambda *_: pytest.fail("tuned in the interpreter"))
    choice = choose(CASE, "triton", autotune=True)
    step_of(choice)


def test_tuning_that_cannot_be_kept_is_used_all_the_same(plant, monkeypatch, caplog):
    def full(entries):
        raise OSError("no space left on device")

    built = plant({"delay": (0, 300)})
    monkeypatch.setattr(cache, "save", full)
    assert not tuned().kept
    choice = choose(CASE, "cpu", autotune=True)
    step_of(choice)
    assert built[-1] == Config(delay=0)
    assert "can't be kept" in caplog.text


def test_a_machine_that_is_busy_before_during_or_after_the_turns_is_not_tuned(plant, monkeypatch):
    plant({"delay": (0, 300)})
    for idle_samples in range(3):
        shares = [1.0] * idle_samples
        monkeypatch.setattr(busy, "cpu_share", lambda threads, shares=shares: shares.pop() if shares else 0.5)
        with pytest.raises(busy.BusyError, match=r"the machine is busy: a thread runs only for 0.50 of the time"):
            tuned(patience=0.0)
        assert cache.load_all() == []


def test_a_busy_machine_is_waited_for_a_while(monkeypatch, caplog):
    now, shares = [0.0], [1.0, 0.5, 0.5, 0.5]
    monkeypatch.setattr(busy.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(busy.time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    monkeypatch.setattr(busy, "cpu_share", lambda threads: shares.pop())
    busy.wait_until_idle(2, patience=60.0)
    assert 0 < now[0] < 60
    assert caplog.text.count("the machine is busy: waiting up to 60 s") == 1
    monkeypatch.setattr(busy, "cpu_share", lambda threads: 0.3)
    with pytest.raises(busy.BusyError, match=r"each of 2 threads runs only for 0.30"):
        busy.wait_until_idle(2, patience=60.0)
    assert 60 <= now[0] < 80


@pytest.mark.parametrize("threads", [1, 3])
def test_the_share_of_the_processor_is_what_threads_got_of_it(monkeypatch, threads):
    monkeypatch.undo()
    used = [0.0, 0.005 * threads]
    monkeypatch.setattr(busy.time, "process_time", lambda: used.pop(0))
    assert 0 < busy.cpu_share(threads, 0.02) <= 0.25


def test_in_use_a_busy_machine_keeps_the_default_and_does_not_wait(plant, monkeypatch, caplog):
    built = plant({"delay": (0, 300)})
    monkeypatch.setattr(busy, "cpu_share", lambda threads: 0.5)
    monkeypatch.setattr(busy.time, "sleep", lambda seconds: pytest.fail("waited"))
    choice = choose(CASE, "cpu", autotune=True)
    built.clear()
    step_of(choice)
    assert "the default is used: the machine is busy" in caplog.text
    assert cache.load_all() == []
    step_of(choice)
    assert "busy" in caplog.text and caplog.text.count("tuning failed") == 1


@pytest.mark.parametrize(("noise", "chosen"), [(0.02, Config(delay=0)), (0.5, Config())])
def test_a_gain_that_is_less_than_its_spread_is_never_chosen(plant, monkeypatch, noise, chosen):
    plant({"delay": (0, 300)})

    def turns(scratch, steps, turns, seconds):
        for turn in turns:
            for config in steps:
                for rate in scratch.rates:
                    quick = 1 / 1.2 if config.delay == 0 else 1.0
                    seconds.setdefault((config, rate), []).append(
                        quick * (1 + noise * (turn % 2) * (config.delay == 0))
                    )

    monkeypatch.setattr(sweep, "take_turns", turns)
    outcome = tuned()
    assert outcome.best == chosen
    [kept] = cache.load_all()
    assert kept.config == chosen._asdict()


class Scaled:
    """A bound that is an object."""

    def __call__(self, w, w_min, w_max):
        return w * 0.5


def scaled(w, w_min, w_max, by=0.5):
    return w * by


class ScaledModule(torch.nn.Module):
    """A bound that is a module."""

    def forward(self, w, w_min, w_max):
        return w * 0.5


@pytest.mark.parametrize(
    "bound",
    [functools.partial(scaled, by=torch.ones(())), Scaled(), ScaledModule(), lambda w, w_min, w_max: torch.sigmoid(w)],
)
@pytest.mark.parametrize("environment", [None, "1"])
def test_a_bound_that_cannot_be_known_again_runs_whatever_was_tuned(plant, monkeypatch, bound, environment):
    plant({"delay": (50, 300)})
    tuned()
    if environment:
        monkeypatch.setenv("TRITONSTDP_AUTOTUNE", environment)
    formula = Formula.of(stdp, bound, soft_bound)
    registry.forget_choices()
    choice = choose(CASE._replace(formula=formula))
    step_of(choice)
    assert len(cache.load_all()) == 1, "tuned all the same"
    assert registry.describe(choice.case)["positive_bound"]
    with pytest.raises(ValueError, match=r"can't be tuned: .* uses more than its arguments and numbers"):
        autotune.tune(formula, GROUP)


def test_functions_of_one_name_but_other_numbers_share_no_setting(plant):
    def made(number, default):
        def bound(w, w_min, w_max, by=default):
            return w * number * by

        return bound

    built = plant({"delay": (50, 300)})
    bounds = [made(1.0, 1.0), made(2.0, 1.0), made(1.0, 2.0)]
    formulas = [Formula.of(stdp, bound, bound) for bound in bounds]
    autotune.tune(formulas[0], GROUP, rates=(0.1,), seconds=0.1)
    found = []
    for formula in formulas:
        built.clear()
        choose(CASE._replace(formula=formula), "cpu")
        found.append(built[0].delay)
    assert found == [50, 300, 300]
    assert Formula.of(stdp, made(1.0, 1.0), made(1.0, 1.0)) is formulas[0]


def test_a_name_that_cannot_be_kept_as_it_is_does_no_harm(plant):
    def bound(w, w_min, w_max):
        return w

    bound.__name__ = "long\n" * 100
    plant({"delay": (50, 300)})
    autotune.tune(Formula.of(stdp, bound, bound), GROUP, rates=(0.1,), seconds=0.1)
    assert len(cache.load_all()) == 1


def test_a_setting_that_cannot_be_built_here_leaves_the_default(plant, caplog):
    def only_the_default(case, config):
        if config != Config():
            raise RuntimeError("no such instruction")
        return planted_step(case, config)

    built = plant({"delay": (50, 300)})
    tuned()
    registry._ENTRIES.pop()
    built = plant({"delay": (50, 300)}, build=only_the_default)
    step_of(choose(CASE, "cpu"))
    assert built[-1] == Config()
    assert "can't be built, so the default is used" in caplog.text


@pytest.mark.parametrize("value", [True, 50.0, "50", None])
def test_a_value_of_another_type_is_outside_the_space(plant, value, caplog):
    built = plant({"delay": (50, 1, 300)})
    entry = tuned().entry
    cache.save([entry._replace(config={**entry.config, "delay": value})])
    registry.forget_choices()
    built.clear()
    step_of(choose(CASE, "cpu"))
    assert built == [Config()]
    assert "outside the kernel's space" in caplog.text


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"format": 2, "entries": [{"rate": "2"}]}', b"\xff"])
def test_a_damaged_cache_is_no_reason_for_a_step_to_fail(plant, content, caplog):
    built = plant({"delay": (50, 300)})
    path = cache.path_of(device_name("cpu"))
    storage.make_private(path.parent)
    path.write_bytes(content)
    step_of(choose(CASE, "cpu"))
    assert built == [Config()]
    assert "kernels use their defaults" in caplog.text


def test_what_a_device_raises_while_it_is_tuned_is_no_reason_for_a_step_to_fail(plant, monkeypatch, caplog):
    def raising(*arguments, **options):
        raise MemoryError("out of memory")

    plant({"delay": (50, 300)})
    monkeypatch.setattr(use, "find", raising)
    step_of(choose(CASE, "cpu", autotune=True))
    assert "the default is used: out of memory" in caplog.text


def test_a_failed_tuning_leaves_the_default(plant, caplog):
    plant({"delay": (0, 300)}, default=Config(error=0.01))
    choice = choose(CASE, "cpu", autotune=True)
    step_of(choice)
    assert "tuning failed, so the default is used" in caplog.text
    assert cache.load_all() == []
    begin = time.perf_counter()
    step_of(choice)
    assert time.perf_counter() - begin > 300e-6, "not the default"


def test_a_look_up_after_the_first_costs_less_than_two_microseconds():
    def nothing(case, config):
        return lambda *arguments: None

    entry = KernelEntry("one_to_one", "cpu", nothing)
    plain, tuned_step = nothing(CASE, None), use._step_by_size(
        entry, Space(Config(), {"delay": (1,)}, __name__), CASE, {64: Config(delay=1)}, False
    )  # fmt: skip
    arguments = (GROUP, *range(12))

    def cost_of(step):
        best = float("inf")
        for _ in range(20):
            begin = time.perf_counter()
            for _ in range(1000):
                step(*arguments)
            best = min(best, time.perf_counter() - begin)
        return best / 1000

    tuned_step(*arguments)
    assert cost_of(tuned_step) - cost_of(plain) < 2e-6


def test_without_a_setting_a_step_is_the_kernels_own():
    entry = serving_entry(CASE, "cpu")
    step = use.configured_step(entry, entry.space(), CASE)
    assert step.place.__module__ == "tritonstdp.kernels.one_to_one.cpu"


def test_of_several_rates_the_one_nearest_to_the_declared_is_used(monkeypatch):
    values = Space(Config(), {"delay": (1, 2, 10)}, __name__)
    entry = KernelEntry("one_to_one", "triton", planted_step)
    for rate in (0.01, 0.02, 0.1):
        key = space.key_of(values, CASE, "triton", 64, rate)
        cache.save([cache.Entry(key, Config(delay=round(100 * rate))._asdict(), {})])
    assert use.look_up(entry, values, CASE) == {64: Config(delay=2)}
    monkeypatch.setenv("TRITONSTDP_RATE", "0.08")
    assert use.look_up(entry, values, CASE) == {64: Config(delay=10)}


@pytest.mark.parametrize("declared", ["often", "2", "0", "-1", "nan", "2%", ""])
def test_a_declared_rate_that_is_no_fraction_is_refused_whatever_was_tuned(monkeypatch, declared):
    values = Space(Config(), {"delay": (1, 2, 10)}, __name__)
    monkeypatch.setenv("TRITONSTDP_RATE", declared)
    with pytest.raises(ValueError, match=r"TRITONSTDP_RATE: '.*' is no rate: give the fraction .*\(2 % is 0.02\)"):
        use.look_up(KernelEntry("one_to_one", "triton", planted_step), values, CASE)
    assert use.look_up(KernelEntry("one_to_one", "cpu", planted_step), values, CASE) == {}, "a CPU counts spikes"


@pytest.mark.parametrize("rates", [(), (0.0,), (2.0,), (0.1, float("nan"))])
def test_rates_that_are_no_fractions_are_refused_before_any_time_is_spent(plant, rates):
    built = plant({"delay": (0, 300)})
    with pytest.raises(ValueError, match=r"rates are .*give fractions"):
        autotune.tune(FORMULA, GROUP, rates=rates)
    assert built == []


@pytest.mark.parametrize(("rate", "bucket"), [(0.001, 0.001), (0.018, 0.02), (0.3, 0.2), (0.9, 1.0), (1.0, 1.0)])
def test_a_rates_bucket_is_a_fraction(rate, bucket):
    assert space.rate_bucket(rate) == bucket


class Threaded(NamedTuple):
    """Fields as CPU kernels name them."""

    crossing: float = 0.1
    parallel_work: int = 1000
    rows_per_task: int = 32


THREADED = Space(
    Threaded(), {"crossing": (0.1, 0.2), "parallel_work": (100, 1000, 10_000), "rows_per_task": (8, 32)}, __name__
)


@pytest.mark.parametrize(
    ("synapses", "threads", "expected"),
    [
        (5000, 1, {(0.1, 1000, 32), (0.2, 1000, 32)}),
        (50, 2, {(0.1, 1000, 32), (0.2, 1000, 32)}),
        (500, 2, {(c, *rest) for c in (0.1, 0.2) for rest in ((1000, 32), (100, 8), (100, 32))}),
        (5000, 2, {(c, *rest) for c in (0.1, 0.2) for rest in ((1000, 8), (1000, 32), (10_000, 32))}),
    ],
)
def test_configurations_of_one_effect_are_tried_once(synapses, threads, expected):
    found = space.candidates(THREADED, synapses, threads)
    assert set(found) == expected
    assert len(found) == len(expected)
    assert found[0] == Threaded()


def test_where_the_compared_size_is_unknown_every_border_is_tried():
    assert len(space.candidates(THREADED, None, 2)) == 12
    assert len(space.candidates(THREADED, None, 1)) == 2


@pytest.mark.parametrize("side", [100, 256, 300, 1000, 4000, 8192])
def test_a_size_bucket_is_the_nearest_power_of_four(side):
    bucket = space.size_bucket(Dense(side, side))
    assert bucket / 2 <= side * side < 2 * bucket
    assert bucket in {4**k for k in range(30)}


def test_a_convolutions_size_counts_its_positions():
    assert space.size_bucket(Conv2d((1, 28, 28), (16, 24, 24), (5, 5))) == 4**9


@pytest.mark.parametrize("rate", [0.001, 0.013, 0.02, 0.2])
def test_spike_patterns_have_the_rate_that_they_stand_for(rate):
    scratch = Scratch(FORMULA, OneToOne(300), torch.float32, "cpu", (rate,))
    counts = [int(scratch.at(rate, k).signals["pre_spike"].sum()) for k in range(8)]
    assert abs(sum(counts) / 8 - 300 * rate) <= 0.5
    assert max(counts) - min(counts) <= 1


def test_scratch_copies_outgrow_the_cache_and_are_taken_in_turn(monkeypatch):
    monkeypatch.setattr("tritonstdp.autotune.timing._last_cache_bytes", lambda device: 2**16)
    scratch = Scratch(FORMULA, OneToOne(1024), torch.float32, "cpu", (0.1,))
    seen = []

    def step(topology, weights, *rest):
        seen.append(weights.data_ptr())

    scratch.calibrate(step)
    seen.clear()
    take_turns(scratch, {"a": step, "b": step}, range(2), {})
    needed = 2 * 2**16 // 4096
    assert len(set(seen)) > needed
    assert all(len(set(seen[k : k + needed])) == needed for k in range(len(seen) - needed)), "a copy came back too soon"


def test_propagation_is_timed_on_weights_that_the_cache_no_longer_holds():
    scratch = Scratch(PROPAGATION, OneToOne(1024), torch.float32, "cpu", (0.1,))
    weights = {copy.weights.data_ptr() for copy in scratch._copies}
    assert len(weights) == len(scratch._copies) == len({copy.signals["current"].data_ptr() for copy in scratch._copies})


def test_every_variant_of_a_turn_sees_the_same_spikes():
    scratch = Scratch(FORMULA, GROUP, torch.float32, "cpu", (0.1, 0.3))
    seen = {"a": [], "b": []}

    def variant(name):
        return lambda topology, weights, c, pre, *rest: seen[name].append(pre[0].data_ptr())

    scratch.calibrate(variant("a"))
    seen["a"].clear()
    take_turns(scratch, {name: variant(name) for name in seen}, range(3), {})
    assert seen["a"] == seen["b"]


def test_a_sample_of_a_step_that_takes_long_has_fewer_of_them():
    scratch = Scratch(FORMULA, GROUP, torch.float32, "cpu", (0.1,))
    calls = []
    scratch.calibrate(lambda *arguments: None)

    def slow(*arguments):
        calls.append(None)
        time.sleep(0.01)

    for turn in range(2):
        scratch.seconds(slow, 0.1, turn)
    assert len(calls) == 32 // 8 + 1


def test_nothing_is_left_of_timing_in_the_problem():
    scratch = Scratch(Formula.of(rstdp), GROUP, torch.float32, "cpu", (0.2,))
    before = {name: tensor.clone() for name, tensor in scratch.problem.tensors.items()}
    case = scratch.problem.case
    step = serving_entry(case, "reference").build(case)
    scratch.calibrate(step)
    take_turns(scratch, {"reference": step}, range(3), {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in scratch.problem.tensors.items())


def test_weights_stay_where_they_are_over_thousands_of_steps():
    scratch = Scratch(FORMULA, GROUP, torch.float32, "cpu", (0.3,))
    step = serving_entry(scratch.problem.case, "reference").build(scratch.problem.case)
    for pattern in range(3000):
        step(*scratch._arguments(0.3, pattern))
    assert max(copy.weights.abs().max() for copy in scratch._copies) < 2


def test_a_timings_spread_is_its_middle_half():
    assert Timing.of([1.0, 2.0, 3.0, 4.0, 100.0]) == Timing(3.0, 2.0, 4.0, 5)
    assert Timing.of([1.0, 2.0, 3.0, 4.0, 100.0]).spread == 2 / 3


def test_a_real_kernel_is_tuned_right(monkeypatch):
    monkeypatch.setattr(dense, "SPACE", {"dense_pass_rate": (1.0,)})
    outcome = autotune.tune(FORMULA, Dense(96, 96), rates=(0.02, 0.2), seconds=0.3)
    assert not outcome.rejected
    assert len({config for config, _ in outcome.ratios}) > 1
    assert outcome.key.rate is None and outcome.key.device.endswith("1 thread")


def test_a_kernel_without_a_space_says_so():
    with pytest.raises(ValueError, match="has nothing to tune"):
        autotune.tune(FORMULA, GROUP)
    with pytest.raises(ValueError, match="float32 and float64"):
        autotune.tune(FORMULA, Dense(8, 8), dtype=torch.float16)


def test_a_registered_space_must_name_fields_of_the_default():
    with pytest.raises(ValueError, match="space names speed"):
        register_kernel(planted_step, topology="dense", backend="cpu", default=Config(), space={"speed": (1, 2)})


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_the_cost_models_dense_work_is_what_spikes_leave_to_do(rate):
    topology, config = Dense(4096, 384), dense_gpu.Config(blocks=2, full_from=2.0)
    cut = dense_gpu.cut_of(config, 4, False, 4096, 384, (384, 1), (384, 1))
    generator = torch.Generator().manual_seed(0)
    items, fetches = [], []
    for _ in range(200):
        s, q = torch.rand(4096, generator=generator) < rate, torch.rand(384, generator=generator) < rate
        rows, columns = math.ceil(int(s.sum()) / cut.tall), math.ceil(int(q.sum()) / cut.at_once)
        items.append(rows * cut.row_parts + columns * cut.column_parts)
        fetches.append(int(s.sum()) * 384 // 16 + int((~s).sum()) * int(q.view(-1, 16).any(1).sum()))
    _listing, work = dense_work(topology, config, rate, 4, False)
    assert work.programs == pytest.approx(min(config.programs, sum(items) / 200), rel=0.1)
    assert work.programs * work.nbytes == pytest.approx(128 * sum(fetches) / 200, rel=0.1)


@pytest.mark.parametrize("name", ["dense", "sparse", "local2d"])
def test_a_small_groups_step_is_estimated_as_the_one_launch_that_it_is(name):
    topology, work = example_topology(name), kernels_of(name, "work").work
    kernel = importlib.import_module(f"tritonstdp.kernels.{name}.gpu")
    [seldom], [often] = (work(topology, kernel.DEFAULT, rate, 4, False) for rate in (0.001, 0.3))
    assert seldom.programs == often.programs and seldom.nbytes <= often.nbytes


@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
@pytest.mark.parametrize("modulated", [False, True])
def test_every_topologys_work_grows_with_the_rate_and_is_there_for_every_configuration(name, modulated):
    topology = example_topology(name)
    kernel = importlib.import_module(f"tritonstdp.kernels.{name}.gpu")
    values = Space(kernel.DEFAULT, kernel.SPACE, kernel.__name__)
    for config in space.candidates(values, None, 1):
        work = kernels_of(name, "work").work
        seldom, often = (
            cost.estimate(cost.GPUS["sm_90"], [100] * len(launched), 8, launched)
            for launched in (work(topology, config, rate, 4, modulated) for rate in (0.001, 0.3))
        )
        assert 0 < seldom <= often < 1


@pytest.mark.parametrize(
    ("capability", "hip", "target"), [((8, 6), None, "sm_80"), ((9, 0), None, "sm_90"), ((12, 0), None, "sm_100"),
                                      ((9, 4), "6.4", "gfx942")],
)  # fmt: skip
def test_on_a_gpu_only_what_the_model_ranks_well_is_timed_and_the_default_first(monkeypatch, capability, hip, target):
    asked = []

    def ranked(configs, formula, topology, dtype, target, rates, gpu):
        asked.append((target, gpu.multiprocessors))
        chosen = [configs[2], configs[0]]
        return [cost.Estimate(config, (1e-6,), 1, 32, 0, 1.0) for config in chosen], {configs[1]: "3 spills"}

    properties = type("P", (), {"name": "some GPU", "multi_processor_count": 77})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(cost, "rank", ranked)
    configs = [Config(delay=n) for n in (5, 1, 3)]
    kept = cost.pruned(configs, FORMULA, GROUP, torch.float32, "cuda", (0.02,))
    assert kept == [Config(delay=5), Config(delay=3)]
    assert asked == [(target, 77)]


def test_spilling_and_hopeless_configurations_are_left_out_and_the_default_stays(monkeypatch):
    class Blocks(NamedTuple):
        block: int
        num_warps: int

    configs = [Blocks(block, 4) for block in (4, 256, 512, 1024)]

    class Launched(NamedTuple):
        grid: tuple
        config: object

    monkeypatch.setattr(cost, "KEPT", 2)
    monkeypatch.setattr(cost, "launches", lambda problem, config: [Launched((2**22 // config.block,), config)])
    monkeypatch.setattr(cost, "_compiled", lambda found, limits: (32, 7 * (found[0].config.block == 1024), 1.0))
    estimates, left_out = cost.rank(configs, FORMULA, OneToOne(2**22), torch.float32, "sm_90", (0.02,))
    assert configs[0] in [each.config for each in estimates], "the default was left out"
    assert "7 spills" in left_out.values() and "far behind by the model" in left_out.values()
    assert [each.mean for each in estimates] == sorted(each.mean for each in estimates)


@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
def test_rates_that_leave_nothing_to_move_are_estimated(name):
    topology, kernel = example_topology(name), importlib.import_module(f"tritonstdp.kernels.{name}.gpu")
    for rate in (0.0, 1e-300, 1e-17):
        launched = kernels_of(name, "work").work(topology, kernel.DEFAULT, rate, 4, False)
        assert 0 < cost.estimate(cost.GPUS["sm_90"], [9] * len(launched), 8, launched) < 1


def test_the_cost_model_orders_what_is_plain():
    gpu = cost.GPUS["sm_90"]
    work = [Work(1000, 2048, 4)]
    base = cost.estimate(gpu, [1000], 16, work)
    assert cost.estimate(gpu, [1_000_000], 16, work) > base, "more programs that leave at once"
    assert cost.estimate(gpu, [1000], 16, [Work(1000, 2**20, 4)]) > base, "more traffic"
    assert cost.estimate(gpu, [1000], 16, [Work(1000, 2048, 400)]) > base, "longer chains"
    assert cost.estimate(gpu, [1000, 1000], 16, [*work, Work(0, 0, 0)]) > base, "one more launch"
    assert cost.estimate(gpu, [1000], 16, [work[0]._replace(flight=32)]) > base, "fewer bytes in flight"
    assert cost.estimate(gpu, [1000], 16, [work[0]._replace(near=40)]) > base, "more look-ups in the cache"
    assert cost.estimate(gpu, [100_000], 2, [Work(100_000, 512, 4)]) > cost.estimate(
        gpu, [100_000], 16, [Work(100_000, 512, 4)]
    ), "fewer programs at once"


def count_tunings(monkeypatch):
    sizes, find = [], use.find

    def counted(formula, topology, **options):
        sizes.append(topology.weights_shape[0])
        return find(formula, topology, **{**options, "rates": (0.1,), "seconds": 0.05})

    monkeypatch.setattr(use, "find", counted)
    return sizes


class FakeGpu:
    """As much of torch.cuda as a clock uses; time is the number of replays and of launches."""

    def __init__(self, captures: bool = True) -> None:
        self.captures, self.capturing, self.now, self.log = captures, False, 0, []
        outer = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = outer.now

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, end) -> float:
                return 1e3 * (end.at - self.at)

        class CUDAGraph:
            def replay(self) -> None:
                outer.now += 1
                outer.log.append("replay")

        self.Event, self.CUDAGraph = Event, CUDAGraph

    def synchronize(self) -> None:
        self.log.append("synchronize")

    @contextmanager
    def graph(self, graph):
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False

    def step(self, k: int) -> None:
        if self.capturing and not self.captures:
            raise RuntimeError("operation not permitted when stream is capturing\nmore words")
        self.now += not self.capturing
        self.log.append(f"{'captured' if self.capturing else 'launched'} {k}")


def test_a_step_on_a_gpu_is_captured_once_and_its_replays_are_timed(monkeypatch):
    gpu = FakeGpu()
    monkeypatch.setattr(torch, "get_device_module", lambda device: gpu)
    monkeypatch.setattr(timing, "_eviction", lambda device: lambda: gpu.log.append("evicted"))
    captured = ["launched 1", "launched 2", "synchronize", "captured 1", "captured 2", "replay"]
    for cold, before in ((True, "evicted"), (False, "replay")):
        seconds = timing.clock("cuda", cold=cold)
        assert seconds(gpu.step, lambda: [(1,), (2,)], "a") == 1
        assert gpu.log == [*captured, before, "replay"]
        gpu.log.clear()
        assert seconds(gpu.step, lambda: pytest.fail("made again"), "a") == 1
        assert gpu.log == [before, "replay"]
        gpu.log.clear()


def test_a_step_that_no_graph_holds_is_timed_launch_by_launch_and_the_log_says_so(monkeypatch, caplog):
    gpu = FakeGpu(captures=False)
    monkeypatch.setattr(torch, "get_device_module", lambda device: gpu)
    monkeypatch.setattr(timing, "_eviction", lambda device: lambda: None)
    seconds = timing.clock("cuda")
    assert seconds(gpu.step, lambda: [(1,), (2,)], "a") == 2
    assert seconds(gpu.step, lambda: pytest.fail("made again"), "a") == 2
    [record] = caplog.records
    assert "not permitted when stream is capturing)" in record.getMessage() and "more words" not in record.getMessage()


def test_what_the_host_takes_is_told_apart(monkeypatch):
    gpu = FakeGpu()
    monkeypatch.setattr(torch, "get_device_module", lambda device: gpu)
    monkeypatch.setattr(timing.time, "perf_counter_ns", iter((0, 3000)).__next__)
    assert timing.enqueuing_seconds("cuda", gpu.step, [(1,), (2,)]) == pytest.approx(3e-6)
    assert gpu.log == ["synchronize", "launched 1", "launched 2", "synchronize"]
