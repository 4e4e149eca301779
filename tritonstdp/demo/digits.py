"""The digits that scikit-learn ships: 1,797 real ones of 8 x 8 pixels, split once and for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["N_DIGITS", "SIDE", "Digits", "load"]

N_DIGITS = 1797
SIDE = 8
TEST_SHARE = 500 / N_DIGITS
SPLIT_SEED = 0


class Digits(NamedTuple):
    """Images to learn from and images held out.

    Attributes
    ----------
    train_images, test_images : Tensor
        Intensities from 0 to 1, ``(n, 128)``: 64 pixels that answer to ink, then 64 that answer to its absence.
    train_labels, test_labels : Tensor
        The digits, int64 ``(n,)``.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def only(self, classes: Sequence[int]) -> Digits:
        """The images of some digits alone."""
        train = torch.isin(self.train_labels, torch.tensor(classes))
        test = torch.isin(self.test_labels, torch.tensor(classes))
        return Digits(
            self.train_images[train], self.train_labels[train], self.test_images[test], self.test_labels[test]
        )


def load(samples: int = N_DIGITS) -> Digits:
    """Read the digits and hold out 500 of the 1,797, or the same share of fewer, alike in every class.

    Parameters
    ----------
    samples : int
        How many digits to take in all.

    Returns
    -------
    Digits
        The images and labels; the split is the same on every call.

    Examples
    --------
    >>> digits = load()
    >>> digits.train_images.shape, digits.test_images.shape
    (torch.Size([1297, 128]), torch.Size([500, 128]))
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    intensities, labels = load_digits(return_X_y=True)
    chosen = np.arange(N_DIGITS)
    if samples < N_DIGITS:
        chosen, _ = train_test_split(chosen, train_size=samples, stratify=labels, random_state=SPLIT_SEED)
    train, test = train_test_split(chosen, test_size=TEST_SHARE, stratify=labels[chosen], random_state=SPLIT_SEED)
    ink = torch.tensor(intensities / intensities.max(), dtype=torch.float32)
    images, classes = torch.cat([ink, 1 - ink], dim=1), torch.tensor(labels)
    return Digits(images[train], classes[train], images[test], classes[test])
