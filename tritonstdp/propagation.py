"""Spikes reach post neurons: the sum of weights that a step's spikes add to their currents."""

from __future__ import annotations

import operator
import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from tritonstdp.binding import Binding
from tritonstdp.choice import choose
from tritonstdp.functional import (
    check_alike,
    check_tensors,
    copies_to_put_back,
    forget_binding,
    in_torch,
    note_write,
    real_spikes,
    topology_of,
)
from tritonstdp.kernels.memory import address, check_apart
from tritonstdp.kernels.propagation import PROPAGATION, PropagationCase
from tritonstdp.topology import Topology

__all__ = ["propagate_"]


def propagate_(
    current: Tensor,
    weights: Tensor,
    pre_spike: Tensor,
    *,
    topology: Topology | None = None,
    backend: str | None = None,
) -> Tensor:
    """Add to each post neuron's current the weights of its pre neurons that spike, in place.

    Parameters
    ----------
    current : Tensor
        ``(n_post,)``, of the weights' dtype.
    weights : Tensor
        ``(n_pre, n_post)`` dense in any strides or sparse (CSC, CSR, coalesced COO), ``(n,)`` one-to-one,
        ``(C_out, C_in, kh, kw)`` conv2d, ``(C_out, H_out * W_out, C_in * kh * kw)`` local2d.
    pre_spike : Tensor
        The spikes of this step, bool ``(n_pre,)``; a float spike counts with its value. A silent neuron contributes
        nothing, whatever its weights are, and a current that no spike reaches stays as it is.
    topology : Topology, optional
        Needed for conv2d and local2d; otherwise the weights tell.
    backend : str, optional
        "triton", "cpu" or "reference", and no other; by default the fastest that takes the case.

    Returns
    -------
    Tensor
        ``current``: ``current[j] + sum_i weights[i, j] pre_spike[i]`` over the ``k`` spiking neurons that reach ``j``.
        The order of the sum is the backend's: it is off by at most ``(k + 1) eps`` times the sum of the magnitudes,
        ``eps`` being ``torch.finfo(dtype).eps``. Half precision is summed in float32, and rounded once.

    Raises
    ------
    ValueError, TypeError
        If something does not fit, before anything is written.

    Notes
    -----
    Nothing is recorded for autograd. On a GPU, nothing waits for the host, so that steps can be captured as a graph.

    Examples
    --------
    >>> weights = torch.tensor([[0.5, 0.25, 0.0], [1.0, 2.0, 3.0]])
    >>> propagate_(torch.zeros(3), weights, torch.tensor([True, False]))
    tensor([0.5000, 0.2500, 0.0000])
    """
    if is_compiling():
        from tritonstdp.operators import in_graph  # and with it all of torch's compiler

        read = {"weights": weights, "pre_spike": pre_spike}
        return in_graph(propagate_, {"current": current}, **read, topology=topology, backend=backend)
    # what a topology asks of strided weights is part of what a binding has proved
    if topology is not None and _is_done((id(topology), backend, torch.strided), topology, current, weights, pre_spike):
        return current
    topology = topology_of(weights, topology)
    topology.check()
    values = topology.values(weights)
    tensors = current, values, pre_spike
    key = id(topology), backend, weights.layout
    if not weights.requires_grad and _is_done(key, topology, *tensors):
        return current
    _check(topology, current, weights, values, pre_spike)
    spikes = pre_spike if pre_spike.dtype is torch.bool else real_spikes("pre_spike", pre_spike, values.dtype)
    fitting = contiguous, values, spikes = current.contiguous(), values.resolve_neg(), spikes.contiguous()
    choice = choose(_case(topology, values, spikes), backend)
    as_they_are = all(map(operator.is_, fitting, tensors))
    if as_they_are and choice.backend != "reference" and Binding.can_hold(tensors):
        forget = partial(forget_binding, weakref.ref(PROPAGATION), key)
        PROPAGATION.choices[key] = Binding(choice.step, weakref.ref(topology, forget), tensors, 1)
    before = copies_to_put_back((current,))
    with in_torch(current, None):
        choice.step(topology, values, contiguous, spikes)
        if contiguous is not current:
            current.copy_(contiguous)
    note_write((current,), before)
    return current


def _is_done(key: Any, topology: Topology, current: Tensor, values: Tensor, pre_spike: Tensor) -> bool:
    """Whether the call is like one before, and done as that one was."""
    binding = PROPAGATION.choices.get(key)
    if binding is None:
        return False
    step = binding.step_for(topology, (current, values, pre_spike), topology, values, current, pre_spike)
    if step is None:
        return False
    before = copies_to_put_back((current,))
    step(topology, values, current, pre_spike)
    note_write((current,), before)
    return True


def _check(topology: Topology, current: Tensor, weights: Tensor, values: Tensor, pre_spike: Tensor) -> None:
    """Name the first tensor that does not fit, and say what would."""
    named = (
        ("weights", values, topology.weights_shape),
        ("current", current, topology.post_shape),
        ("pre_spike", pre_spike, topology.pre_shape),
    )
    check_tensors(named)
    for name, tensor in (("current", current), ("weights", weights), ("pre_spike", pre_spike)):
        if tensor.requires_grad:
            raise ValueError(f"{name} requires grad, and propagation records no gradient: pass {name}.detach()")
    if current.is_neg():
        raise ValueError("current is negated in name alone, and written in place: pass current.resolve_neg()")
    check_alike(topology, values, named)
    check_apart("current", current, (("weights", values), ("pre_spike", pre_spike)))
    if values.device.type != "meta":
        for name, tensor, _ in named:
            address(name, tensor)


def _case(topology: Topology, values: Tensor, spikes: Tensor) -> PropagationCase:
    return PropagationCase(
        PROPAGATION, topology.name, topology.kernel_key, topology.layout(values), values.dtype, values.device.type,
        spikes.dtype is torch.bool,
    )  # fmt: skip
