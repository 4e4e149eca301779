"""Formulas as numba compiles them into the CPU loops."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
import torch

from tritonstdp.kernels.compose import Composed, compose
from tritonstdp.kernels.loops import REAL, choose, njit, njit_part
from tritonstdp.kernels.protocol import Case
from tritonstdp.rules import Signature, is_own
from tritonstdp.source import (
    CannotCompileError,
    NoSourceError,
    Source,
    captures_numbers_alone,
    located,
    parsed,
    read,
)


class _WeakNumbers(ast.NodeTransformer):
    """Give numbers and truths in a formula the type of the weights, as torch does; numba would promote to float64."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return _cast(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if isinstance(node.op, (ast.BitAnd, ast.BitOr, ast.BitXor)):
            return ast.BinOp(self.visit(node.left), node.op, self.visit(node.right))
        right = node.right
        if not (isinstance(node.op, ast.Pow) and isinstance(right, ast.Constant)):  # such a power is a product
            right = self._number(right)
        return ast.BinOp(self._number(node.left), node.op, right)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        operand = self.visit(node.operand) if isinstance(node.op, ast.Invert) else self._number(node.operand)
        return ast.UnaryOp(node.op, operand)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        truth = node.func.id == "where" if isinstance(node.func, ast.Name) else False
        arguments = [self.visit(a) if truth and k == 0 else self._number(a) for k, a in enumerate(node.args)]
        return ast.Call(node.func, arguments, [])

    def visit_Return(self, node: ast.Return) -> ast.stmt:
        return ast.Return(None if node.value is None else _cast(self.visit(node.value)))

    def _number(self, node: ast.expr) -> ast.expr:
        truth = isinstance(node, ast.Compare) or (isinstance(node, ast.BinOp) and isinstance(node.op, _OF_TRUTHS))
        return _cast(self.visit(node)) if truth else self.visit(node)


_OF_TRUTHS = (ast.BitAnd, ast.BitOr, ast.BitXor)


def _cast(node: ast.expr) -> ast.expr:
    return ast.Call(ast.Name("_real", ast.Load()), [node], [])


@numba.njit(inline="always")
def _minimum(a, b):  # type: ignore[no-untyped-def]
    return a if a < b or a != a else b


@numba.njit(inline="always")
def _maximum(a, b):  # type: ignore[no-untyped-def]
    return a if a > b or a != a else b


_WORDS = {
    "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "abs": abs,
    "minimum": _minimum, "maximum": _maximum, "where": choose,
}  # fmt: skip


def _as_numba_reads_it(function: Callable[..., Any], real: type) -> Callable[..., Any]:
    try:
        source = read(function)
        if is_own(function) and not _says_numbers(source):  # which numba vectorises better without casts
            return source.define(dict(_WORDS))
        return source.define({**_WORDS, "_real": real}, _WeakNumbers())
    except NoSourceError:
        if not captures_numbers_alone(function):
            raise
        return function  # numba reads instructions; the samples tell whether they mean the same


def _says_numbers(source: Source) -> bool:
    return any(isinstance(node, ast.Constant) for node in ast.walk(parsed(source.text)))


def compiled(function: Callable[..., Any], real: type) -> Any:
    """A formula's function, compiled for scalars of one type."""
    return njit_part(_as_numba_reads_it(function, real))


