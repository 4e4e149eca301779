"""Weights are kept at a target, under CoNeX's name."""

from __future__ import annotations

from typing import Any

from pymonntorch import Behavior

from tritonstdp.behaviors import synapse as groups
from tritonstdp.normalization import into_posts, scale_

__all__ = ["WeightNormalization"]


class WeightNormalization(Behavior):
    """Scale the weights into each post neuron to a sum, as CoNeX's does, or to a norm; on any connections.

    Parameters
    ----------
    norm : float or Tensor
        What they are to add up to: see :func:`tritonstdp.normalize_`.
    measure : str
        "sum" or "norm".
    every : int
        Of how many steps one does it.

    Raises
    ------
    ValueError
        If ``every`` is no number of steps; at a step, as :func:`tritonstdp.normalize_`.

    Examples
    --------
    >>> WeightNormalization(norm=78.4, every=100).tag
    'WeightNormalization'
    """

    weight_divisor = None

    def __init__(self, *args: Any, norm: Any = 1, measure: str = "sum", every: int = 1, **kwargs: Any) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every is {every!r}: give the number of steps from one time to the next, an int from 1")
        super().__init__(*args, norm=norm, measure=measure, every=every, **kwargs)

    def initialize(self, synapse: Any) -> None:
        self.norm = self.parameter("norm", 1)
        self.measure = self.parameter("measure", "sum")
        self.every = self.parameter("every", 1)

    def forward(self, synapse: Any) -> None:
        if self.every > 1 and synapse.network.iteration % self.every:
            return
        weights = groups.weights_of(synapse)
        if groups.has_no_synapse(weights):
            return
        # a slice of a group adds up in the order of the whole one
        of_slice = groups.attribute_of(synapse.dst, "into_posts", into_posts)
        scale_(weights, self.norm, self.measure, groups.any_topology(self, synapse, weights), of_slice)
