"""Tune kernels once for a machine: find the fastest configuration, keep it, and use it from then on.

``tritonstdp tune`` does it from the command line, :func:`tune` from Python. With ``TRITONSTDP_AUTOTUNE=1`` a group is
tuned at its first step; otherwise nothing is timed in use. ``TRITONSTDP_CACHE_DIR`` says where the settings are kept.
"""

from tritonstdp.autotune.sweep import RATES, Outcome, find, tune

__all__ = ["RATES", "Outcome", "find", "tune"]
