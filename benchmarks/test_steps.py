"""One step of every rule on every topology, each provider proved and timed in turns; the table shows them all."""

import itertools

from benchmarks.gate import lead_of
from benchmarks.providers import PROVIDERS, VERSIONS
from tritonstdp.measurement import OURS, Inputs, measure


def test_step(workload, rows, benchmark, pytestconfig):
    measured = measure(workload, PROVIDERS, pytestconfig.getoption("--seconds"), VERSIONS)
    rows += measured
    lead, fastest = lead_of(measured, "median_us")
    benchmark.extra_info.update(lead=lead, fastest_other=fastest)
    inputs = Inputs.of(workload)
    step, n = PROVIDERS[OURS](inputs).step, len(inputs.spikes)
    patterns = itertools.cycle(range(n))
    benchmark.pedantic(lambda: step(next(patterns)), rounds=2 * n, warmup_rounds=n)
