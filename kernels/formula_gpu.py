"""Formulas as Triton compiles them into the GPU kernels."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.rules import Signature, is_own
from tritonstdp.source import CannotCompileError, Source, located, name_of, parsed_expression, read
from tritonstdp.vocabulary import WORDS_ON_TENSORS

fp64 = tl.constexpr("fp64")
"""Annotates a run-time scalar that is passed in full precision; Triton would pass it in float32."""

NUMBERS = 12
"""How many numbers a launch carries."""


@triton.jit
def numbers_of(
    p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, scalars, N: tl.constexpr, REAL: tl.constexpr
):  # fmt: skip
    """A step's numbers in the type to compute in: the first ``N`` that are passed, then those that lie in tensors."""
    passed = (p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11)
    numbers = ()
    for k in tl.static_range(N):
        numbers += (tl.full([], passed[k], REAL),)  # type: ignore[assignment]
    for k in tl.static_range(len(scalars)):
        numbers += (tl.load(scalars[k]).to(REAL),)  # type: ignore[assignment]
    return numbers


def padded(numbers: Iterable[float]) -> tuple[float, ...]:
    """The numbers of a launch; unused places hold 0."""
    given = tuple(map(float, numbers))
    return given + (0.0,) * (NUMBERS - len(given))


@triton.jit
def quotient(a, b):
    """``a / b``, rounded as IEEE 754 has it; Triton's own ``/`` may be two units off in the last place of float32."""
    result = a / b
    if result.dtype == tl.float32:
        result = tl.div_rn(tl.cast(a, tl.float32), tl.cast(b, tl.float32))
    return result


@triton.jit
def root(x):
    """``sqrt(x)``, rounded as IEEE 754 has it."""
    if x.dtype == tl.float32:
        return tl.sqrt_rn(x)
    else:
        return tl.sqrt(x)


@triton.jit
def product_power(x, N: tl.constexpr):
    """``x ** N`` for a whole number above 0, multiplied out as torch multiplies a square and a cube."""
    result = x
    for _ in tl.static_range(N - 1):
        result = result * x
    return result


@triton.jit
def power(x, exponent):
    """``x ** exponent``: of a base below 0, a number where the exponent is whole, and NaN elsewhere."""
    y = tl.zeros_like(x) + exponent
    result = tl.exp2(tl.log2(tl.abs(x)) * y)
    whole = tl.floor(y) == y
    odd = tl.floor(y * 0.5) * 2.0 != y
    result = tl.where(x < 0, tl.where(whole, tl.where(odd, -result, result), float("nan")), result)
    return tl.where(y == 0, 1.0, result)


@triton.jit
def smaller(a, b):
    """The smaller of two numbers; NaN where one is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def larger(a, b):
    """The larger of two numbers; NaN where one is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


_NAMESPACE = {
    f"_ts_{function.__name__}": function for function in (quotient, root, product_power, power, smaller, larger)
} | {"_ts_tl": tl}
_WORDS = {
    "abs": "_ts_tl.abs", "exp": "_ts_tl.exp", "log": "_ts_tl.log", "sqrt": "_ts_root", "where": "_ts_tl.where",
    "minimum": "_ts_smaller", "maximum": "_ts_larger",
}  # fmt: skip
MOST_FACTORS = 64
"""Up to which exponent a power is multiplied out."""


