"""Set up for every test: Triton's interpreter, one seed, CoNeX."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when kernels are decorated, so before any import of them

import dataclasses
import random
import re
from contextlib import nullcontext
from unittest import mock

import hypothesis
import numpy as np
import pytest
import torch
from triton.runtime import interpreter

from support import import_conex
from tritonstdp.interpretation import swift_interpreter

INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"
collect_ignore = ["compiled"] if INTERPRETED else []  # see test_compiled.py

# the same cases on every run, so that a failure is a commit's own; --hypothesis-profile=default draws others
hypothesis.settings.register_profile("the same cases", derandomize=True)
hypothesis.settings.load_profile("the same cases")

torch.set_num_threads(1)  # shapes are small, and a thread that waits for work spins on a core that others need


@pytest.fixture(scope="session", autouse=True)
def _swift_interpreter():
    """Triton's interpreter patches what it has patched for most of its time, unless it is told not to."""
    with swift_interpreter() if INTERPRETED else nullcontext():
        yield


@pytest.fixture(autouse=True)
def _overflow(request):
    """The longer proofs alone look at each integer that the interpreter computes: half of its time is that."""
    is_proof = request.node.path.name == "test_gpu_proofs.py" and request.node.get_closest_marker("slow")
    if not INTERPRETED or is_proof:
        yield
        return
    builder = interpreter.interpreter_builder
    unchecked = dataclasses.replace(builder.options, sanitize_overflow=False)
    with mock.patch.object(builder, "options", unchecked):
        yield


@pytest.fixture(autouse=True)
def _seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def conex():
    return import_conex()


