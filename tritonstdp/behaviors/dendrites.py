"""Dendritic inputs under CoNeX's names: what the spikes of a step add to the current of each post neuron.

A class says its topology; :class:`BaseDendriticInput` does the rest, by :func:`tritonstdp.propagate_`. The sums are
CoNeX's but for their order, so that they are off by no more than the rounding of a sum.
"""

from __future__ import annotations

from typing import Any

import torch
from pymonntorch import Behavior
from torch import Tensor

from tritonstdp.behaviors import synapse as groups
from tritonstdp.propagation import propagate_
from tritonstdp.topology import Topology

__all__ = [
    "BaseDendriticInput",
    "Conv2dDendriticInput",
    "Local2dDendriticInput",
    "One2OneDendriticInput",
    "SimpleDendriticInput",
    "SparseDendriticInput",
]


class BaseDendriticInput(Behavior):
    """What every dendritic input shares: one current a post neuron, ``synapse.I``, from the weights and the spikes.

    The spikes are ``synapse.pre_spike`` where a catcher has set them, as in CoNeX's main branch, and else those that
    the axon of the pre neurons gives, as in its wheel, or ``synapse.src.spikes``. A subclass gives :meth:`topology`;
    or, as in CoNeX, it overrides :meth:`calculate_input`, and then that is what is used.

    Parameters
    ----------
    current_coef : float or Tensor
        What the sum is multiplied by; read at every step. Where the pre neurons are tagged "GABA" or "inh", -1 is, too.
    backend : str, optional
        "triton", "cpu" or "reference", and no other.

    Examples
    --------
    >>> class Silence(BaseDendriticInput):
    ...     def calculate_input(self, synapse):
    ...         return synapse.dst.vector(0.0)
    >>> Silence().tags
    ['Silence']
    """

    def __init__(self, *args: Any, current_coef: Any = 1, backend: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, current_coef=current_coef, backend=backend, **kwargs)

    def initialize(self, synapse: Any) -> None:
        """Read the arguments, and set ``synapse.I`` to 0."""
        synapse.add_tag(type(self).__name__)
        self.current_coef = self.parameter("current_coef", 1)
        self.backend = self.parameter("backend", None)
        self.current_type = -1 if {"GABA", "inh"} & set(synapse.src.tags) else 1
        self.def_dtype = getattr(synapse.network, "def_dtype", torch.float32)
        synapse.I = synapse.dst.vector(0)

    def topology(self, synapse: Any, weights: Tensor) -> Topology:
        """How the synapses of a group lie."""
        raise NotImplementedError

    def calculate_input(self, synapse: Any) -> Tensor:
        """The sum of the weights of spiking pre neurons, before any coefficient.

        Parameters
        ----------
        synapse : SynapseGroup
            The group.

        Returns
        -------
        Tensor
            One number a post neuron, of the weights' dtype.
        """
        weights = groups.weights_of(synapse)
        return self._added(torch.zeros(synapse.dst.size, dtype=weights.dtype, device=weights.device), synapse, weights)

    def forward(self, synapse: Any) -> None:
        """Set ``synapse.I``, which is one tensor from step to step.

        Parameters
        ----------
        synapse : SynapseGroup
            The group.

        Raises
        ------
        ValueError, TypeError
            If something is missing or does not fit.
        """
        coefficient = self._coefficient(synapse)
        if type(self).calculate_input is not BaseDendriticInput.calculate_input:
            synapse.I = coefficient * self.calculate_input(synapse)
            return
        weights, current = groups.weights_of(synapse), groups.attribute_of(synapse, "I")
        if not groups.can_hold(current, weights, groups.attribute_of(synapse, "dst").size):
            groups.keep(synapse, "I", coefficient * self.calculate_input(synapse))
            return
        self._added(current.zero_(), synapse, weights)
        if coefficient.__class__ is not int or coefficient != 1:
            current *= coefficient

    def _coefficient(self, synapse: Any) -> Any:
        coefficient = self.current_coef
        if isinstance(coefficient, Tensor):
            if coefficient.numel() not in (1, synapse.dst.size):
                raise ValueError(
                    f"current_coef has shape {tuple(coefficient.shape)}: give a number, or one a post neuron "
                    f"({synapse.dst.size},)"
                )
            coefficient = coefficient.detach()
        return coefficient * self.current_type

    def _added(self, current: Tensor, synapse: Any, weights: Tensor) -> Tensor:
        if groups.has_no_synapse(weights):
            return current
        spikes = synapse.__dict__.get("pre_spike")
        if spikes is None:
            spikes, _ = groups.arriving_spikes(groups.attribute_of(synapse, "src"), synapse, "src")
        topology = self.topology(synapse, weights)
        return propagate_(current, weights, spikes, topology=topology, backend=self.backend)