class _AsTritonReads(ast.NodeTransformer):
    """Write divisions, powers and words of the vocabulary as calls of the functions above."""

    def __init__(self) -> None:
        self.truths: set[str] = set()

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        target = node.targets[0]
        assert isinstance(target, ast.Name)
        (self.truths.add if self._is_truth(node.value) else self.truths.discard)(target.id)
        return ast.Assign(node.targets, self.visit(node.value))

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if not isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, *_OF_TRUTHS)):
            raise CannotCompileError(f"{ast.unparse(node)}: Triton's operator is not torch's")
        if isinstance(node.op, _OF_TRUTHS):
            return ast.BinOp(self.visit(node.left), node.op, self.visit(node.right))
        truths = self._is_truth(node.left) + self._is_truth(node.right)
        if truths == 2 and not isinstance(node.op, ast.Mult):
            raise CannotCompileError(f"{ast.unparse(node)}: torch computes with truths alone as with bits")
        if not any(isinstance(part, ast.Name) for part in ast.walk(node)):
            return node  # of numbers alone
        left, right = (self.visit(x) if truths == 2 else self._number(x) for x in (node.left, node.right))
        if isinstance(node.op, ast.Div):
            return _call("_ts_quotient", left, right)
        if isinstance(node.op, ast.Pow):
            return self._power(left, right)
        return ast.BinOp(left, node.op, right)

    def _power(self, base: ast.expr, exponent: ast.expr) -> ast.expr:
        whole = exponent.value if isinstance(exponent, ast.Constant) else None
        if isinstance(whole, (int, float)) and whole == int(whole) and 0 < whole <= MOST_FACTORS:
            return _call("_ts_product_power", base, ast.Constant(int(whole)))
        if isinstance(base, ast.Constant):
            if not (isinstance(base.value, (int, float)) and base.value > 0):
                raise CannotCompileError(f"{base.value!r} can't be raised to a power in Triton")
            return _call("_ts_tl.exp2", ast.BinOp(ast.Constant(math.log2(base.value)), ast.Mult(), exponent))
        return _call("_ts_power", base, exponent)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        assert isinstance(node.func, ast.Name)
        truth_first = node.func.id == "where"
        arguments = [self.visit(a) if truth_first and k == 0 else self._number(a) for k, a in enumerate(node.args)]
        return _call(_WORDS[node.func.id], *arguments)

    def _number(self, node: ast.expr) -> ast.expr:
        visited = self.visit(node)
        return _call("_ts_tl.where", visited, ast.Constant(1.0), ast.Constant(0.0)) if self._is_truth(node) else visited

    def _is_truth(self, node: ast.expr) -> bool:
        if isinstance(node, ast.BinOp):
            of_truths = self._is_truth(node.left) and self._is_truth(node.right)
            return of_truths and isinstance(node.op, (ast.Mult, *_OF_TRUTHS))
        if isinstance(node, ast.UnaryOp):
            return isinstance(node.op, (ast.Invert, ast.Not)) and self._is_truth(node.operand)
        return isinstance(node, ast.Compare) or (isinstance(node, ast.Name) and node.id in self.truths)


_OF_TRUTHS = (ast.BitAnd, ast.BitOr, ast.BitXor)


def _call(name: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(parsed_expression(name), list(arguments), [])


def device_function(function: Callable[..., Any]) -> Any:
    """Turn a formula into a device function; one serves all that say the same.

    Raises
    ------
    CannotCompileError
        If its source can't be read, or says something else than the function does.
    """
    return _device_function(read(function)._replace(name=name_of(function)))


@lru_cache(maxsize=512)
def _device_function(source: Source) -> Any:
    return triton.jit(source.define({**_NAMESPACE, "__name__": __name__}, _AsTritonReads()))


TRIAL_BLOCK = 64


@triton.jit
def trial_kernel(
    out_ptr, in_ptr, p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11,
    FUNCTION: tl.constexpr, READS: tl.constexpr, NUMBERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A device function on rows of samples."""
    i = tl.arange(0, BLOCK)
    numbers = numbers_of(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, (), NUMBERS, tl.float32)
    read = ()
    for k in tl.static_range(READS):
        read += (tl.load(in_ptr + k * BLOCK + i),)  # type: ignore[assignment]
    result = FUNCTION(*read, *numbers)
    tl.store(out_ptr + i, (tl.zeros([BLOCK], tl.float32) + result).to(tl.float32))


def prove(signature: Signature) -> None:
    """Refuse a function that Triton does not take, or that gives something else on a GPU than on tensors.

    Where neither a GPU nor the interpreter can try it, as for an inspection, what was read from its source is held
    against it.
    """
    function = signature.function
    if is_own(function):
        return
    name = located(function)
    device = "cpu" if triton.knobs.runtime.interpret else "cuda" if torch.cuda.is_available() else None
    dtype, tolerance = (torch.float64, 1e-12) if device is None else (torch.float32, 2e-5)
    tensors, values = signature.samples(dtype)
    compiled = device_function(function)
    try:
        written = signature.call((t.clone() for t in tensors), values)
        expected = torch.as_tensor(written, dtype=dtype, device="cpu").expand(61)
    except Exception as error:
        raise CannotCompileError(f"{name} can't be tried on a vector of 61 weights ({error!r})") from error
    try:
        if device is None:
            meant = read(function).define(dict(WORDS_ON_TENSORS))(*tensors, *values)
            found = torch.as_tensor(meant, dtype=dtype, device="cpu").expand(61)
        else:
            found = _tried(compiled, tensors, values, device)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CannotCompileError(f"Triton can't compile {name}: {reason}") from error
    if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise CannotCompileError(f"{name} gives something else in Triton, or its source says something else")


def _tried(compiled: Any, tensors: Any, values: Any, device: str) -> Tensor:
    rows = torch.zeros(max(1, len(tensors)), TRIAL_BLOCK, device="cpu")
    for row, tensor in zip(rows, tensors, strict=False):
        row[:61] = tensor
    rows = rows.to(device)
    out = torch.zeros(TRIAL_BLOCK, device=device)
    trial_kernel[(1,)](out, rows, *padded(values), compiled, len(tensors), len(values), TRIAL_BLOCK)
    return out[:61].cpu()
