"""CoNeX's own learning classes, driven through a synapse with just what their ``forward`` reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.providers import pair_traces
from tests.support import import_conex
from tritonstdp.measurement import DOPAMINE, PARAMETERS, W_MAX, W_MIN, Inputs, NotAvailableError, Runner

import_conex()
from conex.behaviors.neurons.specs import SpikeTrace  # noqa: E402
from conex.behaviors.synapses import learning  # noqa: E402

_TOPOLOGY = {"dense": "Simple", "one_to_one": "One2One", "sparse": "Sparse", "conv2d": "Conv2d", "local2d": "Local2d"}
_RULE = {"stdp": "STDP", "istdp": "iSTDP", "rstdp": "RSTDP"}


class _Side:
    """A neuron group that holds the step's spikes, and its own axon: what CoNeX spends on delays is left out."""

    def __init__(self, trace: torch.Tensor) -> None:
        self.axon = self
        self.behavior = {0: SpikeTrace(tau_s=10.0)}
        self.behavior[0].tau_s = 10.0
        self.trace = trace

    def get_spike(self, neurons: Any, delay: Any) -> torch.Tensor:
        return self.spikes

    def get_spike_trace(self, neurons: Any, delay: Any) -> torch.Tensor:
        return self.trace


def prepare(inputs: Inputs) -> Runner:
    """The class for the workload, on its own copy of the weights."""
    workload = inputs.workload
    name = _TOPOLOGY[workload.topology] + _RULE[workload.rule]
    if not hasattr(learning, name):
        raise NotAvailableError(f"CoNeX has no {name}")
    if workload.rule == "istdp" and workload.bound != "no_bound":
        raise NotAvailableError("CoNeX's inhibitory STDP has no bounds")
    behavior = getattr(learning, name)(**_arguments(inputs))
    synapse = _synapse(inputs)
    behavior.initialize(synapse)
    weights, c = inputs.copy()
    synapse.weights, synapse.c = weights, c

    def step(k: int) -> None:
        synapse.src.spikes, synapse.dst.spikes = inputs.spikes[k]
        behavior.forward(synapse)

    return Runner(
        step, lambda: inputs.topology.values(synapse.weights), None if c is None else lambda: synapse.c
    )  # fmt: skip


def _arguments(inputs: Inputs) -> dict[str, Any]:
    workload = inputs.workload
    parameters = PARAMETERS[workload.rule]
    if workload.rule == "istdp":
        return {"lr": parameters["lr"], "alpha": parameters["alpha"], "is_inhibitory": parameters["sign"] < 0}
    limits = {"w_min": W_MIN, "w_max": W_MAX}
    return {**parameters, **limits, "positive_bound": workload.bound, "negative_bound": workload.bound}


def _synapse(inputs: Inputs) -> SimpleNamespace:
    topology, weights = inputs.topology, inputs.weights
    dtype = inputs.values.dtype
    network = SimpleNamespace(def_dtype=dtype, dopamine_concentration=DOPAMINE)
    synapse = SimpleNamespace(
        src=_Side(pair_traces(inputs)[0]), dst=_Side(pair_traces(inputs)[1]), src_delay=None, dst_delay=None,
        weights=weights, network=network, tensor=lambda mode, dim: torch.zeros(dim, dtype=dtype),
    )  # fmt: skip
    if inputs.workload.topology == "sparse":
        columns = torch.arange(weights.shape[1])
        synapse.dst_idx = columns.repeat_interleave(weights.ccol_indices().diff())
        synapse.src_idx = weights.row_indices()
    if inputs.workload.topology in ("conv2d", "local2d"):
        synapse.src_shape, synapse.dst_shape = topology.src_shape, topology.dst_shape
        synapse.stride, synapse.padding = topology.stride, topology.padding
        synapse.kernel_shape = (*topology.dst_shape, topology.src_shape[0], *topology.kernel_size)
    return synapse
