"""The meter counts what was accessed, and kernels access little more than they must."""

from __future__ import annotations

import json

import gpu_bounds
import pytest
import torch
import triton
import triton.language as tl

from tritonstdp.cli import main
from tritonstdp.inspection import gpu_module
from tritonstdp.problems import make_problem
from tritonstdp.rules import Formula, rstdp, soft_bound, stdp
from tritonstdp.topology import Dense, OneToOne
from tritonstdp.traffic import Meter, measure_traffic, metering, traffic_rows


@triton.jit
def copy_every_other(source_ptr, target_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(source_ptr + 2 * i, mask=i < n)
    tl.store(target_ptr + i, value, mask=i < n)


def aligned(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    tensor = torch.zeros(n, dtype=dtype)
    assert tensor.data_ptr() % 32 == 0
    return tensor


def test_the_meter_counts_elements_sectors_and_lanes():
    meter = Meter({"source": aligned(64), "target": aligned(32)})
    with metering(meter):
        copy_every_other[(3,)](*meter.tensors.values(), 20, 8)
    traffic = meter.finish()
    source, target = traffic["source"], traffic["target"]
    # 20 elements over 39 places: sectors of 8 elements each, 5 of them
    assert (source.elements_loaded, source.sectors_loaded, source.elements_stored) == (20, 5, 0)
    assert (target.elements_stored, target.sectors_stored, target.lanes) == (20, 3, 24)


def test_a_sector_counts_once_however_often_it_is_touched():
    meter = Meter({"source": aligned(64), "target": aligned(32)})
    with metering(meter):
        for _ in range(2):
            copy_every_other[(1,)](*meter.tensors.values(), 8, 8)
    source = meter.finish()["source"]
    assert (source.elements_loaded, source.sectors_loaded) == (16, 2)


@triton.jit
def copy_in_turns(source_ptr, target_ptr, turns_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    for turn in range(tl.load(turns_ptr + tl.program_id(0))):
        first = tl.load(source_ptr + 2 * turn * BLOCK + i)
        second = tl.load(source_ptr + (2 * turn + 1) * BLOCK + i)
        tl.store(target_ptr + turn * BLOCK + i, first + second)


def test_the_meter_counts_what_programs_do():
    meter = Meter({"source": aligned(768), "target": aligned(384)}, num_warps=2)
    turns = torch.tensor([1, 0, 3])
    with metering(meter):
        copy_in_turns[(3,)](*meter.tensors.values(), turns, 128)
    [programs] = meter.kernels.values()
    assert list(meter.kernels) == ["copy_in_turns"]
    # the loads of the first turn follow that of the number of turns, and nothing is stored in between
    assert (programs.programs, programs.idle, programs.turns) == (3, 1, 3)
    longest = programs.longest
    assert programs.operations < 3 * longest
    # twice as wide, blocks take twice as many warps' operations, and scalars as many as before
    wide = Meter({"source": aligned(1536), "target": aligned(768)}, num_warps=2)
    with metering(wide):
        copy_in_turns[(3,)](*wide.tensors.values(), turns, 256)
    assert longest < wide.kernels["copy_in_turns"].longest < 2 * longest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_fewest_sectors_are_those_that_hold_a_changing_weight(dtype):
    problem = make_problem(Formula.of(stdp), Dense(16, 48), dtype=dtype, rate=0.0)
    problem.signals["pre_spike"].zero_()[3] = True
    problem.signals["post_spike"].zero_()[17] = True
    in_row = 48 * problem.weights.element_size() // 32
    assert measure_traffic(problem)[0]["weights"].fewest == in_row + 15


def test_a_modulated_rule_reads_and_writes_weights_and_eligibility_once():
    for topology in (Dense(24, 40), OneToOne(700)):
        problem = make_problem(Formula.of(rstdp, soft_bound, soft_bound), topology)
        traffic, _ = measure_traffic(problem)
        for name in ("weights", "c"):
            n = problem.weights.numel()
            assert (traffic[name].elements_loaded, traffic[name].elements_stored) == (n, n)


def test_nothing_is_touched_where_nothing_spikes():
    problem = make_problem(Formula.of(stdp), Dense(64, 64))
    problem.signals["pre_spike"].zero_()
    problem.signals["post_spike"].zero_()
    traffic, kernels = measure_traffic(problem)
    weights = traffic["weights"]
    assert (weights.elements_loaded, weights.elements_stored, weights.lanes) == (0, 0, 0)
    assert kernels["items_kernel"].idle == kernels["items_kernel"].programs


def report(topology: str, rule: str, *rates: str) -> list[dict]:
    """The rows of ``inspect --traffic``."""
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", printed.append)
        command = ["inspect", "--traffic", *rates, "--rule", rule, "--topology", topology, "--json"]
        assert main(command) == 0
    return json.loads("".join(printed))


@pytest.mark.parametrize(
    ("topology", "rates_of_rules"),
    [
        ("dense", {"stdp": ("0.005", "0.02", "0.1"), "istdp": ("0.02",)}),
        ("one_to_one", {"stdp": ("0.02",), "rstdp": ("0.02",)}),
        ("sparse", {"stdp": ("0.005", "0.02", "0.1"), "istdp": ("0.02",), "rstdp": ("0.02",)}),
        ("conv2d", {"stdp": ("0.02",), "rstdp": ("0.02",)}),
        ("local2d", {"stdp": ("0.005", "0.02"), "rstdp": ("0.02",)}),
        pytest.param("local2d", {"stdp": ("0.1",), "istdp": ("0.02",)}, marks=pytest.mark.slow),
    ],
)
def test_traffic_stays_within_bounds_of_which_each_bounds_something(topology, rates_of_rules):
    rates_of_rules = rates_of_rules | {"propagation": ("0.005", "0.3")}
    rows = [row for rule, rates in rates_of_rules.items() for row in report(topology, rule, *rates)]
    assert not gpu_bounds.violations(rows)
    assert not [bound for bound in gpu_bounds.unused(rows) if topology in bound["where"]["topology"]]
    state = [row for row in rows if row["rule"] == "rstdp" and row.get("buffer") in ("weights", "c")]
    assert len(state) == 2 * ("rstdp" in rates_of_rules)
    for row in state:
        assert row["elements_loaded"] == row["elements_stored"]
        assert row["sectors_loaded"] == row["fewest"] == -(-row["elements_loaded"] // row["sector_elements"])


@pytest.mark.slow
def test_a_large_dense_group_is_shared_by_one_wave_of_programs_in_few_turns():
    problem = make_problem(Formula.of(stdp, soft_bound, soft_bound), Dense(4000, 4000), rate=0.02)
    traffic, kernels = measure_traffic(problem)
    shared = kernels["items_kernel"]
    assert shared.programs <= 1056 and shared.idle <= 1056 and shared.turns <= 4
    busy = shared.programs - shared.idle
    assert shared.longest < 2.5 * shared.operations / busy, "a program has much more to do than others"
    assert traffic["weights"].excess_sectors == 1.0


def test_sizes_of_one_s_own_are_metered():
    cases = [(("stdp", "one_to_one", "soft_bound", "float32"), gpu_module("one_to_one").DEFAULT)]
    rows = traffic_rows(cases, [0.1], [(37,), (3, 4)])
    assert {row["shape"] for row in rows} == {"37"}
    [weights] = [row for row in rows if row.get("buffer") == "weights"]
    assert weights["elements_loaded"] <= 37
