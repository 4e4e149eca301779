"""One step of every rule on every topology, each provider proved and timed in turns; the table shows them all."""

import itertools

from benchmarks.gate import lead_of
from benchmarks.providers import PROVIDERS, VERSIONS
from tritonstdp.measurement import OURS, POOL, Inputs, measure


def test_step(workload, rows, benchmark, pytestconfig):
    measured = measure(workload, PROVIDERS, pytestconfig.getoption("--seconds"), VERSIONS)
    rows += measured
    lead, fastest = lead_of(measured, "median_us")
    benchmark.extra_info.update(lead=lead, fastest_other=fastest)
    step = PROVIDERS[OURS](Inputs.of(workload)).step
    patterns = itertools.cycle(range(POOL))
    benchmark.pedantic(lambda: step(next(patterns)), rounds=2 * POOL, warmup_rounds=POOL)
