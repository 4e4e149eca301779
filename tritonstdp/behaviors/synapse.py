"""What behaviors read off a synapse group, in either of CoNeX's conventions or in a bare PymoNNtorch network.

CoNeX's main branch keeps the caught signals on the synapse (``pre_spike, post_spike, pre_trace, post_trace``, set by
the catchers and traces of :mod:`~tritonstdp.behaviors.traces`); its released wheel keeps them on the neurons, behind an
axon that delays them. Which one a group follows shows in what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from tritonstdp.topology import WEIGHT_DTYPES, Conv2d, Local2d, Sparse, Topology, check_weights, topology_of_shape

__all__ = [
    "any_topology",
    "arriving_spikes",
    "attribute",
    "can_hold",
    "conv2d",
    "dense",
    "dopamine_of",
    "has_no_delay",
    "has_no_synapse",
    "is_closed",
    "local2d",
    "may_be_delayed",
    "named_signals",
    "one_to_one",
    "positions",
    "signals",
    "sparse",
    "trace_time_constants",
    "version_of",
    "weights_of",
]

_CAUGHT_BY = {
    "pre_spike": "PreSpikeCatcher",
    "post_spike": "PostSpikeCatcher",
    "pre_trace": "PreTrace",
    "post_trace": "PostTrace",
}

_CONEX_AXON, _OWN_AXON = "conex.behaviors.neurons.axon", "tritonstdp.behaviors.neurons"


def weights_of(synapse: Any) -> Tensor:
    """The weights of a synapse group.

    Raises
    ------
    ValueError
        If it has none.
    TypeError
        If they are no tensor of a floating dtype.
    """
    weights = getattr(synapse, "weights", None)
    if weights is None:
        raise ValueError(
            f"{synapse.tag} has no weights: set synapse.weights before learning, as CoNeX's WeightInitializer does"
        )
    if getattr(weights, "dtype", None) not in WEIGHT_DTYPES:
        check_weights("synapse.weights", weights)
    return weights


def has_no_synapse(weights: Tensor) -> bool:
    """Whether weights lead into none of a geometry's channels, as into an empty slice of them; no topology has none."""
    return weights.dim() > 2 and not weights.numel()


