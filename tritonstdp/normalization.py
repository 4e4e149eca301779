"""Weights are scaled so that those into each post neuron add up to a target."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from tritonstdp.functional import check_alike, check_tensors, in_torch, topology_of
from tritonstdp.kernels.memory import address, check_apart
from tritonstdp.kernels.reference import HALF
from tritonstdp.topology import Topology

__all__ = ["normalize_"]

MEASURES: dict[str, Callable[[Tensor], Tensor]] = {"sum": lambda w: w, "norm": torch.square}
"""What is added up of each weight."""


def normalize_(weights: Tensor, target: Any = 1.0, *, measure: str = "sum", topology: Topology | None = None) -> Tensor:
    """Scale the weights into each post neuron so that their sum, or their norm, is a target, in place.

    Parameters
    ----------
    weights : Tensor
        ``(n_pre, n_post)`` dense in any strides or sparse (CSC, CSR, coalesced COO), ``(n,)`` one-to-one,
        ``(C_out, C_in, kh, kw)`` conv2d, where all neurons of a channel share theirs,
        ``(C_out, H_out * W_out, C_in * kh * kw)`` local2d.
    target : float or Tensor
        What they are to add up to: a number, or one value a post neuron (conv2d: a channel).
    measure : str
        "sum", as CoNeX's ``WeightNormalization``, or "norm", the root of the sum of squares.
    topology : Topology, optional
        Needed for conv2d and local2d; otherwise the weights tell.

    Returns
    -------
    Tensor
        ``weights``, times ``target / sum`` each. Where the sum is 0, they stay as they are. Half precision is computed
        in float32, and rounded once.

    Raises
    ------
    ValueError, TypeError
        If something does not fit, before anything is written.

    Examples
    --------
    >>> normalize_(torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0]]))
    tensor([[0.2500, 0.5000, 0.0000],
            [0.7500, 0.5000, 0.0000]])
    """
    if is_compiling():
        from tritonstdp.operators import in_graph  # and with it all of torch's compiler

        return in_graph(normalize_, {"weights": weights}, target=target, measure=measure, topology=topology)
    return scale_(weights, target, measure, topology, into_posts)


Sums = Callable[[Topology, Tensor], tuple[Tensor, Tensor | None]]


def scale_(weights: Tensor, target: Any, measure: str, topology: Topology | None, into_posts: Sums) -> Tensor:
    """What :func:`normalize_` does, with the sums over what leads into each post neuron by a function."""
    if measure not in MEASURES:
        raise ValueError(f"measure is {measure!r}: use one of {', '.join(MEASURES)}")
    topology = topology_of(weights, topology)
    topology.check()
    values = topology.values(weights)
    _check(topology, weights, values)
    with torch.no_grad(), in_torch(values, None):
        compute = values.float() if values.dtype in HALF else values
        totals, of_each = into_posts(topology, MEASURES[measure](compute))
        wanted = _target_like(target, totals)
        if measure == "norm":
            totals.sqrt_()
        factors = torch.where(totals == 0, 1, wanted / totals)
        factors = factors if of_each is None else factors[of_each]
        values.copy_(compute * factors) if compute is not values else values.mul_(factors)
    return weights


def _check(topology: Topology, weights: Tensor, values: Tensor) -> None:
    named = [("weights", values, topology.weights_shape)]
    check_tensors(named)
    check_alike(topology, values, named)
    if weights.requires_grad:
        raise ValueError("weights require grad: they are written in place; pass weights.detach()")
    check_apart("weights", values, ())
    if values.device.type != "meta":
        address("weights", values)


def into_posts(topology: Topology, of_weights: Tensor) -> tuple[Tensor, Tensor | None]:
    """The sums over the weights into each post neuron, in a shape that broadcasts to them; or else whose each is."""
    if topology.incoming is not None:
        # a sum over no axis would be one over all
        axes = topology.incoming
        return of_weights.sum(axes, keepdim=True) if axes else of_weights.clone(), None
    ends = topology.ends()
    if ends is None:
        raise ValueError(
            f"{topology.name} does not say which weights lead into a post neuron: its class needs incoming"
        )
    _, post = ends
    return of_weights.new_zeros(topology.post_shape).index_add_(0, post, of_weights), post


def _target_like(target: Any, totals: Tensor) -> Any:
    """A number, or one for each total."""
    if not isinstance(target, Tensor):
        try:
            target = float(target)
        except (TypeError, ValueError):
            raise TypeError(f"target is {target!r}: give a number or a tensor") from None
        if not math.isfinite(target):
            raise ValueError(
                f"target is {target}: give what the weights into a neuron are to add up to, a finite number"
            )
        return target
    if target.numel() not in (1, totals.numel()):
        raise ValueError(
            f"target has shape {tuple(target.shape)}: give a number, or one for each of {totals.numel()} sums"
        )
    if target.device != totals.device:
        raise ValueError(f"target is on {target.device}, the weights on {totals.device}: move one of them")
    return target.detach().reshape(totals.shape if target.numel() > 1 else ()).to(totals.dtype)
