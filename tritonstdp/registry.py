"""Which kernel serves a (rule, topology, bound), on which backend, and why not on the others."""

from __future__ import annotations

import importlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple
from weakref import WeakSet

import torch

from tritonstdp.kernels import reference
from tritonstdp.kernels.propagation import PROPAGATION, Propagation, PropagationCase
from tritonstdp.kernels.protocol import Case
from tritonstdp.kernels.reference import Meeting
from tritonstdp.rules import (
    BOUNDS,
    RULES,
    Bound,
    Formula,
    Rule,
    checked_bound,
    meaning_of,
    meaning_of_rule,
    resolve_bound,
)
from tritonstdp.source import CannotCompileError
from tritonstdp.topology import TOPOLOGIES, WEIGHT_DTYPES, Topology

__all__ = [
    "BACKENDS",
    "Backend",
    "KernelEntry",
    "Space",
    "entries",
    "register_backend",
    "register_bound",
    "register_kernel",
    "register_rule",
    "register_topology",
]

logger = logging.getLogger("tritonstdp")

AnyFormula = Formula | Propagation
AnyCase = Case | PropagationCase
Build = Callable[..., Any]

PREFIXES = {Formula.operation: "", PROPAGATION.operation: "propagation_", "batch": "batch_"}
"""What is computed over synapses, and how the names of its files begin in each topology's folder."""


@dataclass(frozen=True)
class Backend:
    """One way to run kernels.

    Parameters
    ----------
    name : str
        Its name, as "triton", "cpu" or "reference".
    refuse : callable
        ``refuse(case)``: why the backend can't take the case, or None where it can.
    kernels : str or callable
        The name of its file in each topology's folder, whose ``build(case, config)`` gives a step, and behind
        ``propagation_`` or ``batch_`` of those for spike propagation and for learning from batches; or
        ``build(case)``, which does for learning on every topology.
    """

    name: str
    refuse: Callable[[Any], str | None]
    kernels: str | Build


OLDEST_TRITON = (3, 6)
"""The first release of Triton that compiles the kernels."""


@cache
def _triton_version() -> tuple[int, ...] | None:
    if importlib.util.find_spec("triton") is None:
        return None
    release = importlib.import_module("triton").__version__.split(".")[:2]
    return tuple(int(part) for part in release)


def _triton_refuses(case: AnyCase) -> str | None:
    if case.device not in ("cuda", "xpu") and not _interpreting():
        return f"the weights are on {case.device}: Triton runs on cuda and xpu (and on cpu under TRITON_INTERPRET=1)"
    version = _triton_version()
    if version is None:
        return "Triton is not installed"
    if version < OLDEST_TRITON:
        found, wanted = (".".join(map(str, v)) for v in (version, OLDEST_TRITON))
        return f"Triton {found} is installed, and the kernels need {wanted} or newer: upgrade torch, which brings it"
    if case.dtype not in WEIGHT_DTYPES:
        return f"weights of {case.dtype} are not supported"
    return _values_refused(case, ("number", "pre", "post", "scalar"))


def _cpu_refuses(case: AnyCase) -> str | None:
    if case.device != "cpu":
        return f"the weights are on {case.device}"
    if case.dtype not in (torch.float32, torch.float64):
        return f"weights of {case.dtype}: compiled loops take float32 and float64"
    return _values_refused(case, ("number", "pre", "post"))


def _values_refused(case: AnyCase, kinds: tuple[str, ...]) -> str | None:
    if case.limits == "tensor":
        return "w_min or w_max is a tensor"
    for name, kind in zip(case.parameters, case.given, strict=True):
        if kind not in kinds:
            return f"{name} is a tensor of no shape or dtype that gives one value a neuron"
    if case.layout == "strided" and not TOPOLOGIES[case.topology].takes_strides:
        return "the weights are not contiguous"
    return None


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


BACKENDS: list[Backend] = []
"""The backends, the most specialised first; :func:`register_backend` adds to it."""


class Space(NamedTuple):
    """The configurations of a kernel.

    Attributes
    ----------
    default : NamedTuple
        The configuration that is used unless another has been measured to be faster.
    values : mapping
        The candidate values of each field of ``default``.
    module : str
        Where the kernel is defined: a tuned configuration is void once that source changes.
    """

    default: Any
    values: Mapping[str, Sequence[Any]]
    module: str

    @property
    def configs(self) -> list[Any]:
        """Every configuration."""
        products = itertools.product(*self.values.values())
        return [self.default._replace(**dict(zip(self.values, values, strict=True))) for values in products]


