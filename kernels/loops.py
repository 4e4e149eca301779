"""What the CPU kernels share: finding spikes, compiling loops, and calling them at little cost.

A loop sees memory as arrays of their exact extent, and whatever reads more at once than an array's elements takes the
array and looks at its length. So every loop can also be compiled with checked bounds: see :func:`bounds_checked`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tritonstdp.kernels import object_cache
from tritonstdp.kernels.protocol import CannotCompileError, Case
from tritonstdp.source import define

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

LINE = 64
"""Bytes that one fetch brings."""


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


@intrinsic
def _choose(typing_context, condition, a, b):  # type: ignore[no-untyped-def]
    """``a if condition else b`` as one instruction; of a branch, LLVM may turn the condition around, which then costs
    a second comparison of vectors where it is also needed as it was."""
    chosen = typing_context.unify_types(types.unliteral(a), types.unliteral(b))

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        condition, a, b = arguments
        return builder.select(condition, a, b)

    return chosen(types.boolean, chosen, chosen), codegen


choose: Any = _choose


_asked_for_checks = False


@contextmanager
def bounds_checked() -> Iterator[None]:
    """Have the loops that are built meanwhile raise ``IndexError`` where they leave an array; they are slow.

    ``NUMBA_BOUNDSCHECK=1`` in the environment asks for it everywhere. Such loops run serially, but in the parts that
    threads would take, and are not kept on disk.

    Examples
    --------
    >>> with bounds_checked():
    ...     is_checked()
    True
    """
    global _asked_for_checks
    before, _asked_for_checks = _asked_for_checks, True
    try:
        yield
    finally:
        _asked_for_checks = before


def is_checked() -> bool:
    """Whether loops are compiled with checked bounds now."""
    config: Any = numba.config
    return _asked_for_checks or config.BOUNDSCHECK == 1


def cached(make: Callable[..., Any]) -> Callable[..., Any]:
    """As :func:`functools.cache`, apart for loops with checked bounds."""
    made = cache(lambda checked, *arguments: make(*arguments))
    return wraps(make)(lambda *arguments: made(is_checked(), *arguments))


def while_used(make: Callable[..., Any]) -> Callable[..., Any]:
    """Make a thing once for all that use it at the same time, and let go of it with the last of them."""
    made: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()

    @wraps(make)
    def remembered(*arguments: Any) -> Any:
        key = (is_checked(), *arguments)
        found = made.get(key)
        if found is None:
            found = made[key] = make(*arguments)
        return found

    return remembered


def njit(function: Callable[..., Any], **options: Any) -> Any:
    """Compile as every loop here is: the numpy error model lets divisions vectorise; no fast-math, so bits stay."""
    return numba.njit(function, error_model="numpy", nogil=True, boundscheck=is_checked() or None, **options)


def njit_part(function: Callable[..., Any]) -> Any:
    """Compile a function that is inlined into a loop, and can't be called from Python: wrappers cost compile time."""
    return njit(function, forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@cached
def range_check() -> Any:
    """``check(array, first, count)``, compiled: raise where a range leaves a vector, if bounds are checked."""
    checked = is_checked()

    @njit_part
    def check(array, first, count):  # type: ignore[no-untyped-def]
        if checked and count > 0 and (first < 0 or first + count > len(array)):
            raise IndexError("a range leaves its array")

    return check


@njit_part
def fetch_lines(begin, end):  # type: ignore[no-untyped-def]
    """Ask for all that lies between two addresses."""
    for line in range(begin - begin % LINE, end, LINE):
        prefetch(line)


@njit_part
def _extent(n, stride, m, other_stride):  # type: ignore[no-untyped-def]
    """How many elements lie between the first and the last of ``n`` times ``m``, both counted."""
    return (n - 1) * stride + (m - 1) * other_stride + 1 if n > 0 and m > 0 else 0


extent: Any = _extent

WORD = 64
"""Neurons whose spikes are seen at one glance, as the bits of a word."""


@cached
def spike_packer(dtype: torch.dtype, bool_spikes: bool) -> Any:
    """``pack(spikes, first, n)``, compiled: which of ``n`` neurons from ``first`` on spiked, as bits.

    At most ``WORD`` are seen. One comparison of vectors does it, which a loop over bits would not become; where fewer
    than ``WORD`` are left in ``spikes``, it takes several.
    """
    spike_type = np.bool_ if bool_spikes else REAL[dtype]
    itemsize = np.dtype(spike_type).itemsize
    check = range_check()

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
    def pack(spikes, first, n):  # type: ignore[no-untyped-def]
        check(spikes, first, min(n, WORD))
        address = np.int64(spikes.ctypes.data) + first * itemsize
        left = len(spikes) - first
        if left >= WORD:
            word = pack_word(address)
            return word if n >= WORD else word & ((np.uint64(1) << np.uint64(max(n, 0))) - np.uint64(1))
        word = np.uint64(0)
        n = max(min(n, left), 0)
        eights = n // 8
        for k in range(eights):
            word |= pack_eight(address + 8 * k * itemsize) << np.uint64(8 * k)
        for k in range(8 * eights, n):
            word |= np.uint64(spikes[first + k] != 0) << np.uint64(k)
        return word

    return pack


AT_ONCE = 4
"""Spikes of a word that are listed without a branch, which could not be foretold; few words have more."""


@cached
def spike_lister() -> Any:
    """``list_spikes(spikes, first, events, count)``, compiled: append the positions of a word's spikes.

    Returns how many are listed; ``events`` has ``AT_ONCE`` to spare.
    """

    @njit_part
    def list_spikes(spikes, first, events, count):  # type: ignore[no-untyped-def]
        end = count + count_bits(spikes)
        for k in range(AT_ONCE):
            events[count + k] = first + lowest_bit(spikes)
            spikes &= spikes - np.uint64(1)
        for k in range(count + AT_ONCE, end):
            events[k] = first + lowest_bit(spikes)
            spikes &= spikes - np.uint64(1)
        return end

    return list_spikes


@cached
def row_lister(dtype: torch.dtype, bool_spikes: bool) -> Any:
    """``list_row(spikes, first, n, events, count)``, compiled: append which of the ``n`` neurons of a row spiked.

    The row starts at ``first`` and is seen at one glance where more than its ``n`` are left in ``spikes``. Returns how
    many are listed; ``events`` has ``AT_ONCE`` to spare.
    """
    pack, list_spikes = spike_packer(dtype, bool_spikes), spike_lister()

    @njit_part
    def list_row(spikes, first, n, events, count):  # type: ignore[no-untyped-def]
        for at in range(0, n, WORD):
            count = list_spikes(pack(spikes, first + at, n - at), at, events, count)
        return count

    return list_row


@cached
def event_finder(dtype: torch.dtype, bool_spikes: bool) -> Any:
    """``find_events(spikes)``, compiled: the neurons that spiked, in order, as ``uint32``."""
    list_row = row_lister(dtype, bool_spikes)

    @njit_part
    def find_events(spikes):  # type: ignore[no-untyped-def]
        events = np.empty(len(spikes) + AT_ONCE, np.uint32)
        return events[: list_row(spikes, 0, len(spikes), events, 0)]

    return find_events


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

    Returns
    -------
    callable
        The compiled loop, which keeps alive what it needs.

    Raises
    ------
    CannotCompileError
        If numba can't compile it.
    """
    checked = is_checked()
    key = None if checked else object_cache.key_of(loop, recipe._replace(values=(*recipe.values, parallel)))
    compiled: Any = None if key is None else object_cache.load(key)
    if compiled is None:
        signature = types.void(*arguments)
        if key is not None:
            # symbols must not meet those of another loop from the same place when both are loaded from disk
            loop.__qualname__ = f"{loop.__qualname__}_{key}"
        # an error in one of several threads would be lost, so that a checked loop has one
        options: dict[str, Any] = {"parallel": parallel and not checked, "boundscheck": checked or None}
        try:
            dispatcher = numba.njit(signature, error_model="numpy", nogil=True, **options)(loop)
        except numba.core.errors.NumbaError as error:
            raise CannotCompileError(f"numba can't compile it: {str(error).strip().splitlines()[0]}") from error
        compiled = dispatcher.overloads[signature.args]
        if key is not None:
            object_cache.save(key, compiled)
    return compiled.entry_point


class Signals(NamedTuple):
    """How loops see the signals of one side.

    Attributes
    ----------
    addresses : numba type
        That of a tuple of the signals' addresses.
    arrays : callable
        ``arrays(addresses, n)``: the signals of ``n`` neurons, spikes first, as a tuple of arrays.
    traces : callable
        ``traces(arrays, k)``: the values of all but the spike at one neuron, as a tuple.
    part : callable
        ``part(arrays, first, end)``: the signals of some neighbours, as a tuple of arrays.
    """

    addresses: Any
    arrays: Any
    traces: Any
    part: Any


@cached
def signals(dtype: torch.dtype, bool_spikes: bool, n_signals: int) -> Signals:
    """How loops see so many signals of a side; numba's tuples take no loop, so that each entry is written out."""
    real = REAL[dtype]
    spike_type = np.bool_ if bool_spikes else real
    words = {"carray": numba.carray, "pointer": as_pointer, "real": real, "spike_type": spike_type}
    types_of = ("spike_type", *["real"] * (n_signals - 1))
    arrays = ", ".join(f"carray(pointer(addresses[{k}]), n, {kind})" for k, kind in enumerate(types_of))
    traces = ", ".join(f"arrays[{k}][k]" for k in range(1, n_signals))
    part = ", ".join(f"arrays[{k}][first:end]" for k in range(n_signals))
    return Signals(
        types.UniTuple(types.int64, n_signals),
        njit_part(define(f"def arrays(addresses, n):\n    return ({arrays},)", "arrays", dict(words))),
        njit_part(define(f"def traces(arrays, k):\n    return ({traces}{',' if traces else ''})", "traces", {})),
        njit_part(define(f"def part(arrays, first, end):\n    return ({part},)", "part", {})),
    )


def signals_of(case: Case) -> tuple[Signals, Signals]:
    """How loops see the signals of the pre and of the post neurons."""
    pre, post = (signals(case.dtype, case.bool_spikes, len(names)) for names in case.names[:2])
    return pre, post


address_of = torch.Tensor.data_ptr
"""Where a tensor's first element lies, for ``map``."""


def placed_step(n_placed: int, loop: Callable[..., None], *where: Any) -> Callable[..., None]:
    """A step that calls a loop with what follows from where its first arguments lie, and with the others."""
    run = partial(loop, *where)
    return lambda *arguments: run(*arguments[n_placed:])


def scalars(case: Case) -> tuple[Any, ...]:
    """The numba types of ``numbers, w_min, w_max``, unboxed with one rounding."""
    real = numba.from_dtype(np.dtype(REAL[case.dtype]))
    return types.UniTuple(real, len(case.names.numbers)), real, real
