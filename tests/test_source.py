"""Functions are known again by what they compute: neither by their names nor by where they are written."""

from __future__ import annotations

import ast
import gc
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from tritonstdp.rules import BOUNDS, RULES
from tritonstdp.source import content_of, name_of, parsed

SCALE = 0.3


def made(number, default=1.0, keyword=2.0):
    def bound(w, w_min, w_max, by=default, *, also=keyword):
        return w * number * by * also

    return bound


class Callable:
    def __call__(self, w, w_min, w_max):
        return w


def test_equal_functions_have_one_content():
    assert content_of(made(2.0)) == content_of(made(2.0)) is not None


@pytest.mark.parametrize(
    "other",
    [
        made(3.0), made(2), made(2.0, default=3.0), made(2.0, keyword=3.0), made(-2.0),
        lambda w, w_min, w_max: w * 2.0,
        lambda w, w_min, w_max: w * SCALE,
    ],
)  # fmt: skip
def test_other_code_defaults_or_captured_values_are_another_content(other):
    assert content_of(other) not in (None, content_of(made(2.0)))


def test_two_functions_of_one_line_are_two():
    one, other = (lambda w, low, high: w - low), (lambda w, low, high: w * 2)
    assert content_of(one) != content_of(other)


def test_zeros_of_both_signs_are_two():
    assert content_of(made(0.0)) != content_of(made(-0.0))


@pytest.mark.parametrize(
    "function",
    [
        partial(max, 1.0), Callable(), torch.nn.Identity(), max, torch.sigmoid,
        lambda w, low, high: torch.sigmoid(w),
        lambda w, low, high, table=(1.0,): w * table[0],
        partial(made(2.0), by=torch.ones(3)),
        lambda w, low, high: (lambda v: v * SCALE)(w),
    ],
)  # fmt: skip
def test_what_uses_more_than_numbers_cannot_be_told(function):
    assert content_of(function) is None


def test_a_cell_that_is_still_empty_cannot_be_told():
    def bound(w, low, high):
        return w * later

    assert content_of(bound) is None
    later = 1.0
    assert content_of(bound) is not None
    assert later


def test_everything_that_can_be_called_has_a_name():
    names = [name_of(f) for f in (made(1.0), partial(made(1.0)), Callable(), torch.nn.Identity(), max)]
    assert names == ["bound", "partial(bound)", "Callable", "Identity", "max"]


def test_what_is_registered_can_be_told_apart():
    functions = {*BOUNDS.values(), *(f for rule in RULES.values() for f in rule.functions)}
    contents = [content_of(f) for f in functions if f.__module__ == "tritonstdp.rules"]
    assert None not in contents


@contextmanager
def another_parser(turns):
    """Parse something else in the midst of parsing, as another thread that gets its turn there, so many times."""
    left = list(range(turns))

    def between(phase, info):
        if left:
            left.pop()
            ast.parse("a + b")

    before = gc.get_threshold()
    gc.callbacks.append(between)
    gc.set_threshold(5)
    try:
        yield left
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(between)


TEXT = "\n".join(f"def f{k}(a, b):\n    return [a + (b - (c * {k})) for a in b if a]" for k in range(40))


def test_a_text_is_parsed_while_others_parse():
    expected = ast.dump(ast.parse(TEXT))
    with another_parser(20) as left:
        found = ast.dump(parsed(TEXT))
    assert found == expected and not left


def test_a_parser_that_always_fails_says_so(monkeypatch):
    def parse(text):
        raise SystemError("deeper than before")

    monkeypatch.setattr(ast, "parse", parse)
    with pytest.raises(SystemError, match="deeper than before"):
        parsed("1")
