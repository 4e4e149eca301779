"""Compiled CPU loops, kept on disk between processes.

numba's own cache finds a function again by where it is defined; a loop that closes over a rule and a bound would be
taken for another. Here the key is the content: the sources that make the loop, the case, numba and the processor.

A file is machine code, and runs with all that its user may do. So it is believed only where nobody else can have
written it, and where a checksum says that it is what was written, under the key that it was written for.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
from numba.core import serialize
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target

from tritonstdp.kernels.digest import digest_of
from tritonstdp.kernels.protocol import Case
from tritonstdp.source import content_of
from tritonstdp.storage import (
    RefusedError,
    cache_folder,
    make_private,
    read_private,
    remove_leftovers,
    replace_whole,
    warn_once,
)

FORMAT = "tritonstdp-loop-2"
"""What a file begins with; another layout has another name."""

MOST_FILES = 512
MOST_BYTES = 2**28
"""What is kept at most: of more loops, those that were used longest ago are removed."""

_OWN_FILES = "[0-9a-f]" * 32 + ".bin"
"""What is removed, and nothing else that lies in the folder."""

_CODE_OPTIONS = ("BOUNDSCHECK", "DEBUGINFO_DEFAULT", "DISABLE_INTEL_SVML", "LOOP_VECTORIZE", "OPT", "SLP_VECTORIZE")


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
    return Recipe(formula.functions, (formula.clamp, *case[1:], *case.names, *values))


def key_of(loop: Callable[..., Any], recipe: Recipe) -> str | None:
    """A hash of all that a compiled loop depends on; None where that can't be told, and nothing is kept."""
    contents = [content_of(function) for function in recipe.formulas]
    if None in contents:
        return None
    try:
        sources = digest_of(loop.__code__.co_filename)
    except OSError:  # an installation without sources
        return None
    parts = (contents, sources, recipe.values, _compiler())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def load(key: str) -> CompileResult | None:
    """The loop kept under a key, or None; what can't be read, or is not to be believed, counts as absent."""
    try:
        path = _path_of(key)
        payload = _payload_of(path, key)
    except FileNotFoundError:
        return None
    except OSError as error:
        warn_once("a compiled loop is not loaded, but compiled anew", error)
        return None
    with suppress(OSError):
        os.utime(path)  # what is used stays
    return _rebuilt(path, payload)


def save(key: str, compiled: CompileResult) -> None:
    """Keep a loop under a key; where the folder can't be written, it is compiled anew next time."""
    payload = serialize.dumps(compiled._reduce())
    try:
        path = _path_of(key)
        make_private(path.parent)
        remove_leftovers(path.parent, f"tmp-{_OWN_FILES}-*")
        replace_whole(path, _header(key, payload) + b"\n" + payload)
        _remove_oldest(path.parent)
    except OSError as error:
        warn_once("compiled loops are not kept, but compiled anew in each process", error)


def _path_of(key: str) -> Path:
    return cache_folder("loops") / f"{key}.bin"


def _header(key: str, payload: bytes) -> bytes:
    return f"{FORMAT} {key} {hashlib.sha256(payload).hexdigest()}".encode()


def _payload_of(path: Path, key: str) -> bytes:
    """The machine code in a file, which is the code that was kept under a key."""
    header, _, payload = read_private(path).partition(b"\n")
    found, wanted = header.split(b" "), _header(key, payload).split(b" ")
    if found[0] != wanted[0]:
        raise RefusedError(path, "is no compiled loop, or one of another release")
    if found[1:2] != wanted[1:2]:
        raise RefusedError(path, "was kept as another loop")
    if found != wanted:
        raise RefusedError(path, "is damaged")
    return payload


def _rebuilt(path: Path, payload: bytes) -> CompileResult | None:
    try:
        cpu_target.target_context.refresh()
        return CompileResult._rebuild(cpu_target.target_context, *pickle.loads(payload))
    except Exception as error:  # whatever numba raises: the loop can be compiled
        warn_once("a compiled loop is not loaded, but compiled anew", RefusedError(path, f"can't be read ({error!r})"))
        return None


def _remove_oldest(folder: Path) -> None:
    """Keep the number of loops, and their size, bounded."""
    used_last = sorted(_kept(folder), reverse=True)
    total = 0
    for count, (_, size, path) in enumerate(used_last, 1):
        total += size
        if count > MOST_FILES or total > MOST_BYTES:
            path.unlink(missing_ok=True)


def _kept(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """When each loop was used last, and its size; another process may be removing some of them."""
    for path in folder.glob(_OWN_FILES):
        with suppress(FileNotFoundError):
            status = path.lstat()
            yield status.st_mtime_ns, status.st_size, path


def _compiler() -> tuple[Any, ...]:
    """What makes machine code of a loop, and for which processor and Python."""
    config: Any = numba.config
    options = [str(getattr(config, name, None)) for name in _CODE_OPTIONS]
    machine = cpu_target.target_context.codegen().magic_tuple()
    return sys.version, numba.__version__, llvmlite.__version__, machine, options
