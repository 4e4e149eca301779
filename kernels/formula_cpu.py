"""Formulas as numba compiles them into the CPU loops."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from tritonstdp.kernels.compose import SynapseFunctions, compose
from tritonstdp.kernels.native import REAL, njit_part
from tritonstdp.kernels.protocol import CannotCompileError
from tritonstdp.rules import BOUNDS, RULES, Formula


class _WeakLiterals(ast.NodeTransformer):
    """Give numbers in a formula the type of the weights, as torch and Triton do; numba would promote to float64."""

    def __init__(self, captured: set[str]) -> None:
        self.captured = captured

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return self._cast(node) if type(node.value) in (int, float) else node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._cast(node) if node.id in self.captured else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        node.left = self.visit(node.left)
        if not isinstance(node.op, ast.Pow):  # an integer exponent means products, not pow()
            node.right = self.visit(node.right)
        return node

    @staticmethod
    def _cast(node: ast.expr) -> ast.AST:
        return ast.Call(ast.Name("_real", ast.Load()), [node], [])


def _with_weak_literals(function: Callable[..., Any], real: type) -> Callable[..., Any]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return function
    if not isinstance(tree.body[0], ast.FunctionDef):
        return function
    captured = inspect.getclosurevars(function)
    names = {**captured.globals, **captured.nonlocals}
    tree.body[0].decorator_list = []
    numbers = {name for name, value in names.items() if type(value) in (int, float)}
    tree = ast.fix_missing_locations(_WeakLiterals(numbers).visit(tree))
    namespace = {**function.__globals__, **captured.nonlocals, "_real": real}
    exec(compile(tree, inspect.getfile(function), "exec"), namespace)
    return namespace[tree.body[0].name]


@cache
def _own_formulas() -> frozenset[Callable[..., Any]]:
    own = {f for rule in RULES.values() for f in rule.functions}
    return frozenset(f for f in own | set(BOUNDS.values()) if f.__module__ == "tritonstdp.rules")


def _check_bound(bound: Callable[..., Any], compiled: Any, real: type, dtype: torch.dtype) -> None:
    """Refuse a bound that, weight by weight, does not give the bits that it gives on the whole tensor."""
    weights = torch.linspace(-0.5, 1.5, 61, dtype=dtype)
    low, high = real(0.1), real(0.9)
    expected = torch.as_tensor(bound(weights, float(low), float(high)), dtype=dtype).expand(weights.shape)
    try:
        values = [real(compiled(w, low, high)) for w in weights.numpy()]
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise CannotCompileError(f"numba can't compile {bound!r}: {reason[0] if reason else error!r}") from error
    if not torch.equal(torch.from_numpy(np.array(values)), expected.contiguous()):
        raise CannotCompileError(f"{bound!r} gives other values weight by weight than on the whole tensor")


def synapse_functions(formula: Formula, dtype: torch.dtype, bound_first: bool) -> SynapseFunctions:
    """Compile a formula's functions for scalars of one dtype.

    Parameters
    ----------
    formula : Formula
        The formula.
    dtype : torch.dtype
        The weights' dtype.
    bound_first : bool
        See :func:`tritonstdp.kernels.compose.compose`.

    Raises
    ------
    CannotCompileError
        If a bound is not something that numba compiles, or computes something else when compiled.
    """
    real = REAL[dtype]

    def compile_formula(function: Callable[..., Any]) -> Any:
        written = function if function in _own_formulas() else _with_weak_literals(function, real)
        return njit_part(written)

    for bound in {formula.positive, formula.negative} - _own_formulas():
        if not inspect.isfunction(bound):
            raise CannotCompileError(f"{bound!r} is not a plain function")
        _check_bound(bound, compile_formula(bound), real, dtype)

    @njit_part
    def cast(value):  # type: ignore[no-untyped-def]
        return real(value)

    @njit_part
    def clip(w, w_min, w_max):  # type: ignore[no-untyped-def]
        # of equals and of what can't be compared, the first stays: NaN, and the zero that equals a limit, as in torch
        return min(max(w, w_min), w_max)

    return compose(formula, bound_first, compile_formula, njit_part, cast, clip)
