"""SpikingJelly's functional STDP steps, with the weights' bound as its modulation function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from spikingjelly.activation_based.functional import learning
from torch import Tensor

from benchmarks.providers import pair_traces
from tritonstdp.measurement import PARAMETERS, W_MAX, W_MIN, Inputs, NotAvailableError, Runner
from tritonstdp.rules import BOUNDS

NO_DECAY = 1e30


def prepare(inputs: Inputs) -> Runner:
    """The step for dense or convolutional STDP, handed the traces that its own update turns into the workload's."""
    workload = inputs.workload
    if workload.rule != "stdp" or workload.topology not in ("dense", "conv2d"):
        raise NotAvailableError("SpikingJelly's STDP steps are for linear and convolutional layers")
    dense = workload.topology == "dense"
    weights = inputs.weights.T.contiguous() if dense else inputs.weights.clone()
    shapes = ((-1,), (-1,)) if dense else (inputs.topology.src_shape, inputs.topology.dst_shape)
    patterns = [_pattern(inputs, k, shapes) for k in range(len(inputs.spikes))]
    options = {"tau_pre": NO_DECAY, "tau_post": NO_DECAY}
    scale = 1 if dense else inputs.topology.weight_divisor
    options |= {
        "f_pre": _modulation(workload.bound, PARAMETERS["stdp"]["a_minus"] / scale),
        "f_post": _modulation(workload.bound, PARAMETERS["stdp"]["a_plus"] / scale),
    }
    run = learning.stdp_linear_step if dense else learning.stdp_conv2d_step
    if not dense:
        options["stride"] = inputs.topology.stride

    @torch.no_grad()
    def step(k: int) -> None:
        s, q, traces = patterns[k]
        change, _ = run(s, q, traces, weights, **options)
        weights.add_(change)

    return Runner(step, lambda: weights.T if dense else weights)


def _pattern(inputs: Inputs, k: int, shapes: tuple) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    s, q = (t.view(1, *shape) for t, shape in zip(inputs.float_spikes[k], shapes, strict=True))
    pre_trace, post_trace = pair_traces(inputs)
    return s, q, (pre_trace.view(1, *shapes[0]) - s, post_trace.view(1, *shapes[1]) - q)


def _modulation(bound: str, amplitude: float) -> Callable[[Tensor], Tensor | float]:
    if bound == "no_bound":
        return lambda w: amplitude
    return lambda w: amplitude * BOUNDS[bound](w, W_MIN, W_MAX)
