"""Compiled CPU loops, kept on disk between processes.

numba's own cache finds a function again by where it is defined; a loop that closes over a rule and a bound would be
taken for another. Here the key is the content: the sources that make the loop, the case, numba and the processor.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numba
from numba.core import serialize
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target

from tritonstdp.kernels.protocol import Case
from tritonstdp.source import CannotCompileError, read
from tritonstdp.storage import cache_folder

logger = logging.getLogger("tritonstdp")


class Recipe(NamedTuple):
    """What a loop closes over, as far as its source does not say it.

    Attributes
    ----------
    formulas : tuple of callable
        The functions that are compiled into it.
    values : tuple
        Plain values.
    """

    formulas: tuple[Callable[..., Any], ...]
    values: tuple[Any, ...]


def recipe_of(case: Case, *values: Any) -> Recipe:
    """The recipe of a loop that is specialised on a case and on further plain values, such as a configuration."""
    formula = case.formula
    functions = (*formula.rule.functions, formula.positive, formula.negative)
    return Recipe(functions, (formula.clamp, *case[1:], *values))


def key_of(loop: Callable[..., Any], recipe: Recipe) -> str | None:
    """A hash of all that a compiled loop depends on; None where that can't be told, and nothing is kept."""
    contents = [_content(function) for function in recipe.formulas]
    if None in contents:
        return None
    sources = [_source(path) for path in (loop.__code__.co_filename, *shared_sources())]
    machine = cpu_target.target_context.codegen().magic_tuple()
    parts = (contents, sources, recipe.values, numba.__version__, machine)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def shared_sources() -> tuple[str, ...]:
    """The files of the helpers that loops are made with."""
    return tuple(str(Path(__file__).with_name(f"{name}.py")) for name in ("compose", "formula_cpu", "native"))


@cache
def _source(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _content(function: Callable[..., Any]) -> str | None:
    """What a formula computes, as text; None where its source can't be read."""
    try:
        return read(function).text
    except CannotCompileError:
        return None


def load(key: str) -> CompileResult | None:
    """The loop kept under a key, or None; what can't be read counts as absent."""
    path = cache_folder("loops") / f"{key}.bin"
    try:
        payload = path.read_bytes()
    except OSError:
        return None
    try:
        cpu_target.target_context.refresh()
        return CompileResult._rebuild(cpu_target.target_context, *pickle.loads(payload))
    except Exception as error:
        logger.warning("%s can't be read (%s): the loop is compiled anew", path, error)
        return None


def save(key: str, compiled: CompileResult) -> None:
    """Keep a loop under a key; where the folder can't be written, it is compiled anew next time."""
    target = cache_folder("loops") / f"{key}.bin"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            file.write(serialize.dumps(compiled._reduce()))
        os.replace(file.name, target)
    except OSError as error:
        logger.info("compiled loops are not kept: %s", error)
