"""Plasticity for any torch loop: one call a step, in place."""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from functools import cache, partial
from importlib import import_module
from itertools import compress
from math import inf
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.compiler import is_compiling
from typing_extensions import Unpack

from tritonstdp.binding import Binding
from tritonstdp.choice import Choice, choose
from tritonstdp.kernels import reference
from tritonstdp.kernels.compilation import undisturbed
from tritonstdp.kernels.compose import rounded
from tritonstdp.kernels.memory import address, check_apart
from tritonstdp.kernels.propagation import PROPAGATION, PropagationCase
from tritonstdp.kernels.protocol import Case, Names, PerNeuron
from tritonstdp.kernels.trace import TraceCase, TraceStep
from tritonstdp.registry import BACKENDS, Backend, has_module, meeting_of
from tritonstdp.rules import Bound, Formula, Rule, istdp, resolve_bound, resolve_rule, rstdp, stdp, target_trace
from tritonstdp.topology import WEIGHT_DTYPES, Topology, example_topology, infer_topology

__all__ = [
    "PerNeuron",
    "explain",
    "istdp_",
    "per_post",
    "per_pre",
    "prepare",
    "rstdp_",
    "stdp_",
    "step_",
    "trace_",
    "update_",
    "weight_change",
]


Signals = tuple[Tensor, ...]
_PLAIN = frozenset((float, int))
_LARGEST = sys.float_info.max
_USUAL = 2.0**53
"""Up to this sum, the numbers need no second look: none is beyond any float, and an int is exactly a float."""


class Options(TypedDict, total=False):
    """What every rule's call takes beside its own parameters; see :func:`update_`."""

    w_min: float | Tensor
    w_max: float | Tensor
    positive_bound: str | Bound | None
    negative_bound: str | Bound | None
    clamp: bool
    topology: Topology | None
    backend: str | None
    autotune: bool
    reduction: str


def per_pre(values: Tensor) -> PerNeuron:
    """A parameter with one value a pre neuron, on any topology.

    Parameters
    ----------
    values : Tensor
        ``(n_pre,)``.

    Returns
    -------
    PerNeuron
        What a step takes for the parameter.

    Raises
    ------
    TypeError
        If it is no vector.

    Examples
    --------
    >>> w, spikes = torch.full((2, 1), 0.5), torch.tensor([True, True])
    >>> stdp_(w, spikes, torch.zeros(2), torch.tensor([False]), torch.ones(1), a_plus=0.1,
    ...       a_minus=per_pre(torch.tensor([0.1, 0.2])))
    tensor([[0.4000],
            [0.3000]])
    """
    return _per_neuron("pre", values)


def per_post(values: Tensor) -> PerNeuron:
    """A parameter with one value a post neuron, on any topology; see :func:`per_pre`.

    Parameters
    ----------
    values : Tensor
        ``(n_post,)``.

    Returns
    -------
    PerNeuron
        What a step takes for the parameter.

    Raises
    ------
    TypeError
        If it is no vector.

    Examples
    --------
    >>> per_post(torch.ones(3)).side
    'post'
    """
    return _per_neuron("post", values)


def _per_neuron(side: str, values: Tensor) -> PerNeuron:
    wanted = f"pass a vector with one value a {side} neuron"
    if not isinstance(values, Tensor):
        raise TypeError(f"per_{side} is given {values!r}: {wanted}")
    if values.dim() != 1 or values.layout is not torch.strided or values.is_nested:
        raise TypeError(f"per_{side} is given {values.dim()} dimensions of {values.layout}: {wanted}")
    return PerNeuron(side, values)


def _check(
    formula: Formula,
    names: Names,
    topology: Topology,
    weights: Tensor,
    values: Tensor,
    pre: Signals,
    post: Signals,
    c: Tensor | None,
    reduction: str,
) -> None:
    """Name the first tensor that does not fit, and say what would."""
    synapse, rule = topology.weights_shape, formula.rule
    if not reduction and pre and isinstance(pre[0], Tensor) and not pre[0].is_nested and pre[0].dim() > 2:
        needed = f"{topology.pre_shape}, or (B, {topology.pre_shape[0]}) of a batch"
        raise ValueError(f"{rule.pre[0]} has shape {tuple(pre[0].shape)}; {topology.name} needs {needed}: flatten it")
    samples = tuple(pre[0].shape[:1]) if reduction else ()
    if samples == (0,):
        raise ValueError(f"pre_spike has shape {tuple(pre[0].shape)}: a batch has one sample or more")
    named: list[Named] = [("weights", values, synapse)]
    for side, own, signals, size in (
        (names.pre, rule.pre, pre, topology.pre_shape),
        (names.post, rule.post, post, topology.post_shape),
    ):
        if len(side) != len(signals):
            raise ValueError(f"{len(signals)} signals are given of one side, which has {', '.join(side)}")
        sizes = [(*samples, *size)] * len(own) + [size] * (len(side) - len(own))
        named += zip(side, signals, sizes, strict=True)
    if c is not None:
        named.append(("c", c, synapse))
    check_tensors(named)
    for name, tensor in (("weights", weights), ("c", c)):
        if tensor is not None and tensor.requires_grad:
            raise ValueError(f"{name} require grad: plasticity writes in place; pass {name}.detach()")
    for name, tensor in (("weights", values), ("c", c)):
        if tensor is not None and tensor.is_neg():
            raise ValueError(f"{name} is negated in name alone, and written in place: pass {name}.resolve_neg()")
    check_alike(topology, values, named)


Named = tuple[str, Any, tuple[int, ...]]
"""A tensor, what it is to whoever passed it, and the shape that it should have."""


def check_tensors(named: Sequence[Named]) -> None:
    """Refuse what is no plain tensor."""
    for name, tensor, shape in named:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is {type(tensor).__name__}, not a Tensor of shape {shape}: use torch.as_tensor")
        if tensor.is_nested:
            raise TypeError(f"{name} is a nested tensor: pass a plain one of shape {shape}")