@dataclass(frozen=True)
class KernelEntry:
    """A kernel in the registry; None stands for any.

    Parameters
    ----------
    topology, backend : str
        What it serves.
    build : callable
        ``build(case)`` gives the step; it may raise ``CannotCompileError``. With a space it is ``build(case, config)``.
    rule, bound : str or None
        Only this rule, or only where both bounds are this one.
    space : callable, optional
        Gives the kernel's configurations; called when they are first needed.
    operation : str
        "plasticity", "batch" or "propagation".
    """

    topology: str
    backend: str
    build: Build
    rule: str | None = None
    bound: str | None = None
    space: Callable[[], Space] | None = None
    operation: str = Formula.operation

    def serves(self, case: AnyCase, backend: str) -> bool:
        """Whether the entry serves a case on a backend."""
        formula = case.formula
        if (self.operation, self.topology, self.backend) != (case.operation, case.topology, backend):
            return False
        if not isinstance(formula, Formula):
            return True
        if self.rule not in (None, formula.rule.name):
            return False
        if self.bound is None:
            return True
        bounds = formula.positive, formula.negative
        return all(meaning_of(bound) == meaning_of(BOUNDS[self.bound]) for bound in bounds)

    @property
    def specificity(self) -> int:
        """The number of fields that are not left open."""
        return (self.rule is not None) + (self.bound is not None)


_FOLDERS: dict[str, str] = {}


def kernels_of(topology: str, file: str, operation: str = Formula.operation) -> Any:
    """A module of a topology's folder, such as "gpu", or None where the folder has no such file of the operation.

    Examples
    --------
    >>> kernels_of("dense", "reference").__name__
    'tritonstdp.kernels.dense.reference'
    """
    folder, file = _FOLDERS[topology], PREFIXES[operation] + file
    return importlib.import_module(f"{folder}.{file}") if has_module(folder, file) else None


def meeting_of(topology: str) -> Meeting:
    """How a topology's neurons meet at its weights, as the reference has it."""
    return kernels_of(topology, "reference").MEETING


_ENTRIES: list[KernelEntry] = []


def _enter(topology: str, backend: Backend) -> None:
    """Register what a backend has for a topology, if it has anything; no kernel is imported before it is asked for."""
    file = backend.kernels
    if not isinstance(file, str):
        _ENTRIES.append(KernelEntry(topology, backend.name, file))
        return
    for operation, prefix in PREFIXES.items():
        if file == "reference":
            build = partial(_build_reference, topology)
            _ENTRIES.append(KernelEntry(topology, backend.name, build, operation=operation))
        elif has_module(_FOLDERS[topology], prefix + file):
            build, space = (partial(function, topology, prefix + file) for function in (_build_from, _space_of))
            _ENTRIES.append(KernelEntry(topology, backend.name, build, space=space, operation=operation))


def _build_reference(topology: str, case: AnyCase) -> Any:
    meeting = meeting_of(topology)
    return reference.build(meeting, case) if isinstance(case, Case) else reference.build_propagation(meeting, topology)


def _build_from(topology: str, file: str, case: AnyCase, config: Any) -> Any:
    return kernels_of(topology, file).build(case, config)


def _space_of(topology: str, file: str) -> Space:
    module = kernels_of(topology, file)
    return Space(module.DEFAULT, module.SPACE, module.__name__)


def has_module(package: str, name: str) -> bool:
    """Whether a package has a module, which is not imported."""
    try:
        return importlib.util.find_spec(f"{package}.{name}") is not None
    except (ImportError, ValueError):
        return False


def register_topology(kind: type[Topology], folder: str) -> None:
    """Add a topology: every rule and bound then runs on it, on each backend that it has a file for.

    Parameters
    ----------
    kind : type
        A subclass of :class:`tritonstdp.topology.Topology`: its name, shapes, checks and facts.
    folder : str
        The package of its kernels. ``reference.py`` says by ``MEETING`` how neurons meet at weights
        (``tritonstdp.kernels.reference.Meeting``), which is all that it takes; ``cpu.py`` and ``gpu.py`` hold
        faster steps.

    Raises
    ------
    TypeError
        If ``kind`` is no topology.
    ValueError
        If the name is taken by another topology, or the folder has no ``reference.py``.

    Examples
    --------
    >>> from tritonstdp import Dense
    >>> register_topology(Dense, "tritonstdp.kernels.dense")
    """
    if not (isinstance(kind, type) and issubclass(kind, Topology)):
        raise TypeError(f"{kind!r} is no topology: make a subclass of tritonstdp.topology.Topology")
    if not kind.name or TOPOLOGIES.get(kind.name, kind) is not kind:
        raise ValueError(f"a topology named {kind.name!r} can't be registered: give it a name that is not taken")
    known = _FOLDERS.get(kind.name, folder)
    if known != folder:
        raise ValueError(f"the kernels of {kind.name} are in {known} already: give another topology, of another name")
    if not has_module(folder, "reference"):
        raise ValueError(
            f"{folder!r} is no package with a reference.py, which says by MEETING how neurons meet at the weights: "
            "give the name by which it can be imported"
        )
    if kind.name in _FOLDERS:
        return
    TOPOLOGIES[kind.name], _FOLDERS[kind.name] = kind, folder
    for backend in BACKENDS:
        _enter(kind.name, backend)


