"""What a topology is to kernels and tools, and the checks of sizes and weights that all of them share."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["MOST_ELEMENTS", "MOST_NEURONS", "WEIGHT_DTYPES", "Topology", "as_int", "check_weights", "checked_size"]

WEIGHT_DTYPES = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
"""The dtypes that weights may have."""

MOST_ELEMENTS = 2**62
"""No more elements than that can be counted with the bytes that they take."""

MOST_NEURONS = 2**31 - 1
"""No more neurons than that can be told apart by the int32 indices of sparse synapses."""


def check_weights(name: str, weights: Any) -> None:
    """Refuse what can't be weights: anything but a tensor of a floating dtype.

    Parameters
    ----------
    name : str
        What the weights are to whoever passed them, for the message.
    weights : Tensor
        The weights, of any layout.

    Raises
    ------
    TypeError
        If they are no tensor, or of a dtype that is not in :data:`WEIGHT_DTYPES`.

    Examples
    --------
    >>> check_weights("weights", torch.zeros(2, 3))
    """
    if not isinstance(weights, Tensor):
        raise TypeError(f"{name} are {type(weights).__name__}, not a Tensor: pass torch.as_tensor({name})")
    if weights.dtype not in WEIGHT_DTYPES:
        wanted = "float16, bfloat16, float32 or float64"
        raise TypeError(f"{name} are {weights.dtype}: weights are {wanted}; pass {name}.to(torch.float32)")


def as_int(value: Any) -> int:
    """The int that a size is; raises ``TypeError`` where it is none."""
    # a bool is an int to Python, and a tensor of one bool as well
    if isinstance(value, (bool, Tensor)):
        raise TypeError
    return operator.index(value)


def checked_size(name: str, value: Any, least: int = 0, most: int = MOST_ELEMENTS) -> int:
    """The int that a size is, once it is sure that it can be one."""
    try:
        size = as_int(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}: give an int") from None
    if not least <= size <= most:
        raise ValueError(f"{name} is {size}: give an int from {least} to {most}")
    return size


class _WeaklyReferable:
    # what dataclass(weakref_slot=True) does from Python 3.11 on
    __slots__ = ("__weakref__",)


@dataclass(frozen=True, eq=False, slots=True)
class Topology(_WeaklyReferable):
    """What every topology offers to the kernels.

    Kernels trust what a topology says, so it can't be changed once it is made: sizes are checked and shapes derived
    then, attributes can't be set, and there is no ``__dict__``. What ``object.__setattr__`` does to it all the same is
    not noticed, and leads kernels outside their tensors.

    Attributes
    ----------
    name : str
        The name under which the registry knows it.
    weights_shape : tuple of int
        The shape of the values that a kernel updates.
    pre_shape, post_shape : tuple of int
        The shapes of the vectors of spikes and traces on either side.
    shares_weights : bool
        Whether a weight serves several pairs of neurons.
    takes_strides : bool
        Whether compiled kernels take weights that are not contiguous.
    usual_layout : str
        The :meth:`layout` of contiguous weights.
    """

    name: ClassVar[str] = ""
    shares_weights: ClassVar[bool] = False
    takes_strides: ClassVar[bool] = False
    usual_layout: ClassVar[str] = "contiguous"
    weights_shape: tuple[int, ...] = field(init=False, repr=False)
    pre_shape: tuple[int] = field(init=False, repr=False)
    post_shape: tuple[int] = field(init=False, repr=False)

    def _set_shapes(self, weights: tuple[int, ...], n_pre: int, n_post: int) -> None:
        self._refuse_beyond("weights", *weights)
        self._refuse_beyond("pre neurons", n_pre)
        self._refuse_beyond("post neurons", n_post)
        self._set(weights_shape=weights, pre_shape=(n_pre,), post_shape=(n_post,))

    def _refuse_beyond(self, what: str, *shape: int) -> None:
        if math.prod(shape) > MOST_ELEMENTS:
            raise ValueError(f"{self} has {math.prod(shape)} {what}, more than 2**62: give smaller sizes")

    def _set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    @property
    def has_padding(self) -> bool:
        """Whether there are synapses without a pre neuron, whose signals and parameters count as 0."""
        return False

    @classmethod
    def example(cls) -> Topology:
        """A small topology of this kind, to ask about kernels without weights at hand."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        # copies and pickles go through the constructor, so that they are checked as well
        return type(self), tuple(getattr(self, f.name) for f in fields(self) if f.init)

    @property
    def kernel_key(self) -> Any:
        """What a kernel is specialised on beyond the topology's kind; None where one kernel serves all sizes."""
        return None

    def check(self) -> None:
        """Make sure that nothing was written into the topology's tensors since it was made; a step asks every time.

        Raises
        ------
        ValueError
            If something was (only :class:`Sparse` has tensors).
        """

    def values(self, weights: Tensor) -> Tensor:
        """The tensor of values that a kernel updates: the weights themselves, unless they are sparse.

        Raises
        ------
        TypeError
            If they are no tensor of a floating dtype, or of another layout.
        """
        if getattr(weights, "dtype", None) not in WEIGHT_DTYPES or weights.layout is not torch.strided:
            check_weights("weights", weights)
            raise TypeError(
                f"weights are {weights.layout}, {self.name} takes torch.strided: leave out topology=, or pass "
                "weights.to_dense()"
            )
        return weights

    def side_of(self, shape: Sequence[int]) -> str | None:
        """Whether a tensor that broadcasts to the weights has one value a "pre" or one a "post" neuron.

        Parameters
        ----------
        shape : sequence of int
            The tensor's shape.

        Returns
        -------
        str or None
            The side; None where its values are other ones, or the weights' shape does not tell.

        Examples
        --------
        >>> from tritonstdp import Dense
        >>> Dense(3, 5).side_of((5,)), Dense(3, 5).side_of((3, 1)), Dense(3, 5).side_of((3, 5))
        ('post', 'pre', None)
        """
        return None

    def layout(self, values: Tensor) -> str:
        """How the values lie in memory, as far as kernels are specialised on it."""
        return "contiguous" if values.is_contiguous() else "strided"
