"""What the compiled loops share: finding spikes, and loops kept on disk."""

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch

from tritonstdp import Dense
from tritonstdp.choice import choose
from tritonstdp.kernels import loops, object_cache
from tritonstdp.kernels.dense import cpu as dense
from tritonstdp.kernels.protocol import Case
from tritonstdp.problems import make_problem
from tritonstdp.registry import forget_choices
from tritonstdp.rules import Formula, hard_bound, soft_bound, stdp


def case_of(bound, dtype=torch.float32, given=None):
    formula = Formula.of(stdp, bound, bound)
    return Case(formula, "dense", None, "pre", dtype, "cpu", True, given or formula.all_numbers)


def callable_from_python(part):
    @loops.njit
    def call(*arguments):
        return part(*arguments)

    return call


@pytest.mark.parametrize("bool_spikes", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_spikes_are_found_in_groups_of_every_size(dtype, bool_spikes):
    find_events = callable_from_python(loops.event_finder(dtype, bool_spikes))
    for n in (0, 1, 7, 8, 63, 64, 65, 200):
        for rate in (0.0, 0.1, 1.0):
            # between other spikes, which must not be found
            around = torch.ones(n + 128, dtype=torch.bool if bool_spikes else dtype)
            spikes = around[64 : 64 + n]
            spikes.copy_(torch.rand(n) < rate)
            found = find_events(spikes.numpy())
            assert found.tolist() == spikes.nonzero().flatten().tolist()


@pytest.mark.parametrize("bool_spikes", [True, False])
def test_of_the_spikes_in_reach_only_those_of_the_row_are_listed(bool_spikes):
    list_row = callable_from_python(loops.row_lister(torch.float32, bool_spikes))
    spikes = torch.rand(300) < 0.3
    stored = spikes if bool_spikes else spikes.float()
    for n in (1, 28, 60, 63, 64, 65, 130):
        for readable in (n, 300):
            events = np.empty(301 + loops.AT_ONCE, np.uint32)
            events[0] = 7
            count = list_row(stored[:readable].numpy(), 0, n, events, 1)
            assert events[:count].tolist() == [7, *spikes[:n].nonzero().flatten().tolist()]


def test_a_nan_counts_as_a_spike_as_it_does_for_torch():
    spikes = torch.tensor([0.0, -0.0, float("nan"), -1.0])
    find_events = callable_from_python(loops.event_finder(torch.float32, False))
    assert find_events(spikes.numpy()).tolist() == [2, 3]


def loop():
    pass


def test_a_loop_is_found_again_only_by_the_same_content():
    def made_with(number):
        def bound(w, low, high):
            return w * number

        return bound

    keys = {
        object_cache.key_of(loop, object_cache.recipe_of(case, *values))
        for case in (
            case_of(soft_bound),
            case_of(made_with(1.0)),
            case_of(made_with(2.0)),
            case_of(soft_bound, torch.float64),
            case_of(soft_bound, given=("pre", "number")),
            case_of(soft_bound, given=("number", "pre")),
            case_of(soft_bound, given=("post", "number")),
        )
        for values in ((), (3,))
    }
    assert len(keys) == 14
    same = [object_cache.key_of(loop, object_cache.recipe_of(case_of(made_with(2.0)))) for _ in range(2)]
    assert same[0] == same[1]


def test_a_bound_that_captures_more_than_numbers_is_not_kept():
    captured = [1.0]
    recipe = object_cache.recipe_of(case_of(lambda w, low, high: w * captured[0]))
    assert object_cache.key_of(loop, recipe) is None


def test_what_was_compiled_goes_with_the_last_step_that_uses_it(monkeypatch):
    kept = []
    forget_choices()  # another test's loop of the same formula would serve
    gc.collect()
    monkeypatch.setattr(object_cache, "load", lambda key: None)
    monkeypatch.setattr(object_cache, "save", lambda key, compiled: kept.append(weakref.ref(compiled.library)))
    problem = make_problem(Formula.of(stdp, soft_bound, hard_bound), Dense(3, 4))
    first, second = (dense.build(problem.case, dense.Config(rows_per_task=rows)) for rows in (1, 2))
    assert len(kept) == 1  # one loop for both
    del first
    gc.collect()
    expected = problem.copy().run(choose(problem.case, "reference").step)
    assert torch.equal(problem.run(second).weights, expected.weights)
    assert kept[0]() is not None
    del second
    gc.collect()
    assert kept[0]() is None


STEPS = """
import torch, tritonstdp
torch.manual_seed(0)
w, s, x = torch.rand(40, 40), torch.rand(40) < 0.2, torch.rand(40)
options = dict(a_plus=0.1, a_minus=0.1, backend="cpu")
for bound in ("soft_bound", "hard_bound"):
    tritonstdp.stdp_(w, s, x, s, x, positive_bound=bound, **options)
print(w.double().sum().item())
"""


def test_another_process_takes_the_loops_from_disk_and_damaged_ones_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONSTDP_CACHE_DIR", str(tmp_path))

    def run():
        done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    first, _ = run()
    kept = sorted((tmp_path / "loops").glob("*.bin"))
    files = [path.stat().st_ino for path in kept]
    assert len(kept) == 2
    assert run()[0] == first
    assert [path.stat().st_ino for path in kept] == files, "compiled anew"
    kept[0].write_bytes(b"damaged")
    again, complaint = run()
    assert again == first
    assert "compiled anew" in complaint
    assert kept[0].stat().st_size > 1000