def check_alike(topology: Topology, values: Tensor, named: Sequence[Named]) -> None:
    """Refuse tensors of another shape, device or dtype than a step on these weights needs."""
    for name, tensor, shape in named:
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; {topology.name} needs {shape}")
        if tensor.device != values.device:
            raise ValueError(f"{name} is on {tensor.device}, the weights on {values.device}: move one of them")
        if name not in _SPIKES and tensor.dtype != values.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, the weights {values.dtype}: use {name}.to({values.dtype})")


_SPIKES = ("pre_spike", "post_spike")


def _number(name: str, value: Any) -> Any:
    """A Python float where the value is one number on the host; tensors else, for the reference."""
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_nested or value.is_complex():
            raise TypeError(f"{name} is {value.layout} of {value.dtype}: pass a strided tensor of real numbers")
        if value.dtype is torch.bool and value.dim():
            raise TypeError(f"{name} is torch.bool: pass numbers, as of {name}.float()")
        if value.device.type != "meta":
            address(name, value)
        return value.item() if value.is_cpu and value.dim() == 0 else value
    if isinstance(value, (str, bytes, complex, np.complexfloating)):
        raise TypeError(f"{name} is {value!r}: pass a number or a tensor")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}: pass a number or a tensor") from None
    except OverflowError:
        raise ValueError(f"{name} is larger than any float: pass a smaller number") from None


class _Placed(NamedTuple):
    """Where the parameters of a step go: see :class:`tritonstdp.kernels.protocol.Names`."""

    given: tuple[str, ...]
    pre: Signals
    post: Signals
    numbers: tuple[Any, ...]
    w_min: Any
    w_max: Any
    limits: str


def _place(
    formula: Formula, topology: Topology, values: Tensor, parameters: Sequence[Any], w_min: Any, w_max: Any
) -> _Placed:
    """Read a step's parameters, of which one is no plain number."""
    w_min, w_max = _number("w_min", w_min), _number("w_max", w_max)
    limits = "tensor" if isinstance(w_min, Tensor) or isinstance(w_max, Tensor) else "number"
    for name, limit in (("w_min", w_min), ("w_max", w_max)):
        _check_tensor_parameter(name, limit, topology, values.device)
    kinds: dict[str, list[Any]] = {kind: [] for kind in ("pre", "post", "number", "tensor", "scalar")}
    given = []
    for name, value in zip(formula.parameters, parameters, strict=True):
        kind, read = _kind_of(formula.rule, name, value, topology, values)
        given.append(kind)
        kinds[kind].append(read)
    numbers = (*kinds["number"], *kinds["tensor"], *kinds["scalar"])
    return _Placed(tuple(given), tuple(kinds["pre"]), tuple(kinds["post"]), numbers, w_min, w_max, limits)


def _kind_of(rule: Rule, name: str, value: Any, topology: Topology, values: Tensor) -> tuple[str, Any]:
    """How a parameter is given (:class:`tritonstdp.kernels.protocol.Case`), and as what kernels take it."""
    if value is None and name == "dopamine":
        raise ValueError("dopamine is missing: a reward-modulated rule needs a number or a tensor")
    if isinstance(value, PerNeuron):
        return value.side, _of_neurons(rule, name, value, topology, values)
    value = _number(name, value)
    if not isinstance(value, Tensor):
        return "number", value
    side, shape = topology.side_of(value.shape), topology.weights_shape
    if name == "dopamine" and value.dim() and side is None and tuple(value.shape) != shape:
        raise ValueError(
            f"dopamine has shape {tuple(value.shape)}: {topology.name} takes a number, one value a synapse {shape}, or "
            "one a neuron as per_pre or per_post of it"
        )
    _check_tensor_parameter(name, value, topology, values.device)
    if value.dim() == 0:
        return "scalar", value.to(values.dtype)
    if side is None or value.dtype != values.dtype:
        return "tensor", value
    return side, value.reshape(-1).contiguous().resolve_neg()


def _of_neurons(rule: Rule, name: str, value: PerNeuron, topology: Topology, values: Tensor) -> Tensor:
    if topology.shares_weights and name not in rule.spike_parameters:
        raise ValueError(
            f"{name} is given one value a {value.side} neuron: {topology.name} shares a weight among many, and "
            f"{rule.name} reads {name} once a weight; pass one number"
        )
    if value.side == "pre" and name in rule.positive and topology.has_padding:
        raise ValueError(
            f"{name} is given one value a pre neuron, and {topology.name} has padding, where there is none: pass one "
            "number, or one value a post neuron"
        )
    shape = topology.pre_shape if value.side == "pre" else topology.post_shape
    if tuple(value.values.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(value.values.shape)}: per_{value.side} takes {shape}")
    if value.values.device != values.device:
        raise ValueError(f"{name} is on {value.values.device}, the weights on {values.device}: move one of them")
    if values.device.type != "meta":
        address(name, value.values)
    return value.values.to(values.dtype).contiguous().resolve_neg()


def _check_tensor_parameter(name: str, value: Any, topology: Topology, device: torch.device) -> None:
    """Refuse a tensor that would not meet each weight with one value, or lies elsewhere."""
    shape = topology.weights_shape
    if not isinstance(value, Tensor):
        return
    if value.device != device:
        raise ValueError(f"{name} is on {value.device}, the weights on {device}: move one of them")
    pairs = zip(reversed(value.shape), reversed(shape), strict=False)
    if value.dim() > len(shape) or any(n not in (1, m) for n, m in pairs):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, which does not broadcast to the weights' {shape}: pass a number, "
            "one value a weight, or one a neuron as per_pre or per_post of it"
        )