LONGER = {
    "behaviors/test_learning.py": (
        r"built_in_rule.*(rstdp.*(arse|onv|cal|One)|-neurons|Local|Conv)|two_traces.*(Conv|Local|One)"
    ),
    "behaviors/test_meaning.py": r"divisor_and_eligibility.*cpu|bounds_and_a_clamp|a_minus per row",
    "behaviors/test_parity.py": (
        r"float64_weights|interpreted.*(Simple|iSTDP|Sparse)|float32.*neurons.*(arse|onv|cal)"
        r"|float32.*synapse.*((arse|cal|One).*(RSTDP|iSTDP)|onv|cal|One|Simple-iSTDP)"
    ),
    "behaviors/test_sparse_groups.py": r"SparseRSTDP-triton|SparseiSTDP-triton",
    "commands/test_tune.py": r"ranked_and_marked_as_an_estimate",
    "distributed/test_slices.py": r"two_ranks",
    "kernels/test_bounds.py": (
        r"(istdp|(conv2d|local2d|one_to_one|sparse)-rstdp|tagged|weighted|sparse-trip|dense-(rs|tr))"
        r"|(one_to_one|local2d|csr).*propagation|propagation.*csr"
    ),
    "kernels/test_conv2d.py": (
        r"compiled_loops_agree|in_double_precision|weights\[(weighted|triplet)|clips_every_weight\[cpu|weights\[stdp-4"
    ),
    "kernels/test_conv2d_divisor.py": r"-rstdp-|cpu-triplet|cpu-stdp-1]",
    "kernels/test_dense_and_one_to_one.py": r"compiled.*of_the_reference",
    "kernels/test_gpu_proofs.py": (
        r"_modulated|(local2d|conv2d).*(istdp|rstdp|tagged|alone|oja|weighted|rate-clamp|half|bfloat16|float16)"
        r"|(istdp|rstdp|tagged|alone|oja|weighted|stdp)-local2d|owner.*(tagged|weighted|alone|oja)"
        r"|local2d-stdp-(no|hard|upper|lower|power)|owner.*local2d|triplet-local2d|local2d-triplet"
    ),
    "kernels/test_local2d.py": r"give(s)?_the_bits_of_the_reference|in_double_precision|clips_what.*cpu",
    "kernels/test_loops.py": r"takes_the_loops_from_disk",
    "kernels/test_named_signals.py": (
        r"local2d-1|silent_neuron.*local2d|cpu-(?!triplet\])|[12]-cpu|(conv|local|one).*cpu|local2d.*triton-(?!triplet\])"
    ),
    "kernels/test_non_finite.py": (
        r"istdp|_modulated|weighted|alone|(local|conv|one_to).*cpu|cpu-(rstdp|triplet|tagged)"
        r"|(local|conv).*triton.*clamp|no_spike_reads.*sparse.*cpu"
    ),
    "kernels/test_sparse.py": (
        r"200_steps.*-dtype([13]-|2-csr)|loops_give_the_bits_of_the_ref|threads_give|between_silent.*(csr|cpu)|parts_of_long_rows|value.*float32-cpu"
    ),
    "kernels/test_threads.py": r"default_device.*(conv|local)",
    "library/test_modulated.py": r"(oja|triplet)_modulated-cpu",
    "test_bench.py": r"simulated_networks",
    "test_binding.py": r"odd_tensors.*\[(conv2d|local2d|sparse)|shared_later.*(conv|local)",
    "test_command_line.py": r"checkout\[benchmarks.gate|each_shape_to_the_topologies_of_its_form\[shape[01]",
    "test_contributing.py": r"command_runs\[(bench|explain)|says\[my_(rule|backend|bound)",
    "test_demo.py": r"compares_and_draws",
    "test_functional.py": r"were_scaled\[(.*cpu|conv2d|local2d|sparse)|of_either_side\[cpu|along_one_side.*(loc|one)",
    "test_inspection.py": r"every_kernel_compiles_within_bounds|changed_by_name|16_does_not_divide",
    "test_modules.py": r"every_command",
    "test_options.py": (
        r"iSTDP|RSTDP|(One|arse|Local|Conv).*-(Learning|STDP)|compiled_loops"
        r"|left_to_the_reference\[.*-cpu|left_to_the_reference\[local|once.*\[(local2d|conv2d|sparse)"
    ),
    "test_propagation.py": r"any_strides\[cpu|(by pre neuron|one synapse|no synapses|no p.*neurons)-cpu",
    "test_safety.py": (
        r"negated_view.*(conv|local|sparse).*cpu|require_grad.*(local|conv|sparse).*cpu|another_kind.*(conv|local).*cpu|autocast.*cpu"
    ),
    "test_topology.py": r"either_width\[cpu-dtype0",
    "test_traffic.py": r"each_bounds_something\[(local2d|sparse|dense)",
    "test_verification.py": r"is_checked",
}
"""Cases that take long beside others that prove nearly the same: ``-m slow`` runs them, as CI does."""


SWEPT = {
    "kernels/test_gpu_proofs.py": r"_modulated|alone|weighted|test_a_variant|istdp|oja|tagged",
    "kernels/test_non_finite.py": r"_modulated|istdp|weighted|alone|triplet|tagged",
    "kernels/test_gpu_batches.py": r"rules_of_all_kinds|either_layout",
    "test_guides.py": r"tuning|gpu-reports",
    "distributed/test_slices.py": r"every_rule",
    "behaviors/test_parity.py": r"interpreted",
    "test_modules.py": r"every_command",
    "kernels/test_conv2d.py": r"compiled_loops_agree",
    "kernels/test_dense_and_one_to_one.py": r"one_to_one_loop",
    "test_contributing.py": r"bench --module",
    "test_options.py": r"compiled_loops.*(one_to_one|local2d)",
    "test_verification.py": r"topology_is_checked.*(dense|local2d|sparse)",
}
"""Of the longer ones those that are much like others: ``-m sweep`` runs them."""


def _is_of(item, cases):
    file = item.nodeid.partition("::")[0]
    return any(file.endswith(name) and re.search(pattern, item.nodeid) for name, pattern in cases.items())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if _is_of(item, LONGER):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("slow") and _is_of(item, SWEPT):
            item.add_marker(pytest.mark.sweep)
