"""Run ``pytest benchmarks`` on one pinned thread, and show every provider's figures at the end."""

from __future__ import annotations

import pytest
from rich.console import Console

from benchmarks.environment import MARK, restart_pinned, settings


def pytest_addoption(parser):
    from tritonstdp.arguments import rows_file, seconds

    parser.addoption("--full", action="store_true", help="every rule, topology, bound, size and rate")
    parser.addoption("--seconds", type=seconds, default=0.5, help="for each workload")
    parser.addoption("--out", type=rows_file, nargs="+", default=[], help="write rows to .json or .csv files")


def pytest_configure(config):
    import os

    if os.environ.get(MARK) == settings()[MARK]:
        return
    # pytest has redirected its output to files by now; the process that takes over needs the real one
    config.pluginmanager.getplugin("capturemanager").suspend_global_capture(in_=True)
    restart_pinned()


def pytest_generate_tests(metafunc):
    if "workload" not in metafunc.fixturenames:
        return
    from benchmarks.steps import full_suite, quick_suite

    workloads = full_suite() if metafunc.config.getoption("--full") else quick_suite()
    metafunc.parametrize("workload", workloads, ids=lambda workload: workload.name.replace(" ", "-"))


@pytest.fixture(scope="session")
def rows(pytestconfig):
    collected = []
    yield collected
    pytestconfig.stash[_ROWS] = collected


_ROWS: pytest.StashKey = pytest.StashKey()


def pytest_terminal_summary(terminalreporter, config):
    from tritonstdp.bench import tables_of
    from tritonstdp.measurement import write_rows

    collected = config.stash.get(_ROWS, [])
    if not collected:
        return
    Console(file=terminalreporter._tw._file).print(*tables_of(collected), sep="\n")
    for path in config.getoption("--out"):
        write_rows(collected, path)
