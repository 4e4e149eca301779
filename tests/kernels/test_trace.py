"""Spike traces: the bits of the two-line version, on every backend."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonstdp.functional import trace_

TAU, DT = 11.0, 0.7


def two_lines(trace: torch.Tensor, spikes: torch.Tensor, scale: float) -> None:
    """The trace as CoNeX writes it."""
    trace += spikes * scale
    trace -= (trace / TAU) * DT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", ["cpu", "reference", "triton"])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_trace_has_the_bits_of_the_two_line_version(backend, dtype, kind):
    expected, trace = torch.rand(2, 37).to(dtype)
    trace.copy_(expected)
    for step in range(60):
        spikes = torch.rand(37) < 0.2
        if kind == "float":
            spikes = spikes * torch.rand(37, dtype=dtype)
        scale = 1.0 if step % 2 else 0.1
        two_lines(expected, spikes, scale)
        assert trace_(trace, spikes, tau=TAU, dt=DT, scale=scale, backend=backend) is trace
    assert torch.equal(trace, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_half_precision_is_rounded_once(backend, dtype):
    trace, spikes = torch.rand(37).to(dtype), torch.rand(37) < 0.2
    expected = trace.float()
    two_lines(expected, spikes, 1.0)
    trace_(trace, spikes, tau=TAU, dt=DT, backend=backend)
    # the interpreter cuts bfloat16 off where a GPU rounds
    ulp = 2**-7 if (backend, dtype) == ("triton", torch.bfloat16) else 0
    torch.testing.assert_close(trace, expected.to(dtype), rtol=ulp, atol=0)


@settings(max_examples=40, deadline=None)
@given(n=st.sampled_from([0, 1, 2, 511, 513]), rate=st.sampled_from([0.0, 0.3, 1.0]), step=st.integers(1, 3))
def test_trace_of_any_size_rate_and_stride(n, rate, step):
    for backend in ("cpu", "reference", "triton"):
        buffer = torch.rand(n * step + 1)
        trace, spikes = buffer[: n * step : step], torch.rand(n * step)[::step] < rate
        expected, outside = trace.clone(), buffer.clone()
        two_lines(expected, spikes, 1.0)
        trace_(trace, spikes, tau=TAU, dt=DT, backend=backend)
        assert torch.equal(trace, expected)
        outside[: n * step : step] = expected
        assert torch.equal(buffer, outside)


def test_time_constant_may_be_a_tensor():
    trace, spikes, tau = torch.rand(5), torch.rand(5) < 0.5, torch.linspace(5, 20, 5)
    expected = trace.clone()
    expected += spikes
    expected -= (expected / tau) * DT
    assert torch.equal(trace_(trace, spikes, tau=tau, dt=DT), expected)
    with pytest.raises(ValueError, match="tau is a tensor"):
        trace_(trace, spikes, tau=tau, backend="cpu")


@pytest.mark.parametrize(
    ("trace", "spikes", "options", "message"),
    [
        (torch.zeros(3), torch.zeros(4, dtype=torch.bool), {}, r"spikes have shape \(4,\), the trace \(3,\)"),
        (torch.zeros(3, dtype=torch.long), torch.zeros(3), {}, "a trace needs float16"),
        (torch.zeros(3, requires_grad=True), torch.zeros(3), {}, "requires grad"),
        (torch.zeros(3), torch.zeros(3, device="meta"), {}, "spikes are on meta, the trace on cpu"),
        (torch.zeros(3), torch.zeros(3), {"tau": "long"}, "tau is 'long'"),
        (torch.zeros(3), torch.zeros(3), {"backend": "cuda"}, "unknown backend 'cuda'"),
        (torch.zeros(3, dtype=torch.float16), torch.zeros(3), {"backend": "cpu"}, "can't take this trace"),
    ],
)
def test_bad_input_is_refused_before_the_trace_changes(trace, spikes, options, message):
    before = trace.detach().clone()
    with pytest.raises((ValueError, TypeError), match=message):
        trace_(trace, spikes, **{"tau": TAU, **options})
    assert torch.equal(trace, before)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused_also_where_a_known_trace_lies():
    nested = torch.nested.nested_tensor([torch.zeros(3), torch.zeros(3)])
    spikes = torch.zeros(6, dtype=torch.bool)
    for _ in range(3):
        trace_(nested.values(), spikes, tau=TAU)
    with pytest.raises(TypeError, match="trace is a nested tensor"):
        trace_(nested, spikes, tau=TAU)
    with pytest.raises(TypeError, match="spikes is a nested tensor"):
        trace_(torch.zeros(6), nested, tau=TAU)
