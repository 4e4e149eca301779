"""What serves a case: the kernel of the first backend that takes it, tuned or not, and why not the others."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tritonstdp.autotune.use import configured_step
from tritonstdp.kernels.compilation import undisturbed
from tritonstdp.kernels.protocol import Case, Step
from tritonstdp.registry import BACKENDS, CHOSEN_FOR, KernelEntry, serving_entry
from tritonstdp.rules import Formula, is_own
from tritonstdp.source import CannotCompileError, content_of, name_of

__all__ = ["Choice", "choose"]

logger = logging.getLogger("tritonstdp")

_logged: set[str] = set()


@dataclass
class Choice:
    """The kernel chosen for a case.

    Attributes
    ----------
    case : Case
        The case.
    backend : str
        The chosen backend.
    step : callable
        The kernel's step.
    rejected : dict
        Why each backend that was tried before it was not used.
    """

    case: Case
    backend: str
    step: Step
    rejected: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        case = self.case
        lines = [f"{case.formula.rule.name} on {case.topology}, {case.dtype} weights on {case.device}: {self.backend}"]
        lines += [f"  not {backend}: {reason}" for backend, reason in self.rejected.items()]
        return "\n".join(lines)


def choose(case: Case | tuple[Any, ...], backend: str | None = None, autotune: bool = False) -> Choice:
    """Choose and build the kernel for a case, once; later calls return the same choice.

    Parameters
    ----------
    case : Case or tuple
        The case, or its fields, which are found as fast as they are put together.
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
    choices = case[0].choices
    choice = choices.get((case, backend, autotune))
    if choice is None:
        choice = choices[case, backend, autotune] = _choose(Case(*case), backend, autotune)
        CHOSEN_FOR.add(case[0])
    return choice


def _choose(case: Case, wanted: str | None, autotune: bool) -> Choice:
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
    raise ValueError(f"backend {wanted!r} can't take this case: {rejected[str(wanted)]}")


MOST_VARIANTS = 8
"""How often one function is compiled with other captured numbers: each takes seconds, and memory that numba keeps."""
_VARIANTS: dict[tuple[Any, ...], set[int]] = {}


def _check_variants(formula: Formula) -> None:
    """Refuse to compile a formula of which too many variants have been: one made anew at each step never ends."""
    written = [function for function in formula.functions if not is_own(function)]
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


def _build(case: Case, backend: str, autotune: bool) -> Step:
    entry = serving_entry(case, backend)
    if backend == "reference":
        return entry.build(case)
    _check_variants(case.formula)
    return undisturbed(partial(_compile, entry, case, autotune))


def _compile(entry: KernelEntry, case: Case, autotune: bool) -> Step:
    if entry.space is None:
        return entry.build(case)
    return configured_step(entry, entry.space(), case, autotune)


def _log_fallback(case: Case, backend: str, rejected: dict[str, str]) -> None:
    preferred = "cpu" if case.device == "cpu" else "triton"
    reason = rejected.get(preferred, "")
    if backend != "reference" or not reason or reason.endswith("was asked for"):
        return
    message = f"{case.formula.rule.name} on {case.topology} runs on the reference, not on {preferred}: {reason}"
    if message not in _logged:
        _logged.add(message)
        logger.warning(message)
