"""What every kernel looks like from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from tritonstdp.rules import Formula
from tritonstdp.source import CannotCompileError

__all__ = ["CannotCompileError", "Case", "Names", "PerNeuron", "PlacedStep", "Step", "placed"]


class PerNeuron(NamedTuple):
    """A parameter that has one value a neuron of one side; made by ``per_pre`` and ``per_post``."""

    side: str
    values: Tensor


class Names(NamedTuple):
    """What a step hands to a kernel, in order.

    Attributes
    ----------
    pre, post : tuple of str
        The signals of each side: the rule's own, and then the parameters that are given as one value a neuron.
    numbers : tuple of str
        The other parameters: those that are numbers, and then those that are 0-d tensors, read where they lie.
    n_scalars : int
        How many of ``numbers`` are 0-d tensors.
    """

    pre: tuple[str, ...]
    post: tuple[str, ...]
    numbers: tuple[str, ...]
    n_scalars: int


class Case(NamedTuple):
    """All that a kernel is chosen by and specialised on.

    Attributes
    ----------
    formula : Formula
        What is computed at a synapse.
    topology : str
        The topology's name.
    kernel_key : hashable
        The topology's own specialisation (:attr:`tritonstdp.topology.Topology.kernel_key`).
    layout : str
        How the weights lie in memory (:meth:`tritonstdp.topology.Topology.layout`).
    dtype : torch.dtype
        The weights' dtype.
    device : str
        The type of the weights' device.
    bool_spikes : bool
        Whether both spike vectors are bool; both have the weights' dtype otherwise.
    given : tuple of str
        How each of ``formula.parameters`` is given: as a "number", as one value a "pre" or a "post" neuron, as a
        "scalar" (a 0-d tensor), or as another "tensor", which the reference alone takes.
    limits : str
        "number", or "tensor" where ``w_min`` or ``w_max`` is one, which the reference alone takes.
    reduction : str
        What becomes of the changes of a batch's samples, "sum" or "mean"; "" where there is no batch.
    """

    formula: Formula
    topology: str
    kernel_key: Any
    layout: str
    dtype: torch.dtype
    device: str
    bool_spikes: bool
    given: tuple[str, ...]
    limits: str = "number"
    reduction: str = ""

    @staticmethod
    def plain(formula: Formula, topology: Any, dtype: torch.dtype, device: str) -> Case:
        """The usual case of a topology: contiguous weights, bool spikes, and numbers for parameters."""
        return Case(
            formula, topology.name, topology.kernel_key, topology.usual_layout, dtype, device, True, formula.all_numbers
        )

    @property
    def operation(self) -> str:
        """What kernels do, by which the registry finds them."""
        return "batch" if self.reduction else self.formula.operation

    @property
    def names(self) -> Names:
        """What a step hands over."""
        return self.names_of(self.formula, self.given)

    @staticmethod
    def names_of(formula: Formula, given: tuple[str, ...]) -> Names:
        """What a step hands over for parameters that are given so.

        To the reference, tensors of any shape are given among the numbers.
        """
        kinds = dict(zip(formula.parameters, given, strict=True))
        named = {kind: tuple(n for n, k in kinds.items() if k == kind) for kind in ("number", "tensor", "scalar")}
        rule = formula.rule
        pre, post = (
            (*signals, *(n for n, kind in kinds.items() if kind == side))
            for side, signals in (("pre", rule.pre), ("post", rule.post))
        )
        return Names(pre, post, (*named["number"], *named["tensor"], *named["scalar"]), len(named["scalar"]))

    def samples_of(self, pre: Sequence[Tensor], post: Sequence[Tensor]) -> Iterator[tuple[tuple[Tensor, ...], ...]]:
        """The signals of both sides, sample by sample of a batch; a parameter's values are the same in each."""
        own = len(self.formula.rule.pre), len(self.formula.rule.post)
        for b in range(len(pre[0])):
            yield tuple((*(v[b] for v in side[:n]), *side[n:]) for side, n in zip((pre, post), own, strict=True))

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of what is given."""
        return self.formula.parameters

    @property
    def modulated(self) -> bool:
        """Whether the rule writes an eligibility trace."""
        return self.formula.rule.modulated


class Step(Protocol):
    """One plasticity step over one group of synapses, in place; the arguments have been checked by then.

    Parameters
    ----------
    topology : Topology
        The group's topology, of the kind that the kernel was built for.
    weights : Tensor
        The values to update, of ``topology.weights_shape``.
    c : Tensor or None
        The eligibility trace, of the shape and dtype of the weights; None unless the rule is modulated.
    pre, post : sequence of Tensor
        The signals of each side as ``case.names`` has them, contiguous. The spikes come first, both bool or both of the
        dtype of the weights; the others are of that dtype. Of a batch, the rule's own are ``(B, n)``: the weights move
        once, from where the step began, by the sum or the mean of what each sample changes.
    numbers : sequence of float
        The values of ``case.names.numbers``. The reference takes tensors as well.
    w_min, w_max : float
        The limits for bounds and clamp. The reference takes tensors as well.
    """

    def __call__(
        self,
        topology: Any,
        weights: Tensor,
        c: Tensor | None,
        pre: Sequence[Tensor],
        post: Sequence[Tensor],
        numbers: Sequence[Any],
        w_min: Any,
        w_max: Any,
        /,
    ) -> None: ...


AnyStep = TypeVar("AnyStep", bound=Callable[..., None])


class PlacedStep:
    """A step that asks once what follows from where its tensors lie: small groups take longer to ask than to compute.

    Parameters
    ----------
    place : callable
        Makes, of a step's arguments, the step for all arguments of which the tensors are of the same kind and lie where
        these do. That keeps none of the tensors alive.
    """

    __slots__ = ("place",)

    def __init__(self, place: Callable[..., Callable[..., None]]) -> None:
        self.place = place

    def __call__(self, *arguments: Any) -> None:
        self.place(*arguments)(*arguments)


def placed(step: AnyStep, *arguments: Any) -> AnyStep:
    """A step for arguments of which the tensors lie where these do; any other than a :class:`PlacedStep` is the same
    everywhere."""
    return step.place(*arguments) if isinstance(step, PlacedStep) else step  # type: ignore[return-value]
