"""Formulas as Triton compiles them into the GPU kernels."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from tritonstdp.rules import Signature, is_own
from tritonstdp.source import CannotCompileError, Source, name_of, read
from tritonstdp.vocabulary import WORDS_ON_TENSORS


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
def power(x, y):
    """``x ** y`` for any ``y``: NaN below 0, as torch has it unless ``y`` is whole."""
    return tl.exp2(tl.log2(x) * y)


@triton.jit
def smaller(a, b):
    """The smaller of two numbers; NaN where one is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def larger(a, b):
    """The larger of two numbers; NaN where one is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


_WORDS = {
    "abs": "tl.abs", "exp": "tl.exp", "log": "tl.log", "sqrt": "root", "where": "tl.where",
    "minimum": "smaller", "maximum": "larger",
}  # fmt: skip
_NAMESPACE = {
    "tl": tl, "quotient": quotient, "root": root, "product_power": product_power, "power": power,
    "smaller": smaller, "larger": larger,
}  # fmt: skip
MOST_FACTORS = 16
"""Up to which exponent a power is multiplied out."""


class _AsTritonReads(ast.NodeTransformer):
    """Write divisions, powers and words of the vocabulary as calls of the functions above."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        numbers_alone = not any(isinstance(part, ast.Name) for part in ast.walk(node))
        if numbers_alone or not isinstance(node.op, (ast.Div, ast.Pow)):
            return node
        if isinstance(node.op, ast.Div):
            return _call("quotient", node.left, node.right)
        exponent = node.right.value if isinstance(node.right, ast.Constant) else None
        multiplied = isinstance(exponent, (int, float)) and exponent == int(exponent) and 0 < exponent <= MOST_FACTORS
        if multiplied:
            return _call("product_power", node.left, ast.Constant(int(exponent)))  # type: ignore[arg-type]
        return _call("power", node.left, node.right)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        assert isinstance(node.func, ast.Name)
        return _call(_WORDS[node.func.id], *node.args)


def _call(name: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(ast.parse(name, mode="eval").body, list(arguments), [])


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


def prove_reading(signature: Signature) -> None:
    """Refuse a function whose source, read and called on tensors, does not give what the function itself gives."""
    if is_own(signature.function):
        return
    name = name_of(signature.function)
    tensors, values = signature.samples(torch.float64)
    meaning = read(signature.function).define(dict(WORDS_ON_TENSORS))
    try:
        written, meant = (
            torch.as_tensor(function(*(t.clone() for t in tensors), *values), dtype=torch.float64, device="cpu")
            for function in (signature.function, meaning)
        )
    except Exception as error:
        raise CannotCompileError(f"{name} can't be tried on a vector of 61 weights ({error!r})") from error
    if not torch.allclose(written, meant, rtol=1e-12, atol=1e-12, equal_nan=True):
        raise CannotCompileError(f"the source of {name} says something else than the function gives")
