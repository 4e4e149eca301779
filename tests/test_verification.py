"""``tritonstdp verify`` passes what is right, and names what is wrong."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
import types

import pytest
import torch

from tritonstdp import verification
from tritonstdp.autotune import calibration, cost
from tritonstdp.choice import Choice
from tritonstdp.cli import main
from tritonstdp.commands import verify as verify_command
from tritonstdp.interpretation import swift_interpreter
from tritonstdp.measurement import Row
from tritonstdp.rules import RULES, soft_bound
from tritonstdp.topology import TOPOLOGIES, Examples, OneToOne
from tritonstdp.verification import Check


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(verify_command, "_cores", lambda: 1)


@pytest.fixture
def small(monkeypatch):
    """One rule, one bound and two dtypes on a few neurons."""
    monkeypatch.setattr(verification, "RULES", {"stdp": RULES["stdp"]})
    monkeypatch.setattr(verification, "BOUNDS", {"soft_bound": soft_bound, "hard_bound": soft_bound})
    monkeypatch.setattr(verification, "DTYPES", {"float32": torch.float32, "float16": torch.float16})
    monkeypatch.setattr(verification, "RUNS", 3)
    monkeypatch.setattr(OneToOne, "uneven_example", lambda: OneToOne(37))


@pytest.fixture
def report(tmp_path):
    return tmp_path / "report.json"


def verify(report, *arguments: str) -> tuple[int, dict]:
    status = main(["verify", "--device", "cpu", "--report", str(report), *arguments])
    return status, json.loads(report.read_text())


def broken(monkeypatch, backend: str, breaking) -> None:
    """Let ``breaking(weights)`` follow each step of a backend."""
    choose = verification.choose

    def choose_broken(case, wanted):
        choice = choose(case, wanted)
        if choice.backend != backend:
            return choice

        def step(topology, weights, *arguments):
            choice.step(topology, weights, *arguments)
            breaking(weights)

        return Choice(case, backend, step)

    monkeypatch.setattr(verification, "choose", choose_broken)


def failures(report: dict) -> set[tuple[str, str]]:
    return {(check["name"], check["backend"]) for check in report["checks"] if not check["passed"]}


def test_it_passes_and_reports_what_it_did(small, report, capsys):
    status, written = verify(report, "--topology", "one_to_one", "trace")
    assert status == 0 and written["passed"]
    made = {(check["name"], check["backend"]) for check in written["checks"]}
    assert made >= set(itertools.product(("accuracy", "bits", "repeatability"), ("triton", "cpu")))
    assert ("accuracy", "reference") in made
    assert written["machine"]["torch"]
    assert f"all {len(written['checks'])} checks passed" in capsys.readouterr().out


def test_a_wrong_current_is_noticed(small, report, monkeypatch):
    after = verification._after

    def off_by_a_little(problem, backend, *device):
        outputs = after(problem, backend, *device)
        wrong = {"current": outputs["current"] + 1e-5} if backend == "cpu" and "current" in outputs else {}
        return outputs | wrong

    monkeypatch.setattr(verification, "_after", off_by_a_little)
    status, found = verify(report, "--topology", "one_to_one", "--quick")
    assert status == 1
    assert {(c["name"], c["backend"]) for c in found["checks"] if not c["passed"]} == {("currents", "cpu")}


@pytest.mark.slow
def test_a_captured_network_is_held_against_one_that_runs(monkeypatch):
    made, network_of = [], verification.network_of

    class Replayed:
        def __init__(self, network):
            self.network = network

        def simulate_iterations(self, iterations):
            for _ in range(iterations):
                self.network.simulate_iteration()

    monkeypatch.setattr(verification, "network_of", lambda device: made.append(device) or network_of("cpu"))
    monkeypatch.setattr(verification, "capture", Replayed)
    assert verification._network_replays()
    assert made == ["cuda", "cuda"]
    monkeypatch.setattr(Replayed, "simulate_iterations", lambda self, n: setattr(self.network, "iteration", n))
    assert not verification._network_replays()


def test_a_small_error_is_noticed(small, report, monkeypatch, capsys):
    broken(monkeypatch, "cpu", lambda weights: weights.mul_(1 + 2e-6))
    status, written = verify(report, "--topology", "one_to_one")
    assert status == 1 and not written["passed"]
    assert failures(written) == {("accuracy", "cpu"), ("bits", "cpu")}
    assert "failed: accuracy on cpu: rule=stdp topology=one_to_one" in capsys.readouterr().out


def test_other_bits_are_noticed(small, report, monkeypatch):
    broken(monkeypatch, "cpu", lambda weights: weights.mul_(1 + 1.2e-7))
    assert failures(verify(report, "--topology", "one_to_one")[1]) == {("bits", "cpu")}


def test_a_step_that_does_not_repeat_is_noticed(small, report, monkeypatch):
    flips = itertools.cycle([0.0, 1e-7])
    broken(monkeypatch, "triton", lambda weights: weights.add_(next(flips)))
    assert ("repeatability", "triton") in failures(verify(report, "--topology", "one_to_one")[1])


def test_a_step_that_leaves_nan_is_noticed(small, report, monkeypatch):
    broken(monkeypatch, "cpu", lambda weights: weights[:1].fill_(float("nan")))
    assert ("accuracy", "cpu") in failures(verify(report, "--topology", "one_to_one")[1])


def test_a_step_that_raises_is_a_failure_with_its_message(small, report, monkeypatch):
    def fail(weights):
        raise RuntimeError("no such instruction")

    broken(monkeypatch, "cpu", fail)
    status, written = verify(report, "--topology", "one_to_one")
    assert status == 1
    notes = {check["note"] for check in written["checks"] if not check["passed"]}
    assert notes == {"RuntimeError: no such instruction"}


@pytest.mark.parametrize("topology", ["dense", "sparse", "conv2d", "local2d"])
def test_every_topology_is_checked(topology, monkeypatch):
    monkeypatch.setattr(verification, "RULES", {"rstdp": RULES["rstdp"]})
    monkeypatch.setattr(verification, "BOUNDS", {"soft_bound": soft_bound, "hard_bound": soft_bound})
    monkeypatch.setattr(verification, "DTYPES", {"float32": torch.float32})
    monkeypatch.setattr(verification, "RUNS", 2)
    with swift_interpreter():
        made = list(verification.checks("cpu", topology))
    assert [check for check in made if not check.passed] == []
    assert {check.backend for check in made} == {"triton", "cpu", "reference"}


def test_times_stand_beside_those_of_torch_compile(small, report, monkeypatch):
    monkeypatch.setattr(verification, "TOPOLOGIES", {"one_to_one": OneToOne})
    monkeypatch.setattr(OneToOne, "examples", Examples(timed=((64,),)))
    monkeypatch.setattr(verification, "torch_providers", dict)
    _, written = verify(report, "--topology", "trace", "--timings", "0.01")
    [ours] = [row for row in written["timings"] if row["provider"] == "tritonstdp"]
    assert ours["status"] == "ok" and ours["median_us"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named(report, capsys):
    assert main(["verify", "--device", "cuda", "--report", str(report)]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not report.exists()


def test_quick_checks_every_formula_on_each_topology_and_says_in_lines_how_far_it_is(report, monkeypatch, capsys):
    monkeypatch.setattr(verification, "_backends", lambda problem, device: ["reference"])
    monkeypatch.setattr("tritonstdp.terminal.LINE_SECONDS", 0.0)
    status, written = verify(report, "--quick", "--timings", "9")
    cases = [check["case"] for check in written["checks"] if check["name"] == "accuracy" and check["case"].get("rule")]
    formulas = {
        (topology, formula)
        for topology in TOPOLOGIES
        for rule in RULES.values()
        for formula in (rule.on_pre, rule.on_post, rule.eligibility)
    }
    made = {
        (case["topology"], formula)
        for case in cases
        for rule in (RULES[case["rule"]],)
        for formula in (rule.on_pre, rule.on_post, rule.eligibility)
    }
    assert status == 0 and made == formulas
    assert {case["dtype"] for case in cases} == {"float32"}
    assert written["timings"] == []
    assert "checking 6 of 6: trace" in capsys.readouterr().err


@pytest.mark.slow
def test_several_processes_find_what_one_finds_in_the_order_that_was_asked(monkeypatch):
    alone = list(verification.checks_of_all("cpu", ["trace", "trace"]))
    assert list(verification.checks_of_all("cpu", ["trace", "trace"], processes=2)) == alone
    assert list(verification.checks_of_all("cpu", [], processes=2)) == []


@pytest.mark.slow
def test_processes_end_with_whoever_asked_for_them(tmp_path):
    script = tmp_path / "asks.py"
    script.write_text(
        "from tritonstdp.verification import checks_of_all\n"
        "if __name__ == '__main__':\n"
        "    for _ in checks_of_all('cpu', ['trace', 'conv2d', 'local2d'], quick=True, processes=2):\n"
        "        raise SystemExit(3)\n"
    )
    began = time.monotonic()
    assert subprocess.run([sys.executable, str(script)], check=False).returncode == 3
    assert time.monotonic() - began < 20, "it has waited for what takes a minute to compile"


def test_rules_of_a_user_s_own_are_not_left_to_processes_that_do_not_know_them(report, monkeypatch, tmp_path):
    monkeypatch.setattr(verify_command, "_cores", lambda: 2)
    (tmp_path / "mine.py").write_text("MINE = 1\n")
    asked = []

    def checks_of_all(device, topologies, quick, processes):
        asked.append(processes)
        return ([] for _ in topologies)

    monkeypatch.setattr(verify_command, "checks_of_all", checks_of_all)
    main(["verify", "--device", "cpu", "--report", str(report)])
    main(["verify", "--device", "cpu", "--report", str(report), "--module", str(tmp_path / "mine.py")])
    assert asked == [2, 1]


@pytest.fixture
def seeming_gpu(monkeypatch):
    """A GPU, as far as the command can tell; what it would check is made up, and its order is kept."""
    made = []

    def check(name: str, passed: bool = True) -> Check:
        made.append(name)
        return Check(name, "triton", {"topology": "dense", "device": "cuda"}, passed)

    def timings(device, seconds, rules):
        made.append(("timings", *rules))
        return []

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(verify_command, "sanitizer_checks", lambda: iter([check("sanitizer")]))
    monkeypatch.setattr(verify_command, "timings", timings)
    monkeypatch.setattr(verify_command, "model_beside", lambda rows, device: pytest.fail("there are no times"))

    def checks_of_all(device, topologies, quick, processes):
        for topology in topologies:
            yield [check(f"{'quick' if quick else 'whole'} {topology}", topology != "sparse")]

    monkeypatch.setattr(verify_command, "checks_of_all", checks_of_all)
    return made


def test_a_gpu_s_core_comes_first_and_the_report_is_there_after_each_part(seeming_gpu, report, monkeypatch):
    written = []
    monkeypatch.setattr(
        verify_command, "write_output", lambda path, content: written.append(len(json.loads(content)["checks"]))
    )
    topologies = ["dense", "trace"]
    arguments = ["verify", "--device", "cuda", "--report", str(report), "--topology", *topologies, "--timings", "0.5"]
    assert main(arguments) == 0
    rest = ("timings", *(rule for rule in RULES if rule != "stdp"))
    assert seeming_gpu == [
        "quick dense", "quick trace", "sanitizer", ("timings", "stdp"), "whole dense", "whole trace", rest
    ]  # fmt: skip
    assert written == [1, 2, 3, 3, 4, 5, 5]


def test_a_quick_run_on_a_gpu_is_its_first_part_alone(seeming_gpu, report):
    assert main(["verify", "--quick", "--device", "cuda", "--report", str(report), "--topology", "sparse"]) == 1
    assert seeming_gpu == ["quick sparse"]


def test_the_sanitizer_is_run_where_it_is_found_and_what_it_says_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(verification.sanitizer_checks()) == []
    sanitizer = tmp_path / "compute-sanitizer"
    sanitizer.write_text('#!/bin/sh\necho "$2: $PYTORCH_NO_CUDA_MEMORY_CACHING"; [ "$2" = memcheck ]\n')
    sanitizer.chmod(0o755)
    found = list(verification.sanitizer_checks())
    assert [(check.case["tool"], check.passed, check.note) for check in found] == [
        ("memcheck", True, ""), ("racecheck", False, "racecheck: 1\n")
    ]  # fmt: skip


def test_each_formula_is_run_for_whoever_looks_on(monkeypatch):
    ran = []
    monkeypatch.setattr(verification, "_after", lambda problem, backend, device: ran.append(problem.topology.name))
    verification.run_each("cpu")
    assert set(ran) == set(TOPOLOGIES)


def test_the_model_is_calibrated_and_stands_beside_what_was_measured(monkeypatch):
    gpu = cost.GPUS["sm_90"]._replace(name="measured")
    asked = []

    def rank(configs, formula, topology, dtype, target, rates, gpu):
        asked.append((formula.rule.name, topology.weights_shape, dtype, target, rates, gpu.name))
        return [cost.Estimate(configs[0], (4e-6,), 1, 32, 0, 1.0)], {}

    monkeypatch.setattr(cost, "target_of", lambda device: "sm_90")
    monkeypatch.setattr(cost, "rank", rank)
    monkeypatch.setattr(calibration, "calibrated", lambda device: gpu)
    common = dict(rule="stdp", topology="dense", bound="soft_bound", shape="8x4", rate=0.1, dtype="float32",
                  device="cuda", threads=1, version="", status="ok")  # fmt: skip
    rows = [Row("a step", provider=provider, median_us=5.0, **common) for provider in ("tritonstdp", "copy")]
    found = verification.model_beside(rows, "cuda")
    assert asked == [("stdp", (8, 4), torch.float32, "sm_90", (0.1,), "measured")]
    assert found["gpu"]["name"] == "measured"
    assert found["steps"] == [{"workload": "a step", "measured_us": 5.0, "estimated_us": pytest.approx(4.0)}]


def test_a_gpu_s_figures_are_what_its_clock_says(monkeypatch):
    taken = iter([4e-3] * 5 + [64e-6] * 5 + [256e-6] * 5 + [51.2e-6] * 5)
    properties = types.SimpleNamespace(name="a GPU", multi_processor_count=7)
    module = types.SimpleNamespace(get_device_properties=lambda device: properties)
    monkeypatch.setattr(calibration, "target_of", lambda device: "sm_90")
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    monkeypatch.setattr(calibration, "COPIED", 1024)
    monkeypatch.setattr(calibration, "FAR", 256)
    monkeypatch.setattr(calibration, "CLOSE", 64)
    ran = []

    def seconds(step, calls, key):
        ran.append([step(*arguments) for arguments in calls()])
        return next(taken)

    monkeypatch.setattr(calibration, "clock", lambda device, cold: seconds)
    with swift_interpreter():
        gpu = calibration.calibrated("cpu")
    assert (gpu.name, gpu.multiprocessors) == ("a GPU", 7)
    assert gpu.bandwidth == pytest.approx(2 * 1024 / 1e-3 / cost.REACHED)
    assert (gpu.latency, gpu.near, gpu.start) == (pytest.approx(1e-6), pytest.approx(2e-7), pytest.approx(1e-6))


def test_a_chain_of_loads_comes_by_every_element():
    step = calibration._chain(8, "cpu")
    following, out = step.__closure__[0].cell_contents, step.__closure__[1].cell_contents
    at, seen = 0, []
    for _ in range(8):
        at = int(following[at])
        seen.append(at)
    assert sorted(seen) == list(range(8)) and out == 0
    with swift_interpreter():
        step()
    assert int(out) == seen[(calibration.HOPS - 1) % 8]
