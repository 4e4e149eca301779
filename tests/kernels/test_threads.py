"""Loops on several threads leave all around them as it was: other threads of Python, forked processes, settings."""

import logging
import os
import subprocess
import sys

import numba
import pytest
import torch

from support import random_sparse
from tritonstdp import Conv2d, Dense, Local2d, OneToOne
from tritonstdp.choice import choose
from tritonstdp.kernels import threads
from tritonstdp.problems import make_problem
from tritonstdp.rules import Formula, rstdp

SETUP = """
import os, threading, torch, numba
torch.set_num_threads(2)
from tritonstdp import Dense
from tritonstdp.kernels.dense import cpu
from tritonstdp.problems import make_problem
from tritonstdp.rules import Formula, stdp
problem = make_problem(Formula.of(stdp), Dense(90, 90))
step = cpu.build(problem.case, cpu.Config(parallel_work=0))
numba.set_num_threads(1)
expected = problem.copy().run(step).weights.numpy()
assert numba.get_num_threads() == 1, "the setting of numba's user was changed"
"""
FORKED = """
child = os.fork()
if child == 0:
    for _ in range(2):
        same = (problem.copy().run(step).weights.numpy() == expected).all()
    os._exit(0 if same else 3)
assert os.waitpid(child, 0)[1] == 0
"""
IN_THREADS = """
wrong = []

def run():
    for _ in range(200):
        if not (problem.copy().run(step).weights.numpy() == expected).all():
            wrong.append(1)

threads = [threading.Thread(target=run) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong
"""


def run(script, layer):
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    return subprocess.run(
        [sys.executable, "-c", SETUP + script], env=environment, capture_output=True, text=True, timeout=100
    )


@pytest.mark.parametrize("layer", ["workqueue", "default"])
def test_threads_of_python_may_step_at_once_and_a_forked_process_steps_too(layer):
    done = run(IN_THREADS + FORKED, layer)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("was forked from one whose threads had started") == 1


def fake_loops(called):
    return lambda parallel: lambda *arguments: called.append("parallel" if parallel else "serial")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_only_much_work_is_shared_by_threads(two_threads):
    called = []
    choose_loop = threads.by_work(fake_loops(called), 1000)
    choose_loop(1000)()
    choose_loop(1001)()
    torch.set_num_threads(1)
    choose_loop(1001)()
    assert called == ["serial", "parallel", "serial"]


def test_a_loop_that_finds_another_on_the_threads_runs_serially(two_threads):
    called = []
    loop = threads.by_work(fake_loops(called), 0)(1)
    with threads._in_use:
        loop()
    loop()
    assert called == ["serial", "parallel"]


def test_an_error_in_a_loop_frees_the_threads_and_restores_the_setting(two_threads):
    def compile_loop(parallel):
        def loop():
            raise IndexError

        return loop

    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with pytest.raises(IndexError):
            threads.by_work(compile_loop, 0)(1)()
        assert numba.get_num_threads() == 1
        assert not threads._in_use.locked()
    finally:
        numba.set_num_threads(before)


def test_a_process_forked_from_one_without_threads_may_start_them(monkeypatch, two_threads, caplog):
    monkeypatch.setattr(threads, "_forked", False)
    monkeypatch.setattr(threads, "_logged", False)
    monkeypatch.setattr(threads.numba_threads, "_is_initialized", False)
    called = []
    loop = threads.by_work(fake_loops(called), 0)(1)
    threads._notice_fork()
    monkeypatch.undo()  # numba's own mark, before its threads are asked for
    monkeypatch.setattr(threads, "_logged", False)
    loop()
    monkeypatch.setattr(threads, "_forked", True)
    with caplog.at_level(logging.WARNING):
        loop(), loop()
    assert called == ["parallel", "serial", "serial"]
    assert len(caplog.records) == 1


GROUPS = [
    Dense(5, 7), OneToOne(9), random_sparse(8, 6, 0.5),
    Conv2d((1, 5, 5), (2, 4, 4), 2), Local2d((1, 5, 5), (2, 4, 4), 2),
]  # fmt: skip


@pytest.mark.parametrize("topology", GROUPS, ids=lambda topology: topology.name)
def test_the_default_device_does_not_matter(topology):
    problem = make_problem(Formula.of(rstdp), topology)
    expected = problem.copy().run(choose(problem.case, "cpu").step).weights
    result = problem.copy()
    torch.set_default_device("meta")
    try:
        result.run(choose(problem.case, "cpu").step)
    finally:
        torch.set_default_device(None)
    assert torch.equal(result.weights, expected)