def _check_numbers(formula: Formula, named: dict[str, Any]) -> None:
    """Say what is wrong with numbers of which one is NaN, out of order or out of its range."""
    for name, value in named.items():
        if isinstance(value, Tensor) or name == "dopamine":
            continue
        if abs(value) > _LARGEST and abs(value) != inf:
            raise ValueError(f"{name} is larger than any float: pass a smaller number")
        if value != value:
            raise ValueError(f"{name} is nan: pass a number")
        if name in formula.rule.positive and not value > 0:
            raise ValueError(f"{name} is {value}: a time constant is above 0")
    w_min, w_max = named["w_min"], named["w_max"]
    if not isinstance(w_min, Tensor) and not isinstance(w_max, Tensor) and w_min > w_max:
        raise ValueError(f"w_min is {w_min} and w_max {w_max}: the lower limit can't lie above the upper one")


def in_torch(values: Tensor, c: Tensor | None) -> ExitStack:
    """What a step by torch's own functions needs around it, that kernels do without."""
    stack = ExitStack()
    if values.device.type != "meta":
        stack.enter_context(torch.autocast(values.device.type, enabled=False))
    if values.is_inference() or (c is not None and c.is_inference()):
        stack.enter_context(torch.inference_mode())
    return stack


def step_(
    formula: Formula,
    topology: Topology,
    weights: Tensor,
    pre: Signals,
    post: Signals,
    parameters: Sequence[Any],
    w_min: Any = 0.0,
    w_max: Any = 1.0,
    c: Tensor | None = None,
    backend: str | None = None,
    autotune: bool = False,
    reduction: str = "sum",
) -> Choice:
    """Update weights by one step of a formula, in place: what every other entry to the package comes down to.

    Parameters
    ----------
    formula : Formula
        The rule, its bounds and whether to clamp.
    topology : Topology
        How the synapses lie.
    weights : Tensor
        The weights, of the topology's shape, or a sparse tensor.
    pre, post : tuple of Tensor
        The signals of ``formula.rule.pre``, ``(n_pre,)`` each, and of ``formula.rule.post``, ``(n_post,)``; of a batch,
        ``(B, n_pre)`` and ``(B, n_post)``. The first is the spikes of this step, bool, or float spikes that count with
        their value; the others, as traces, have the weights' dtype.
    parameters : sequence
        The values of ``formula.parameters``, in order: numbers, one value a neuron (:func:`per_pre`, :func:`per_post`,
        or a tensor that broadcasts to the weights along one side), or tensors that broadcast to the weights.
    w_min, w_max : float or Tensor
        The limits that bounds and clamp use.
    c : Tensor, optional
        The eligibility trace, of the weights' shape; only for modulated rules, and written in place.
    backend : str, optional
        Use this backend and no other.
    autotune : bool
        See :func:`tritonstdp.choice.choose`.
    reduction : str
        "sum" or "mean" of what the samples of a batch change; see :func:`update_`.

    Returns
    -------
    Choice
        The kernel that ran, and why not the others.

    Raises
    ------
    ValueError, TypeError
        If something does not fit, before anything is written.

    Examples
    --------
    >>> from tritonstdp import Dense
    >>> w = torch.full((2, 3), 0.5)
    >>> pre = torch.ones(2, dtype=torch.bool), torch.zeros(2)
    >>> post = torch.zeros(3, dtype=torch.bool), torch.full((3,), 0.5)
    >>> choice = step_(Formula.of(stdp), Dense(2, 3), w, pre, post, (0.1, 0.2))
    >>> round(w[0, 0].item(), 3), choice.backend
    (0.4, 'cpu')
    """
    topology.check()
    values = topology.values(weights)
    if len(parameters) != len(formula.parameters):
        _complain_of_numbers(formula, parameters)
    given, numbers, limits = formula.all_numbers, tuple(parameters), "number"
    for value in (w_min, w_max, *parameters):
        if value.__class__ not in _PLAIN:
            given, more_pre, more_post, numbers, w_min, w_max, limits = _place(
                formula, topology, values, parameters, w_min, w_max
            )
            pre, post = (*pre, *more_pre), (*post, *more_post)
            break
    if given is formula.all_numbers:
        try:
            total = sum(numbers, w_min + w_max)
        except OverflowError:
            total = inf
        fits = w_min <= w_max and -_USUAL < total < _USUAL
        for k in formula.positive_at:
            fits = fits and numbers[k] > 0
    if given is not formula.all_numbers or not fits:
        names = Case.names_of(formula, given).numbers
        _check_numbers(formula, dict(zip(("w_min", "w_max", *names), (w_min, w_max, *numbers), strict=True)))
        # as floats: torch takes no int beyond 64 bits
        w_min, w_max, *as_floats = (n if isinstance(n, Tensor) else float(n) for n in (w_min, w_max, *numbers))
        numbers = tuple(as_floats)
    if formula.rule.eligibility is not None and c is None:
        raise ValueError(f"c is missing: {formula.rule.name} keeps an eligibility trace of the weights' shape")
    if formula.rule.eligibility is None:
        c = None
    # a recurrent group has the same spikes and traces on both sides: each tensor is looked at once
    same = tuple(map(operator.is_, pre, post))
    apart = (*compress(post, map(operator.not_, same)), *post[len(same) :]) if True in same else post
    tensors: tuple[Tensor, ...] = (values, *pre, *apart) if c is None else (values, c, *pre, *apart)
    try:
        dimensions = pre[0].ndim  # by which steps of a batch are told from others, so that both are known again
    except (AttributeError, IndexError):
        dimensions = 0
    key = (id(topology), given, limits, backend, autotune, len(pre), len(post), same, c is None, reduction, dimensions)
    binding, step = formula.choices.get(key), None
    if binding is not None and not weights.requires_grad:
        step = binding.step_for(topology, tensors, topology, values, c, pre, post, numbers, w_min, w_max)
    if binding is not None and step is not None:
        choice = binding.choice
    else:
        all_names, reduction = Case.names_of(formula, given), _reduction_of(reduction, pre)
        _check(formula, all_names, topology, weights, values, pre, post, c, reduction)
        fitting_pre, fitting_post = _fitting(all_names, values, pre, post, c, numbers)
        case = _case(formula, topology, values, fitting_pre, c, given, limits, reduction)
        choice = choose(case, backend, autotune)
        step = choice.step
        as_they_are = all(map(operator.is_, (*fitting_pre, *fitting_post), (*pre, *post)))
        if as_they_are and choice.backend != "reference" and Binding.can_hold(tensors):
            held = weakref.ref(topology, partial(forget_binding, weakref.ref(formula), key))
            formula.choices[key] = Binding(step, held, tensors, 1 if c is None else 2, choice)
        pre, post = fitting_pre, fitting_post
    written = (values,) if c is None else (values, c)
    before = copies_to_put_back(written)
    if choice.backend == "reference":
        with in_torch(values, c):
            step(topology, values, c, pre, post, numbers, w_min, w_max)
    else:
        step(topology, values, c, pre, post, numbers, w_min, w_max)
    note_write(written, before)
    return choice


