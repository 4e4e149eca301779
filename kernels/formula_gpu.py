"""Formulas as Triton compiles them into the GPU kernels."""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any

import triton
import triton.language as tl

from tritonstdp.kernels.protocol import CannotCompileError


@triton.jit
def quotient(a, b):
    """``a / b``, rounded as IEEE 754 has it; Triton's own ``/`` may be two units off in the last place of float32."""
    result = a / b
    if result.dtype == tl.float32:
        result = tl.div_rn(tl.cast(a, tl.float32), tl.cast(b, tl.float32))
    return result


class _RoundedDivision(ast.NodeTransformer):
    """Write each ``a / b`` of a formula as ``quotient(a, b)``, unless both are numbers."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        numbers_alone = not any(isinstance(part, ast.Name) for part in ast.walk(node))
        if numbers_alone or not isinstance(node.op, ast.Div):
            return node
        return ast.Call(ast.Name("quotient", ast.Load()), [node.left, node.right], [])


@cache
def device_function(function: Callable[..., Any]) -> Any:
    """Turn a formula into a device function, once.

    Raises
    ------
    CannotCompileError
        If its source can't be read, or it uses more than its arguments.
    """
    if not inspect.isfunction(function) or function.__name__ == "<lambda>":
        raise CannotCompileError(f"{function!r} is not a named function with source, which Triton needs")
    used = inspect.getclosurevars(function)
    foreign = sorted({*used.globals, *used.nonlocals, *used.builtins, *used.unbound})
    if foreign:
        raise CannotCompileError(
            f"{function.__name__} uses {', '.join(foreign)}; Triton takes arithmetic on the arguments alone"
        )
    try:
        return triton.jit(_bare(function))
    except (OSError, SyntaxError) as error:
        raise CannotCompileError(f"Triton can't read {function.__name__}: {error}") from error


def _bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as Triton is to read it.

    Without annotations, which Triton would evaluate; with ``tl``, which its interpreter wants; and with division that
    is rounded as everywhere else.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise CannotCompileError(f"{function.__name__} is not defined by a plain def, which Triton needs")
    definition.decorator_list, definition.returns = [], None
    for argument in definition.args.args:
        argument.annotation = None
    source = ast.unparse(ast.fix_missing_locations(_RoundedDivision().visit(tree)))
    filename = f"<formula {function.__module__}.{function.__qualname__}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {"tl": tl, "quotient": quotient, "__name__": function.__module__}
    exec(compile(source, filename, "exec"), namespace)
    return namespace[definition.name]
