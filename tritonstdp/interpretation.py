"""Triton's interpreter, made several times faster: what traffic is metered in, and kernels are tested in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

__all__ = ["swift_interpreter"]


@contextmanager
def swift_interpreter() -> Iterator[None]:
    """Let Triton's interpreter patch the language once a launch.

    The interpreter patches every operator of the language again at each call of a device function, which is most of
    the time that it takes. What is computed stays the same.

    Raises
    ------
    RuntimeError
        If Triton was imported without its interpreter.

    Examples
    --------
    >>> with swift_interpreter():  # doctest: +SKIP
    ...     step(...)
    """
    import triton

    if not triton.knobs.runtime.interpret:
        raise RuntimeError("set TRITON_INTERPRET=1 before Triton is imported: its interpreter is needed here")
    from triton.runtime import interpreter

    def call(function: Any, *arguments: Any, **named: Any) -> Any:
        if any(interpreter.tl.core.is_builtin(language.load) for language in languages(function)):
            interpreter._patch_lang(function.fn)
        return function.rewrite()(*arguments, **named)

    @cache
    def languages(function: Any) -> tuple[Any, ...]:
        tl = interpreter.tl
        return tuple(value for value in function.fn.__globals__.values() if value is tl or value is tl.core)

    with mock.patch.object(interpreter.InterpretedFunction, "__call__", call):
        yield
