"""The functions for bare torch loops: what they refuse, and that they refuse it before anything changes."""

import pytest
import torch

import tritonstdp
from tritonstdp import Conv2d, istdp_, rstdp_, stdp_, update_


def arguments(**changes):
    given = {
        "weights": torch.full((2, 3), 0.5),
        "pre_spike": torch.tensor([True, False]),
        "pre_trace": torch.ones(2),
        "post_spike": torch.tensor([False, True, False]),
        "post_trace": torch.ones(3),
        "a_plus": 0.1,
        "a_minus": 0.2,
    }
    return given | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_spike": torch.ones(3, dtype=torch.bool)}, r"pre_spike has shape \(3,\); dense needs \(2,\)"),
        ({"post_trace": torch.ones(2)}, r"post_trace has shape \(2,\); dense needs \(3,\)"),
        ({"pre_trace": torch.ones(2).double()}, r"pre_trace is torch.float64, the weights torch.float32"),
        ({"pre_trace": torch.ones(2, device="meta")}, r"pre_trace is on meta, the weights on cpu"),
        ({"positive_bound": "sotf"}, r"unknown bound 'sotf': use one of hard_bound"),
        ({"weights": torch.full((2, 3), 0.5, requires_grad=True)}, r"weights require grad"),
        ({"weights": torch.rand(2, 3, 1, 1)}, r"pass topology=Conv2d"),
        ({"backend": "gpu"}, r"unknown backend 'gpu'"),
        ({"a_plus": torch.ones(2)}, r"a_plus has shape \(2,\), which does not broadcast to the weights' \(2, 3\)"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_changes(changes, message):
    given = arguments(**changes)
    before = given["weights"].detach().clone()
    with pytest.raises(ValueError, match=message):
        stdp_(**given)
    assert torch.equal(given["weights"].detach(), before)


def test_parameters_that_are_missing_are_all_named():
    given = {name: value for name, value in arguments().items() if name not in ("a_plus", "a_minus")}
    with pytest.raises(ValueError, match=r"stdp needs a_plus, a_minus: pass a_plus=... and a_minus=..."):
        update_("stdp", **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_spike": [True, False]}, "pre_spike is list, not a Tensor"),
        ({"post_trace": None}, "post_trace is NoneType, not a Tensor"),
        ({"a_minus": "much"}, "a_minus is 'much': pass a number or a tensor"),
        ({"a_plus": None}, "a_plus is None: pass a number or a tensor"),
        ({"positive_bound": 1}, "a bound is a name, a function"),
        ({"lr": 0.1}, "stdp takes no lr. It reads pre_spike, pre_trace, post_spike, post_trace, a_plus, a_minus"),
    ],
)
def test_what_is_of_the_wrong_kind_is_named(changes, message):
    with pytest.raises(TypeError, match=message):
        stdp_(**arguments(**changes))


def test_istdp_needs_a_target():
    given = arguments()
    del given["a_plus"], given["a_minus"]
    with pytest.raises(ValueError, match="alpha, or rho"):
        istdp_(**given)
    by_rate, by_alpha = (istdp_(**given | {"weights": torch.ones(2, 3)}, lr=0.1, **target)
                         for target in ({"rho": 5.0, "tau": 20.0}, {"alpha": 0.2}))  # fmt: skip
    assert torch.equal(by_rate, by_alpha)


def test_reward_modulation_needs_eligibility_and_dopamine():
    given = arguments(tau_c=10.0)
    with pytest.raises(ValueError, match="dopamine is missing"):
        rstdp_(c=torch.zeros(2, 3), dopamine=None, **given)
    with pytest.raises(ValueError, match="c is missing"):
        update_("rstdp", dopamine=1.0, **given)
    with pytest.raises(ValueError, match=r"c has shape \(3, 2\)"):
        rstdp_(c=torch.zeros(3, 2), dopamine=1.0, **given)
    with pytest.raises(ValueError, match=r"dopamine has shape \(2,\)"):
        rstdp_(c=torch.zeros(2, 3), dopamine=torch.ones(2), **given)


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
def test_dopamine_may_be_a_number_a_scalar_tensor_or_a_column(backend):
    results = []
    for dopamine in (0.5, torch.tensor(0.5), torch.full((3,), 0.5)):
        weights = torch.full((2, 3), 0.5)
        rstdp_(c=torch.zeros(2, 3), dopamine=dopamine, tau_c=10.0, backend=backend, **arguments(weights=weights))
        results.append(weights)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], torch.full((2, 3), 0.5))


def test_a_geometry_that_does_not_give_dst_shape_is_refused():
    with pytest.raises(ValueError, match=r"dst_shape \(4, 5, 6\) does not fit.*\(6, 6\)"):
        Conv2d((1, 8, 8), (4, 5, 6), 3)


def test_numbers_of_any_kind_are_taken():
    weights = [stdp_(**arguments(a_plus=value)) for value in (1, 1.0, torch.tensor(1.0), torch.tensor(1.0).numpy())]
    assert all(torch.equal(weights[0], w) for w in weights)


def test_importing_touches_no_gpu_and_little_else():
    import subprocess
    import sys

    script = (
        "import torch, sys, time; start = time.perf_counter(); import tritonstdp; spent = time.perf_counter() - start;"
        "assert spent < 1, spent; assert not torch.cuda.is_initialized();"
        "assert not {'triton', 'numba', 'pymonntorch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tritonstdp.__version__
