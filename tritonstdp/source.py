"""Formulas read from their source, so that one function serves compilers that could not take it as it is.

What is read is rewritten: numbers that a function captures or has as defaults stand in it as literals, and words of
:mod:`tritonstdp.vocabulary` under their plain names. The rewritten text is a formula's identity: two functions of one
text share their kernels; two that differ in a captured number do not.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import linecache
import math
import numbers
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from types import CellType, CodeType, FunctionType
from typing import Any, NamedTuple

from tritonstdp.vocabulary import WORDS

__all__ = [
    "CannotCompileError",
    "NoSourceError",
    "Source",
    "captured_values",
    "captures_numbers_alone",
    "content_of",
    "define",
    "frozen",
    "located",
    "name_of",
    "parsed",
    "parsed_expression",
    "plain_function",
    "read",
]

Function = Callable[..., Any]

_ATTEMPTS = 100


class CannotCompileError(Exception):
    """A formula that a backend's compiler does not take; the message says why."""


class NoSourceError(CannotCompileError):
    """A function whose source can't be found, as of one that was typed at Python's prompt."""


def parsed(text: str) -> ast.Module:
    """Parse a text, whatever other threads parse meanwhile.

    CPython counts how deep all threads are in one number, and raises where one finds it changed by another (issue
    106905); its next attempt has nothing to do with that.

    Examples
    --------
    >>> ast.unparse(parsed("a+b"))
    'a + b'
    """
    for _ in range(_ATTEMPTS):
        try:
            return ast.parse(text)
        except SystemError:
            continue
    return ast.parse(text)


def parsed_expression(text: str) -> ast.expr:
    """As :func:`parsed`, of a text that is one expression.

    Examples
    --------
    >>> ast.unparse(parsed_expression("a+b"))
    'a + b'
    """
    statement = parsed(text).body[0]
    assert isinstance(statement, ast.Expr)
    return statement.value


class Source(NamedTuple):
    """A formula as it was read.

    Attributes
    ----------
    name : str
        The function's name, for messages.
    text : str
        Its rewritten definition, under the name ``formula``.
    """

    name: str
    text: str

    def define(self, namespace: dict[str, Any], rewrite: ast.NodeTransformer | None = None) -> Any:
        """Define the function, rewritten further, in a namespace that holds what it then names.

        Its name tells it from every function that says something else: Triton takes functions of one name for one.
        """
        tree = parsed(self.text)
        tree = ast.fix_missing_locations(tree if rewrite is None else rewrite.visit(tree))
        definition = tree.body[0]
        assert isinstance(definition, ast.FunctionDef)
        definition.name = f"formula_{hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]}"
        return define(ast.unparse(tree), definition.name, namespace, f"<{definition.name} of {self.name}>")


def define(text: str, name: str, namespace: dict[str, Any], filename: str | None = None) -> Any:
    """Define a function from its text, which stays readable for compilers that ask for a source.

    Parameters
    ----------
    text : str
        The definition.
    name : str
        The function's name in it.
    namespace : dict
        What the text names; the function is added.
    filename : str, optional
        What tracebacks call its file.

    Returns
    -------
    callable
        The function.

    Examples
    --------
    >>> define("def halved(x): return x / 2", "halved", {})(3.0)
    1.5
    """
    filename = filename or f"<{name}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    exec(compile(text, filename, "exec"), namespace)
    return namespace[name]


def name_of(function: Function) -> str:
    """What to call a function in messages and tables: its name, or that of its kind.

    Examples
    --------
    >>> name_of(max), name_of(functools.partial(max, 0))
    ('max', 'partial(max)')
    """
    if isinstance(function, functools.partial):
        return f"partial({name_of(function.func)})"
    return getattr(function, "__name__", None) or type(function).__name__


def located(function: Function, line: int | None = None) -> str:
    """What to call a function where something is wrong with it: its name, its file, and a line of it or its first.

    Examples
    --------
    >>> located(located).startswith("located (source.py, line ")
    True
    >>> located(max)
    'max'
    """
    inner = _unwrapped(function)[0]
    if not isinstance(inner, FunctionType):
        return name_of(function)
    code = inner.__code__
    return f"{name_of(function)} ({Path(code.co_filename).name}, line {line or code.co_firstlineno})"


