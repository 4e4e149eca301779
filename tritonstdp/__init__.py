"""Event-driven synaptic plasticity for torch: STDP, inhibitory STDP and reward-modulated STDP.

Call :func:`stdp_`, :func:`istdp_` or :func:`rstdp_` in a torch loop, or use :mod:`tritonstdp.behaviors` in a
PymoNNtorch or CoNeX network.
"""

from tritonstdp import (
    _checkout,  # noqa: F401  (finds the kernels of a checkout, before anything imports them)
    library,
)
from tritonstdp.checkpoints import load, save
from tritonstdp.functional import explain, istdp_, per_post, per_pre, prepare, rstdp_, stdp_, trace_, update_
from tritonstdp.graphs import capture
from tritonstdp.normalization import normalize_
from tritonstdp.propagation import propagate_
from tritonstdp.registry import (
    Backend,
    register_backend,
    register_bound,
    register_kernel,
    register_rule,
    register_topology,
)
from tritonstdp.replay import replay_
from tritonstdp.rules import BOUNDS, RULES, Rule, hard_bound, lower_bound, modulated, no_bound, soft_bound, upper_bound
from tritonstdp.topology import Conv2d, Dense, Local2d, OneToOne, Sparse

__version__ = "0.1.0"

__all__ = [
    "BOUNDS",
    "RULES",
    "Backend",
    "Conv2d",
    "Dense",
    "Local2d",
    "OneToOne",
    "Rule",
    "Sparse",
    "capture",
    "explain",
    "hard_bound",
    "istdp_",
    "library",
    "load",
    "lower_bound",
    "modulated",
    "no_bound",
    "normalize_",
    "per_post",
    "per_pre",
    "prepare",
    "propagate_",
    "register_backend",
    "register_bound",
    "register_kernel",
    "register_rule",
    "register_topology",
    "replay_",
    "rstdp_",
    "save",
    "soft_bound",
    "stdp_",
    "trace_",
    "update_",
    "upper_bound",
]