class _OfMatrix(BaseDendriticInput):
    """What the inputs of dense and sparse connections share: weights ``(n_pre, n_post)``."""

    def initialize(self, synapse: Any) -> None:
        super().initialize(synapse)
        if not getattr(synapse.network, "transposed_synapse_matrix_mode", True):
            raise RuntimeError(
                f"the network of {synapse.tag} has weights (n_post, n_pre): make it in PymoNNtorch's mode SxD, where "
                "they are (n_pre, n_post)"
            )


class SimpleDendriticInput(_OfMatrix):
    """The input of all-to-all connections: ``I = current_coef * weights[spikes].sum(0)``.

    Parameters
    ----------
    current_coef, backend
        As for :class:`BaseDendriticInput`.

    Raises
    ------
    RuntimeError
        At ``initialize``, if the network has its weights the other way round, ``(n_post, n_pre)``.

    Examples
    --------
    >>> SimpleDendriticInput(current_coef=2.0).tag
    'SimpleDendriticInput'
    """

    topology = groups.dense


class SparseDendriticInput(_OfMatrix):
    """The input of sparse connections, ``I = current_coef * spikes @ weights``; strided weights count as all to all.

    Parameters
    ----------
    current_coef, backend
        As for :class:`BaseDendriticInput`.

    Raises
    ------
    RuntimeError
        As :class:`SimpleDendriticInput`.

    Examples
    --------
    >>> SparseDendriticInput().tag
    'SparseDendriticInput'
    """

    topology = groups.sparse


class One2OneDendriticInput(BaseDendriticInput):
    """The input of one-to-one connections: ``I = current_coef * spikes * weights``.

    Parameters
    ----------
    current_coef, backend
        As for :class:`BaseDendriticInput`.

    Raises
    ------
    RuntimeError
        At ``initialize``, if there are not as many pre as post neurons.

    Examples
    --------
    >>> One2OneDendriticInput().tag
    'One2OneDendriticInput'
    """

    topology = groups.one_to_one

    def initialize(self, synapse: Any) -> None:
        super().initialize(synapse)
        if synapse.src.size != synapse.dst.size:
            raise RuntimeError(
                f"{synapse.tag} has {synapse.src.size} pre and {synapse.dst.size} post neurons: one-to-one connections "
                "need as many of both"
            )


class _OfPatches(BaseDendriticInput):
    """What the inputs of convolutional and local connections share: a stride and a padding, set on the synapse."""

    def __init__(
        self, *args: Any, current_coef: Any = 1, stride: Any = 1, padding: Any = 0, backend: str | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, current_coef=current_coef, stride=stride, padding=padding, backend=backend, **kwargs)

    def initialize(self, synapse: Any) -> None:
        super().initialize(synapse)
        synapse.stride, synapse.padding = self.parameter("stride", 1), self.parameter("padding", 0)
        weights = groups.weights_of(synapse)
        if groups.has_no_synapse(weights):
            return
        topology = self.topology(synapse, weights)
        if tuple(weights.shape) != topology.weights_shape:
            raise ValueError(
                f"{synapse.tag} has weights of shape {tuple(weights.shape)}: its geometry needs "
                f"{topology.weights_shape}"
            )


class Conv2dDendriticInput(_OfPatches):
    """The input of convolutional connections: ``I = current_coef * conv2d(spikes, weights)``.

    Parameters
    ----------
    current_coef, backend
        As for :class:`BaseDendriticInput`.
    stride, padding : int or tuple of int
        As for :class:`torch.nn.Conv2d`; ``synapse.stride`` and ``synapse.padding`` from then on.

    Raises
    ------
    ValueError, TypeError
        At ``initialize``, if weights, shapes, stride and padding do not fit together.

    Examples
    --------
    >>> Conv2dDendriticInput(stride=2).tag
    'Conv2dDendriticInput'
    """

    weight_divisor = None
    topology = groups.conv2d


class Local2dDendriticInput(_OfPatches):
    """The input of local receptive fields: each post neuron's sum over the taps of its patch.

    Parameters
    ----------
    current_coef, backend, stride, padding
        As for :class:`Conv2dDendriticInput`.

    Raises
    ------
    ValueError, TypeError
        As :class:`Conv2dDendriticInput`.

    Examples
    --------
    >>> Local2dDendriticInput(padding=1).tag
    'Local2dDendriticInput'
    """

    topology = groups.local2d
