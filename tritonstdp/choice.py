"""What serves a case: the kernel of the first backend that takes it, tuned or not, and why not the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tritonstdp.autotune.use import configured_step
from tritonstdp.kernels.compilation import undisturbed
from tritonstdp.registry import BACKENDS, CHOSEN_FOR, AnyCase, KernelEntry, serving_entry
from tritonstdp.rules import is_own
from tritonstdp.source import CannotCompileError, content_of, name_of

__all__ = ["Choice", "choose"]

logger = logging.getLogger("tritonstdp")

_logged: set[str] = set()


@dataclass
class Choice:
    """The kernel chosen for a case.

    Attributes
    ----------
    case : Case or PropagationCase
        The case.
    backend : str
        The chosen backend.
    step : callable
        The kernel's step.
    rejected : dict
        Why each backend that was tried before it was not used.
    """

    case: AnyCase
    backend: str
    step: Callable[..., None]
    rejected: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        case = self.case
        lines = [f"{case.formula.name} on {case.topology}, {case.dtype} weights on {case.device}: {self.backend}"]
        lines += [f"  not {backend}: {reason}" for backend, reason in self.rejected.items()]
        return "\n".join(lines)


def choose(case: AnyCase, backend: str | None = None, autotune: bool = False) -> Choice:
    """Choose and build the kernel for a case, once; later calls return the same choice.

    Parameters
    ----------
    case : Case or PropagationCase
        The case.
    backend : str, optional
        Use this backend and no other.
    autotune : bool
        Whether the kernel is tuned at its first step of a size that has not been tuned before; the environment
        variable ``TRITONSTDP_AUTOTUNE=1`` asks for it everywhere.

    Returns
    -------
    Choice
        The kernel, its backend, and why not each other one.

    Raises
    ------
    ValueError
        If ``backend`` is not known, or can't take the case.
    """
    choices = case.formula.choices
    choice = choices.get((case, backend, autotune))
    if choice is None:
        choice = choices[case, backend, autotune] = _choose(case, backend, autotune)
        CHOSEN_FOR.add(case.formula)
    return choice


def _choose(case: AnyCase, wanted: str | None, autotune: bool) -> Choice:
    if not case.dtype.is_floating_point:
        raise TypeError(f"weights are {case.dtype}: plasticity needs a floating dtype, as of weights.float()")
    names = [b.name for b in BACKENDS]
    if wanted is not None and wanted not in names:
        raise ValueError(f"unknown backend {wanted!r}: use one of {', '.join(names)}")
    rejected: dict[str, str] = {}
    for backend in BACKENDS:
        if wanted not in (None, backend.name):
            rejected[backend.name] = f"{wanted} was asked for"
            continue
        reason = backend.refuse(case)
        if reason is None:
            try:
                step = _build(case, backend.name, autotune)
            except CannotCompileError as error:
                reason = str(error)
            else:
                _log_fallback(case, backend.name, rejected)
                return Choice(case, backend.name, step, rejected)
        rejected[backend.name] = reason
    if wanted is not None:
        raise ValueError(f"backend {wanted!r} can't take this case: {rejected[wanted]}")
    raise ValueError(f"no backend takes this case: {'; '.join(rejected.values())}")


MOST_VARIANTS = 8
"""How often one function is compiled with other captured numbers: each takes seconds, and memory that numba keeps."""
_VARIANTS: dict[tuple[Any, ...], set[int]] = {}


def _check_variants(functions: Sequence[Callable[..., Any]]) -> None:
    """Refuse to compile a formula of which too many variants have been: one made anew at each step never ends."""
    written = [function for function in functions if not is_own(function)]
    codes = [getattr(getattr(function, "func", function), "__code__", None) for function in written]
    if not any(codes):
        return
    places = ((c.co_filename, c.co_firstlineno, c.co_code, c.co_names, c.co_varnames) for c in codes if c is not None)
    variants = _VARIANTS.setdefault(tuple(places), set())
    variant = hash(tuple(content_of(function) or id(function) for function in written))
    if variant not in variants and len(variants) >= MOST_VARIANTS:
        raise CannotCompileError(
            f"{', '.join(map(name_of, written))} has been compiled with {MOST_VARIANTS} different captured numbers, "
            "each of which takes seconds and some 16 MB: numbers that change belong in parameters, w_min or w_max"
        )
    variants.add(variant)


def _build(case: AnyCase, backend: str, autotune: bool) -> Callable[..., None]:
    entry = serving_entry(case, backend)
    if backend == "reference":
        return entry.build(case)
    _check_variants(case.formula.functions)
    return undisturbed(partial(_compile, entry, case, autotune))


def _compile(entry: KernelEntry, case: AnyCase, autotune: bool) -> Callable[..., None]:
    if entry.space is None:
        return entry.build(case)
    return configured_step(entry, entry.space(), case, autotune)


def _log_fallback(case: AnyCase, backend: str, rejected: dict[str, str]) -> None:
    preferred = "cpu" if case.device == "cpu" else "triton"
    reason = rejected.get(preferred, "")
    if backend != "reference" or not reason or reason.endswith("was asked for"):
        return
    message = f"{case.formula.name} on {case.topology} runs on the reference, not on {preferred}: {reason}"
    if message not in _logged:
        _logged.add(message)
        logger.warning(message)
