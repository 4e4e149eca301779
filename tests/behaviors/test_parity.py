"""The same weights as CoNeX's own classes, in the same network, in either convention."""

from __future__ import annotations

import pytest
import torch

import tritonstdp.behaviors as ours
from support import SMALL, on_synapse, side_by_side, values_of
from tritonstdp.interpretation import swift_interpreter

STDP = {"a_plus": 0.006, "a_minus": 0.008, "positive_bound": "soft_bound", "negative_bound": "hard_bound"}
ARGUMENTS = {
    "STDP": STDP,
    "iSTDP": {"lr": 0.02, "alpha": 0.7},
    "RSTDP": {**STDP, "tau_c": 7.0, "init_c_mode": 0},
}
IN_CONEX_TOO = [
    (prefix, rule)
    for prefix in SMALL
    for rule in ARGUMENTS
    if not (rule == "iSTDP" and prefix in ("Conv2d", "Local2d"))
]


def learnt_by_both(conex, prefix: str, rule: str, backends: tuple[str, ...], dtype: torch.dtype, convention: str):
    """The groups of CoNeX's behavior and of ours on each backend, all with the same arguments, after 200 steps."""
    theirs, arguments = getattr(conex, prefix + rule), ARGUMENTS[rule]
    if convention == "synapse":
        theirs = on_synapse(theirs)
    mine = [getattr(ours, prefix + rule)(**arguments, backend=backend) for backend in backends]
    network, groups = side_by_side(SMALL[prefix], theirs(**arguments), *mine, convention=convention, dtype=dtype)
    network.simulate_iterations(200, measure_block_time=False)
    return groups


def assert_same(prefix: str, theirs: torch.Tensor, mine: torch.Tensor) -> None:
    assert torch.isfinite(theirs).all()
    if prefix == "Conv2d":
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)
    else:
        assert torch.equal(mine, theirs)


def assert_parity(
    conex, prefix: str, rule: str, backends: tuple[str, ...], dtype: torch.dtype, convention: str
) -> None:
    theirs, *on_backends = learnt_by_both(conex, prefix, rule, backends, dtype, convention)
    for mine in on_backends:
        assert mine.weights.dtype == dtype
        assert not torch.equal(values_of(mine.weights), values_of(SMALL[prefix].weights(dtype)))
        assert_same(prefix, values_of(theirs.weights), values_of(mine.weights))
        if rule == "RSTDP":
            assert_same(prefix, theirs.c, mine.c)


@pytest.mark.parametrize(("prefix", "rule"), IN_CONEX_TOO)
@pytest.mark.parametrize("convention", ["neurons", "synapse"])
def test_float32_weights_equal_conex_after_200_steps(conex, prefix, rule, convention):
    assert_parity(conex, prefix, rule, ("cpu", "reference"), torch.float32, convention)


@pytest.mark.parametrize(("prefix", "rule"), IN_CONEX_TOO)
def test_float64_weights_equal_conex_after_200_steps(conex, prefix, rule):
    assert_parity(conex, prefix, rule, ("cpu", "reference"), torch.float64, "synapse")


@pytest.mark.parametrize(
    ("prefix", "rule"), [pair for pair in IN_CONEX_TOO if pair[0] in ("Simple", "One2One", "Sparse")]
)
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float64, marks=[pytest.mark.slow, pytest.mark.sweep])]
)
def test_interpreted_triton_weights_equal_conex_after_200_steps(conex, prefix, rule, dtype):
    with swift_interpreter():
        assert_parity(conex, prefix, rule, ("triton",), dtype, "neurons")
