"""Which synapses of a row of output positions see a spike: the same ones in every output channel."""

from __future__ import annotations

from typing import Any

import numpy as np

from tritonstdp.kernels import loops
from tritonstdp.kernels.propagation import PropagationCase
from tritonstdp.kernels.protocol import Case


def rows_lister(case: Case | PropagationCase) -> Any:
    """``list_rows(spikes, rows, width)``, compiled: the columns of all spikes, by row, and where each row starts."""
    list_row, at_once = loops.row_lister(case.dtype, case.bool_spikes), loops.AT_ONCE

    @loops.njit_part
    def list_rows(spikes, rows, width):  # type: ignore[no-untyped-def]
        fired, row_start = np.empty(len(spikes) + at_once, np.uint32), np.zeros(rows + 1, np.int64)
        for row in range(rows):
            row_start[row + 1] = list_row(spikes, row * width, width, fired, row_start[row])
        return fired, row_start

    return list_rows


def event_noter(case: Case | PropagationCase) -> Any:
    """``note(seeing, seen, counts, fired, row_start, u, height, width, pad_h, pad_w)``, compiled.

    Notes for each position of output row ``u`` how many of its synapses see a spike; which ones, among the synapses of
    the row in an output channel and in the order of memory, from the position's first synapse on in ``seeing``; and
    there in ``seen`` the neurons that they see.
    """
    (kh, kw), (sh, sw) = case.kernel_key

    @loops.njit_part
    def note(seeing, seen, counts, fired, row_start, u, height, width, pad_h, pad_w):  # type: ignore[no-untyped-def]
        kernel_rows = (len(row_start) - 1) // height * kh
        taps = kernel_rows * kw
        out_width = len(counts)
        counts[:] = 0
        for m in range(kernel_rows):
            row = u * sh - pad_h + m % kh
            if not 0 <= row < height:
                continue
            row += m // kh * height
            for e in range(row_start[row], row_start[row + 1]):
                column = np.int64(fired[e]) + pad_w
                neuron = row * width + fired[e]
                for v in range(max(0, (column - kw + sw) // sw), min(out_width, column // sw + 1)):
                    at = v * taps + counts[v]
                    seeing[at], seen[at] = v * taps + m * kw + column - v * sw, neuron
                    counts[v] += 1

    return note
