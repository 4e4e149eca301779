"""Diehl & Cook's network in BindsNET: its own model, at its quickest setting."""

from __future__ import annotations

from torch import Tensor

import benchmarks.providers.bindsnet_rules  # noqa: F401  (stands in for torchvision, which BindsNET wants for pictures)
from benchmarks.networks.diehl_cook import EXCITATION, INHIBITION, STEPS, THRESHOLD_RISE, WEIGHT_SUM_PER_PIXEL

from bindsnet.models import DiehlAndCook2015  # isort: skip
from bindsnet.network.monitors import Monitor  # isort: skip


class BindsNETDiehlCook:
    """``bindsnet.models.DiehlAndCook2015`` with the settings of BindsNET's example ``eth_mnist.py``.

    Parameters
    ----------
    weights : Tensor
        The weights at first, ``(n_pixels, n_neurons)``; they are copied.
    """

    def __init__(self, weights: Tensor) -> None:
        n_pixels, n_neurons = weights.shape
        self.network = DiehlAndCook2015(
            n_pixels, n_neurons=n_neurons, exc=EXCITATION, inh=INHIBITION, theta_plus=THRESHOLD_RISE,
            norm=WEIGHT_SUM_PER_PIXEL * n_pixels,
        )  # fmt: skip
        self.weights = self.network.connections["X", "Ae"].pipeline[0].value
        self.weights.copy_(weights)
        for connection in self.network.connections.values():
            connection.sparse_compute = True  # to the same numbers, a few percent faster
        self.monitor = Monitor(self.network.layers["Ae"], ["s"], time=STEPS)
        self.network.add_monitor(self.monitor, "responses")

    def present(self, spikes: Tensor, learn: bool) -> Tensor:
        """Show an image; see :meth:`benchmarks.networks.diehl_cook.DiehlCook.present`."""
        self.network.train(learn)
        self.network.run({"X": spikes.unsqueeze(1)}, time=len(spikes))
        response = self.monitor.get("s").flatten(1).sum(0)
        self.network.reset_state_variables()
        return response
