"""What the CPU kernels share: finding spikes, compiling loops, and calling them at little cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tritonstdp.kernels import object_cache
from tritonstdp.kernels.protocol import CannotCompileError
from tritonstdp.rules import Formula

REAL = {torch.float32: np.float32, torch.float64: np.float64}


@intrinsic
def _as_pointer(typing_context, address):  # type: ignore[no-untyped-def]
    """Take an integer for the address that it is (``data_ptr()`` costs a tenth of ``numpy()``)."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


as_pointer: Any = _as_pointer


@intrinsic
def _prefetch(typing_context, address):  # type: ignore[no-untyped-def]
    """Ask for the cache line at an address, into the second-level cache."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        read, second_level, data = (ir.IntType(32)(n) for n in (0, 2, 1))
        pointer = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, *[ir.IntType(32)] * 3])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [pointer, read, second_level, data])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


prefetch: Any = _prefetch


@intrinsic
def _lowest_bit(typing_context, word):  # type: ignore[no-untyped-def]
    """The position of a word's lowest 1."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.IntType(1)(0))

    return types.int64(types.uint64), codegen


lowest_bit: Any = _lowest_bit


@intrinsic
def _count_bits(typing_context, word):  # type: ignore[no-untyped-def]
    """How many bits of a word are 1."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), codegen


count_bits: Any = _count_bits


def njit(function: Callable[..., Any], **options: Any) -> Any:
    """Compile as every loop here is: the numpy error model lets divisions vectorise; no fast-math, so bits stay."""
    return numba.njit(function, error_model="numpy", nogil=True, **options)


def njit_part(function: Callable[..., Any]) -> Any:
    """Compile a function that is inlined into a loop."""
    return njit(function, forceinline=True)


WORD = 64
"""Neurons whose spikes are seen at one glance, as the bits of a word."""


@cache
def spike_packer(dtype: torch.dtype, bool_spikes: bool) -> Any:
    """``pack(address, n, readable)``, compiled: which of the first ``n`` neurons at an address spiked, as bits.

    At most ``WORD`` are seen. One comparison of vectors does it, which a loop over bits would not become; where fewer
    than ``WORD`` are ``readable``, it takes several.
    """
    spike_type = np.bool_ if bool_spikes else REAL[dtype]
    itemsize = np.dtype(spike_type).itemsize
    carray: Any = numba.carray
    pointer = as_pointer

    def packer_of(lanes: int) -> Any:
        @intrinsic
        def pack_lanes(typing_context, address):  # type: ignore[no-untyped-def]
            def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
                element = context.get_data_type(numba.from_dtype(np.dtype(spike_type)))
                vector = ir.VectorType(element, lanes)
                spikes = builder.load(builder.inttoptr(arguments[0], vector.as_pointer()), align=itemsize)
                differs = builder.icmp_unsigned if bool_spikes else builder.fcmp_unordered
                fired = builder.bitcast(differs("!=", spikes, ir.Constant(vector, None)), ir.IntType(lanes))
                return fired if lanes == WORD else builder.zext(fired, ir.IntType(WORD))

            return types.uint64(types.int64), codegen

        return pack_lanes

    pack_word, pack_eight = packer_of(WORD), packer_of(8)

    @njit_part
    def pack(address, n, readable):  # type: ignore[no-untyped-def]
        if readable >= WORD:
            word = pack_word(address)
            return word if n >= WORD else word & ((np.uint64(1) << np.uint64(max(n, 0))) - np.uint64(1))
        word = np.uint64(0)
        eights = max(n, 0) // 8
        for k in range(eights):
            word |= pack_eight(address + 8 * k * itemsize) << np.uint64(8 * k)
        spikes = carray(pointer(address), WORD, spike_type)
        for k in range(8 * eights, n):
            word |= np.uint64(spikes[k] != 0) << np.uint64(k)
        return word

    return pack


AT_ONCE = 4
"""Spikes of a word that are listed without a branch, which could not be foretold; few words have more."""


@njit_part
def _list_spikes(spikes, first, events, count):  # type: ignore[no-untyped-def]
    """Append the positions of a word's spikes, and return how many are listed; ``events`` has ``AT_ONCE`` to spare."""
    end = count + count_bits(spikes)
    for k in range(AT_ONCE):
        events[count + k] = first + lowest_bit(spikes)
        spikes &= spikes - np.uint64(1)
    for k in range(count + AT_ONCE, end):
        events[k] = first + lowest_bit(spikes)
        spikes &= spikes - np.uint64(1)
    return end


