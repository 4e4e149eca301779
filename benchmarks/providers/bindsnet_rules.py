"""BindsNET's learning rules on its own connections: PostPre without bounds, its weight-dependent PostPre with them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.providers import pair_traces
from tritonstdp.machine import version_of
from tritonstdp.measurement import PARAMETERS, W_MAX, W_MIN, Inputs, NotAvailableError, Runner


class _StandIn(ModuleType):
    """What BindsNET's data sets and pictures want of torchvision, none of which a learning rule uses."""

    __path__: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


if version_of("torchvision") == "not installed":
    sys.modules["torchvision"] = _StandIn("torchvision")
    for part in ("datasets", "models", "transforms", "utils"):
        sys.modules[f"torchvision.{part}"] = _StandIn(f"torchvision.{part}")
        setattr(sys.modules["torchvision"], part, sys.modules[f"torchvision.{part}"])

from bindsnet.learning import PostPre, WeightDependentPostPre  # noqa: E402
from bindsnet.network.nodes import Input  # noqa: E402
from bindsnet.network.topology import Connection, Conv2dConnection  # noqa: E402


def prepare(inputs: Inputs) -> Runner:
    """The rule on a connection, with spikes and traces set from outside."""
    workload, topology = inputs.workload, inputs.topology
    if workload.rule != "stdp" or workload.topology not in ("dense", "conv2d"):
        raise NotAvailableError("compared with BindsNET's PostPre on dense and convolutional connections")
    dense = workload.topology == "dense"
    shapes = [(n,) for n in (topology.n_pre, topology.n_post)] if dense else [topology.src_shape, topology.dst_shape]
    source, target = (Input(shape=shape, traces=True) for shape in shapes)
    for nodes in (source, target):
        nodes.set_batch_size(1)
    connection = _connection(inputs, source, target)
    source.x, target.x = (trace.view(1, *shape) for trace, shape in zip(pair_traces(inputs), shapes, strict=True))
    patterns = [(s.view(1, *shapes[0]), q.view(1, *shapes[1])) for s, q in inputs.spikes]

    def step(k: int) -> None:
        source.s, target.s = patterns[k]
        connection.update_rule.update()

    return Runner(step, lambda: connection.w.detach())


def _connection(inputs: Inputs, source: Input, target: Input) -> Any:
    workload = inputs.workload
    bounded = workload.bound != "no_bound"
    dense = workload.topology == "dense"
    scale = 1 if dense else inputs.topology.weight_divisor
    options: dict[str, Any] = {
        "update_rule": WeightDependentPostPre if bounded else PostPre,
        "nu": [PARAMETERS["stdp"]["a_minus"] / scale, PARAMETERS["stdp"]["a_plus"] / scale],
        "w": inputs.weights.clone(),
        "wmin": W_MIN if bounded else -np.inf,
        "wmax": W_MAX if bounded else np.inf,
    }
    if dense:
        return Connection(source, target, **options)
    size, stride, padding = inputs.topology.kernel_size, inputs.topology.stride, inputs.topology.padding
    return Conv2dConnection(source, target, size, stride=stride, padding=padding, **options)