def register_backend(backend: Backend) -> None:
    """Add a backend; it is asked before the reference, and after those that are there already.

    Parameters
    ----------
    backend : Backend
        The backend.

    Raises
    ------
    TypeError
        If it is none.
    ValueError
        If its name is taken.

    Examples
    --------
    >>> register_backend(Backend("nobody", lambda case: "it takes nothing", "nobody"))
    >>> BACKENDS.remove(next(backend for backend in BACKENDS if backend.name == "nobody"))
    """
    if not isinstance(backend, Backend):
        raise TypeError(f"{backend!r} is no Backend: make one by tritonstdp.Backend(name, refuse, kernels)")
    if not isinstance(backend.name, str) or not backend.name:
        raise TypeError(f"a backend's name is {backend.name!r}: give it a text")
    if not callable(backend.refuse) or not (isinstance(backend.kernels, str) or callable(backend.kernels)):
        raise TypeError(f"backend {backend.name!r} needs refuse, a function, and kernels, a function or a file's name")
    if any(backend.name == known.name for known in BACKENDS):
        raise ValueError(f"a backend named {backend.name!r} is already registered: choose another name")
    at = next((k for k, known in enumerate(BACKENDS) if known.name == "reference"), len(BACKENDS))
    BACKENDS.insert(at, backend)
    for topology in _FOLDERS:
        _enter(topology, backend)
    forget_choices()


def entries() -> Iterator[KernelEntry]:
    """The registered kernels, in the order of their registration.

    Examples
    --------
    >>> sorted({entry.backend for entry in entries()})
    ['cpu', 'reference', 'triton']
    """
    yield from _ENTRIES


def register_kernel(
    build: Build,
    *,
    topology: str,
    backend: str,
    rule: str | None = None,
    bound: str | None = None,
    default: Any = None,
    space: Mapping[str, Sequence[Any]] | None = None,
    operation: str = Formula.operation,
) -> None:
    """Add a kernel; among those that serve a case, the most specific and then the newest is used.

    Parameters
    ----------
    build : callable
        ``build(case)`` returns a step with the signature of :class:`tritonstdp.kernels.protocol.Step`, or of
        ``tritonstdp.kernels.propagation.PropagationStep``.
    topology, backend : str
        The topology's and the backend's name.
    rule, bound : str, optional
        Restrict it to one rule, or to cases where both bounds are this one.
    default : NamedTuple, optional
        The kernel's default configuration; ``build`` is then called as ``build(case, config)``.
    space : mapping, optional
        The candidate values of each field of ``default``, from which ``tritonstdp tune`` chooses.
    operation : str
        "plasticity", "batch" or "propagation".

    Raises
    ------
    ValueError
        If a name is not known, ``space`` names what ``default`` does not have, or propagation is given a rule or bound.

    Examples
    --------
    >>> from tritonstdp.kernels.one_to_one.cpu import build
    >>> register_kernel(build, topology="one_to_one", backend="cpu", rule="stdp")
    """
    if topology is None or backend is None:
        raise ValueError(f"topology is {topology!r} and backend {backend!r}: a kernel needs the names of both")
    for what, name, known in (
        ("topology", topology, TOPOLOGIES),
        ("backend", backend, {b.name for b in BACKENDS}),
        ("rule", rule, RULES),
        ("bound", bound, BOUNDS),
        ("operation", operation, PREFIXES),
    ):
        if name is not None and (not isinstance(name, str) or name not in known):
            raise ValueError(f"unknown {what} {name!r}: use one of {', '.join(sorted(known))}")
    if operation == PROPAGATION.operation and (rule, bound) != (None, None):
        raise ValueError(f"rule is {rule!r} and bound {bound!r}: {operation} has neither; leave them out")
    foreign = sorted(set(space or ()) - set(getattr(default, "_fields", ())))
    if foreign:
        raise ValueError(f"space names {', '.join(foreign)}, which default does not have: use its fields")
    configurations = None if default is None else partial(Space, default, dict(space or {}), build.__module__)
    _ENTRIES.append(KernelEntry(topology, backend, build, rule, bound, configurations, operation))
    forget_choices()


CHOSEN_FOR: WeakSet[Any] = WeakSet()
"""The formulas, and propagation, that keep a kernel which has been chosen for them."""


def forget_choices() -> None:
    """Build kernels anew when they are next asked for, as after tuning."""
    for computed in list(CHOSEN_FOR):
        computed.choices.clear()


