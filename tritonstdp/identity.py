"""What a formula is called, and by what it is known again: in the names of tuned settings and of loops on disk."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any

__all__ = ["content_of", "name_of"]

Function = Callable[..., Any]


def name_of(function: Function) -> str:
    """A name for people: the function's own, or that of the kind of callable.

    Parameters
    ----------
    function : callable
        A function, a ``functools.partial``, or an object that can be called.

    Returns
    -------
    str
        The name; others may have the same.

    Examples
    --------
    >>> from functools import partial
    >>> name_of(max), name_of(partial(max, 1))
    ('max', 'partial')
    """
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def content_of(function: Function) -> str | None:
    """What a function computes, as text: its code, its defaults and the numbers that it captures.

    Parameters
    ----------
    function : callable
        The function.

    Returns
    -------
    str or None
        The same text for functions that compute the same, in this release of Python; None where it can't be told: for
        callables that are no plain functions, and for functions that use more than their arguments and numbers.

    Examples
    --------
    >>> doubled, twice, tripled = lambda w: 2 * w, lambda w: 2 * w, lambda w: 3 * w
    >>> content_of(doubled) == content_of(twice), content_of(doubled) == content_of(tripled)
    (True, False)
    >>> content_of(max) is None
    True
    """
    if not inspect.isfunction(function):
        return None
    code = function.__code__
    try:
        captured = inspect.getclosurevars(function)
    except ValueError:  # a cell that is still empty
        return None
    numbers = {**captured.globals, **captured.nonlocals}
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    if any(type(value) not in (int, float) for value in (*numbers.values(), *defaults)):
        return None
    if any(
        isinstance(constant, CodeType) for constant in code.co_consts
    ):  # a function within, with captures of its own
        return None
    signature = (code.co_argcount, code.co_kwonlyargcount, code.co_flags, code.co_varnames)
    written = (code.co_code, code.co_consts, code.co_names)
    return repr((signature, written, function.__defaults__, function.__kwdefaults__, sorted(numbers.items())))