def _reduction_of(reduction: str, pre: Signals) -> str:
    """The reduction of a batch; "" where signals are vectors."""
    if reduction != "sum" and reduction != "mean":
        raise ValueError(f"reduction is {reduction!r}: the changes of a batch's samples have a 'sum' or a 'mean'")
    is_batch = pre and isinstance(pre[0], Tensor) and not pre[0].is_nested and pre[0].dim() == 2
    return reduction if is_batch else ""


_preparing: ContextVar[bool] = ContextVar("preparing", default=False)


@contextmanager
def prepare() -> Iterator[None]:
    """Do what a first step does, and no step: steps and traces within end in the weights and traces they began with.

    Kernels are chosen, compiled and tuned if that is asked for, plans are made, and a group's scratch has its place
    from then on. So a CUDA graph can be captured, which allows none of that, and no step of a simulation is slow.
    What is written is copied meanwhile, so that there must be memory for that.

    Yields
    ------
    None

    Examples
    --------
    >>> w, spikes, trace = torch.full((2, 2), 0.5), torch.ones(2) > 0, torch.ones(2)
    >>> with prepare():
    ...     _ = stdp_(w, spikes, trace, spikes, trace, a_plus=0.1, a_minus=0.2)
    >>> w[0, 0]
    tensor(0.5000)
    """
    token = _preparing.set(True)
    try:
        yield
    finally:
        _preparing.reset(token)


def copies_to_put_back(tensors: Signals) -> Signals | None:
    """What tensors hold before they are written, if it is to be put back: see :func:`prepare`."""
    return tuple([tensor.clone() for tensor in tensors]) if _preparing.get() else None


def note_write(tensors: Signals, copies: Signals | None) -> None:
    """Let autograd notice a write that no torch function has made; and take it back where there are copies."""
    for tensor in tensors:  # several at once take longer
        increment_version(tensor)
    if copies is None:
        return
    with torch.inference_mode(tensors[0].is_inference()), torch.no_grad():
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.copy_(copy)


def forget_binding(formula: weakref.ref[Any], key: Any, _: Any) -> None:
    """Let go of a binding of a formula, or of propagation, whose topology is gone."""
    still = formula()
    if still is not None:
        still.choices.pop(key, None)


def _complain_of_numbers(formula: Formula, parameters: Sequence[Any]) -> None:
    wanted = ", ".join(formula.parameters) or "none"
    raise ValueError(f"parameters has {len(parameters)} values: {formula.rule.name} takes {wanted}")


def _case(
    formula: Formula,
    topology: Topology,
    values: Tensor,
    pre: Signals,
    c: Tensor | None,
    given: tuple[str, ...],
    limits: str,
    reduction: str,
) -> Case:
    layout = topology.layout(values)
    if c is not None and layout != topology.layout(c):
        layout = "strided"
    return Case(
        formula, topology.name, topology.kernel_key, layout, values.dtype, values.device.type,
        pre[0].dtype is torch.bool, given, limits, reduction,
    )  # fmt: skip


def _fitting(
    names: Names, values: Tensor, pre: Signals, post: Signals, c: Tensor | None, numbers: Sequence[Any]
) -> tuple[Signals, Signals]:
    """The signals as kernels take them, once it is sure that none shares memory with what is written."""
    read = tuple(zip((*names.pre, *names.post), (*pre, *post), strict=True))
    tensors = ((n, v) for n, v in zip(names.numbers, numbers, strict=True) if isinstance(v, Tensor))
    read = (*read, *tensors)
    if c is not None:
        check_apart("c", c, read)
        read = (*read, ("c", c))
    check_apart("weights", values, read)
    if values.device.type != "meta":
        for name, tensor in (("weights", values), *read):
            address(name, tensor)
    (pre_spike, *pre), (post_spike, *post) = pre, post  # type: ignore[assignment]
    if pre_spike.dtype is not torch.bool or post_spike.dtype is not torch.bool:
        pre_spike = real_spikes("pre_spike", pre_spike, values.dtype)
        post_spike = real_spikes("post_spike", post_spike, values.dtype)
    return (pre_spike.contiguous(), *map(_plain, pre)), (post_spike.contiguous(), *map(_plain, post))


def _plain(tensor: Tensor) -> Tensor:
    """The tensor as its memory says it: neighbours next to each other, none negated only in name."""
    tensor = tensor.contiguous()
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def real_spikes(name: str, spikes: Tensor, dtype: torch.dtype) -> Tensor:
    """Spikes that count with their value, as the weights' dtype has them."""
    if spikes.is_complex():
        raise TypeError(f"{name} is {spikes.dtype}: spikes are bool or real numbers")
    return spikes.to(dtype).resolve_neg()


