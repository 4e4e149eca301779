"""``tritonstdp demo``: STDP finds prototypes of the digits by itself; labels only name them afterwards."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tritonstdp.behaviors import SimpleSTDP
from tritonstdp.demo.digits import Digits
from tritonstdp.demo.network import DigitNetwork
from tritonstdp.demo.progress import Progress
from tritonstdp.demo.readout import class_profiles, classify

__all__ = ["N_NEURONS", "Result", "train"]

N_NEURONS = 400
PASSES = 6
A_PLUS, A_MINUS = 0.12, 0.01
LAST_SHARE_OF_A_PLUS = 0.1


class Result(NamedTuple):
    """What a training run leaves behind.

    Attributes
    ----------
    network : DigitNetwork
        The trained network.
    profiles : Tensor
        Each neuron's class profile, ``(n_neurons, 10)``.
    accuracies : list of float
        The share of held-out images named rightly after each pass.
    predicted : Tensor
        What the held-out images were taken for at the end, int64 ``(n_test,)``.
    seconds : float
        The time that the run took.
    """

    network: DigitNetwork
    profiles: Tensor
    accuracies: list[float]
    predicted: Tensor
    seconds: float

    @property
    def accuracy(self) -> float:
        """The share of held-out images named rightly after the last pass."""
        return self.accuracies[-1]


def train(
    digits: Digits,
    n_neurons: int = N_NEURONS,
    *,
    seed: int = 0,
    device: str = "cpu",
    backend: str | None = None,
    passes: int = PASSES,
) -> Result:
    """Show the training images several times over, and name the held-out ones after each pass.

    Parameters
    ----------
    digits : Digits
        The images.
    n_neurons : int
        The number of competing neurons.
    seed : int
        The seed of weights, spikes and order.
    device, backend : str
        Where the network lives, and what computes its plasticity.
    passes : int
        How often each training image is shown.

    Returns
    -------
    Result
        The trained network and how it did.
    """
    learning = SimpleSTDP(a_plus=A_PLUS, a_minus=A_MINUS, clamp=True, backend=backend)
    network = DigitNetwork(
        digits.train_images.shape[1],
        n_neurons,
        learning,
        threshold_rise=0.04,
        seed=seed,
        device=device,
        backend=backend,
    )
    n_train, n_test = len(digits.train_labels), len(digits.test_labels)
    order_generator = torch.Generator().manual_seed(seed)
    accuracies = []
    with Progress("STDP", passes * (n_train + n_test), network) as progress:
        for turn in range(passes):
            learning.a_plus = A_PLUS * (1 - (1 - LAST_SHARE_OF_A_PLUS) * turn / max(1, passes - 1))
            order = torch.randperm(n_train, generator=order_generator)
            # the labels name the neurons by how they responded in this pass; the network itself never sees them
            responses = respond(network, digits.train_images[order], progress)
            profiles = class_profiles(responses, digits.train_labels[order])
            with network.fixed_weights():
                predicted = classify(respond(network, digits.test_images, progress), profiles)
            accuracies.append((predicted == digits.test_labels).double().mean().item())
            progress.note(f"held-out {accuracies[-1]:.1%}")
    return Result(network, profiles, accuracies, predicted, progress.seconds)


def respond(network: DigitNetwork, images: Tensor, progress: Progress) -> Tensor:
    """Show images to the network one after the other, and collect its responses, ``(n_images, n_neurons)``."""
    responses = []
    for image in images:
        responses.append(network.present(image))
        progress.advance()
    return torch.stack(responses)
