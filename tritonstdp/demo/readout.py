"""Which digit the neurons mean: labels come in here, after learning, and nowhere else."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["class_profiles", "classify"]


def class_profiles(responses: Tensor, labels: Tensor, n_classes: int = 10) -> Tensor:
    """How each neuron's response is shared among the classes.

    Parameters
    ----------
    responses : Tensor
        Spike counts, ``(n_images, n_neurons)``.
    labels : Tensor
        The classes of the images, int64 ``(n_images,)``.
    n_classes : int
        The number of classes.

    Returns
    -------
    Tensor
        The mean count for each class over the sum of those means, ``(n_neurons, n_classes)``; 0 for a neuron that
        never fired.

    Examples
    --------
    >>> class_profiles(torch.tensor([[4.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 1]), n_classes=2)
    tensor([[1.0000, 0.0000],
            [0.2500, 0.7500]])
    """
    members = torch.nn.functional.one_hot(labels, n_classes).to(responses.dtype)
    means = responses.T @ members / members.sum(0).clamp(min=1)
    return means / means.sum(1, keepdim=True).clamp(min=torch.finfo(means.dtype).tiny)


def classify(responses: Tensor, profiles: Tensor) -> Tensor:
    """Let every spike vote for the classes in the shares of the neuron that fired it.

    Parameters
    ----------
    responses : Tensor
        Spike counts, ``(n_images, n_neurons)``.
    profiles : Tensor
        From :func:`class_profiles`.

    Returns
    -------
    Tensor
        The class with most votes, int64 ``(n_images,)``.

    Examples
    --------
    >>> classify(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
    tensor([1])
    """
    return (responses @ profiles).argmax(1)