def weight_change(
    formula: Formula,
    topology: Topology,
    weights: Tensor,
    pre: Signals,
    post: Signals,
    parameters: Sequence[Any],
    w_min: Any = 0.0,
    w_max: Any = 1.0,
    reduction: str = "sum",
) -> Tensor:
    """The change that :func:`step_` would make, before any clamp (a modulated rule: add to the eligibility).

    Parameters
    ----------
    formula, topology, weights, pre, post, parameters, w_min, w_max, reduction
        As for :func:`step_`; nothing is written.

    Returns
    -------
    Tensor
        The change, of ``topology.weights_shape``.

    Raises
    ------
    ValueError, TypeError
        If something does not fit.

    Examples
    --------
    >>> from tritonstdp import Dense
    >>> w = torch.full((2, 3), 0.5)
    >>> pre = torch.ones(2, dtype=torch.bool), torch.zeros(2)
    >>> post = torch.zeros(3, dtype=torch.bool), torch.full((3,), 0.5)
    >>> dw = weight_change(Formula.of(stdp), Dense(2, 3), w, pre, post, (0.1, 0.2))
    >>> round(dw[0, 0].item(), 3)
    -0.1
    """
    values = topology.values(weights)
    placed = _place(formula, topology, values, parameters, w_min, w_max)
    pre, post = (*pre, *placed.pre), (*post, *placed.post)
    names, reduction = Case.names_of(formula, placed.given), _reduction_of(reduction, pre)
    _check(formula, names, topology, weights, values, pre, post, None, reduction)
    if values.device.type != "meta":
        for name, tensor in (("weights", values), *zip((*names.pre, *names.post), (*pre, *post), strict=True)):
            address(name, tensor)
    case = _case(formula, topology, values, pre, None, placed.given, placed.limits, reduction)
    pre, post = (tuple(signal.to(values.dtype) for signal in side) for side in (pre, post))
    return reference.weight_change(
        meeting_of(topology.name), case, topology, values, pre, post, placed.numbers, placed.w_min, placed.w_max
    )


def topology_of(weights: Tensor, topology: Topology | None) -> Topology:
    """The topology that is given for some weights, or else the one that they have by themselves."""
    if topology is None:
        return infer_topology(weights)
    if not isinstance(topology, Topology):
        raise TypeError(f"topology is {topology!r}: pass a topology, as Dense(n_pre, n_post), or leave it out")
    if not topology.fits(weights):
        raise ValueError("the topology was planned for other indices than these weights have: use Sparse.of(weights)")
    return topology


_OPTIONS = ("c", *Options.__annotations__)


def _wrong_arguments(formula: Formula, arguments: Iterable[str]) -> Exception:
    """What to raise where a rule's signals or parameters are missing, or others are given."""
    rule = formula.rule
    wanted = (*rule.pre, *rule.post, *formula.parameters)
    unknown = [name for name in arguments if name not in wanted]
    if unknown:
        meant = get_close_matches(unknown[0], (*wanted, *_OPTIONS), 1)
        hint = f": did you mean {meant[0]}?" if meant else "."
        return TypeError(f"{rule.name} takes no {', '.join(unknown)}{hint} It reads {', '.join(wanted)}")
    missing = [name for name in wanted if name not in arguments]
    ways = " and ".join(f"{name}=..." for name in missing)
    return ValueError(f"{rule.name} needs {', '.join(missing)}: pass {ways}")


def update_(
    rule: str | Rule,
    weights: Tensor,
    *,
    c: Tensor | None = None,
    w_min: Any = 0.0,
    w_max: Any = 1.0,
    positive_bound: str | Bound | None = None,
    negative_bound: str | Bound | None = None,
    clamp: bool = False,
    topology: Topology | None = None,
    backend: str | None = None,
    autotune: bool = False,
    reduction: str = "sum",
    **arguments: Any,
) -> Tensor:
    """Update weights by one step of any rule, in place.

    Parameters
    ----------
    rule : str or Rule
        The rule, or its name.
    weights : Tensor
        ``(n_pre, n_post)`` dense in any strides or sparse (CSC, CSR, coalesced COO), ``(n,)`` one-to-one,
        ``(C_out, C_in, kh, kw)`` conv2d, ``(C_out, H_out * W_out, C_in * kh * kw)`` local2d.
    c : Tensor, optional
        The eligibility trace of a modulated rule, of the weights' shape (sparse: of the values'); written in place.
    w_min, w_max : float or Tensor
        The limits that bounds and clamp use.
    positive_bound, negative_bound : str, callable or None
        The bounds of potentiation and of depression: a name, a function ``(w, w_min, w_max)`` with parameters of its
        own behind a ``*``, or None for no bound.
    clamp : bool
        Clip what the step touches to ``[w_min, w_max]``.
    topology : Topology, optional
        Needed for conv2d and local2d; otherwise the weights tell.
    backend : str, optional
        "triton", "cpu" or "reference", and no other; by default the fastest that takes the case.
    autotune : bool
        Time the kernel's configurations at the first step of a size that has not been tuned before, which takes
        seconds, and keep the fastest; as ``TRITONSTDP_AUTOTUNE=1`` does everywhere.
    reduction : str
        "sum" or "mean": what is made of the changes that the samples of a batch ask for.
    **arguments
        By name, what the rule reads. Its signals: ``pre_spike`` and ``post_spike``, bool ``(n_pre,)`` and ``(n_post,)``
        (a float spike counts with its value), and the others of ``rule.pre`` and ``rule.post``, as ``pre_trace``, of
        the weights' dtype. Or, of a batch, all of them as ``(B, n_pre)`` and ``(B, n_post)``: each sample's change is
        taken from the weights as they are, and they move (and are clamped, and an eligibility decays) once, by the sum
        or mean of the changes. Its parameters, those of its bounds and, where it is modulated, ``dopamine``: numbers,
        0-d tensors, one value a neuron (:func:`per_pre`, :func:`per_post`), or tensors that broadcast to the weights.

    Returns
    -------
    Tensor
        ``weights``.

    Raises
    ------
    ValueError, TypeError
        If something is missing or does not fit, before anything is written.

    Examples
    --------
    >>> w = torch.full((2, 3), 0.5)
    >>> pre, post = torch.tensor([True, False]), torch.tensor([False, False, True])
    >>> update_("stdp", w, pre_spike=pre, pre_trace=torch.ones(2), post_spike=post, post_trace=torch.ones(3),
    ...         a_plus=0.1, a_minus=0.2)
    tensor([[0.3000, 0.3000, 0.4000],
            [0.5000, 0.5000, 0.6000]])
    """
    if is_compiling():
        from tritonstdp.operators import in_graph  # and with it all of torch's compiler

        return in_graph(
            update_, {"weights": weights, "c": c}, rule=rule, w_min=w_min, w_max=w_max, positive_bound=positive_bound,
            negative_bound=negative_bound, clamp=clamp, topology=topology, backend=backend, autotune=autotune,
            reduction=reduction, **arguments,
        )  # fmt: skip
    rule = resolve_rule(rule)
    formula = Formula.of(rule, resolve_bound(positive_bound), resolve_bound(negative_bound), clamp)
    try:
        pre = tuple([arguments[name] for name in rule.pre])
        post = tuple([arguments[name] for name in rule.post])
        parameters = [arguments[name] for name in formula.parameters]
    except KeyError:
        raise _wrong_arguments(formula, arguments) from None
    if len(arguments) != len(pre) + len(post) + len(parameters):
        raise _wrong_arguments(formula, arguments)
    topology = topology_of(weights, topology)
    step_(formula, topology, weights, pre, post, parameters, w_min, w_max, c, backend, autotune, reduction)
    return weights


