"""Spike propagation: tritonstdp, and what torch has for a sum of some rows, a product, or a convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vecdot
from torch.nn.functional import conv2d, embedding_bag, unfold

from tritonstdp.measurement import OURS, Inputs, NotAvailableError, Provider, Runner
from tritonstdp.propagation import propagate_

Way = Callable[[Inputs], Callable[[int], Tensor]]
"""``way(inputs)(k)``: what the spikes of pattern ``k`` add to the current."""


def _tritonstdp(inputs: Inputs) -> Runner:
    current, weights = inputs.start, inputs.weights
    # sparse weights tell by themselves, and are made anew for each runner
    topology = inputs.topology if inputs.topology.ends() is None else None

    def step(k: int) -> None:
        propagate_(current, weights, inputs.spikes[k][0], topology=topology)

    return Runner(step, lambda: current)


def _adding(ways: dict[str, Way]) -> Provider:
    """A provider that adds to a current what torch computes, on the topologies for which there is a way."""

    def prepare(inputs: Inputs) -> Runner:
        way = ways.get(inputs.workload.topology)
        if way is None:
            raise NotAvailableError(f"not a way over {inputs.workload.topology}")
        current, compute = inputs.start, way(inputs)
        return Runner(lambda k: current.add_(compute(k)), lambda: current)

    return prepare


def _masked_sum(inputs: Inputs) -> Any:
    w = inputs.weights
    return lambda k: w[inputs.spikes[k][0]].sum(0)


def _selected_sum(inputs: Inputs) -> Any:
    w = inputs.weights
    return lambda k: w.index_select(0, inputs.spikes[k][0].nonzero()[:, 0]).sum(0)


def _bag(inputs: Inputs) -> Any:
    w, start = inputs.weights, torch.zeros(1, dtype=torch.long, device=inputs.weights.device)
    return lambda k: embedding_bag(inputs.spikes[k][0].nonzero()[:, 0], w, start, mode="sum")[0]


def _product(inputs: Inputs) -> Any:
    w = inputs.weights
    return lambda k: inputs.float_spikes[k][0] @ w


def _elementwise(inputs: Inputs) -> Any:
    w = inputs.weights
    return lambda k: w * inputs.spikes[k][0]


def _csc_product(inputs: Inputs) -> Any:
    w = inputs.weights
    return lambda k: (inputs.float_spikes[k][0][None] @ w)[0]


def _transposed_csr(inputs: Inputs) -> Any:
    w = inputs.weights.to_sparse_coo().t().coalesce().to_sparse_csr()
    return lambda k: w @ inputs.float_spikes[k][0]


def _transposed_coo(inputs: Inputs) -> Any:
    w = inputs.weights.to_sparse_coo().t().coalesce()
    return lambda k: torch.mv(w, inputs.float_spikes[k][0])


def _convolution(inputs: Inputs) -> Any:
    w, topology = inputs.weights, inputs.topology

    def compute(k: int) -> Tensor:
        image = inputs.float_spikes[k][0].view(1, *topology.src_shape)
        return conv2d(image, w, stride=topology.stride, padding=topology.padding).view(-1)

    return compute


def _patches(inputs: Inputs, k: int) -> Tensor:
    """What each position sees, ``(positions, taps)``."""
    topology = inputs.topology
    image = inputs.float_spikes[k][0].view(1, *topology.src_shape)
    return unfold(image, topology.kernel_size, padding=topology.padding, stride=topology.stride)[0].t()


def _unfolded_product(inputs: Inputs) -> Any:
    kernels = inputs.weights.flatten(1)
    return lambda k: (kernels @ _patches(inputs, k).t()).view(-1)


def _unfolded_sum(inputs: Inputs) -> Any:
    w = inputs.weights
    return lambda k: (w * _patches(inputs, k)).sum(-1).view(-1)


def _unfolded_dots(inputs: Inputs) -> Any:
    w = inputs.weights
    return lambda k: vecdot(w, _patches(inputs, k)[None]).view(-1)


def _unfolded_batches(inputs: Inputs) -> Any:
    w = inputs.weights.transpose(0, 1)
    return lambda k: torch.bmm(w, _patches(inputs, k)[..., None])[..., 0].t().reshape(-1)


PROPAGATIONS: dict[str, Provider] = {
    OURS: _tritonstdp,
    "masked sum": _adding({"dense": _masked_sum}),
    "selected sum": _adding({"dense": _selected_sum}),
    "embedding bag": _adding({"dense": _bag}),
    "torch product": _adding({"dense": _product, "one_to_one": _elementwise, "sparse": _csc_product}),
    "CSR product": _adding({"sparse": _transposed_csr}),
    "COO product": _adding({"sparse": _transposed_coo}),
    "torch convolution": _adding({"conv2d": _convolution}),
    "unfolded product": _adding({"conv2d": _unfolded_product, "local2d": _unfolded_batches}),
    "unfolded sum": _adding({"local2d": _unfolded_sum}),
    "unfolded dots": _adding({"local2d": _unfolded_dots}),
}
"""Who propagates spikes; the ways that transpose sparse weights do so once, as no network that learns could."""
