"""Power-law bounds make pair STDP that of Guetig et al. (2003)."""

import pytest
import torch

import tritonstdp as ts

LEARNING, ALPHA = 0.01, 1.05


def step(w, mu, positive_bound="power_upper_bound", negative_bound="power_lower_bound", backend="cpu"):
    n_pre, n_post = w.shape
    g = torch.Generator().manual_seed(0)
    signals = {
        "pre_spike": torch.rand(n_pre, generator=g) < 0.5,
        "pre_trace": torch.rand(n_pre, generator=g, dtype=w.dtype),
        "post_spike": torch.rand(n_post, generator=g) < 0.5,
        "post_trace": torch.rand(n_post, generator=g, dtype=w.dtype),
    }
    exponent = {} if mu is None else {"mu": mu}
    new = ts.update_(
        "stdp", w.clone(), **signals, a_plus=LEARNING, a_minus=LEARNING * ALPHA, positive_bound=positive_bound,
        negative_bound=negative_bound, backend=backend, **exponent,
    )  # fmt: skip
    return new, signals


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("mu", [0.0, 0.02, 0.5, 1.0])
def test_the_change_is_that_of_the_paper(mu, backend):
    w = torch.rand(13, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, s = step(w, mu, backend=backend)
    gained = LEARNING * (1 - w) ** mu * s["pre_trace"][:, None] * s["post_spike"]
    lost = LEARNING * ALPHA * w**mu * s["pre_spike"][:, None] * s["post_trace"]
    torch.testing.assert_close(found, w + gained - lost, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("mu", "alike"), [(0.0, (None, None)), (1.0, ("upper_bound", "lower_bound"))])
def test_its_ends_are_additive_and_multiplicative_stdp(mu, alike):
    w = torch.rand(13, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(step(w, mu)[0], step(w, None, *alike)[0], rtol=1e-13, atol=1e-15)


def test_a_weight_beyond_a_limit_counts_as_at_it():
    w = torch.tensor([[-0.2, 1.3]])
    found, _ = step(w, 0.5)
    assert found.isfinite().all()