def stdp_(
    weights: Tensor,
    pre_spike: Tensor,
    pre_trace: Tensor,
    post_spike: Tensor,
    post_trace: Tensor,
    *,
    a_plus: Any,
    a_minus: Any,
    **options: Unpack[Options],
) -> Tensor:
    """Update weights by one step of pair-based STDP, in place: ``w += x s_post a_plus B - s_pre y a_minus B``.

    Parameters
    ----------
    weights : Tensor
        As for :func:`update_`.
    pre_spike, post_spike : Tensor
        The spikes of this step, bool ``(n_pre,)`` and ``(n_post,)``; of a batch, ``(B, n_pre)`` and ``(B, n_post)``;
        a float spike counts with its value.
    pre_trace, post_trace : Tensor
        The spike traces, of the spikes' shapes and the weights' dtype.
    a_plus, a_minus : float or Tensor
        The sizes of potentiation and of depression.
    **options
        ``w_min, w_max, positive_bound, negative_bound, clamp, topology, backend, autotune,
        reduction`` of :func:`update_`.

    Returns
    -------
    Tensor
        ``weights``.

    Raises
    ------
    ValueError, TypeError
        As :func:`update_`.

    Examples
    --------
    >>> w = torch.full((1, 2), 0.5)
    >>> spike, silent = torch.tensor([True]), torch.tensor([False, False])
    >>> stdp_(w, spike, torch.ones(1), silent, torch.tensor([0.0, 1.0]), a_plus=0.1, a_minus=0.2,
    ...       negative_bound="soft_bound")
    tensor([[0.5000, 0.4500]])
    """
    return update_(
        stdp, weights, pre_spike=pre_spike, pre_trace=pre_trace, post_spike=post_spike, post_trace=post_trace,
        a_plus=a_plus, a_minus=a_minus, **options,
    )  # fmt: skip


def istdp_(
    weights: Tensor,
    pre_spike: Tensor,
    pre_trace: Tensor,
    post_spike: Tensor,
    post_trace: Tensor,
    *,
    lr: Any = 1e-5,
    alpha: Any = None,
    rho: float | None = None,
    tau: float | None = None,
    inhibitory: bool = True,
    **options: Unpack[Options],
) -> Tensor:
    """Update weights by one step of symmetric inhibitory STDP (Vogels et al. 2011), in place.

    Parameters
    ----------
    weights, pre_spike, pre_trace, post_spike, post_trace : Tensor
        As for :func:`stdp_`; both traces with one time constant.
    lr : float or Tensor
        The learning rate.
    alpha : float or Tensor, optional
        The post trace at rest. Without it, ``2 * rho * tau / 1000`` from a firing rate in Hz and the traces' time
        constant in ms.
    rho, tau : float, optional
        See ``alpha``.
    inhibitory : bool
        Whether the weights are magnitudes of inhibition.
    **options
        ``w_min, w_max, positive_bound, negative_bound, clamp, topology, backend, autotune,
        reduction`` of :func:`update_`.

    Returns
    -------
    Tensor
        ``weights``.

    Raises
    ------
    ValueError, TypeError
        As :func:`update_`, and if neither ``alpha`` nor ``rho`` and ``tau`` are given.

    Examples
    --------
    >>> w = torch.full((1, 2), 0.5)
    >>> spike, silent = torch.tensor([True]), torch.tensor([False, False])
    >>> istdp_(w, spike, torch.ones(1), silent, torch.tensor([0.0, 1.0]), lr=0.1, alpha=0.2)
    tensor([[0.4800, 0.5800]])
    """
    if alpha is None:
        if rho is None or tau is None:
            raise ValueError("istdp needs alpha, or rho (Hz) and tau (ms) to derive it from: pass one or the others")
        rho, tau = _number("rho", rho), _number("tau", tau)
        if isinstance(rho, Tensor) or isinstance(tau, Tensor) or not (0 <= rho < inf and 0 < tau < inf):
            raise ValueError(f"rho is {rho} Hz and tau {tau} ms: pass a rate of 0 or more and a time above 0")
        alpha = target_trace(rho, tau)
    sign = -1.0 if inhibitory else 1.0
    return update_(
        istdp, weights, pre_spike=pre_spike, pre_trace=pre_trace, post_spike=post_spike, post_trace=post_trace,
        lr=lr, alpha=alpha, sign=sign, **options,
    )  # fmt: skip


