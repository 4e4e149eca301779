"""``tritonstdp verify`` passes what is right, and names what is wrong."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from tritonstdp import verification
from tritonstdp.choice import Choice
from tritonstdp.cli import main
from tritonstdp.interpretation import swift_interpreter
from tritonstdp.rules import RULES, soft_bound
from tritonstdp.topology import TOPOLOGIES, Examples, OneToOne


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(verification, "_cores", lambda: 1)


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


def test_several_processes_find_what_one_finds_in_the_order_that_was_asked(monkeypatch):
    alone = list(verification.checks_of_all("cpu", ["trace", "trace"]))
    monkeypatch.setattr(verification, "_cores", lambda: 2)
    assert list(verification.checks_of_all("cpu", ["trace", "trace"])) == alone
