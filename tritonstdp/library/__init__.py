"""Rules and bounds from the literature beside CoNeX's, each in a file as a user would write it."""

from tritonstdp.library.oja import oja, oja_modulated
from tritonstdp.library.power_law import power_lower_bound, power_upper_bound
from tritonstdp.library.triplet import triplet, triplet_modulated
from tritonstdp.library.vogels import istdp_modulated

__all__ = [
    "istdp_modulated",
    "oja",
    "oja_modulated",
    "power_lower_bound",
    "power_upper_bound",
    "triplet",
    "triplet_modulated",
]