def plain_function(function: Function) -> Function:
    """The function that numba or Triton has compiled, where one has: theirs do not take tensors.

    Examples
    --------
    >>> import numba
    >>> def halved(w, w_min, w_max):
    ...     return w / 2
    >>> plain_function(numba.njit(halved)) is halved
    True
    """
    if not type(function).__module__.startswith(("numba.", "triton.")):
        return function
    inner = getattr(function, "py_func", None) or getattr(function, "fn", None)
    return inner if isinstance(inner, FunctionType) else function


def captured_values(function: Function) -> tuple[Any, ...]:
    """The numbers that a function takes from around it, as they are now; empty where it takes none.

    Examples
    --------
    >>> limit = 0.5
    >>> captured_values(lambda w, w_min, w_max: limit - w)
    (0.5,)
    """
    if isinstance(function, functools.partial):
        given = (*function.args, *function.keywords.values())
        return (*captured_values(function.func), *(value for value in given if isinstance(value, numbers.Real)))
    if not isinstance(function, FunctionType):
        return ()
    around = [_around(function, name) for name in _outer_names(function.__code__)]
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    return tuple(value for value in (*around, *defaults) if isinstance(value, numbers.Real))


def frozen(function: Function) -> Function:
    """A function as it is now, for good: of the numbers that it captures or has as defaults, those of this moment.

    Examples
    --------
    >>> limit = 0.5
    >>> now = frozen(lambda w, w_min, w_max: limit - w)
    >>> limit = 2.0
    >>> now(0.0, 0.0, 1.0)
    0.5
    """
    if isinstance(function, functools.partial):
        return functools.partial(frozen(function.func), *function.args, **function.keywords)
    if not isinstance(function, FunctionType) or not captured_values(function):
        return function
    cells = tuple(CellType(cell.cell_contents) for cell in function.__closure__ or ())
    copied = FunctionType(
        function.__code__, dict(function.__globals__), function.__name__, function.__defaults__, cells
    )
    copied.__kwdefaults__ = dict(function.__kwdefaults__ or {})
    return copied


def captures_numbers_alone(function: Function) -> bool:
    """Whether all that a function takes from around it are numbers, which a compiler may freeze.

    Examples
    --------
    >>> limit, limits = 0.5, [0.5]
    >>> captures_numbers_alone(lambda w: w - limit), captures_numbers_alone(lambda w: w - limits[0])
    (True, False)
    """
    if not isinstance(function, FunctionType):
        return False
    return all(isinstance(_around(function, name), numbers.Real) for name in _outer_names(function.__code__))


@lru_cache(maxsize=1024)
def _outer_names(code: CodeType) -> tuple[str, ...]:
    return (*code.co_names, *code.co_freevars)


_MISSING = object()


def _around(function: FunctionType, name: str) -> Any:
    """What a name that is no local of a function stands for."""
    if name in function.__code__.co_freevars:
        try:
            return (function.__closure__ or ())[function.__code__.co_freevars.index(name)].cell_contents
        except ValueError:  # not yet assigned
            return _MISSING
    if name in function.__globals__:
        return function.__globals__[name]
    known = function.__globals__.get("__builtins__", {})
    return (known if isinstance(known, dict) else vars(known)).get(name, _MISSING)


def read(function: Function) -> Source:
    """Read a formula from its source.

    Parameters
    ----------
    function : callable
        A function or lambda, or a ``functools.partial`` of one, of arithmetic, comparisons and the vocabulary on its
        arguments and on numbers that it captures.

    Returns
    -------
    Source
        The formula.

    Raises
    ------
    CannotCompileError
        If it is something else; the message says what and in which line.

    Examples
    --------
    >>> from tritonstdp.rules import soft_bound
    >>> print(read(soft_bound).text)
    def formula(w, w_min, w_max):
        return (w - w_min) * (w_max - w)
    """
    inner, bound = _unwrapped(function)
    name = name_of(function)
    if not isinstance(inner, FunctionType):
        raise CannotCompileError(f"{name} is a {type(inner).__name__}, not a plain function")
    if hasattr(inner, "__wrapped__"):
        raise CannotCompileError(f"{name} is decorated, and what its decorator does can't be compiled")
    node = _definition(inner.__code__)
    rewriting = _Rewriting(inner, _given(inner, bound))
    definition = ast.FunctionDef("formula", rewriting.arguments(node.args), rewriting.body(node), [])
    definition.type_params = []  # type: ignore[attr-defined]  # which Python 3.12 asks for
    module = ast.fix_missing_locations(ast.Module([definition], []))
    return Source(name, ast.unparse(module))