def rstdp_(
    weights: Tensor,
    c: Tensor,
    pre_spike: Tensor,
    pre_trace: Tensor,
    post_spike: Tensor,
    post_trace: Tensor,
    *,
    a_plus: Any,
    a_minus: Any,
    tau_c: Any,
    dopamine: Any,
    **options: Unpack[Options],
) -> Tensor:
    """Update eligibility and weights by one step of reward-modulated STDP, in place.

    Parameters
    ----------
    weights : Tensor
        As for :func:`update_`.
    pre_spike, post_spike : Tensor
        The spikes of this step, bool ``(n_pre,)`` and ``(n_post,)``; of a batch, ``(B, n_pre)`` and ``(B, n_post)``;
        a float spike counts with its value.
    pre_trace, post_trace : Tensor
        The spike traces, of the spikes' shapes and the weights' dtype.
    c : Tensor
        The eligibility trace, of the weights' shape and dtype.
    a_plus, a_minus : float or Tensor
        The sizes of potentiation and of depression.
    tau_c : float or Tensor
        The time constant of the eligibility, in steps.
    dopamine : float or Tensor
        The reward signal: a number, a 0-d tensor (read on its device), one value a synapse, or (dense and
        one-to-one) one value a post neuron.
    **options
        ``w_min, w_max, positive_bound, negative_bound, clamp, topology, backend, autotune,
        reduction`` of :func:`update_`.

    Returns
    -------
    Tensor
        ``weights``.

    Raises
    ------
    ValueError, TypeError
        As :func:`update_`.

    Examples
    --------
    >>> w, c = torch.full((1, 2), 0.5), torch.zeros(1, 2)
    >>> spike, silent = torch.tensor([True]), torch.tensor([False, False])
    >>> rstdp_(w, c, spike, torch.ones(1), silent, torch.tensor([0.0, 1.0]), a_plus=0.1, a_minus=0.2, tau_c=10.0,
    ...        dopamine=-1.0)
    tensor([[0.5000, 0.7000]])
    """
    return update_(
        rstdp, weights, pre_spike=pre_spike, pre_trace=pre_trace, post_spike=post_spike, post_trace=post_trace,
        c=c, dopamine=dopamine, a_plus=a_plus, a_minus=a_minus, tau_c=tau_c, **options,
    )  # fmt: skip


def _build_trace(module: str, case: TraceCase) -> TraceStep:
    return import_module(f"tritonstdp.kernels.trace.{module}").build(case)


def trace_backends(case: TraceCase) -> list[str]:
    """The backends that take a trace, the most specialised first.

    Examples
    --------
    >>> trace_backends(TraceCase(torch.float32, "cpu"))
    ['cpu', 'reference']
    """
    return [b.name for b in _of_traces() if b.refuse(case) is None]  # type: ignore[arg-type]


def _of_traces() -> list[Backend]:
    """The backends that have kernels of traces, as none of a user's own does."""
    return [b for b in BACKENDS if isinstance(b.kernels, str) and has_module("tritonstdp.kernels.trace", b.kernels)]


@cache
def _trace_step(case: TraceCase, wanted: str | None) -> TraceStep:
    backends = _of_traces()
    if wanted not in (None, *(backend.name for backend in backends)):
        raise ValueError(f"unknown backend {wanted!r}: use one of {', '.join(b.name for b in backends)}")
    reason: str | None = None
    for backend in backends:
        if wanted in (None, backend.name):
            reason = backend.refuse(case)  # type: ignore[arg-type]
            if reason is None:
                return undisturbed(partial(_build_trace, str(backend.kernels), case))
    raise ValueError(f"backend {wanted!r} can't take this trace: {reason}")


def _check_trace(trace: Tensor, spikes: Tensor) -> None:
    for name, tensor in (("trace", trace), ("spikes", spikes)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is {type(tensor).__name__}, not a Tensor: use torch.as_tensor")
        if tensor.is_nested:
            raise TypeError(f"{name} is a nested tensor: pass a plain one")
    if trace.dtype not in WEIGHT_DTYPES:
        raise TypeError(f"trace is {trace.dtype}: a trace needs float16, bfloat16, float32 or float64")
    if trace.requires_grad:
        raise ValueError("trace requires grad: it is written in place; pass trace.detach()")
    if trace.is_neg():
        raise ValueError("trace is negated in name alone, and written in place: pass trace.resolve_neg()")
    if spikes.shape != trace.shape:
        raise ValueError(f"spikes have shape {tuple(spikes.shape)}, the trace {tuple(trace.shape)}: they must agree")
    if spikes.device != trace.device:
        raise ValueError(f"spikes are on {spikes.device}, the trace on {trace.device}: move one of them")
    check_apart("trace", trace, (("spikes", spikes),))


def _check_trace_parameter(name: str, value: Any, trace: Tensor) -> None:
    if not isinstance(value, Tensor):
        return
    if value.device != trace.device:
        raise ValueError(f"{name} is on {value.device}, the trace on {trace.device}: move one of them")
    if value.dim() and value.shape != trace.shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}: pass a number, or one a neuron {tuple(trace.shape)}")


def _check_time(tau: float, dt: float, scale: float) -> None:
    if not tau > 0:
        raise ValueError(f"tau is {tau}: a time constant is above 0")
    if not 0 <= dt < inf:
        raise ValueError(f"dt is {dt}: the length of a step is finite, and 0 or more")
    if scale != scale:
        raise ValueError("scale is nan: pass what one spike adds")


