"""The figures of both demos."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from tritonstdp import plot
from tritonstdp.demo import reward, unsupervised
from tritonstdp.demo.digits import SIDE, Digits
from tritonstdp.terminal import write_output

__all__ = ["draw_digits", "draw_reward"]

FIELDS_PER_DIGIT = 10


def draw_digits(result: unsupervised.Result, digits: Digits, path: Path) -> None:
    """Draw receptive fields, the confusion matrix and accuracy over training.

    Parameters
    ----------
    result : unsupervised.Result
        The run.
    digits : Digits
        Its images.
    path : Path
        The PNG to write.
    """
    figure = Figure(figsize=(14, 7.5), layout="constrained")
    n_neurons, n_test = len(result.profiles), len(digits.test_labels)
    figure.suptitle(f"{n_neurons} neurons, STDP alone: {result.accuracy:.1%} of {n_test} held-out digits", fontsize=16)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.9, 1))
    _draw_fields_by_digit(figure.add_subplot(grid[:, 0]), result)
    confusion_axes, accuracy_axes = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1])
    _draw_confusion(confusion_axes, digits.test_labels, result.predicted)
    passes = range(1, len(result.accuracies) + 1)
    accuracy_axes.plot(passes, [100 * accuracy for accuracy in result.accuracies], "o-", color="tab:blue")
    accuracy_axes.set(
        title="Accuracy over training",
        xlabel=f"times that each of {len(digits.train_labels):,} training images was shown",
        ylabel="held-out accuracy (%)",
        xticks=list(passes),
        ylim=(0, 100),
    )
    accuracy_axes.axhline(10, color="gray", linestyle=":")
    accuracy_axes.annotate("chance", (passes[-1], 11), ha="right", va="bottom", color="gray")
    accuracy_axes.grid(alpha=0.3)
    _save(figure, path)


def draw_reward(results: Sequence[reward.Result], path: Path) -> None:
    """Draw, for each task, accuracy over trials and what drives each of the two actions.

    Parameters
    ----------
    results : sequence of reward.Result
        The tasks' runs.
    path : Path
        The PNG to write.
    """
    figure = Figure(figsize=(13, 2.6 * len(results) + 0.6), layout="constrained")
    figure.suptitle("Choices learned from reward alone (rstdp)", fontsize=16)
    grid = figure.add_gridspec(len(results), 3, width_ratios=(3, 1, 1))
    for row, result in enumerate(results):
        _draw_trials(figure.add_subplot(grid[row, 0]), result)
        fields = fields_of(result.network.synapses.weights)
        for action, half in enumerate(fields.view(2, -1, SIDE, SIDE)):
            axes = plot.receptive_fields(
                half.mean(0).view(-1, 1), (SIDE, SIDE), axes=figure.add_subplot(grid[row, 1 + action])
            )
            mean = " (mean)" if len(half) > 1 else ""
            axes.set_title(f"action {action + 1}: {result.task.name.split(' or ')[action]}{mean}")
    _save(figure, path)


def fields_of(weights: Tensor) -> Tensor:
    """What each neuron looks for: its weights from ink less those from its absence, ``(n_neurons, 8, 8)``."""
    ink, blank = weights.cpu().T.reshape(-1, 2, SIDE, SIDE).unbind(1)
    return ink - blank


def _draw_fields_by_digit(axes: Any, result: unsupervised.Result) -> None:
    fields, profiles = fields_of(result.network.synapses.weights), result.profiles
    shown = torch.full((10, FIELDS_PER_DIGIT, SIDE * SIDE), torch.nan)
    for digit in range(10):
        members = torch.where((profiles.argmax(1) == digit) & (profiles.sum(1) > 0))[0]
        surest = members[profiles[members, digit].argsort(descending=True)][:FIELDS_PER_DIGIT]
        of_surest = fields[surest].flatten(1)
        shown[digit, : len(surest)] = of_surest / of_surest.abs().amax(1, keepdim=True)
    plot.receptive_fields(shown.flatten(0, 1).T, (SIDE, SIDE), columns=FIELDS_PER_DIGIT, axes=axes)
    axes.set(
        title=f"Receptive fields of the {FIELDS_PER_DIGIT} neurons surest of each digit\n"
        "(red: weights from ink, blue: from its absence)",
        yticks=[digit * (SIDE + 1) + (SIDE - 1) / 2 for digit in range(10)],
        yticklabels=range(10),
    )
    axes.tick_params(axis="y", length=0, labelsize=14)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_trials(axes: Any, result: reward.Result) -> None:
    curve, n_trials = 100 * result.training_accuracy, len(result.rewards)
    averaged = n_trials - len(curve) + 1
    axes.plot(range(averaged, n_trials + 1), curve.numpy(), color="tab:blue")
    axes.axhline(100 * reward.CHANCE, color="gray", linestyle=":")
    axes.annotate("chance", (n_trials, 100 * reward.CHANCE), ha="right", va="bottom", color="gray")
    axes.set(
        title=f"{result.task.name}: {result.accuracy:.1%} of held-out digits",
        xlabel="trial",
        ylabel=f"right choices\nof the last {averaged} (%)",
        xlim=(0, n_trials + 1),
        ylim=(30, 102),
    )
    axes.grid(alpha=0.3)


def _draw_confusion(axes: Any, labels: Tensor, predicted: Tensor) -> None:
    counts = torch.zeros(10, 10).index_put_((labels, predicted), torch.ones(()), accumulate=True)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row in range(10):
        for column in range(10):
            if counts[row, column]:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=color)
    axes.set(
        title="Confusion matrix of the held-out digits",
        xlabel="named by the network",
        ylabel="digit",
        xticks=range(10),
        yticks=range(10),
    )


def _save(figure: Figure, path: Path) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    write_output(path, drawn.getvalue())