def signals(synapse: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The spikes and traces that learning reads: ``(pre_spike, post_spike, pre_trace, post_trace)``.

    Parameters
    ----------
    synapse : SynapseGroup
        With all four on it, or with neurons whose axons give spikes and traces.

    Returns
    -------
    tuple of Tensor
        The spikes, ``(n_pre,)`` and ``(n_post,)``, and the traces likewise.

    Raises
    ------
    ValueError
        If something is missing; the message says which behavior sets it.
    """
    on_synapse = synapse.__dict__
    try:
        return (
            on_synapse["pre_spike"],
            on_synapse["post_spike"],
            on_synapse["pre_trace"],
            on_synapse["post_trace"],
        )
    except KeyError:
        return _signals_of_axons(synapse)


def named_signals(
    synapse: Any, pre: Sequence[str], post: Sequence[str]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The signals of a rule, by name.

    Parameters
    ----------
    synapse : SynapseGroup
        The group.
    pre, post : sequence of str
        The names, as ``pre_trace``: an attribute of the group, or else ``trace`` of its neurons.

    Returns
    -------
    tuple of tuple of Tensor
        The signals of the pre and of the post neurons.

    Raises
    ------
    ValueError
        If one is found nowhere.
    """
    on_synapse = synapse.__dict__
    try:
        return tuple([on_synapse[name] for name in pre]), tuple([on_synapse[name] for name in post])
    except KeyError:
        pass
    caught: dict[str, Tensor] = {}
    if not _CAUGHT_BY.keys() <= on_synapse.keys() and _tracing_axon(synapse.src) and _tracing_axon(synapse.dst):
        names = ("pre_spike", "post_spike", "pre_trace", "post_trace")
        caught = dict(zip(names, _signals_of_axons(synapse), strict=True))
    sides = ((synapse.src, "pre_", pre), (synapse.dst, "post_", post))
    found = (
        tuple(_signal(name, on_synapse, caught, neurons, name.removeprefix(prefix)) for name in names)
        for neurons, prefix, names in sides
    )
    return next(found), next(found)


def _signal(name: str, on_synapse: dict[str, Any], caught: dict[str, Tensor], neurons: Any, own_name: str) -> Tensor:
    found = on_synapse.get(name, caught.get(name))
    if found is None:
        found = getattr(neurons, "spikes" if own_name == "spike" else own_name, None)
    if not isinstance(found, Tensor):
        setter = _CAUGHT_BY.get(name, f"a {name.split('_')[0].title()}Trace(tau_s=..., signal={name!r})")
        raise ValueError(
            f"no {name} is found: add {setter} to the synapse group, or set {neurons.tag}.{own_name} to a tensor with "
            "one value a neuron"
        )
    return found


def _signals_of_axons(synapse: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    src, dst = attribute_of(synapse, "src"), attribute_of(synapse, "dst")
    src_axon, dst_axon = _tracing_axon(src), _tracing_axon(dst)
    if src_axon is None or dst_axon is None:
        missing = [name for name in _CAUGHT_BY if name not in synapse.__dict__]
        raise ValueError(
            f"{synapse.tag} lacks {', '.join(missing)}: add {', '.join(_CAUGHT_BY[name] for name in missing)} to it, "
            "before the learning behavior; or, with CoNeX's wheel, a SpikeTrace and then a NeuronAxon to its neurons"
        )
    pre_spike, pre_trace = _from_axon(src_axon, src, synapse, "src")
    post_spike, post_trace = _from_axon(dst_axon, dst, synapse, "dst")
    return pre_spike, post_spike, pre_trace, post_trace


def _from_axon(axon: Any, neurons: Any, synapse: Any, side: str) -> tuple[Tensor, Tensor]:
    if has_no_delay(axon):
        return _undelayed(axon), axon.trace_history.squeeze(0)
    delay = _delay(synapse, side)
    return axon.get_spike(neurons, delay), axon.get_spike_trace(neurons, delay)


def _tracing_axon(neurons: Any) -> Any:
    axon = attribute_of(neurons, "axon")
    return axon if hasattr(axon, "get_spike_trace") and getattr(axon, "have_trace", True) else None


def _delay(synapse: Any, side: str) -> Tensor:
    delay = getattr(synapse, f"{side}_delay", None)
    if delay is None:
        raise ValueError(f"{synapse.tag} has no {side}_delay, which the axon needs: add CoNeX's SynapseInit to it")
    return delay


def arriving_spikes(neurons: Any, synapse: Any, side: str) -> tuple[Tensor, Tensor | None]:
    """The spikes that arrive at a synapse group from one side at this moment; whoever keeps them copies them.

    Parameters
    ----------
    neurons : NeuronGroup
        The neurons of that side.
    synapse : SynapseGroup
        The group.
    side : str
        "src" or "dst".

    Returns
    -------
    spikes : Tensor
        The spikes, delayed by ``synapse.src_delay`` (``dst_delay``) where the neurons have an axon.
    source : Tensor or None
        The tensor that they are read from, which tells whether they have changed; None where they are delayed.

    Raises
    ------
    ValueError
        If the neurons have neither an axon nor ``spikes``, or the axon's delay is missing.
    TypeError
        If ``spikes`` is no tensor.
    """
    axon = attribute_of(neurons, "axon")
    if axon is None:
        spikes = attribute_of(neurons, "spikes")
        if spikes is None:
            raise ValueError(f"{neurons.tag} has no spikes: set neurons.spikes in one of its behaviors, or add an axon")
        if not isinstance(spikes, Tensor):
            raise TypeError(f"{neurons.tag}.spikes are {type(spikes).__name__}: set torch.as_tensor(spikes)")
        return spikes, spikes
    if has_no_delay(axon):
        return _undelayed(axon), axon.spike_history
    return axon.get_spike(neurons, _delay(synapse, side)), None


def can_hold(kept: Any, arriving: Tensor, n: int | None = None) -> bool:
    """Whether a vector may be written in place to hold another, or ``n`` numbers of another's kind."""
    if not isinstance(kept, Tensor) or is_closed(kept):
        return False
    # the index of a device takes a tenth of what the device itself does
    alike = kept.dtype is arriving.dtype and kept.get_device() == arriving.get_device()
    return alike and kept.numel() == (arriving.numel() if n is None else n) and not kept.requires_grad


def version_of(tensor: Tensor) -> int | None:
    """What counts the writes into a tensor; None of one that was made for inference, which counts none."""
    return None if tensor.is_inference() else tensor._version


def is_closed(tensor: Tensor) -> bool:
    """Whether a tensor was made for inference, and can't be written in place here."""
    return tensor.is_inference() and not torch.is_inference_mode_enabled()


def has_no_delay(axon: Any) -> bool:
    """Whether an axon gives every group the same spikes, as one step of history leaves no delay but 0."""
    known = type(axon).get_spike.__module__ in (_CONEX_AXON, _OWN_AXON)
    return known and axon.init_kwargs.get("max_delay", 1) == 1


def _undelayed(axon: Any) -> Tensor:
    """The one row of an axon's spikes: what it would gather, at less cost."""
    row: Tensor = axon.row if type(axon).get_spike.__module__ == _OWN_AXON else axon.spike_history.squeeze(0)
    return row


def may_be_delayed(neurons: Any) -> bool:
    """Whether groups may see different spikes of the same neurons, also where their axon has yet to be initialized."""
    axons = [*neurons.behavior.values(), attribute_of(neurons, "axon")]
    return not all(has_no_delay(axon) for axon in axons if hasattr(axon, "get_spike"))


def trace_time_constants(synapse: Any) -> tuple[Any, Any]:
    """The time constants of the pre and of the post trace; None where no trace behavior is found.

    They are those of ``PreTrace`` and ``PostTrace`` on the synapse, or else of ``SpikeTrace`` on the neurons, whether
    CoNeX's or this package's.
    """
    return (
        _first_not_none(_tau_of(synapse, "PreTrace", "pre_trace"), _tau_of(synapse.src, "SpikeTrace")),
        _first_not_none(_tau_of(synapse, "PostTrace", "post_trace"), _tau_of(synapse.dst, "SpikeTrace")),
    )


def _first_not_none(first: Any, second: Any) -> Any:
    return second if first is None else first


def _tau_of(owner: Any, class_name: str, signal: str | None = None) -> Any:
    for behavior in owner.behavior.values():
        of_kind = any(kind.__name__ == class_name for kind in type(behavior).__mro__)
        if of_kind and behavior.init_kwargs.get("signal", signal) == signal:
            return getattr(behavior, "tau_s", behavior.init_kwargs.get("tau_s"))
    return None


def attribute_of(owner: Any, name: str, default: Any = None) -> Any:
    """``getattr(owner, name, default)``, at a tenth of its cost where ``torch.nn.Module`` would search for it.

    It finds modules behind attributes, and raises for what is missing, by a method of its own.
    """
    kind: Any = type(owner)
    if not _is_searched_for(kind, name):
        return getattr(owner, name, default)
    attributes = owner.__dict__
    if name in attributes:
        return attributes[name]
    for kept in ("_modules", "_buffers", "_parameters"):
        found = attributes.get(kept)
        if found and name in found:
            return found[name]
    return default


@lru_cache(maxsize=1024)
def _is_searched_for(kind: Any, name: str) -> bool:
    """Whether objects of a class have an attribute in no other way than modules have what is set on them."""
    own_ways = kind.__getattribute__ is object.__getattribute__ and getattr(kind, "__getattr__", None) is _SEARCH
    return own_ways and not hasattr(kind, name)


_SEARCH, _SET = Module.__getattr__, Module.__setattr__


def keep(owner: Any, name: str, value: Tensor) -> None:
    """``setattr(owner, name, value)``, less what ``torch.nn.Module`` asks first, where it replaces one of its kind."""
    attributes = owner.__dict__
    if name in attributes and type(owner).__setattr__ is _SET and type(value) is Tensor:
        attributes[name] = value
    else:
        setattr(owner, name, value)


def dopamine_of(synapse: Any) -> Any:
    """The dopamine concentration of the network that a synapse group belongs to.

    Raises
    ------
    ValueError
        If the network has none.
    """
    dopamine = attribute_of(attribute_of(synapse, "network"), "dopamine_concentration")
    if dopamine is None:
        raise ValueError(
            f"the network of {synapse.tag} has no dopamine: set network.dopamine_concentration, "
            "as CoNeX's Payoff and Dopamine do"
        )
    return dopamine


# What follows serves as the method ``topology`` of a learning behavior.


def dense(behavior: Any, synapse: Any, weights: Tensor) -> Topology:
    """All to all, from the weights' shape.

    Raises
    ------
    ValueError
        If the weights are not a strided matrix.
    """
    if weights.layout is not torch.strided or weights.dim() != 2:
        raise ValueError(_other_class(weights, "a strided matrix (n_pre, n_post)"))
    return topology_of_shape(weights.shape)


def one_to_one(behavior: Any, synapse: Any, weights: Tensor) -> Topology:
    """Neuron k to neuron k, from the weights' shape.

    Raises
    ------
    ValueError
        If the weights are not a strided vector.
    """
    if weights.layout is not torch.strided or weights.dim() != 1:
        raise ValueError(_other_class(weights, "a vector (n,)"))
    return topology_of_shape(weights.shape)


def sparse(behavior: Any, synapse: Any, weights: Tensor) -> Topology:
    """The stored synapses of a sparse tensor; strided weights, as CoNeX makes of ``density=1``, count as all to all."""
    return dense(behavior, synapse, weights) if weights.layout is torch.strided else Sparse.of(weights)


def any_topology(behavior: Any, synapse: Any, weights: Tensor) -> Topology:
    """What the weights' layout and number of dimensions tell, the geometry as of its own topology.

    Raises
    ------
    ValueError, TypeError
        As of its own topology.
    """
    of_dimensions = {1: one_to_one, 2: sparse, 3: local2d, 4: conv2d}
    if weights.dim() not in of_dimensions:
        raise ValueError(f"{synapse.tag} has weights of shape {tuple(weights.shape)}: no topology has such")
    return of_dimensions[weights.dim()](behavior, synapse, weights)


def conv2d(behavior: Any, synapse: Any, weights: Tensor) -> Topology:
    """A convolution, from ``src_shape, dst_shape, stride, padding`` of the synapse and the weights' last two sizes.

    Raises
    ------
    ValueError, TypeError
        If one is missing, is not made of ints, they do not give ``dst_shape``, the weights have another number of
        dimensions, or the behavior's ``weight_divisor`` is no finite number other than 0.
    """
    if weights.layout is not torch.strided or weights.dim() != 4:
        raise ValueError(_other_class(weights, "a strided tensor (C_out, C_in, kh, kw)"))
    return _patches(Conv2d, synapse, weights.shape[-2:], behavior.weight_divisor)


def local2d(behavior: Any, synapse: Any, weights: Tensor) -> Topology:
    """Local receptive fields, from ``src_shape, dst_shape, stride, padding`` and ``kernel_shape`` of the synapse.

    Raises
    ------
    ValueError, TypeError
        If one is missing, is not made of ints, they do not give ``dst_shape``, or the weights have another number of
        dimensions.
    """
    if weights.layout is not torch.strided or weights.dim() != 3:
        raise ValueError(_other_class(weights, "a strided tensor (C_out, H_out * W_out, C_in * kh * kw)"))
    return _patches(Local2d, synapse, _last_two(synapse, "kernel_shape", "(..., kh, kw)"))


def positions(synapse: Any) -> int:
    """The number of output positions of a convolution: what CoNeX divides summed changes by.

    Raises
    ------
    ValueError
        If the synapse's ``dst_shape`` is missing or is not (channels, height, width).
    """
    height, width = _last_two(synapse, "dst_shape", "(channels, height, width)")
    return int(height) * int(width)


def _last_two(synapse: Any, name: str, wanted: str) -> tuple[int, int]:
    value = attribute(synapse, name)
    try:
        first, second = value[-2:]
        index(first), index(second)
    except (TypeError, ValueError):
        raise ValueError(f"{synapse.tag}: {name} is {value!r}: give {wanted}, ints") from None
    return first, second


def attribute(synapse: Any, name: str) -> Any:
    """An attribute that describes the geometry of a synapse group; a list counts as a tuple.

    Raises
    ------
    ValueError
        If the group lacks it.
    """
    value = getattr(synapse, name, None)
    if value is None:
        raise ValueError(
            f"{synapse.tag} has no {name}: set synapse.{name}, as CoNeX's SynapseInit (shapes), WeightInitializer "
            "(kernel_shape) and dendritic inputs (stride, padding) do"
        )
    return tuple(value) if isinstance(value, list) else value


_KNOWN: dict[tuple[int, ...], tuple[Topology, tuple[Any, ...]]] = {}
"""Topologies by the identities of what describes them. That is kept, so that the identities stay its own."""
MOST_KNOWN = 1024


def _patches(kind: Any, synapse: Any, kernel_size: Any, *divisor: Any) -> Topology:
    src_shape, dst_shape = attribute(synapse, "src_shape"), attribute(synapse, "dst_shape")
    stride, padding = attribute(synapse, "stride"), attribute(synapse, "padding")
    # a weights' shape is a new tuple each time, of ints that are the same
    given = (kind, src_shape, dst_shape, *kernel_size, stride, padding, *divisor)
    known = _KNOWN.get(identities := tuple(map(id, given)))
    if known is not None:
        return known[0]
    try:
        types = _types(given)
        topology = _topology(given, types)
        if {*types[1:]} <= {int, float}:  # which never change, while an array may
            _remember(identities, topology, given)
        return topology
    except (TypeError, ValueError):
        return _uncached(given, synapse)


def _remember(identities: tuple[int, ...], topology: Topology, given: tuple[Any, ...]) -> None:
    if len(_KNOWN) >= MOST_KNOWN:
        _KNOWN.clear()
    _KNOWN[identities] = topology, given


def _uncached(given: tuple[Any, ...], synapse: Any) -> Topology:
    """What the cache can't keep: arrays, which can't be hashed; and the reason why something is no geometry."""
    try:
        return _described(*given)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{synapse.tag}: {error}") from None


@lru_cache(maxsize=MOST_KNOWN)
def _topology(given: tuple[Any, ...], types: tuple[type, ...]) -> Topology:
    # 1, True and 1.0 are one key to a cache, so that their types are part of it
    return _described(*given)


def _described(kind: Any, src_shape: Any, dst_shape: Any, kh: Any, kw: Any, *others: Any) -> Topology:
    topology: Topology = kind(src_shape, dst_shape, (kh, kw), *others)
    return topology


def _types(given: tuple[Any, ...]) -> tuple[type, ...]:
    return tuple([type(n) for value in given for n in (value if isinstance(value, tuple) else (value,))])


def _other_class(weights: Tensor, wanted: str) -> str:
    return (
        f"weights are {weights.layout} of shape {tuple(weights.shape)}, not {wanted}: use the behavior of their "
        "topology (Simple, One2One, Sparse, Conv2d, Local2d)"
    )