def trace_(
    trace: Tensor,
    spikes: Tensor,
    *,
    tau: Any,
    dt: Any = 1.0,
    scale: Any = 1.0,
    nearest: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Raise a spike trace by the spikes of a step and let it decay, in place and in one pass.

    Parameters
    ----------
    trace : Tensor
        The trace, of any floating dtype.
    spikes : Tensor
        The spikes of the step, of the trace's shape; bool, or a float spike counts with its value.
    tau : float or Tensor
        The time constant, in the unit of ``dt``.
    dt : float or Tensor
        The length of a step.
    scale : float or Tensor
        What one spike adds. With bool spikes it is rounded to torch's default dtype, as in ``spikes * scale``.
    nearest : bool
        Whether a spike sets the trace instead of adding to it, so that spikes pair with the nearest earlier one alone.
    backend : str, optional
        "triton", "cpu" or "reference", and no other; by default the fastest that takes the case.

    Returns
    -------
    Tensor
        ``trace``, by :func:`tritonstdp.rules.updated_trace` (or :func:`~tritonstdp.rules.nearest_trace`): the same bits
        as CoNeX's ``trace += spikes * scale`` and ``trace -= trace / tau * dt`` in float32 and float64.

    Raises
    ------
    ValueError, TypeError
        If something does not fit, before anything is written.

    Examples
    --------
    >>> trace_(torch.tensor([1.0, 0.0]), torch.tensor([False, True]), tau=10.0)
    tensor([0.9000, 0.9000])
    """
    if is_compiling():
        from tritonstdp.operators import in_graph  # and with it all of torch's compiler

        settings = {"tau": tau, "dt": dt, "scale": scale, "nearest": nearest, "backend": backend}
        return in_graph(trace_, {"trace": trace}, spikes=spikes, **settings)
    tensors = trace, spikes
    dtypes = getattr(trace, "dtype", None), getattr(spikes, "dtype", None)
    shape = None if getattr(trace, "is_nested", False) else getattr(trace, "shape", None)
    key = shape, dtypes, bool(nearest), backend
    known = _known_traces.get(key) if _PLAIN.issuperset((tau.__class__, dt.__class__, scale.__class__)) else None
    if known is not None and 0 < tau < _LARGEST and 0 <= dt < _LARGEST and -_LARGEST < scale < _LARGEST:
        held = known.step_for(None, tensors, trace, spikes, scale, tau, dt)
        if held is not None:
            if trace.dtype is torch.float64 and spikes.dtype is torch.bool:
                scale = rounded(scale, torch.get_default_dtype())
            return _traced(held, trace, spikes, scale, tau, dt)
    _check_trace(trace, spikes)
    tau, dt, scale = _number("tau", tau), _number("dt", dt), _number("scale", scale)
    scalars = tau.__class__ is float and dt.__class__ is float and scale.__class__ is float
    if scalars:
        _check_time(tau, dt, scale)
    else:
        for name, value in (("tau", tau), ("dt", dt), ("scale", scale)):
            _check_trace_parameter(name, value, trace)
    dtype, bool_spikes = trace.dtype, spikes.dtype is torch.bool
    if not bool_spikes:
        spikes = real_spikes("spikes", spikes, dtype)
    elif dtype is torch.float64 and scalars:
        scale = rounded(scale, torch.get_default_dtype())
    device = "cpu" if trace.is_cpu else trace.device.type
    given = tuple(["tensor" if isinstance(value, Tensor) else "number" for value in (scale, tau, dt)])
    step = _trace_step(TraceCase(dtype, device, bool_spikes, given, bool(nearest)), backend)
    if device != "meta":
        address("trace", trace), address("spikes", spikes)
    if trace.is_contiguous():
        as_it_is = spikes.contiguous()
        _traced(step, trace, as_it_is, scale, tau, dt)
        if scalars and as_it_is is tensors[1] and Binding.can_hold(tensors):
            if len(_known_traces) >= _MOST_TRACES:
                _known_traces.clear()
            _known_traces[key] = Binding(step, _no_topology, tensors, 1)
        return trace
    values = _traced(step, trace.contiguous(), spikes.contiguous(), scale, tau, dt)
    return trace.copy_(values)


def _traced(step: TraceStep, trace: Tensor, spikes: Tensor, scale: Any, tau: Any, dt: Any) -> Tensor:
    before = copies_to_put_back((trace,))
    step(trace, spikes, scale, tau, dt)
    note_write((trace,), before)
    return trace


_known_traces: dict[tuple[Any, ...], Binding] = {}
"""The kinds of trace and spikes that have been checked, as far as steps come back to them."""
_MOST_TRACES = 256


def _no_topology() -> None:
    """Traces lie on neurons."""


def explain(
    rule: str | Rule,
    topology: str | Topology = "dense",
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    positive_bound: str | Bound | None = None,
    negative_bound: str | Bound | None = None,
    clamp: bool = False,
    backend: str | None = None,
    reduction: str | None = None,
) -> Choice:
    """Say which backend serves a case, and why each other one does not.

    Parameters
    ----------
    rule : str or Rule
        The rule, or "propagation" for :func:`tritonstdp.propagate_`.
    topology : str or Topology
        The topology, or its name.
    dtype : torch.dtype
        The weights' dtype.
    device : str or torch.device
        The weights' device.
    positive_bound, negative_bound, clamp, backend
        As for :func:`update_`.
    reduction : str, optional
        "sum" or "mean", for a step of a batch.

    Returns
    -------
    Choice
        The choice; ``print`` it.

    Raises
    ------
    ValueError
        If a name is not known, or ``backend`` can't take the case.

    Examples
    --------
    >>> print(explain("stdp", "dense"))
    stdp on dense, torch.float32 weights on cpu: cpu
      not triton: the weights are on cpu: Triton runs on cuda and xpu (and on cpu under TRITON_INTERPRET=1)
    """
    if isinstance(topology, str):
        topology = example_topology(topology)
    of_device = torch.device(device).type
    if rule == PROPAGATION.name:
        return choose(PropagationCase.plain(topology, dtype, of_device), backend)
    formula = Formula.of(resolve_rule(rule), resolve_bound(positive_bound), resolve_bound(negative_bound), clamp)
    return choose(Case.plain(formula, topology, dtype, of_device)._replace(reduction=reduction or ""), backend)
