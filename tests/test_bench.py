"""What the benchmarks claim: no figure without a proof, and a gate that catches a slower kernel."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for benchmarks; last, so that it hides nothing installed

from benchmarks import gate, simulations
from benchmarks.__main__ import summary
from benchmarks.environment import MARK, TUNED_ALLOCATOR, environment
from benchmarks.figures import draw
from benchmarks.providers import PROVIDERS
from benchmarks.steps import BOUNDS as CONEX_BOUNDS
from benchmarks.steps import RULES as CONEX_RULES
from benchmarks.steps import full_suite, quick_suite
from tritonstdp.bench import compare, is_other, own_providers, tables_of
from tritonstdp.cli import main
from tritonstdp.measurement import (
    OURS,
    POOL,
    SPIKE_BYTES,
    Inputs,
    NotAvailableError,
    Row,
    Runner,
    Workload,
    measure,
    read_rows,
    write_rows,
)
from tritonstdp.topology import TOPOLOGIES

ROOT = Path(__file__).resolve().parents[1]

SMALL = {
    "dense": (40, 70),
    "one_to_one": (90,),
    "sparse": (50, 60, 400),
    "conv2d": (2, 8, 9, 3, 3),
    "local2d": (2, 8, 9, 3, 3),
}
DENSE = Workload("stdp", "dense", "soft_bound", (40, 70), 0.05)


def _row(provider: str, ratio: float, status: str = "ok", workload: str = "w") -> Row:
    return Row(
        workload, "stdp", "dense", "soft_bound", "1x1", 0.02, "float32", "cpu", 1, provider, "", status,
        median_us=10 * ratio, min_us=9 * ratio, ratio=ratio,
    )  # fmt: skip


# what is measured


@pytest.mark.parametrize("topology", SMALL)
def test_inputs_spike_at_the_wanted_rate_and_differ_between_patterns(topology):
    inputs = Inputs.of(Workload("stdp", topology, "no_bound", SMALL[topology], 0.1))
    n_pre, n_post = inputs.topology.pre_shape[0], inputs.topology.post_shape[0]
    assert all(s.sum() == round(0.1 * n_pre) and q.sum() == round(0.1 * n_post) for s, q in inputs.spikes)
    assert len(inputs.spikes) == POOL
    assert len({(*s.tolist(), *q.tolist()) for s, q in inputs.spikes}) > POOL // 2


def test_the_spikes_of_large_groups_stay_in_the_cache():
    inputs = Inputs.of(Workload("stdp", "one_to_one", "no_bound", (100_000,), 0.1))
    assert 4 <= len(inputs.spikes) < POOL
    assert sum(s.nbytes + q.nbytes for s, q in inputs.float_spikes) <= SPIKE_BYTES


@pytest.mark.parametrize("shape", [(50, 60, 400), (10, 10, 99), (10, 10, 100)])
def test_sparse_inputs_have_the_wanted_number_of_distinct_synapses(shape):
    weights = Inputs.of(Workload("stdp", "sparse", "no_bound", shape, 0.1)).weights
    assert weights.values().numel() == shape[-1]
    assert weights.to_sparse_coo().coalesce().values().numel() == shape[-1]


@pytest.mark.parametrize(
    ("topology", "shape", "words"),
    [
        ("dense", (10,), "10 is no shape of dense: give N_PRExN_POST"),
        ("one_to_one", (10, 10), "10x10 is no shape of one_to_one: give N"),
        ("sparse", (10, 10), "give N_PRExN_POSTxSYNAPSES"),
        ("sparse", (10, 10, 101), "100 pairs, too few for 101 synapses"),
        ("conv2d", (8, 64, 64), "give C_INxHEIGHTxWIDTHxC_OUTxKERNEL"),
        ("local2d", (8, 4, 64, 8, 5), "a kernel of 5 does not fit into 4 x 64"),
    ],
)
def test_a_shape_that_is_none_of_the_topology_says_its_form(topology, shape, words):
    with pytest.raises(ValueError, match=words):
        Workload("stdp", topology, "no_bound", shape, 0.1)


@pytest.mark.parametrize("rule", ["stdp", "rstdp"])
@pytest.mark.parametrize("shape", [(300, 400), (70_000,), (3000, 3000, 90_000), (8, 40, 40, 16, 5)])
def test_inputs_take_no_less_memory_than_is_foreseen(shape, rule):
    topology = {2: "dense", 1: "one_to_one", 3: "sparse", 5: "local2d"}[len(shape)]
    workload = Workload(rule, topology, "no_bound", shape, 0.1)
    inputs = Inputs.of(workload)
    held = [inputs.values, inputs.c, *inputs.traces.values(), *inputs.spikes[0] * 4, *inputs.expected]
    assert sum(tensor.nbytes for tensor in held if tensor is not None) < workload.bytes_needed


def test_bytes_that_must_move_are_those_of_the_lines_that_hold_a_changing_weight():
    inputs = Inputs.of(replace(DENSE, shape=(40, 64)))
    lines = 0
    for s, q in inputs.spikes[:8]:
        touched = s[:, None] | q[None, :]
        lines += touched.view(40, 4, 16).any(-1).sum().item()
    assert inputs.bytes_that_must_move() == 2 * 64 * lines / 8


def test_suites_cover_every_rule_topology_bound_and_rate():
    full = {(w.rule, w.topology, w.bound, w.rate) for w in full_suite()}
    assert full == set(product(CONEX_RULES, TOPOLOGIES, CONEX_BOUNDS, (0.005, 0.02, 0.1)))
    assert {(w.rule, w.topology) for w in quick_suite()} == {(r, t) for r in CONEX_RULES for t in TOPOLOGIES}
    names = [w.name for w in full_suite()]
    assert len(set(names)) == len(names)


# no figure without a proof


def _wrong(inputs: Inputs) -> Runner:
    right = own_providers("cpu")[OURS](inputs)

    def step(k: int) -> None:
        right.step(k)
        right.weights().view(-1)[0] += 1e-4

    return Runner(step, right.weights)


def _missing(inputs: Inputs) -> Runner:
    raise NotAvailableError("not installed")


def test_what_is_expected_in_double_precision_is_computed_on_a_copy():
    rows = measure(replace(DENSE, rule="rstdp", dtype="float64"), own_providers("cpu"), seconds=0.01)
    assert {row.status for row in rows} == {"ok"}


def test_a_provider_that_computes_something_else_gets_no_time():
    providers = {OURS: own_providers("cpu")[OURS], "wrong": _wrong, "missing": _missing}
    rows = {row.provider: row for row in measure(DENSE, providers, seconds=0.01)}
    assert rows[OURS].status == "ok" and rows[OURS].ratio == 1.0 and rows[OURS].median_us > 0
    assert rows["wrong"].status == "not comparable" and "weights off by" in rows["wrong"].note
    assert rows["missing"].status == "not available" and rows["missing"].note == "not installed"
    assert all(rows[name].median_us is None and rows[name].ratio is None for name in ("wrong", "missing"))
    assert rows["copy"].status == "ok" and not is_other(rows["copy"])


def test_a_modulated_provider_must_have_the_eligibility_right_as_well():
    workload = Workload("rstdp", "dense", "soft_bound", (40, 70), 0.05)

    def forgetful(inputs: Inputs) -> Runner:
        right = own_providers("cpu")[OURS](inputs)
        return Runner(right.step, right.weights)

    (row, _) = measure(workload, {"forgetful": forgetful}, seconds=0.01)
    assert row.status == "not comparable" and "eligibility" in row.note


@pytest.mark.parametrize(
    ("topology", "rule"),
    [*((t, "stdp") for t in SMALL), ("dense", "istdp"), ("dense", "rstdp"), ("sparse", "rstdp"), ("local2d", "istdp")],
)
def test_providers_compute_what_tritonstdp_computes(topology, rule):
    workload = Workload(rule, topology, "no_bound" if rule == "istdp" else "soft_bound", SMALL[topology], 0.1)
    names = (OURS, f"{OURS} reference", "CoNeX", "indexed torch")
    rows = {row.provider: row for row in measure(workload, {n: PROVIDERS[n] for n in names}, seconds=0.01)}
    absent = {"CoNeX"} if rule == "istdp" and topology in ("conv2d", "local2d") else set()
    for name in names:
        assert rows[name].status == ("not available" if name in absent else "ok"), rows[name].note


def test_optional_providers_that_are_not_installed_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "benchmarks.providers.jax_xla", raising=False)
    rows = {row.provider: row for row in measure(DENSE, {"JAX": PROVIDERS["JAX"]}, seconds=0.01)}
    assert rows["JAX"].status == "not available" and rows["JAX"].note == "jax is not installed"


# output


def test_rows_survive_json_and_are_tidy_in_csv(tmp_path):
    rows = [_row(OURS, 1.0), _row("a", 2.5), replace(_row("b", 1.0), status="not comparable", note="off", ratio=None)]
    write_rows(rows, tmp_path / "rows.json")
    assert read_rows(tmp_path / "rows.json") == rows
    assert json.loads((tmp_path / "rows.json").read_text())[0]["machine_torch"] == torch.__version__
    write_rows(rows, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["provider"] for line in lines] == [OURS, "a", "b"] and lines[1]["ratio"] == "2.5"
    assert [table.row_count for table in tables_of(rows)] == [3]


def test_compare_names_what_has_lost_its_lead_whatever_the_machine_was_doing():
    old = [_row(OURS, 1.0), _row("a", 4.0), _row(OURS, 1.0, workload="v"), _row("a", 4.0, workload="v")]
    busy = [replace(row, median_us=3 * row.median_us) for row in old]
    assert compare(busy, old)[1] == []
    slower = [*busy[:1], replace(busy[1], ratio=2.0), *busy[2:]]
    assert compare(slower, old)[1] == ["w"]


def test_bench_command_writes_rows_and_compares_them(tmp_path, capsys):
    common = ["bench", "--shape", "30x20", "--rate", "0.1", "--seconds", "0.02", "--no-torch"]
    new = tmp_path / "new.json"
    assert main([*common, "--out", str(new)]) == 0
    assert "dense stdp soft_bound 30x20 10%" in capsys.readouterr().out
    rows = read_rows(new)
    slow_past = [replace(row, median_us=row.median_us * 100) for row in rows]
    fast_past = [replace(row, median_us=row.median_us / 100) for row in rows]
    for past, status in ((slow_past, 0), (fast_past, 1)):
        write_rows(past, tmp_path / "old.json")
        assert main([*common, "--compare", str(tmp_path / "old.json")]) == status


def test_summary_names_where_tritonstdp_is_not_the_fastest():
    rows = [_row(OURS, 1.0), _row("CoNeX", 8.0), _row("a", 2.0)]
    rows += [_row(OURS, 1.0, workload="v"), _row("CoNeX", 2.0, workload="v"), _row("a", 0.5, workload="v")]
    text = summary(rows)
    assert "fastest other provider 1.00x, over CoNeX 4.0x" in text
    assert "not the fastest: v (a takes 0.50x)" in text and "not the fastest: w" not in text


def test_figures_are_drawn_from_what_has_been_measured(tmp_path):
    results, figures = tmp_path / "results", tmp_path / "figures"
    rows = [_row(OURS, 1.0), _row("CoNeX", 8.0), replace(_row("JAX", 1.0), status="not available", ratio=None)]
    write_rows(rows, results / "steps.json")
    assert [path.name for path in draw(results, figures)] == ["steps.png"]
    write_rows([replace(row, floor_ratio=2.0) for row in rows], results / "growth.json")
    result = simulations.Result("a", "784 -> 1000, dense", "CoNeX", 10.0, 0.7, 0.02, 0.0, 1)
    simulated = [asdict(result), asdict(replace(result, classes=OURS))]
    (results / "simulations.json").write_text(json.dumps(simulated))
    drawn = draw(results, figures)
    assert [path.name for path in drawn] == ["steps.png", "growth.png", "simulations.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_simulated_networks_end_in_the_same_weights_with_either_librarys_classes():
    small = simulations.Simulation("s", "40 -> 30", simulations._dense(40, 30), steps=20, turn=5)
    conex, learning, whole = simulations.run(small)
    assert [result.classes for result in (conex, learning, whole)] == list(simulations.parts())
    assert conex.difference == learning.difference == 0.0 and whole.difference < 1e-4
    assert all(0 < result.learning_share < 1 and result.steps_per_second > 0 for result in (learning, whole))
    sparse = simulations.Simulation("c", "sparse", simulations._sparse(40, 30, 200), steps=20, turn=5)
    assert simulations.run(sparse)[1].difference == 0.0


# the gate


def test_lead_is_over_the_fastest_other_that_is_right():
    rows = [_row(OURS, 1.0), _row("copy", 0.1), _row(f"{OURS} reference", 0.5), _row("a", 3.0), _row("b", 2.0)]
    assert gate.lead_of([*rows, _row("wrong", 1.5, status="not comparable")]) == (2.0, "b")
    with pytest.raises(RuntimeError, match="not comparable"):
        gate.lead_of([_row(OURS, 1.0, status="not comparable"), _row("a", 3.0)])
    with pytest.raises(RuntimeError, match="nobody"):
        gate.lead_of(rows[:3])


def _leads(*leads: float):
    remaining = list(leads)
    return lambda workload: [_row(OURS, 1.0), _row("a", remaining.pop(0))]


def test_gate_passes_on_noise_and_fails_on_a_slow_down_of_two():
    floor = gate.propose(DENSE, _leads(9.0, 10.0, 11.0))
    assert floor == pytest.approx(10 / gate.SLACK, rel=0.01)
    assert gate.judge(DENSE, floor, _leads(5.0, 9.5)).passes
    halved = gate.judge(DENSE, floor, _leads(5.0, 5.5, 4.5))
    assert not halved.passes and halved.lead == 5.5


def test_gate_catches_a_kernel_made_slower():
    workload = Workload("stdp", "dense", "soft_bound", (600, 600), 0.02)
    ours = own_providers("cpu")[OURS]

    def slowed(inputs: Inputs) -> Runner:
        runner, again = ours(inputs), ours(inputs)

        def step(k: int) -> None:
            runner.step(k)
            for _ in range(3):  # more than twice as slow: tests that run beside this one take their share
                again.step(k)

        return Runner(step, runner.weights)

    def measured_with(provider):
        others = {"CoNeX": PROVIDERS["CoNeX"], "indexed torch": PROVIDERS["indexed torch"]}
        return lambda w: measure(w, {OURS: provider, **others}, seconds=0.3)

    floor = gate.propose(workload, measured_with(ours))
    assert gate.judge(workload, floor, measured_with(ours)).passes
    assert not gate.judge(workload, floor, measured_with(slowed)).passes


def test_every_gated_workload_has_a_floor_and_no_other():
    floors = json.loads(gate.FLOORS.read_text())
    assert set(floors) == {workload.name for workload in gate.WORKLOADS}
    assert 1 < gate.SLACK < 2  # a slow-down of two must end below a floor


@pytest.mark.slow
def test_gated_processes_are_pinned_to_one_thread_and_can_leave_the_allocator_alone():
    code = (
        "import os, sys; sys.path.append(sys.argv[1]); from benchmarks.environment import restart_pinned;"
        "restart_pinned(1, sys.argv[2] == 'tuned'); import torch;"
        "print(len(os.sched_getaffinity(0)), torch.get_num_threads(), 'MALLOC_TOP_PAD_' in os.environ)"
    )
    clean = {name: value for name, value in os.environ.items() if name not in (MARK, *TUNED_ALLOCATOR)}
    for allocator, tuned in (("tuned", "True"), ("plain", "False")):
        command = [sys.executable, "-c", code, str(ROOT), allocator]
        out = subprocess.run(command, env=clean, capture_output=True, text=True, check=True).stdout
        assert out.split() == ["1", "1", tuned]
    assert not set(TUNED_ALLOCATOR) & set(environment(1, tuned_allocator=False))


def test_an_optional_provider_that_is_installed_and_broken_says_so(monkeypatch, tmp_path):
    (tmp_path / "jax.py").write_text("raise RuntimeError('made for another torch')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    monkeypatch.delitem(sys.modules, "benchmarks.providers.jax_xla", raising=False)
    rows = {row.provider: row for row in measure(DENSE, {"JAX": PROVIDERS["JAX"]}, seconds=0.01)}
    assert rows["JAX"].status == "not available" and rows["JAX"].note == "can't be imported: made for another torch"