def _prove(signature: Signature, of_scalars: Any, dtype: torch.dtype) -> None:
    """Refuse a function that, number by number, does not give what it gives on tensors."""
    real, name = REAL[dtype], located(signature.function)
    tensors, values = signature.samples(dtype)
    try:
        written = signature.call((t.clone() for t in tensors), values)
        expected = torch.as_tensor(written, dtype=dtype).expand(61)
    except Exception as error:
        raise CannotCompileError(f"{name} can't be tried on a vector of 61 weights ({_first_line(error)})") from error
    rows = zip(*(t.numpy() for t in tensors), strict=True) if tensors else [()] * 61

    @njit
    def call(numbers):  # type: ignore[no-untyped-def]
        return of_scalars(*numbers)

    try:
        found = [call((*numbers, *map(real, values))) for numbers in rows]
    except Exception as error:
        raise CannotCompileError(f"numba can't compile {name}: {_reason(error)}") from error
    # torch computes what is said of numbers alone in float64, and has powers, exp and log of its own
    tolerance = 16 * torch.finfo(dtype).eps
    got = torch.from_numpy(np.array(found, real))
    if not torch.allclose(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise CannotCompileError(f"{name} gives other values number by number than on the whole tensor")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _reason(error: BaseException) -> str:
    """What numba has to say: its first line only names the stage that failed."""
    lines = [line.strip(" >\t") for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Failed in", "During:", "File "))]
    return "; ".join(told[:2]) or type(error).__name__


def synapse_functions(case: Case, bound_first: bool) -> Composed:
    """Compile a formula's functions for scalars of a case's dtype.

    Parameters
    ----------
    case : Case
        The case.
    bound_first : bool
        See :func:`tritonstdp.kernels.compose.compose`.

    Raises
    ------
    CannotCompileError
        If a function is not something that numba compiles, or computes something else when compiled.
    """
    real, dtype = REAL[case.dtype], case.dtype

    def compile_formula(signature: Signature) -> tuple[str, Any]:
        function = signature.function
        of_scalars = compiled(function, real)
        if not is_own(function):
            _prove(signature, of_scalars, dtype)
        return f"formula_{id(function)}", of_scalars

    @njit_part
    def cast(value):  # type: ignore[no-untyped-def]
        if isinstance(value, bool):  # as which a choice is fewer instructions than a conversion
            return real(1) if value else real(0)
        return real(value)

    @njit_part
    def clip(w, w_min, w_max):  # type: ignore[no-untyped-def]
        # of equals and of what can't be compared, the first stays: NaN, and the zero that equals a limit, as in torch
        return min(max(w, w_min), w_max)

    namespace = {"where": choose, "met": choose, "real": cast, "clip": clip}
    words = {word: word for word in namespace}
    return compose(
        case.formula, case.names, bound_first, words, namespace, compile_formula, njit_part, case.bool_spikes
    )


def synapse_update(case: Case, bound_first: bool, post_is_major: bool = False) -> Any:
    """What a step does to one synapse with one pre and one post neuron, compiled.

    ``update(w, c, pre, post, numbers, w_min, w_max)`` takes the pre neuron's signals first, or the post neuron's if
    ``post_is_major``: see :func:`tritonstdp.kernels.compose.updated`.
    """
    update = synapse_functions(case, bound_first).updated
    if not post_is_major:
        return update

    @njit_part
    def update_of_post(w, c, post, pre, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        return update(w, c, pre, post, numbers, w_min, w_max)

    return update_of_post


class ModulatedVisits(NamedTuple):
    """What loops over a modulated rule's synapses share.

    Attributes
    ----------
    visit_silent : callable
        ``visit_silent(w, c, numbers, w_min, w_max)``: what becomes of neighbouring synapses between silent neurons.
    write_held : callable
        ``write_held(w, c, synapses, neurons, spike, held_w, held_c)``: write what was computed before, at the synapses
        whose neuron is silent.
    """

    visit_silent: Any
    write_held: Any


def modulated_visits(update: Any, n_first: int, n_second: int, real: type) -> ModulatedVisits:
    """Compile them for an update that takes so many signals of its first and of its second side."""
    silent_first, silent_second = (real(0),) * n_first, (real(0),) * n_second

    @njit_part
    def visit_silent(w, c, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        for k in range(len(w)):
            w[k], c[k] = update(w[k], c[k], silent_first, silent_second, numbers, w_min, w_max)

    @njit_part
    def write_held(w, c, synapses, neurons, spike, held_w, held_c):  # type: ignore[no-untyped-def]
        for e in range(len(synapses)):
            k, silent = synapses[e], spike[neurons[e]] == 0
            w[k] = held_w[e] if silent else w[k]
            c[k] = held_c[e] if silent else c[k]

    return ModulatedVisits(visit_silent, write_held)
