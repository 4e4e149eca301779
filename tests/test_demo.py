"""The demos learn, end in the same weights on every backend, and say what they need."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image

from tritonstdp import cli
from tritonstdp.behaviors import SimpleSTDP
from tritonstdp.commands import demo
from tritonstdp.demo import reward, unsupervised
from tritonstdp.demo.digits import Digits, load
from tritonstdp.demo.network import STEPS, DigitNetwork
from tritonstdp.demo.readout import class_profiles, classify

BACKEND = ["--backend", "cpu"]


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load(400)


def small_network(**options) -> DigitNetwork:
    learning = SimpleSTDP(a_plus=0.1, a_minus=0.01, clamp=True, backend="cpu")
    return DigitNetwork(128, 20, learning, threshold_rise=0.04, seed=0, backend="cpu", **options)


def test_split_is_fixed_and_holds_images_out():
    first, second = load(), load()
    assert torch.equal(first.train_images, second.train_images)
    assert len(first.train_labels) == 1297 and len(first.test_labels) == 500
    images = torch.cat([first.train_images, first.test_images])
    assert len(torch.unique(images, dim=0)) == len(images) == 1797
    assert torch.bincount(first.test_labels).min() >= 48


def test_fewer_samples_keep_every_class():
    digits = load(50)
    assert len(digits.train_labels) + len(digits.test_labels) == 50
    assert len(torch.unique(digits.train_labels)) == len(torch.unique(digits.test_labels)) == 10


def test_pixels_fire_in_proportion_to_intensity():
    network = small_network()
    intensities = torch.linspace(0, 1, 128)
    network.pixels.PoissonPixels.show(intensities, 4000)
    rates = torch.stack(list(network.pixels.PoissonPixels.coming)).double().mean(0)
    assert (rates - 0.8 * intensities).abs().max() < 0.05
    assert rates[0] == 0


def test_at_most_one_neuron_fires_in_a_step_and_it_resets_all(digits):
    network = small_network()
    network.present(digits.train_images[0])
    network.pixels.PoissonPixels.show(digits.train_images[1], STEPS)
    fired = 0
    for _ in range(STEPS):
        network.step()
        assert network.neurons.spikes.sum() <= 1
        if network.neurons.spikes.any():
            fired += 1
            assert not network.neurons.potential.any()
    assert fired > 5


def test_learning_keeps_the_total_of_weights_and_their_limits(digits):
    network = small_network()
    before = network.synapses.weights.clone()
    for image in digits.train_images[:10]:
        network.present(image)
    weights = network.synapses.weights
    assert not torch.equal(weights, before)
    assert torch.allclose(weights.sum(0), torch.tensor(25.0), rtol=1e-4)
    assert weights.min() >= 0


def test_fixed_weights_stay_and_thresholds_come_back(digits):
    network = small_network()
    weights, threshold = network.synapses.weights.clone(), network.neurons.threshold.clone()
    with network.fixed_weights():
        network.present(digits.train_images[0])
        assert not torch.equal(network.neurons.threshold, threshold)
    assert torch.equal(network.synapses.weights, weights)
    assert torch.equal(network.neurons.threshold, threshold)
    network.present(digits.train_images[0])
    assert not torch.equal(network.synapses.weights, weights)


def test_a_neuron_that_never_fired_has_no_vote():
    responses = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    profiles = class_profiles(responses, torch.tensor([0, 1]), n_classes=2)
    assert torch.equal(profiles[1], torch.zeros(2))
    assert classify(torch.tensor([[0.5, 100.0]]), profiles).item() == 0


def test_class_profiles_do_not_favour_frequent_classes():
    responses = torch.tensor([[3.0], [3.0], [3.0], [6.0]])
    profiles = class_profiles(responses, torch.tensor([0, 0, 0, 1]), n_classes=2)
    assert torch.allclose(profiles, torch.tensor([[1 / 3, 2 / 3]]))


def test_stdp_names_held_out_digits(digits):
    result = unsupervised.train(digits, 80, backend="cpu", passes=2)
    assert len(result.predicted) == len(digits.test_labels) == 112
    assert result.accuracy == (result.predicted == digits.test_labels).double().mean()
    assert result.accuracy > 0.6  # chance is 0.1


def test_labels_do_not_reach_the_weights(digits):
    permuted = digits._replace(train_labels=digits.train_labels.flip(0), test_labels=digits.test_labels.flip(0))
    few = [Digits(*(part[:20] for part in all_)) for all_ in (digits, permuted)]
    first, second = (unsupervised.train(part, 20, backend="cpu", passes=1) for part in few)
    assert torch.equal(first.network.synapses.weights, second.network.synapses.weights)
    assert not torch.equal(first.profiles, second.profiles)


@pytest.mark.parametrize("task", [reward.TASKS[1], reward.TASKS[-1]], ids=lambda task: task.name)
def test_reward_runs_end_in_the_same_weights(digits, task):
    few = Digits(*(part[:60] for part in digits))
    cpu, plain = (reward.learn(few, task, backend=backend, passes=1) for backend in ("cpu", "reference"))
    assert torch.equal(cpu.network.synapses.weights, plain.network.synapses.weights)
    assert torch.equal(cpu.rewards, plain.rewards)


def test_stdp_runs_end_in_the_same_weights(digits):
    few = Digits(*(part[:40] for part in digits))
    cpu, plain = (unsupervised.train(few, 30, backend=backend, passes=2) for backend in ("cpu", "reference"))
    assert torch.equal(cpu.network.synapses.weights, plain.network.synapses.weights)
    assert torch.equal(cpu.predicted, plain.predicted)


def test_another_seed_is_another_run(digits):
    few = Digits(*(part[:10] for part in digits))
    first, second = (unsupervised.train(few, 10, backend="cpu", passes=1, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.network.synapses.weights, second.network.synapses.weights)


def test_reward_alone_teaches_a_choice(digits):
    result = reward.learn(digits, reward.TASKS[2], backend="cpu")
    assert result.accuracy >= 0.85  # chance is 0.5
    assert result.training_accuracy[-1] >= 0.85


def test_without_the_right_reward_nothing_is_learned(digits):
    generator = torch.Generator().manual_seed(0)
    noise = reward.TASKS[2]._replace(right=lambda labels: torch.randint(2, labels.shape, generator=generator))
    assert reward.learn(digits, noise, backend="cpu", passes=2).accuracy < 0.8


def test_a_tie_is_decided_by_lot():
    generator = torch.Generator().manual_seed(0)
    choices = [reward.choose(torch.tensor([1.0, 1.0]), generator) for _ in range(50)]
    assert 10 < sum(choices) < 40
    assert reward.choose(torch.tensor([1.0, 2.0]), generator) == 1
    assert reward.choose(torch.tensor([2.0, 0.0, 1.0, 0.0]), generator) == 0


def test_command_compares_and_draws(tmp_path, capsys):
    assert cli.main(["demo", "--samples", "60", "--neurons", "20", "--out", str(tmp_path), "--compare", *BACKEND]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"test accuracy \d+\.\d%: \d+ held-out digits, 20 neurons, seed 0, learning by cpu", printed)
    assert "steps/s" in printed and "learning" in printed
    assert "the same weights, bit for bit: yes" in printed
    assert str(tmp_path / "digits.png") in printed
    assert_drawn(tmp_path / "digits.png")


def test_reward_command_prints_and_draws(tmp_path, capsys):
    assert cli.main(["demo", "--reward", "--samples", "60", "--out", str(tmp_path), *BACKEND]) == 0
    printed = capsys.readouterr().out
    assert all(task.name in printed for task in reward.TASKS)
    assert re.search(r"mean test accuracy \d+\.\d%, chance 50%", printed)
    assert_drawn(tmp_path / "reward.png")


def assert_drawn(path):
    picture = Image.open(path).convert("RGB")
    assert min(picture.size) > 600
    assert len(picture.getcolors(maxcolors=10**6)) > 300


def test_missing_extras_are_named(monkeypatch, capsys):
    monkeypatch.setattr(demo, "find_spec", lambda module: None if module == "sklearn" else object())
    assert cli.main(["demo"]) == 2
    needed = "tritonstdp demo: the demo needs scikit-learn: pip install 'tritonstdp[demo]'\n"
    assert capsys.readouterr().err == needed
