"""Every kernel compiles for every target, and what it costs stays within the table of bounds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import gpu_bounds
import pytest

from tritonstdp.cli import main
from tritonstdp.commands.inspect import _configs
from tritonstdp.inspection import gpu_module, launches, worse
from tritonstdp.machine_code import TARGETS, occupancy
from tritonstdp.problems import make_problem
from tritonstdp.rules import RULES, Formula, stdp
from tritonstdp.topology import TOPOLOGIES, Dense

EVERY = ("--rule", "all", "--topology", "all")
SWEPT = ("--rule", "stdp", "triplet_modulated", "propagation")
"""Of the rules the simplest, and the one that reads and writes most, between which the others are; and propagation."""


def inspect(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: this one interprets, and can't compile."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = "import sys; from tritonstdp.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "inspect", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def rows_of(*arguments: str) -> list[dict]:
    done = inspect(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(rows: list[dict]) -> None:
    """Kernels stay within bounds, and what each of their accesses is to is known."""
    assert {row["topology"] for row in rows} == {*TOPOLOGIES, "trace"}
    assert not gpu_bounds.violations(rows)
    for row in rows:
        assert "?" not in row["loads"] and "?" not in row["stores"], row["key"]
        assert row["stores"], row["key"]
    for row in (row for row in rows if row["kernel"] == "items_kernel"):
        assert sorted(row["stores"]) == (["c", "w"] if RULES[row["rule"]].modulated else ["w"])


def test_every_kernel_compiles_within_bounds():
    check(rows_of(*SWEPT, "--topology", "all"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("stdp", ("--dtype", "all", "--target", "sm_90")),
        (
            "triplet_modulated",
            ("--shape", "100x1000", "51x1001", "1003", "51x67x1005", "3x19x21x5x3", "--target", "gfx942"),
        ),
    ],
    ids=["dtypes", "sizes"],
)
def test_kernels_of_batches_are_within_every_limit(rule, options):
    rows = rows_of("--rule", rule, "--topology", *TOPOLOGIES, *options, "--batch", "32")
    assert {(row["topology"], row["samples"]) for row in rows} == {(topology, 32) for topology in TOPOLOGIES}
    assert not gpu_bounds.violations(rows)


def test_what_has_no_batches_is_named(capsys):
    assert main(["inspect", "--batch", "4", "--rule", "propagation"]) == 2
    assert "give another --topology than trace and another --rule than propagation" in capsys.readouterr().err
    assert main(["inspect", "--batch", "4", "--time"]) == 2
    assert "leave out --traffic and --time" in capsys.readouterr().err


@pytest.mark.slow
def test_each_target_bound_and_dtype_compiles_and_every_limit_is_met_by_some_kernel():
    """CI runs it: each kernel on each target, each bound, and each dtype; not each with each other."""
    targets = rows_of(*EVERY, "--target", "all")
    bounds = rows_of(*SWEPT, "--topology", "all", "--bound", "hard_bound", "no_bound", "--target", "sm_100")
    dtypes = rows_of(*SWEPT, "--topology", "all", "--dtype", "float64", "float16", "bfloat16", "--target", "sm_80")
    check(targets + bounds + dtypes)
    batches = rows_of("--rule", "stdp", "--topology", *TOPOLOGIES, "--batch", "32")
    assert not gpu_bounds.unused(targets + bounds + dtypes + batches)


def test_sizes_that_16_does_not_divide_compile_within_bounds():
    shapes = ("100x1000", "51x1001", "1003", "51x67x1005", "3x19x21x5x3")
    rows = rows_of(*SWEPT, "--topology", "all", "--shape", *shapes)
    assert {(row["topology"], row["shape"]) for row in rows} == {
        ("dense", "100x1000"), ("dense", "51x1001"), ("one_to_one", "1003"), ("sparse", "51x67x1005"),
        ("conv2d", "3x19x21x5x3"), ("local2d", "3x19x21x5x3"),
    }  # fmt: skip
    assert not [
        line for line in gpu_bounds.violations(rows) if re.search(r": (spills|local|shared|address_bits) ", line)
    ]
    items = [row for row in rows if row["shape"] == "100x1000" and row["kernel"] == "items_kernel"]
    widths = {row["rule"]: row["weight_width"] for row in items}
    # the columns of a plain rule are gathered, a neuron a lane
    assert widths == {"stdp": 32, "triplet_modulated": 128}, "sizes that 4 divides have the widest accesses"


@pytest.mark.slow
def test_what_few_post_neurons_sum_up_in_shares_is_inspected():
    rows = rows_of("--rule", "propagation", "--topology", "dense", "--shape", "16384x64")
    assert [row["kernel"] for row in rows] == ["event_lists_kernel", "dense_sums_kernel", "shares_kernel"]
    assert not gpu_bounds.violations(rows)


def test_propagation_is_one_case_whatever_the_bound_and_has_no_model(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("tritonstdp.commands.inspect.rows", lambda cases, *others: seen.extend(cases) or [])
    rules = ("--rule", "stdp", "propagation", "--bound", "soft_bound", "no_bound")
    assert main(["inspect", "--topology", "dense", "trace", *rules, "--json"]) == 0
    assert [case[:3] for case, _ in seen] == [
        ("stdp", "dense", "soft_bound"), ("stdp", "dense", "no_bound"), ("propagation", "dense", "no_bound"),
        ("", "trace", ""),
    ]  # fmt: skip
    assert main(["inspect", "--time", "--rule", "propagation"]) == 2
    assert "give another --topology than trace and another --rule than propagation" in capsys.readouterr().err


def test_a_shape_that_no_topology_takes_is_named(capsys):
    assert main(["inspect", "--topology", "dense", "--shape", "3x4x5"]) == 2
    assert "--shape 3x4x5 fits none of these topologies" in capsys.readouterr().err


def test_a_limit_that_is_broken_is_named():
    row = {"key": "stdp/dense", "topology": "dense", "spills": 3, "local": 0}
    assert gpu_bounds.violations([row]) == ["stdp/dense: spills is 3, at most 0 is allowed"]


@pytest.mark.slow
@pytest.mark.parametrize("topology", [*TOPOLOGIES, "trace"])
def test_every_combination_compiles_within_bounds(topology):
    every = ("--rule", "all", "--bound", "all", "--dtype", "all", "--target", "all")
    assert not gpu_bounds.violations(rows_of("--topology", topology, *every))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_for_every_target(target):
    """CI runs it with the oldest Triton."""
    assert not gpu_bounds.violations(rows_of(*SWEPT, "--topology", "all", "--dtype", "all", "--target", target))
    assert not gpu_bounds.violations(
        rows_of("--rule", "stdp", "--topology", *TOPOLOGIES, "--target", target, "--batch", "32")
    )


@pytest.mark.slow
@pytest.mark.parametrize("topology", [*TOPOLOGIES, "trace"])
def test_every_rule_compiles_in_every_configuration(topology):
    assert not gpu_bounds.violations(rows_of("--topology", topology, *SWEPT, "--config", "all"))


def test_one_kernel_is_inspected_within_five_seconds_beside_the_imports():
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, triton, tritonstdp"], check=True)
    imports = time.perf_counter() - begin
    begin = time.perf_counter()
    done = inspect("--rule", "stdp", "--topology", "dense")
    assert done.returncode == 0 and re.search(r"items_kernel", done.stdout)
    assert time.perf_counter() - begin < 5 + imports


def test_what_got_worse_is_said_and_fails(tmp_path, monkeypatch, capsys):
    rows = [{"key": "stdp/dense", "registers": 30, "occupancy": 0.5}]
    monkeypatch.setattr("tritonstdp.commands.inspect.rows", lambda *arguments: rows)
    report = tmp_path / "old.json"
    for old, status, named in (
        (rows, 0, []),
        ([{**rows[0], "registers": 29, "occupancy": 1.0}], 1, ["registers", "occupancy"]),
    ):
        report.write_text(json.dumps(old))
        assert main(["inspect", "--diff", str(report)]) == status
        assert re.findall(r"worse: .*: (\w+) ", capsys.readouterr().err) == named


def test_worse_compares_rows_that_both_reports_have():
    old = [{"key": "a", "registers": 30, "occupancy": 1.0}, {"key": "gone", "registers": 1}]
    assert worse(old, [{"key": "a", "registers": 29, "occupancy": 1.0}, {"key": "new", "registers": 99}]) == []
    assert worse(old, [{"key": "a", "registers": 30, "occupancy": 0.5}]) == ["a: occupancy 1.0 -> 0.5"]


def test_a_configuration_is_changed_by_name():
    [row] = rows_of("--rule", "rstdp", "--topology", "dense", "--config", "blocks=2,num_warps=2")
    assert row["config"] == "blocks=2,num_warps=2"


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_setting_of_a_space_can_be_asked_for_by_name(topology):
    module = gpu_module(topology)
    for name, values in module.SPACE.items():
        for value in values:
            assert _configs("stdp", topology, f"{name}={value}", 0) == [module.DEFAULT._replace(**{name: value})]


def test_a_field_that_a_configuration_lacks_is_named(capsys):
    assert main(["inspect", "--topology", "dense", "--config", "colums=4"]) == 2
    assert "dense has no colums; it has blocks, waves" in capsys.readouterr().err


def test_an_interpreter_in_the_way_is_named():
    with pytest.raises(RuntimeError, match="unset it to inspect"):
        launches(make_problem(Formula.of(stdp), Dense(16, 16)))


@pytest.mark.parametrize(
    ("target", "registers", "shared", "num_warps", "expected"),
    [
        # worked by hand from the published limits of each multiprocessor
        ("sm_90", 33, 0, 4, 48 / 64),
        ("sm_90", 255, 0, 4, 8 / 64),
        ("sm_80", 32, 40 * 1024, 4, 16 / 64),
        ("sm_90", 32, 0, 1, 32 / 64),
        ("gfx942", 64, 0, 4, 1.0),
        ("gfx942", 65, 0, 4, 28 / 32),
        ("gfx942", 32, 32 * 1024, 4, 8 / 32),
    ],
)
def test_occupancy_follows_the_scarcest_resource(target, registers, shared, num_warps, expected):
    assert occupancy(TARGETS[target], registers, shared, num_warps) == expected
