"""Which class an image is taken for: neurons are assigned to classes after learning, and vote, as BindsNET has it.

The same readout serves every program: labels come in here and nowhere else.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tritonstdp.demo.readout import class_profiles

N_CLASSES = 10


class Accuracy(NamedTuple):
    """Shares of images that were named rightly.

    Attributes
    ----------
    all_activity : float
        Where each neuron votes for its class with its spikes.
    proportion_weighting : float
        Where it does so in proportion to how much of its response is due to that class.
    """

    all_activity: float
    proportion_weighting: float


def accuracy(responses: Tensor, labels: Tensor, test_responses: Tensor, test_labels: Tensor) -> Accuracy:
    """Assign neurons to the classes that they respond to most, and let them name other images.

    Parameters
    ----------
    responses, test_responses : Tensor
        Spike counts for the images by which neurons are assigned, and for those to be named, ``(n, n_neurons)``.
    labels, test_labels : Tensor
        The classes of the images, int64 ``(n,)``.

    Returns
    -------
    Accuracy
        By both ways to vote. A class is as strong as the mean of its neurons; an image that none of them responds to
        has no name.

    Examples
    --------
    >>> accuracy(torch.tensor([[2, 0], [1, 3]]), torch.tensor([0, 1]), torch.tensor([[4, 5]]), torch.tensor([1]))
    Accuracy(all_activity=1.0, proportion_weighting=1.0)
    """
    proportions = class_profiles(responses.float(), labels, N_CLASSES)
    assigned = torch.nn.functional.one_hot(proportions.argmax(1), N_CLASSES) * (proportions.sum(1, keepdim=True) > 0)
    neurons = assigned.sum(0).clamp(min=1)

    def named_rightly(votes: Tensor) -> float:
        strengths = test_responses.float() @ votes / neurons
        named = torch.where(strengths.sum(1) > 0, strengths.argmax(1), -1)
        return (named == test_labels).double().mean().item()

    return Accuracy(named_rightly(assigned.float()), named_rightly(assigned * proportions))
