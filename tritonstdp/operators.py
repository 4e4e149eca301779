"""Steps as one operator of torch, so that ``torch.compile`` takes each into its graph as it is.

Only where torch traces does a call become the operator; all others go directly. A graph holds a call's tensors and
numbers, and the name of the rest: the function, the rule, bounds, topology and backend. The name says what they are, so
that a graph that torch has kept on disk finds the same in another process, or nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import torch
from torch import Tensor
from torch.compiler import assume_constant_result

from tritonstdp.kernels.protocol import PerNeuron
from tritonstdp.rules import Rule
from tritonstdp.source import content_of
from tritonstdp.topology import Topology

__all__ = ["in_graph"]


class _Call(NamedTuple):
    """What a graph holds by name: a function, the names of what it writes and reads, and its other arguments."""

    function: Callable[..., Any]
    written: tuple[str, ...]
    read: tuple[str, ...]
    sides: tuple[str, ...]
    numbers: tuple[str, ...]
    settled: dict[str, Any]


_CALLS: dict[str, _Call] = {}
_PROCESS = uuid4().hex


def in_graph(function: Callable[..., Any], written: dict[str, Tensor | None], **arguments: Any) -> Tensor:
    """Call a function of this package as an operator.

    Parameters
    ----------
    function : callable
        The function; its arguments are given by name.
    written : dict of str to Tensor
        What it writes in place; one or two, of which the second may be None.
    **arguments
        Its other arguments.

    Returns
    -------
    Tensor
        The first of what is written.
    """
    read: dict[str, Tensor] = {}
    sides: list[str] = []
    numbers: dict[str, float] = {}
    settled: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, PerNeuron):
            read[name] = value.values
            sides.append(value.side)
        elif isinstance(value, Tensor):
            read[name] = value
            sides.append("")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers[name] = float(value)
        else:
            settled[name] = value
    layout = tuple(written), tuple(read), tuple(sides), tuple(numbers), tuple(settled)
    first, also = [*written.values(), None][:2]
    _RUN(first, also, list(read.values()), list(numbers.values()), _named(function, layout, *settled.values()))
    assert first is not None
    return first


@assume_constant_result
def _named(function: Callable[..., Any], layout: tuple[tuple[str, ...], ...], *settled: Any) -> str:
    """The name of a call, by which the operator finds it; torch takes what is settled one by one, and in no tuple."""
    text = repr((function.__qualname__, layout, list(map(_content, settled))))
    name = f"{function.__name__} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    written, read, sides, numbers, rest = layout
    _CALLS[name] = _Call(function, written, read, sides, numbers, dict(zip(rest, settled, strict=True)))
    return name


def _content(value: Any) -> Any:
    """What an argument is, alike in every process; or else what no other process has."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Topology) and value.ends() is None:
        return repr(value)
    functions = value.functions if isinstance(value, Rule) else (value,) if callable(value) else ()
    contents = [content_of(function) for function in functions]
    if contents and None not in contents:
        return value.name if isinstance(value, Rule) else "", contents
    return _PROCESS, id(value)


def _run(written: Tensor, also: Tensor | None, read: Sequence[Tensor], numbers: Sequence[float], name: str) -> None:
    call = _CALLS.get(name)
    if call is None:
        raise RuntimeError(
            f"a compiled graph asks for {name!r}, which this process has not traced: call the compiled function itself"
        )
    arguments = dict(zip(call.written, (written, also), strict=False))
    for key, side, tensor in zip(call.read, call.sides, read, strict=True):
        arguments[key] = PerNeuron(side, tensor) if side else tensor  # type: ignore[assignment]
    call.function(**arguments, **dict(zip(call.numbers, numbers, strict=True)), **call.settled)


_LIBRARY = torch.library.Library("tritonstdp", "DEF")
_LIBRARY.define(
    "run(Tensor(a!) written, Tensor(b!)? also, Tensor[] read, float[] numbers, str name) -> ()",
    tags=(getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order),),
)
for _key in ("CPU", "CUDA", "XPU"):
    _LIBRARY.impl("run", _run, _key)
for _key in ("Autograd", "ADInplaceOrView"):  # of which steps take care by themselves
    _LIBRARY.impl("run", torch.library.fallthrough_kernel, _key)
torch.library.register_fake("tritonstdp::run", lambda *arguments: None, lib=_LIBRARY)
_RUN = torch.ops.tritonstdp.run.default
