"""The functions that a formula may use beside arithmetic: the same on torch tensors, in compiled loops and on a GPU.

torch's own functions of these names mean the same in a formula, and so do ``**`` and the built-in ``abs``.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["WORDS", "WORDS_ON_TENSORS", "abs", "exp", "log", "maximum", "minimum", "sqrt", "where"]


def exp(x: Any) -> Any:
    """The exponential function.

    Parameters
    ----------
    x : scalar or tensor
        The exponent.

    Returns
    -------
    scalar or tensor
        ``e ** x``.

    Examples
    --------
    >>> exp(0.0)
    1.0
    """
    return torch.exp(x) if isinstance(x, Tensor) else math.exp(x)


def log(x: Any) -> Any:
    """The natural logarithm.

    Parameters
    ----------
    x : scalar or tensor
        A positive number.

    Returns
    -------
    scalar or tensor
        The logarithm; of tensors, NaN below 0.

    Examples
    --------
    >>> log(1.0)
    0.0
    """
    return torch.log(x) if isinstance(x, Tensor) else math.log(x)


def sqrt(x: Any) -> Any:
    """The square root, rounded correctly.

    Parameters
    ----------
    x : scalar or tensor
        A number that is not negative.

    Returns
    -------
    scalar or tensor
        The root; of tensors, NaN below 0.

    Examples
    --------
    >>> sqrt(4.0)
    2.0
    """
    return torch.sqrt(x) if isinstance(x, Tensor) else math.sqrt(x)


def abs(x: Any) -> Any:
    """The absolute value.

    Parameters
    ----------
    x : scalar or tensor
        A number.

    Returns
    -------
    scalar or tensor
        Its absolute value.

    Examples
    --------
    >>> abs(-2.0)
    2.0
    """
    return builtins.abs(x)


def _of_two(on_tensors: Callable[[Tensor, Tensor], Tensor], on_numbers: Callable[..., Any], a: Any, b: Any) -> Any:
    tensor = next((x for x in (a, b) if isinstance(x, Tensor)), None)
    if tensor is None:
        return on_numbers(a, b)
    return on_tensors(*(torch.as_tensor(x, dtype=tensor.dtype, device=tensor.device) for x in (a, b)))


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two numbers; NaN where one is.

    Parameters
    ----------
    a, b : scalar or tensor
        The numbers.

    Returns
    -------
    scalar or tensor
        The smaller.

    Examples
    --------
    >>> minimum(1.0, torch.tensor([0.5, 2.0]))
    tensor([0.5000, 1.0000])
    """
    return _of_two(torch.minimum, min, a, b)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two numbers; NaN where one is.

    Parameters
    ----------
    a, b : scalar or tensor
        The numbers.

    Returns
    -------
    scalar or tensor
        The larger.

    Examples
    --------
    >>> maximum(1.0, torch.tensor([0.5, 2.0]))
    tensor([1., 2.])
    """
    return _of_two(torch.maximum, max, a, b)


def where(condition: Any, a: Any, b: Any) -> Any:
    """One number where a condition holds, and another where it does not.

    Parameters
    ----------
    condition : bool or tensor of bool
        The condition.
    a, b : scalar or tensor
        The numbers; both are computed everywhere.

    Returns
    -------
    scalar or tensor
        ``a`` where ``condition`` holds, else ``b``.

    Examples
    --------
    >>> where(torch.tensor([True, False]), 1.0, 0.0)
    tensor([1., 0.])
    """
    if isinstance(condition, Tensor):
        return torch.where(condition, a, b)
    return a if condition else b


WORDS: dict[Callable[..., Any], str] = {
    **{word: word.__name__ for word in (exp, log, sqrt, abs, minimum, maximum, where)},
    torch.exp: "exp",
    torch.log: "log",
    torch.sqrt: "sqrt",
    torch.abs: "abs",
    torch.minimum: "minimum",
    torch.maximum: "maximum",
    torch.where: "where",
    torch.pow: "power",
    builtins.abs: "abs",
    builtins.pow: "power",
}
"""The vocabulary: what a formula may call, and its name in the rewritten formula."""

WORDS_ON_TENSORS: dict[str, Callable[..., Any]] = {
    word.__name__: word for word in (exp, log, sqrt, abs, minimum, maximum, where)
}
"""The vocabulary by name, for a rewritten formula that is called on tensors."""