def register_bound(name: str, bound: Bound) -> None:
    """Give a bound a name, for behaviors, the command line and the tables.

    Parameters
    ----------
    name : str
        The name.
    bound : callable
        ``bound(w, w_min, w_max)``, in arithmetic, comparisons and the words of :mod:`tritonstdp.vocabulary` to run
        on every backend.

    Raises
    ------
    ValueError
        If the name is taken by another function.
    TypeError
        If it does not take three arguments.

    Examples
    --------
    >>> def halfway_bound(w, w_min, w_max):
    ...     return (w_min + w_max) / 2 - w
    >>> register_bound("halfway_bound", halfway_bound)
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"a bound's name is {name!r}: give it a text")
    bound = checked_bound(resolve_bound(bound))
    if meaning_of(BOUNDS.get(name, bound)) != meaning_of(bound):
        raise ValueError(f"a bound named {name!r} is already registered: choose another name")
    BOUNDS[name] = bound


def register_rule(rule: Rule) -> None:
    """Add a rule under its name; it then runs on every topology and backend.

    Parameters
    ----------
    rule : Rule
        The rule.

    Raises
    ------
    ValueError
        If the name is taken by another rule.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from tritonstdp.rules import stdp
    >>> register_rule(replace(stdp, name="my_stdp"))
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"{rule!r} is no Rule: make one by tritonstdp.Rule(name, on_pre, on_post, change)")
    if rule.name == PROPAGATION.name:
        raise ValueError(f"a rule can't be named {rule.name!r}, as spike propagation is: choose another name")
    if meaning_of_rule(RULES.get(rule.name, rule)) != meaning_of_rule(rule):
        raise ValueError(f"a rule named {rule.name!r} is already registered: choose another name")
    RULES[rule.name] = rule


for _backend in (
    Backend("triton", _triton_refuses, "gpu"),
    Backend("cpu", _cpu_refuses, "cpu"),
    Backend("reference", lambda case: None, "reference"),
):
    register_backend(_backend)
for _kind in tuple(TOPOLOGIES.values()):
    register_topology(_kind, f"tritonstdp.kernels.{_kind.name}")


def serving_entry(case: AnyCase, backend: str) -> KernelEntry:
    """The registered kernel that serves a case on a backend: the most specific, and of those the newest.

    Raises
    ------
    CannotCompileError
        If there is none.
    """
    serving = [entry for entry in _ENTRIES if entry.serves(case, backend)]
    if not serving:
        raise CannotCompileError(f"{backend} has no {case.operation} kernel for {case.topology}")
    best = max(entry.specificity for entry in serving)
    return [entry for entry in serving if entry.specificity == best][-1]


def formula_names() -> list[str]:
    """What :func:`formula_named` takes for a rule: the name of each, and "propagation".

    Examples
    --------
    >>> {"stdp", "propagation"} <= set(formula_names())
    True
    """
    return [*RULES, PROPAGATION.name]


def formula_named(rule: str, positive: str, negative: str, clamp: bool = False) -> AnyFormula:
    """What names stand for: the formula of a rule and two bounds, or spike propagation, which has no bounds.

    Examples
    --------
    >>> formula_named("propagation", "soft_bound", "soft_bound") is PROPAGATION
    True
    """
    if rule == PROPAGATION.name:
        return PROPAGATION
    return Formula.of(RULES[rule], BOUNDS[positive], BOUNDS[negative], clamp)


def operation_of(rule: str, samples: int = 0) -> str:
    """What kernels do for the name of a rule, with one sample or a batch of several, or for "propagation".

    Examples
    --------
    >>> operation_of("stdp"), operation_of("stdp", 32), operation_of("propagation")
    ('plasticity', 'batch', 'propagation')
    """
    if rule == PROPAGATION.name:
        return PROPAGATION.operation
    return "batch" if samples else Formula.operation


def plain_case(formula: AnyFormula, topology: Topology, dtype: torch.dtype, device: str) -> AnyCase:
    """The usual case of a topology: contiguous weights, bool spikes, and numbers for parameters.

    Examples
    --------
    >>> from tritonstdp import Dense
    >>> plain_case(PROPAGATION, Dense(3, 5), torch.float32, "cpu").bool_spikes
    True
    """
    if isinstance(formula, Propagation):
        return PropagationCase.plain(topology, dtype, device)
    return Case.plain(formula, topology, dtype, device)


def describe(case: AnyCase) -> dict[str, Any]:
    """The case as plain values, for tables and JSON."""
    described = case.formula.described
    batch = {"reduction": case.reduction} if isinstance(case, Case) and case.reduction else {}
    return {
        "rule": described["rule"],
        "topology": case.topology,
        **described,
        "dtype": str(case.dtype).removeprefix("torch."),
        "device": case.device,
        "layout": case.layout,
        **batch,
    }