list_spikes: Any = _list_spikes


@cache
def row_lister(dtype: torch.dtype, bool_spikes: bool) -> Any:
    """``list_row(address, n, readable, events, count)``, compiled: append which of the ``n`` neurons of a row spiked.

    Returns how many are listed; ``events`` has ``AT_ONCE`` to spare. A row is seen at one glance where more than its
    ``n`` are ``readable``.
    """
    itemsize = np.dtype(np.bool_ if bool_spikes else REAL[dtype]).itemsize
    pack = spike_packer(dtype, bool_spikes)

    @njit_part
    def list_row(address, n, readable, events, count):  # type: ignore[no-untyped-def]
        for first in range(0, n, WORD):
            word = pack(address + first * itemsize, n - first, readable - first)
            count = list_spikes(word, first, events, count)
        return count

    return list_row


@cache
def event_finder(dtype: torch.dtype, bool_spikes: bool) -> Any:
    """``find_events(address, n)``, compiled: the neurons at an address that spiked, in order, as ``uint32``."""
    list_row = row_lister(dtype, bool_spikes)

    @njit_part
    def find_events(address, n):  # type: ignore[no-untyped-def]
        events = np.empty(n + AT_ONCE, np.uint32)
        return events[: list_row(address, n, n, events, 0)]

    return find_events


_kept: list[Any] = []


def entry(
    loop: Callable[..., Any], recipe: object_cache.Recipe, *arguments: Any, parallel: bool = False
) -> Callable[..., None]:
    """Compile a loop for one signature, or take it from disk, and return what calls it without numba's dispatch.

    Parameters
    ----------
    loop : callable
        The loop.
    recipe : Recipe
        What the loop closes over.
    *arguments
        The numba types of the loop's arguments.
    parallel : bool
        Whether ``prange`` runs on several threads.

    Raises
    ------
    CannotCompileError
        If numba can't compile it.
    """
    key = object_cache.key_of(loop, recipe._replace(values=(*recipe.values, parallel)))
    compiled: Any = None if key is None else object_cache.load(key)
    if compiled is None:
        signature = types.void(*arguments)
        if key is not None:
            # symbols must not meet those of another loop from the same place when both are loaded from disk
            loop.__qualname__ = f"{loop.__qualname__}_{key}"
        try:
            dispatcher = numba.njit(signature, error_model="numpy", nogil=True, parallel=parallel)(loop)
        except numba.core.errors.NumbaError as error:
            raise CannotCompileError(f"numba can't compile it: {str(error).strip().splitlines()[0]}") from error
        compiled = dispatcher.overloads[signature.args]
        if key is not None:
            object_cache.save(key, compiled)
    _kept.append(compiled)
    return compiled.entry_point


def scalars(formula: Formula, dtype: torch.dtype) -> tuple[Any, ...]:
    """The numba types of ``parameters, w_min, w_max, decay, dopamine``, unboxed with one rounding."""
    real = numba.from_dtype(np.dtype(REAL[dtype]))
    rule = formula.rule
    tuples = [types.UniTuple(real, len(names)) for names in (rule.parameters, rule.eligibility_parameters)]
    return tuples[0], real, real, tuples[1], real


def max_threads() -> int:
    """The number of threads that numba started with; more can't be asked for."""
    config: Any = numba.config
    return config.NUMBA_NUM_THREADS


def by_work(compile_loop: Callable[[bool], Callable[..., None]], parallel_work: float) -> Callable[[int], Any]:
    """Choose between the serial and the parallel variant of a loop.

    Parameters
    ----------
    compile_loop : callable
        ``compile_loop(parallel)``; the parallel variant is compiled when it is first needed.
    parallel_work : float
        Synapses above which it is needed, where torch may use several threads.

    Returns
    -------
    callable
        ``choose(synapses)`` returns the loop.
    """
    serial = compile_loop(False)

    def choose(synapses: int) -> Callable[..., None]:
        threads = torch.get_num_threads()
        if synapses <= parallel_work or threads == 1:
            return serial
        numba.set_num_threads(min(threads, max_threads()))
        return compile_loop(True)

    return choose
