"""One step of every rule on every topology, each provider proved and timed in turns; the table shows them all."""

from benchmarks.gate import lead_of
from benchmarks.providers import PROVIDERS, VERSIONS
from tritonstdp.measurement import OURS, POOL, Inputs, measure


def test_step(workload, rows, benchmark, pytestconfig):
    measured = measure(workload, PROVIDERS, pytestconfig.getoption("--seconds"), VERSIONS)
    rows += measured
    lead, fastest = lead_of(measured)
    benchmark.extra_info.update(lead=lead, fastest_other=fastest)
    step = PROVIDERS[OURS](Inputs.of(workload)).step
    benchmark.pedantic(lambda: [step(k) for k in range(POOL)], rounds=20, warmup_rounds=2)