def content_of(function: Function) -> str | None:
    """What a formula says, as text.

    Parameters
    ----------
    function : callable
        The function.

    Returns
    -------
    str or None
        The same text for functions that say the same; None for what can't be read.

    Examples
    --------
    >>> content_of(lambda w, w_min, w_max: 2 * w) == content_of(lambda w, w_min, w_max: 2 * w)
    True
    >>> content_of(max) is None
    True
    """
    try:
        return read(function).text
    except CannotCompileError:
        return None


def _unwrapped(function: Function) -> tuple[Function, functools.partial[Any] | None]:
    return (plain_function(function.func), function) if isinstance(function, functools.partial) else (function, None)


def _given(function: FunctionType, bound: functools.partial[Any] | None) -> dict[str, Any]:
    """The arguments that already have a value: by a partial, or by a default where the engine passes none."""
    parameters = inspect.signature(function).parameters
    given = {p.name: p.default for p in parameters.values() if p.default is not p.empty}
    if bound is not None:
        given |= dict(zip(parameters, bound.args, strict=False)) | bound.keywords
    return given


@lru_cache(maxsize=16)
def _functions_of(text: str) -> dict[int, list[ast.FunctionDef | ast.Lambda]]:
    """The functions of a file, by the line on which Python says that they begin."""
    found: dict[int, list[ast.FunctionDef | ast.Lambda]] = {}
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found.setdefault(first, []).append(node)
        elif isinstance(node, ast.Lambda):
            found.setdefault(node.lineno, []).append(node)
    return found


@lru_cache(maxsize=512)
def _definition(code: CodeType) -> ast.FunctionDef | ast.Lambda:
    """The node from which a function was compiled: the one of its line that has its names and numbers."""
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename)
    try:
        candidates = _functions_of("".join(lines)).get(code.co_firstlineno, []) if lines else []
    except (SyntaxError, ValueError):
        candidates = []
    fitting = {ast.dump(node): node for node in candidates if _fits(code, node)}
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if fitting:
        raise CannotCompileError(f"{code.co_name} can't be told from the other functions of its line: give it its own")
    raise NoSourceError(f"the source of {code.co_name} can't be found: define it in a file or a notebook's cell")


def _compiled(node: ast.FunctionDef | ast.Lambda, captured: tuple[str, ...]) -> CodeType:
    """The code of a definition, compiled inside a function that has what it captures."""
    if isinstance(node, ast.FunctionDef):
        inner: ast.stmt = ast.FunctionDef(node.name, node.args, node.body, [])
        inner.type_params = []  # type: ignore[attr-defined]
    else:
        inner = ast.Return(node)
    around = [ast.arg(name) for name in captured]
    arguments = ast.arguments(posonlyargs=[], args=around, kwonlyargs=[], kw_defaults=[], defaults=[])
    outer = ast.FunctionDef("outer", arguments, [inner], [])
    outer.type_params = []  # type: ignore[attr-defined]
    module = compile(ast.fix_missing_locations(ast.Module([outer], [])), "<formula>", "exec", dont_inherit=True)
    code = module
    for _ in range(2):
        code = next(constant for constant in code.co_consts if isinstance(constant, CodeType))
    return code


def _fits(code: CodeType, node: ast.FunctionDef | ast.Lambda) -> bool:
    """Whether a definition has a code's names and numbers; its instructions depend on what the whole file imports."""
    compiled = _compiled(node, code.co_freevars)
    parts = ("co_names", "co_varnames", "co_freevars", "co_argcount", "co_kwonlyargcount")
    same = all(getattr(code, part) == getattr(compiled, part) for part in parts)
    return same and repr(code.co_consts) == repr(compiled.co_consts)


