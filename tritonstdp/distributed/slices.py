"""What a rank holds of a group: a slice of its post neurons, with all synapses that lead into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tritonstdp.functional import PerNeuron, topology_of, update_
from tritonstdp.normalization import into_posts, scale_
from tritonstdp.propagation import propagate_
from tritonstdp.rules import Rule, resolve_rule
from tritonstdp.topology import Part, Topology, check_weights

__all__ = ["Shard", "shard"]


def this_rank() -> tuple[int, int]:
    """The number of this process and how many there are; 0 and 1 without torch.distributed.

    Raises
    ------
    RuntimeError
        If ``torchrun`` has started several processes that do not know each other yet.

    Examples
    --------
    >>> this_rank()
    (0, 1)
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    if dist.is_available() and dist.is_torchelastic_launched():
        raise RuntimeError(
            "torchrun has started this process, and it does not know the others: call "
            "torch.distributed.init_process_group() first"
        )
    return 0, 1


def bounds_of(units: int, size: int) -> list[tuple[int, int]]:
    """Where the slice of each rank begins and ends: neighbours, as even as can be; some are empty where ranks are more.

    Parameters
    ----------
    units : int
        What is dealt out.
    size : int
        The number of ranks.

    Returns
    -------
    list of tuple of int
        ``(start, stop)`` of each rank.

    Examples
    --------
    >>> bounds_of(7, 3)
    [(0, 2), (2, 4), (4, 7)]
    """
    return [(units * rank // size, units * (rank + 1) // size) for rank in range(size)]


@dataclass(eq=False)
class Shard:
    """This rank's part of a group: its post neurons, and the synapses that lead into them; made by :func:`shard`.

    Its methods are the functions of their names on what the rank holds: their vectors of pre neurons are as :meth:`pre`
    gives them, those of post neurons as :meth:`post` does, and what has one value a synapse as :meth:`synapses` does.

    Attributes
    ----------
    whole : Topology
        How the synapses of the group lie between all its neurons.
    topology : Topology or None
        How those of this rank do; None where it has none.
    weights : Tensor
        This rank's weights, as kernels have their values.
    part : Part
        Which of the group's weights and neurons are this rank's.
    bounds : tuple of tuple of int
        From where to where the slice of each rank goes, in ``whole.units``.
    facts : dict of str
        What the ranks have to agree on, by what it is; see :class:`Exchange`.

    Examples
    --------
    >>> part = shard(torch.full((3, 4), 0.5))
    >>> part.update_("stdp", pre_spike=torch.tensor([True, False, False]), pre_trace=torch.zeros(3),
    ...              post_spike=torch.zeros(4, dtype=torch.bool), post_trace=torch.ones(4), a_plus=0.1, a_minus=0.2)
    tensor([[0.3000, 0.3000, 0.3000, 0.3000],
            [0.5000, 0.5000, 0.5000, 0.5000],
            [0.5000, 0.5000, 0.5000, 0.5000]])
    """

    whole: Topology
    topology: Topology | None
    weights: Tensor = field(repr=False)
    part: Part = field(repr=False)
    bounds: tuple[tuple[int, int], ...] = field(repr=False)
    facts: dict[str, str] = field(repr=False)
    _rule: Any = field(default=None, init=False, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights.device

    @property
    def n_pre(self) -> int:
        """How many pre neurons this rank's synapses come from, with what it sees of the padding of a local group."""
        return self.part.pre.size

    @property
    def n_post(self) -> int:
        """How many post neurons are this rank's."""
        return self.part.post.size

    def neurons_of(self, rank: int) -> Tensor:
        """The numbers of a rank's post neurons, among those of the group, in the order in which the rank has them."""
        return self.whole.posts(*self.bounds[rank]).of(torch.arange(*self.whole.post_shape)).reshape(-1)

    def pre(self, values: Tensor, padding: float = 0.0) -> Tensor:
        """What this rank's synapses see of a vector of all pre neurons.

        Parameters
        ----------
        values : Tensor
            ``(n,)``, such as spikes that an :class:`Exchange` gives.
        padding : float
            What stands for neurons that are not there, beside the map of a local group.

        Returns
        -------
        Tensor
            ``(n_pre,)``: all, a slice of a one-to-one group, or the rows of the map that a local group's rows see.
        """
        return self.part.pre.of(values, padding).reshape(-1)

    def post(self, values: Tensor) -> Tensor:
        """What is this rank's of a vector of all post neurons: ``(n_post,)``."""
        return self.part.post.of(values).reshape(-1)

    def synapses(self, values: Tensor) -> Tensor:
        """What is this rank's of one value a synapse (sparse: in the stored order), such as an eligibility trace."""
        return self.part.weights.of(values).reshape(self.weights.shape).contiguous()

    def update_(self, rule: str | Rule, **arguments: Any) -> Tensor:
        """One step of any rule on this rank's weights, as :func:`tritonstdp.update_`.

        Parameters
        ----------
        rule : str or Rule
            The rule, or its name.
        **arguments
            What :func:`tritonstdp.update_` takes, less ``topology``, as this rank has it.

        Returns
        -------
        Tensor
            ``weights``.

        Raises
        ------
        ValueError, TypeError
            As :func:`tritonstdp.update_`.
        """
        self._note(rule, arguments)
        if self.topology is None:
            return self.weights
        return update_(rule, self.weights, topology=self.topology, **arguments)

    def propagate_(self, current: Tensor, pre_spike: Tensor, **options: Any) -> Tensor:
        """Add what spikes bring to this rank's post neurons to their currents, as :func:`tritonstdp.propagate_`."""
        if self.topology is None:
            return current
        return propagate_(current, self.weights, pre_spike, topology=self.topology, **options)

    def normalize_(self, target: Any = 1.0, *, measure: str = "sum") -> Tensor:
        """Scale the weights into each of this rank's post neurons to a target, as :func:`tritonstdp.normalize_`."""
        if self.topology is None:
            return self.weights
        return scale_(self.weights, target, measure, self.topology, self._into_posts)

    def _into_posts(self, topology: Topology, of_weights: Tensor) -> tuple[Tensor, Tensor | None]:
        return sums_of_slice(topology, of_weights, self.part.post.start, self.whole.post_shape[0])

    def _note(self, rule: str | Rule, arguments: dict[str, Any]) -> None:
        """Keep what the ranks have to agree on of a step: the rule, and how each of its arguments is given."""
        key = rule, tuple(arguments), [*map(type, arguments.values())], [arguments.get(name) for name in _CHOICES]
        if key == self._rule:
            return
        self._rule = key
        rule, kinds = resolve_rule(rule), {name: _kind_of(value) for name, value in arguments.items()}
        self.facts["rule"] = f"{rule.name} {sorted(kinds.items())} {[_name_of(arguments.get(n)) for n in _CHOICES]}"
        # what a rank sees beside the map are neurons of its own here, which would have time constants as well
        for name in rule.positive if self.whole.has_padding else ():
            if kinds.get(name) == "pre":
                raise ValueError(f"{name} is given one value a pre neuron, and the group has padding: pass one number")


def sums_of_slice(topology: Topology, of_weights: Tensor, start: int, n: int) -> tuple[Tensor, Tensor | None]:
    """What :func:`into_posts` gives, to the same bits, of post neurons that are a slice of ``n``, from ``start`` on."""
    if topology.incoming == (0,) and of_weights.dim() == 2:
        return _column_sums(of_weights, start, n)[None], None
    return into_posts(topology, of_weights)


AS_ONE = 256
"""So many columns torch adds up in one order, whatever the processor; what is left of a matrix's, in another."""


def _column_sums(own: Tensor, start: int, n: int) -> Tensor:
    """The sums of each of some columns, from ``start`` on, in the order in which torch would add up all ``n``."""
    even = min(max(n - n % AS_ONE - start, 0), own.shape[1])
    blocks = even - even % AS_ONE
    return torch.cat([
        own[:, :blocks].sum(0),
        _sums_among(own[:, blocks:even], 0, AS_ONE),
        _sums_among(own[:, even:], max(start + even - (n - n % AS_ONE), 0), n % AS_ONE),
    ])  # fmt: skip


def _sums_among(columns: Tensor, at: int, width: int) -> Tensor:
    padded = columns.new_zeros(len(columns), width)
    mine = slice(at, at + columns.shape[1])
    padded[:, mine] = columns
    return padded.sum(0)[mine]


_CHOICES = ("positive_bound", "negative_bound", "clamp", "reduction")


def _kind_of(value: Any) -> str:
    return value.side if isinstance(value, PerNeuron) else "tensor" if isinstance(value, Tensor) else "plain"


def _name_of(value: Any) -> str:
    return str(getattr(value, "__name__", value))


Maker = Callable[[int, int], Tensor]


def shard(weights: Tensor | Maker, *, topology: Topology | None = None) -> Shard:
    """This rank's part of a group: a slice of post neurons, with all that leads into them.

    A dense, sparse or one-to-one group is cut between post neurons, a convolution between output channels, a local
    group between rows of output positions. Slices are neighbours, and as even as can be; where there are more ranks
    than there is to deal out, some are empty. A part learns as the group would: to the same bits.

    Parameters
    ----------
    weights : Tensor or callable
        The weights of the group, of which a copy of this rank's part is kept. Or a function ``make(start, stop)`` that
        gives the weights of the part from one of ``topology.units`` up to another, so that nobody ever holds them all:
        ``(n_pre, stop - start)`` dense, or sparse in the same shape, ``(stop - start,)`` one-to-one,
        ``(stop - start, C_in, kh, kw)`` conv2d, ``(C_out, (stop - start) * W_out, C_in * kh * kw)`` local2d.
    topology : Topology, optional
        That of the group; needed for conv2d and local2d, and where a function makes weights (``Dense(n_pre, n_post)``
        where it makes them sparse).

    Returns
    -------
    Shard
        The part.

    Raises
    ------
    ValueError, TypeError
        If something does not fit.
    RuntimeError
        If ``torchrun`` has started this process, and torch.distributed is not initialized.

    Examples
    --------
    >>> shard(torch.rand(5)).topology
    OneToOne(n=5)
    >>> from tritonstdp import Dense
    >>> shard(lambda start, stop: torch.zeros(3, stop - start), topology=Dense(3, 4)).weights.shape
    torch.Size([3, 4])
    """
    rank, size = this_rank()
    if isinstance(weights, Tensor) or not callable(weights):
        whole = topology_of(weights, topology)
    elif isinstance(topology, Topology):
        whole = topology
    else:
        raise TypeError(f"topology is {topology!r}: a function makes the weights, so pass the topology of the group")
    bounds = bounds_of(whole.units, size)
    part = whole.part(*bounds[rank])
    if isinstance(weights, Tensor):
        own, own_topology = _copied(weights, whole, part)
    else:
        own, own_topology = _made(weights, part, bounds[rank])
    facts = {"network": f"{whole} {own.layout} {own.dtype} {size}", "rule": "", "seed": str(torch.initial_seed())}
    values = own if own_topology is None else own_topology.values(own)
    return Shard(whole, own_topology, values, part, tuple(bounds), facts)


def _copied(weights: Tensor, whole: Topology, part: Part) -> tuple[Tensor, Topology | None]:
    values = whole.values(weights)
    if tuple(values.shape) != whole.weights_shape:
        raise ValueError(f"weights have shape {tuple(values.shape)}; {whole.name} needs {whole.weights_shape}")
    own = part.weights.of(values).reshape(_shape_of(part))
    return own.clone(memory_format=torch.contiguous_format), part.topology


def _made(make: Maker, part: Part, bounds: tuple[int, int]) -> tuple[Tensor, Topology | None]:
    made = make(*bounds)
    check_weights(f"what make{bounds} gives", made)
    topology = part.topology if made.layout is torch.strided else topology_of(made, None)
    shape = tuple(made.shape)
    if shape != _shape_of(part):
        raise ValueError(f"make{bounds} gives weights of shape {shape}: the part has {_shape_of(part)}")
    return made, topology


def _shape_of(part: Part) -> tuple[int, ...]:
    return (0,) if part.topology is None else part.topology.weights_shape
