"""Oja's rule: the formula of Oja (1982), and what it does to the weights of a linear neuron."""

import pytest
import torch

import tritonstdp as ts


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_change_is_that_of_the_paper_for_both_kinds_of_spikes(backend):
    g = torch.Generator().manual_seed(0)
    w = torch.rand(7, 5, dtype=torch.float64, generator=g)
    x, y = torch.rand(7, dtype=torch.float64, generator=g), torch.rand(5, dtype=torch.float64, generator=g)
    s, q = torch.rand(7, generator=g) < 0.5, torch.rand(5, generator=g) < 0.5
    found = ts.update_(
        "oja", w.clone(), pre_spike=s, pre_trace=x, post_spike=q, post_trace=y, lr=0.1, decay=1.5, backend=backend
    )
    expected = w + 0.1 * (q * (x[:, None] - 1.5 * y * w) + s[:, None] * y)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)


def test_weights_of_a_linear_neuron_turn_to_the_principal_component_and_keep_their_norm():
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, dtype=torch.float64, generator=g)
    patterns = torch.randn(4000, 6, dtype=torch.float64, generator=g) @ mixing
    w = torch.full((6, 1), 0.1, dtype=torch.float64)
    for x in patterns:  # rates as float spikes, which are their own traces
        y = x @ w
        signals = {"pre_spike": x, "pre_trace": x, "post_spike": y, "post_trace": y}
        ts.update_("oja", w, **signals, lr=2e-4, decay=2.0, backend="cpu")
    principal = torch.linalg.eigh(mixing.T @ mixing).eigenvectors[:, -1]
    assert w.norm().item() == pytest.approx(1.0, abs=0.05)  # the square root of 2 / decay
    assert abs(torch.dot(w[:, 0], principal)).item() == pytest.approx(1.0, abs=0.05)