class _Rewriting(ast.NodeTransformer):
    """Rewrites one function's body into the plain form; refuses what no compiler takes."""

    def __init__(self, function: FunctionType, given: dict[str, Any]) -> None:
        self.function, self.given = function, given
        self.own = set(function.__code__.co_varnames)
        self.aliases = set(function.__code__.co_varnames[: function.__code__.co_argcount])
        for name in sorted(self.own & (set(WORDS.values()) - {"power"})):
            raise self.refuse(function.__code__, f"a variable that is named {name}, as a function of formulas is,")  # type: ignore[arg-type]

    def refuse(self, node: ast.AST, what: str) -> CannotCompileError:
        line = getattr(node, "lineno", self.function.__code__.co_firstlineno)
        return CannotCompileError(f"{located(self.function, line)}: {what} can't be compiled")

    def arguments(self, arguments: ast.arguments) -> ast.arguments:
        if arguments.vararg is not None or arguments.kwarg is not None:
            raise self.refuse(arguments, "*args or **kwargs")
        every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        left = [ast.arg(argument.arg) for argument in every if argument.arg not in self.given]
        return ast.arguments(posonlyargs=[], args=left, kwonlyargs=[], kw_defaults=[], defaults=[])

    def body(self, node: ast.FunctionDef | ast.Lambda) -> list[ast.stmt]:
        if isinstance(node, ast.Lambda):
            return [ast.Return(self.visit(deepcopy(node.body)))]
        return [self.visit(deepcopy(statement)) for statement in node.body if not _is_docstring(statement)]

    def literal(self, node: ast.AST, value: Any, name: str) -> ast.expr:
        if isinstance(value, bool):
            return ast.Constant(value)
        if isinstance(value, numbers.Integral):
            return _signed(int(value))
        if not isinstance(value, numbers.Real) or math.isnan(value):
            raise self.refuse(node, f"{name}, which is {value!r},")
        return _signed(float(value))

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        target = node.targets[0]
        if len(node.targets) > 1 or not isinstance(target, ast.Name):
            raise self.refuse(node, "an assignment of several names")
        value = self.visit(node.value)
        # what another name stands for already must not be written into: torch's tensors would change with it
        (self.aliases.add if isinstance(node.value, ast.Name) else self.aliases.discard)(target.id)
        return ast.Assign([self.visit(target)], value)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        target = node.target
        if not isinstance(target, ast.Name) or target.id in self.aliases:
            raise self.refuse(node, f"writing into {ast.unparse(target)}")
        left = ast.copy_location(ast.Name(target.id, ast.Load()), node)
        return ast.Assign(
            [self.visit(target)], self.visit(ast.copy_location(ast.BinOp(left, node.op, node.value), node))
        )

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        operand = self.visit(node.operand)
        return operand if isinstance(node.op, ast.UAdd) else ast.UnaryOp(node.op, operand)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.given:
            if not isinstance(node.ctx, ast.Load):
                raise self.refuse(node, f"an assignment to {node.id}, which has a value already,")
            return self.literal(node, self.given[node.id], node.id)
        if node.id in self.own:
            return node
        value = _around(self.function, node.id)
        if value is _MISSING:
            raise self.refuse(node, f"{node.id}, which is not defined,")
        return self.literal(node, value, node.id)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        try:
            word = WORDS.get(self._named(node.func))
        except Exception:  # whatever a user's object makes of being looked at
            word = None
        if word is None or node.keywords:
            raise self.refuse(node, f"a call of {ast.unparse(node.func)}")
        arguments = [self.visit(argument) for argument in node.args]
        if word == "power":
            return ast.BinOp(arguments[0], ast.Pow(), arguments[1])
        return ast.Call(ast.Name(word, ast.Load()), arguments, [])

    def _named(self, node: ast.expr) -> Any:
        """What a name, or an attribute of a module, stands for."""
        if isinstance(node, ast.Name):
            return None if node.id in self.own else _around(self.function, node.id)
        if isinstance(node, ast.Attribute):
            return getattr(self._named(node.value), node.attr, None)
        return None

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, _TAKEN):
            raise self.refuse(node, f"{type(node).__name__.lower()} ({ast.unparse(node).splitlines()[0]})")
        return super().generic_visit(node)


_TAKEN = (
    ast.Return, ast.Assign, ast.AugAssign, ast.Expr, ast.Name, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare,
    ast.Call, ast.Tuple, ast.operator, ast.unaryop, ast.cmpop, ast.expr_context,
)  # fmt: skip
"""What a formula may be made of. No branches: a tensor has no one truth."""


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _signed(value: float) -> ast.expr:
    if value < 0 or (value == 0 and math.copysign(1, value) < 0):
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)
