"""What a topology is to kernels and tools, and the checks of sizes and weights that all of them share."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from tritonstdp.topology.parts import Selection, Window

__all__ = ["DTYPES", "WEIGHT_DTYPES", "Examples", "Needs", "Part", "Topology", "check_weights"]

DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16")}
"""The dtypes that weights may have, by name."""

WEIGHT_DTYPES = frozenset(DTYPES.values())
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


Sizes = tuple[int, ...]


class Examples(NamedTuple):
    """Sizes at which tools run a topology's kernels unless others are asked for; none where a tool leaves it out.

    Attributes
    ----------
    compiled : tuple of int
        For a look at machine code. Triton specialises on sizes being 1 or multiples of 16: small groups stand for
        large ones.
    metered : tuple of int
        For counting memory traffic in Triton's interpreter, which is slow.
    timed, tuned : tuple of tuple of int
        For times beside other projects', and for sweeps over a kernel's configurations; the smaller ones first.
    """

    compiled: Sizes = ()
    metered: Sizes = ()
    timed: tuple[Sizes, ...] = ()
    tuned: tuple[Sizes, ...] = ()


class Needs(NamedTuple):
    """What a group of some sizes takes, known before anything is allocated.

    Attributes
    ----------
    weights, neurons : int
        How many there are; neurons of both sides.
    scratch : int
        About the bytes that the reference takes for a step in float64, and drawing the connectivity before it.
    """

    weights: int
    neurons: int
    scratch: int


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
    incoming : tuple of int or None
        The axes of the weights along which lie those into one post neuron, or into all that share them; None where
        :meth:`ends` tells.
    sizes : str
        How the sizes of a group are written, as "N_PRExN_POST": what the constructor takes, or :meth:`of_sizes` says.
        A topology without it is left out where tools make groups.
    examples : Examples
        Sizes for tools.
    """

    name: ClassVar[str] = ""
    shares_weights: ClassVar[bool] = False
    takes_strides: ClassVar[bool] = False
    usual_layout: ClassVar[str] = "contiguous"
    incoming: ClassVar[tuple[int, ...] | None] = None
    sizes: ClassVar[str] = ""
    examples: ClassVar[Examples] = Examples()
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

    @classmethod
    def uneven_example(cls) -> Topology:
        """A small topology of sizes that blocks and vectors don't divide, to check kernels on."""
        return cls.example()

    @classmethod
    def takes(cls, sizes: Sequence[int]) -> bool:
        """Whether there are as many sizes as ``sizes`` names."""
        return bool(cls.sizes) and len(sizes) == len(cls.sizes.split("x"))

    @classmethod
    def check_sizes(cls, sizes: Sequence[int]) -> None:
        """Refuse sizes of another topology.

        Raises
        ------
        ValueError
            If there are more or fewer than ``sizes`` names; the message says what to give.
        """
        if not cls.sizes:
            raise ValueError(f"{cls.name} does not say by which sizes a group is made: its class needs sizes = ...")
        if not cls.takes(sizes):
            raise ValueError(f"{'x'.join(map(str, sizes))} is no shape of {cls.name}: give {cls.sizes}")

    @classmethod
    def of_sizes(cls, sizes: Sequence[int]) -> Topology:
        """The topology of a group of some sizes, drawn at random where they leave something open.

        Parameters
        ----------
        sizes : sequence of int
            What ``sizes`` names.

        Returns
        -------
        Topology
            The topology, on the CPU.

        Raises
        ------
        ValueError
            If there is no such group.

        Examples
        --------
        >>> from tritonstdp import Conv2d
        >>> Conv2d.sizes, Conv2d.of_sizes((1, 8, 8, 4, 3)).weights_shape
        ('C_INxHEIGHTxWIDTHxC_OUTxKERNEL', (4, 1, 3, 3))
        """
        cls.check_sizes(sizes)
        return cls(*sizes)

    @classmethod
    def needs(cls, sizes: Sequence[int]) -> Needs:
        """What a group of some sizes takes, known before anything is allocated.

        Parameters
        ----------
        sizes : sequence of int
            As for :meth:`of_sizes`.

        Returns
        -------
        Needs
            The numbers.

        Raises
        ------
        ValueError
            As :meth:`of_sizes`.

        Examples
        --------
        >>> from tritonstdp import Dense
        >>> Dense.needs((1000, 1000))
        Needs(weights=1000000, neurons=2000, scratch=8000000)
        """
        group = cls.of_sizes(sizes)
        return Needs(math.prod(group.weights_shape), group.pre_shape[0] + group.post_shape[0], group.scratch)

    @property
    def scratch(self) -> int:
        """About the bytes that the reference takes for a step in float64."""
        return 40 * math.prod(self.weights_shape)

    @property
    def synapses(self) -> int:
        """The number of pairs of neurons that a step updates: more than weights where these are shared."""
        return math.prod(self.weights_shape)

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

    def weights_of(self, values: Tensor) -> Tensor:
        """The weights that have these values: the values themselves, unless they are sparse.

        Parameters
        ----------
        values : Tensor
            Numbers of ``weights_shape``.

        Returns
        -------
        Tensor
            What steps take as weights; what they write reaches ``values``.

        Examples
        --------
        >>> from tritonstdp import Sparse
        >>> values = torch.zeros(4)
        >>> Sparse.example().weights_of(values).shape
        torch.Size([4, 4])
        """
        return values

    def fits(self, weights: Tensor) -> bool:
        """Whether it is these weights' topology, as far as that needs more than a look at their shape."""
        return True

    def to(self, device: str | torch.device) -> Topology:
        """The same topology with its tensors on a device."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        moved: dict[str, Any] = {name: value.to(device) for name, value in given.items() if isinstance(value, Tensor)}
        return replace(self, **moved) if moved else self

    def ends(self) -> tuple[Tensor, Tensor] | None:
        """The pre and the post neuron of each weight, where that is no matter of shapes."""
        return None

    def rows(self, rows: slice) -> Topology | None:
        """The topology of ``weights[rows]``, to which all post neurons belong and these rows of the pre neurons."""
        return None

    @property
    def units(self) -> int:
        """Into how many parts the post neurons can be cut, each of which learns without the others.

        Examples
        --------
        >>> from tritonstdp import Conv2d, Dense
        >>> Dense(3, 5).units, Conv2d((1, 8, 8), (4, 6, 6), 3).units
        (5, 4)
        """
        return self.post_shape[0]

    def posts(self, start: int, stop: int) -> Window:
        """Which post neurons are those of the part of some of the ``units``."""
        return Window(self.post_shape, 0, start, stop)

    def pres(self, start: int, stop: int) -> Window:
        """Which pre neurons the part of some of the ``units`` sees."""
        return Window(self.pre_shape, 0, 0, *self.pre_shape)

    def part(self, start: int, stop: int) -> Part:
        """The part of some of the ``units``, from one up to another.

        Parameters
        ----------
        start, stop : int
            From 0 to ``units``; ``stop`` is not below ``start``.

        Returns
        -------
        Part
            Its topology, and which weights and neurons of this one are its.

        Raises
        ------
        ValueError
            If the topology does not say how it is cut.

        Examples
        --------
        >>> from tritonstdp import Dense
        >>> part = Dense(3, 5).part(2, 4)
        >>> part.topology, part.post.of(torch.arange(5))
        (Dense(n_pre=3, n_post=2), tensor([2, 3]))
        """
        raise ValueError(f"{self.name} does not say how it is cut into parts: its class needs part(start, stop)")

    def entries_read(self, pre_spike: Tensor, post_spike: Tensor) -> dict[str, Tensor]:
        """Which entries of the topology's own tensors a step can't do without, by their names: True at each."""
        return {}

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


class Part(NamedTuple):
    """Some post neurons of a group, and all that leads into them.

    Attributes
    ----------
    topology : Topology or None
        How the part's synapses lie; None where it has no post neuron, and its kind of topology can't be empty.
    weights, pre, post : Selection
        Which weights, as a kernel has their values, which pre and which post neurons are the part's.
    """

    topology: Topology | None
    weights: Selection
    pre: Window
    post: Window
