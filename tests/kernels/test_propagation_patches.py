"""Spikes through convolutions and local patches, by loops with checked bounds, as torch has it in double precision."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d, unfold

from tritonstdp import Conv2d, Local2d, propagate_
from tritonstdp.kernels import loops
from tritonstdp.kernels.propagation import PropagationCase
from tritonstdp.registry import kernels_of

KEYS = {((2, 5), (3, 2)): (torch.float64, False), ((1, 2), (2, 3)): (torch.float32, True)}
"""Kernels and strides, one of which leaves sets of taps of two sizes, and one is beyond the kernel; with their weights'
dtype, and whether spikes are bool."""


@st.composite
def maps(draw, kind, key):
    """From maps as large as the kernel to those wider than a glance, with few and many channels."""
    kernel, stride = key
    padding = draw(st.tuples(*[st.integers(0, 3)] * 2))
    beyond = draw(st.sampled_from([(0, 0), (0, 7), (9, 0), (5, 6), (1, 70)]))
    src = [max(kernel[k] - 2 * padding[k], 1) + beyond[k] for k in (0, 1)]
    dst = [(src[k] + 2 * padding[k] - kernel[k]) // stride[k] + 1 for k in (0, 1)]
    c_in, c_out = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 8, 13]))
    return kind((c_in, *src), (c_out, *dst), kernel, stride, padding)


@cache
def checked_step(case):
    with loops.bounds_checked():
        return kernels_of(case.topology, "propagation_cpu").build(case)


def by_torch(topology, w, spikes):
    image = spikes.double().view(1, *topology.src_shape)
    options = {"stride": topology.stride, "padding": topology.padding}
    if isinstance(topology, Conv2d):
        return conv2d(image, w.double(), **options).view(-1)
    return (unfold(image, topology.kernel_size, **options)[0].T * w.double()).sum(-1).view(-1)


@pytest.mark.parametrize("kind", [Conv2d, Local2d])
@settings(max_examples=50, deadline=None)
@given(data=st.data(), rate=st.sampled_from([0.0, 0.02, 0.3, 1.0]), seed=st.integers(0, 1000))
def test_currents_are_those_of_torch_over_every_geometry(kind, data, rate, seed):
    key = data.draw(st.sampled_from(list(KEYS)))
    topology, generator = data.draw(maps(kind, key)), torch.Generator().manual_seed(seed)
    dtype, bool_spikes = KEYS[key]
    current, w, values = (
        torch.rand(shape, generator=generator).to(dtype) - 0.5
        for shape in (topology.post_shape, topology.weights_shape, topology.pre_shape)
    )
    fired = torch.rand(topology.pre_shape, generator=generator) < rate
    spikes = fired if bool_spikes else fired * values
    expected = current.double() + by_torch(topology, w, spikes)
    case = PropagationCase.plain(topology, dtype, "cpu")._replace(bool_spikes=bool_spikes)
    checked_step(case)(topology, w, current, spikes)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-13
    torch.testing.assert_close(current.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("value", [torch.inf, -1.0])
def test_what_fills_places_without_a_tap_stays_out_of_sums_whatever_a_spike_s_value(value):
    topology = Conv2d((1, 5, 9), (3, 2, 4), 3, stride=2)
    current, spikes = torch.full(topology.post_shape, -0.0), torch.zeros(topology.pre_shape)
    spikes[12] = value  # in an odd row and column, which only the middle of a kernel sees
    propagate_(current, torch.full(topology.weights_shape, 2.0), spikes, topology=topology, backend="cpu")
    expected = torch.full(topology.dst_shape, -0.0)
    expected[:, 0, 1] = 2 * value
    assert torch.equal(current.view(topology.dst_shape), expected)
    assert torch.equal(current.view(topology.dst_shape).signbit(), expected.signbit())
