"""``tritonstdp demo --reward``: rstdp learns to choose between two actions from reward alone.

The neurons of the network fall into two halves, one for each action. An image is shown, the half that fires more is the
action taken, and a right choice is worth 1, a wrong one -1. What differs from the expected reward is broadcast as
dopamine, which turns the eligibility that the image has left behind into weights. No label is used in any other way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tritonstdp.behaviors import SimpleRSTDP
from tritonstdp.demo.digits import Digits
from tritonstdp.demo.network import STEPS, DigitNetwork
from tritonstdp.demo.progress import Progress

__all__ = ["CHANCE", "TASKS", "Result", "Task", "learn"]

CHANCE = 0.5
PASSES = 3
A_PLUS, A_MINUS = 0.003, 0.0003
EXPECTATION_RATE = 0.05
TRIALS_AVERAGED = 50


class Task(NamedTuple):
    """A choice between two actions.

    Attributes
    ----------
    name : str
        What to tell apart.
    digits : tuple of int
        The digits that are shown.
    right : callable
        ``right(labels)``: the right action, 0 or 1, for each digit.
    neurons : int
        How many neurons stand for each action.
    """

    name: str
    digits: tuple[int, ...]
    right: Callable[[Tensor], Tensor]
    neurons: int


def _either(first: int, second: int) -> Task:
    return Task(f"{first} or {second}", (first, second), lambda labels: (labels == second).long(), neurons=1)


TASKS: tuple[Task, ...] = (
    _either(0, 1),
    _either(3, 8),
    _either(4, 9),
    Task("even or odd", tuple(range(10)), lambda labels: labels % 2, neurons=10),
)


class Result(NamedTuple):
    """What a task leaves behind.

    Attributes
    ----------
    task : Task
        The task.
    network : DigitNetwork
        The trained network.
    rewards : Tensor
        The reward of each trial, 1 or -1, ``(n_trials,)``.
    accuracy : float
        The share of right choices on held-out images, with the weights held.
    seconds : float
        The time that the run took.
    """

    task: Task
    network: DigitNetwork
    rewards: Tensor
    accuracy: float
    seconds: float

    @property
    def training_accuracy(self) -> Tensor:
        """The share of right choices, averaged over 50 trials (all of them, if there are fewer)."""
        width = min(TRIALS_AVERAGED, len(self.rewards))
        return (self.rewards > 0).double().unfold(0, width, 1).mean(1)


def learn(
    digits: Digits,
    task: Task,
    *,
    seed: int = 0,
    device: str = "cpu",
    backend: str | None = None,
    passes: int = PASSES,
) -> Result:
    """Learn a task by trial, error and dopamine, and test it on the images held out.

    Parameters
    ----------
    digits : Digits
        The images.
    task : Task
        The choice to learn.
    seed : int
        The seed of weights, spikes, order and of choices between halves that fire alike.
    device, backend : str
        Where the network lives, and what computes its plasticity.
    passes : int
        How often each training image is shown.

    Returns
    -------
    Result
        The trained network and how it did.
    """
    digits = digits.only(task.digits)
    train_actions, test_actions = task.right(digits.train_labels), task.right(digits.test_labels)
    # of the neurons of an action only those that fire are rewarded: the more there are, the more each must learn
    scale = math.sqrt(task.neurons)
    learning = SimpleRSTDP(
        a_plus=A_PLUS * scale, a_minus=A_MINUS * scale, tau_c=float(STEPS), clamp=True, backend=backend
    )
    network = DigitNetwork(
        digits.train_images.shape[1], 2 * task.neurons, learning,
        threshold_rise=0.03 * scale, seed=seed, device=device, backend=backend,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    expected_reward = 0.0
    rewards = []
    with Progress(task.name, passes * len(train_actions) + len(test_actions), network) as progress:
        for _ in range(passes):
            for image in torch.randperm(len(train_actions), generator=generator).tolist():
                action = choose(network.present(digits.train_images[image]), generator)
                reward = 1.0 if action == train_actions[image] else -1.0
                deliver(network, reward - expected_reward)
                expected_reward += EXPECTATION_RATE * (reward - expected_reward)
                rewards.append(reward)
                progress.advance()
        right = 0
        with network.fixed_weights():
            for image, action in zip(digits.test_images, test_actions.tolist(), strict=True):
                right += choose(network.present(image), generator) == action
                progress.advance()
        accuracy = right / len(test_actions)
        progress.note(f"held-out {accuracy:.1%}")
    return Result(task, network, torch.tensor(rewards), accuracy, progress.seconds)


def choose(response: Tensor, generator: torch.Generator) -> int:
    """The action whose half of the neurons has fired more, or either by lot."""
    first, second = response.view(2, -1).sum(1).tolist()
    if first == second:
        return int(torch.randint(2, (), generator=generator))
    return int(second > first)


def deliver(network: DigitNetwork, dopamine: float) -> None:
    """Let dopamine meet, for one step without an image, what the last one has left in the eligibility trace."""
    network.dopamine_concentration = dopamine
    network.step()
    network.dopamine_concentration = 0.0
