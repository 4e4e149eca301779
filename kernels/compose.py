"""What a step does at one synapse, said once and specialised on a formula for torch, for numba and for Triton.

The templates here are written in the words that each of the three has for ``where``, ``met``, ``real`` and ``clip``. A
formula's function is called as ``ON_PRE(...)``: with three dots for what it reads, which the specialisation puts in by
name. ``pre`` and ``post`` are tuples of signals, of which the first is the spike, and ``numbers`` is one of parameters.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache, lru_cache
from math import isfinite
from typing import Any, NamedTuple

import torch

from tritonstdp.kernels.protocol import Names
from tritonstdp.rules import Formula, Signature
from tritonstdp.source import define, parsed, parsed_expression

ON_PRE: Any = None
ON_POST = CHANGE = POSITIVE = NEGATIVE = ELIGIBILITY = DOPAMINE = ON_PRE
"""What a formula says, in the templates."""
BOUND_FIRST = CLAMP = MODULATED = None
"""What is settled when a template is specialised."""
where: Any = None
"""``where(condition, a, b)``."""
met: Any = None
"""``met(spiked, bound, one)``: a bound where a neuron has spiked, 1 elsewhere."""
real: Any = None
"""Casts to the weights' type. A bound may be a bool or an int, which numba would promote to float64."""
clip: Any = None
"""``clip(w, w_min, w_max)``."""


def post_term(pre, post, numbers, w, w_min, w_max):  # type: ignore[no-untyped-def]
    """What the spike of a post neuron contributes."""
    return real(ON_POST(...))


def pre_term(pre, post, numbers, w, w_min, w_max):  # type: ignore[no-untyped-def]
    """What the spike of a pre neuron contributes."""
    return real(ON_PRE(...))


