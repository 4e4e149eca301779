"""Power-law bounds (Guetig et al. 2003, doi 10.1523/JNEUROSCI.23-09-03697.2003): from additive to multiplicative STDP.

Pair STDP with ``positive_bound="power_upper_bound"``, ``negative_bound="power_lower_bound"`` is the paper's rule
(equations 1 to 4), its weights scaled to their limits::

    potentiation   lambda (1 - w) ** mu         a_plus = lambda
    depression     lambda alpha w ** mu         a_minus = lambda alpha

mu = 0 is additive STDP, mu = 1 multiplicative, and what lies between keeps both competition and stability.
"""

from __future__ import annotations

from typing import Any

from tritonstdp.registry import register_bound
from tritonstdp.vocabulary import maximum

__all__ = ["power_lower_bound", "power_upper_bound"]


def power_upper_bound(w: Any, w_min: Any, w_max: Any, *, mu: Any) -> Any:
    """Slow down towards the upper limit: ``((w_max - w) / (w_max - w_min)) ** mu``.

    Parameters
    ----------
    w : scalar or tensor
        The weight; beyond the limit it counts as at it.
    w_min, w_max : scalar
        The limits, in the weight's unit; finite.
    mu : scalar
        The exponent, 0 or more.

    Returns
    -------
    scalar or tensor
        The factor by which a potentiation is multiplied, ``f+`` of Guetig et al. 2003.

    Examples
    --------
    >>> power_upper_bound(0.75, 0.0, 1.0, mu=0.5)
    0.5
    """
    return (maximum(w_max - w, 0) / (w_max - w_min)) ** mu


def power_lower_bound(w: Any, w_min: Any, w_max: Any, *, mu: Any) -> Any:
    """Slow down towards the lower limit: ``((w - w_min) / (w_max - w_min)) ** mu``.

    Parameters
    ----------
    w, w_min, w_max, mu
        As for :func:`power_upper_bound`.

    Returns
    -------
    scalar or tensor
        The factor by which a depression is multiplied, ``f-`` of Guetig et al. 2003 without its alpha.

    Examples
    --------
    >>> power_lower_bound(0.25, 0.0, 1.0, mu=0.5)
    0.5
    """
    return (maximum(w - w_min, 0) / (w_max - w_min)) ** mu


register_bound("power_upper_bound", power_upper_bound)
register_bound("power_lower_bound", power_lower_bound)