def changed(w, potentiation, depression, pre_spiked, post_spiked, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
    """The weight's change, bounds applied.

    A contribution meets its bound where its neuron has spiked. It is 0 elsewhere, so that 1 is as good as any bound,
    and an infinite one harms nothing.
    """
    one = real(1)
    positive = met(post_spiked, real(POSITIVE(...)), one)
    negative = met(pre_spiked, real(NEGATIVE(...)), one)
    if BOUND_FIRST:
        potentiation = potentiation * positive
        depression = depression * negative
        positive = one
        negative = one
    return CHANGE(...)


def moved(w, dw, c, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
    """The new weight and the new eligibility."""
    if MODULATED:
        c = ELIGIBILITY(...)
        w = w + c * DOPAMINE
    else:
        w = w + dw
    if CLAMP:
        w = clip(w, w_min, w_max)
    return w, c


def delta(w, pre, post, pre_spiked, post_spiked, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
    """The change of a synapse with one pre and one post neuron, right where one of them has spiked.

    What :mod:`tritonstdp.kernels.reference` says of silent neurons holds: the term of one does not exist. It is chosen,
    not branched to, so that neighbours are computed at once, and a spike that is a constant 0 folds its term away.
    """
    potentiation = where(post_spiked, post_term(pre, post, numbers, w, w_min, w_max), real(0))
    depression = where(pre_spiked, pre_term(pre, post, numbers, w, w_min, w_max), real(0))
    return changed(w, potentiation, depression, pre_spiked, post_spiked, pre, post, numbers, w_min, w_max)


def updated(w, c, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
    """The new weight and the new eligibility of a synapse with one pre and one post neuron.

    ``c`` comes back as it is, unless the rule is modulated.
    """
    pre_spiked = pre[0] != 0
    post_spiked = post[0] != 0
    # compared once for all that is chosen: LLVM turns a comparison around that terms alone need, and makes two of it
    touched = where(pre_spiked, True, post_spiked)
    dw = delta(w, pre, post, pre_spiked, post_spiked, numbers, w_min, w_max)
    if MODULATED:
        dw = where(touched, dw, real(0))
        return moved(w, dw, c, pre, post, numbers, w_min, w_max)
    else:
        new, _ = moved(w, dw, c, pre, post, numbers, w_min, w_max)
        return where(touched, new, w), c


def after_post(w, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
    """The new weight where the post neuron has spiked and the pre neuron has not; elsewhere it means nothing."""
    potentiation = post_term(pre, post, numbers, w, w_min, w_max)
    dw = changed(w, potentiation, real(0), False, True, pre, post, numbers, w_min, w_max)
    new, _ = moved(w, dw, w, pre, post, numbers, w_min, w_max)
    return new


def after_pre(w, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
    """The new weight where the pre neuron has spiked and the post neuron has not; elsewhere it means nothing."""
    depression = pre_term(pre, post, numbers, w, w_min, w_max)
    dw = changed(w, real(0), depression, True, False, pre, post, numbers, w_min, w_max)
    new, _ = moved(w, dw, w, pre, post, numbers, w_min, w_max)
    return new


_TEMPLATES = (post_term, pre_term, changed, moved, delta, updated, after_post, after_pre)


class Composed(NamedTuple):
    """The templates, specialised and compiled."""

    post_term: Any
    pre_term: Any
    changed: Any
    moved: Any
    delta: Any
    updated: Any
    after_post: Any
    after_pre: Any


@cache
def _tree_of(template: Callable[..., Any]) -> ast.FunctionDef:
    node = parsed(textwrap.dedent(inspect.getsource(template))).body[0]
    assert isinstance(node, ast.FunctionDef)
    node.body = node.body[1:]  # less its docstring
    return node


class _Specialising(ast.NodeTransformer):
    """Writes a template out for one formula."""

    def __init__(
        self,
        calls: Mapping[str, tuple[Signature, str]],
        places: Mapping[str, str],
        settled: Mapping[str, bool],
        names: Mapping[str, str | None],
        one_spike: bool,
        by_keyword: bool,
    ) -> None:
        self.calls, self.places, self.settled, self.names = calls, places, settled, names
        self.one_spike, self.by_keyword = one_spike, by_keyword

    def visit_If(self, node: ast.If) -> Any:
        assert isinstance(node.test, ast.Name)
        kept = node.body if self.settled[node.test.id] else node.orelse
        return [self.visit(statement) for statement in kept]

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._place("dopamine") if node.id == "DOPAMINE" else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        assert isinstance(node.func, ast.Name)
        role = node.func.id.lower()
        if role in self.calls:
            return self._call_of(role)
        name = self.names.get(node.func.id, node.func.id)
        arguments = [self.visit(argument) for argument in node.args]
        return arguments[0] if name is None else ast.Call(parsed_expression(name), arguments, [])

    def _call_of(self, role: str) -> ast.expr:
        signature, name = self.calls[role]
        # a bool spike counts 1 where it counts, without being multiplied
        ones = {"on_pre": "pre_spike", "on_post": "post_spike"} if self.one_spike else {}
        one = parsed_expression("real(1)")
        reads = [self.visit(one) if ones.get(role) == n else self._place(n) for n in signature.reads]
        parameters = [self._place(n) for n in signature.parameters]
        if not self.by_keyword:
            return ast.Call(ast.Name(name, ast.Load()), [*reads, *parameters], [])
        keywords = [ast.keyword(n, place) for n, place in zip(signature.parameters, parameters, strict=True)]
        return ast.Call(ast.Name(name, ast.Load()), reads, keywords)

    def _place(self, name: str) -> ast.expr:
        return parsed_expression(self.places.get(name, name))


def compose(
    formula: Formula,
    names: Names,
    bound_first: bool,
    words: Mapping[str, str | None],
    namespace: dict[str, Any],
    compile_formula: Callable[[Signature], tuple[str, Any]],
    compile_part: Callable[[Callable[..., Any]], Any],
    one_spike: bool = False,
    by_keyword: bool = False,
) -> Composed:
    """Specialise the templates on a formula, and compile them.

    Parameters
    ----------
    formula : Formula
        The rule, its bounds, and whether to clamp.
    names : Names
        Where the signals and parameters stand in ``pre``, ``post`` and ``numbers``.
    bound_first : bool
        Whether a contribution meets its bound before its coefficient. CoNeX multiplies in this order for local and
        convolutional connections and in the other for the rest; the bits depend on it.
    words : mapping
        What is written for ``where``, ``met``, ``real`` and ``clip``; None for ``real`` where nothing needs a cast.
    namespace : dict
        What those names stand for; the compiled functions are added.
    compile_formula : callable
        ``compile_formula(signature)``: a formula's function, compiled, and a name that tells it from all that do
        something else.
    compile_part : callable
        Compiles a specialised template.
    one_spike : bool
        Whether a spike counts 1 where it counts.
    by_keyword : bool
        Whether functions are called as they were written; compiled ones take their parameters by position.

    Returns
    -------
    Composed
        The compiled parts.
    """
    compiled = {role: compile_formula(signature) for role, signature in formula.signatures.items()}
    calls = {role: (formula.signatures[role], name) for role, (name, _) in compiled.items()}
    places = {
        name: f"{side}[{k}]"
        for side, named in (("pre", names.pre), ("post", names.post), ("numbers", names.numbers))
        for k, name in enumerate(named)
    }
    settled = {"BOUND_FIRST": bound_first, "CLAMP": formula.clamp, "MODULATED": formula.rule.modulated}
    known = dict(words)
    namespace.update(compiled.values())
    parts = {}
    for template in _TEMPLATES:
        specialising = _Specialising(calls, places, settled, known, one_spike, by_keyword)
        node = _tree_of(template)
        arguments = ast.arguments([], node.args.args, None, [], [], None, [])
        body = [s for statement in node.body for s in _listed(specialising.visit(deepcopy(statement)))]
        text = ast.unparse(ast.fix_missing_locations(_definition(template.__name__, arguments, body)))
        unique = f"{template.__name__}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        known[template.__name__] = unique
        text = text.replace(f"def {template.__name__}(", f"def {unique}(", 1)
        parts[template.__name__] = namespace[unique] = compile_part(define(text, unique, namespace))
    return Composed(**parts)


def _listed(visited: Any) -> list[ast.stmt]:
    return visited if isinstance(visited, list) else [visited]


def _definition(name: str, arguments: ast.arguments, body: list[ast.stmt]) -> ast.FunctionDef:
    definition = ast.FunctionDef(name, arguments, body, [])
    definition.type_params = []  # type: ignore[attr-defined]  # which Python 3.12 asks for
    return definition


def _met(spiked: Any, bound: Any, one: Any) -> Any:
    # a number stays one, so that the dtype of the weights decides
    if spiked is True or (isinstance(bound, (int, float)) and isfinite(bound)):
        return bound
    return torch.where(spiked, bound, one)


def _clip(w: torch.Tensor, w_min: Any, w_max: Any) -> torch.Tensor:
    return w.clamp(min=_in_range(w_min, w.dtype)).clamp(max=_in_range(w_max, w.dtype))


def _in_range(limit: Any, dtype: torch.dtype) -> Any:
    """A limit as compiled code rounds it where it is beyond the range of the weights; torch's clamp takes none."""
    within = isinstance(limit, torch.Tensor) or abs(limit) <= torch.finfo(dtype).max
    return limit if within else rounded(limit, dtype)


@lru_cache
def rounded(number: float, dtype: torch.dtype) -> float:
    """A number as a tensor of a dtype would hold it."""
    return torch.tensor(number, dtype=dtype, device="cpu").item()


_WORDS = {"where": "where", "met": "met", "real": None, "clip": "clip"}
_NAMESPACE: dict[str, Any] = {"where": torch.where, "met": _met, "clip": _clip}


def compose_on_tensors(
    formula: Formula,
    names: Names,
    bound_first: bool,
    prepare: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
    one_spike: bool = False,
) -> Composed:
    """Compose a formula's functions for torch tensors; ``prepare`` wraps what a user has written."""

    def compile_formula(signature: Signature) -> tuple[str, Any]:
        function = prepare(signature.function)
        return f"formula_{id(signature.function)}", function

    return compose(
        formula, names, bound_first, _WORDS, dict(_NAMESPACE), compile_formula, lambda part: part, one_spike, True
    )
