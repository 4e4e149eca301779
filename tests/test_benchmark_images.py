"""What the benchmark on images rests on: files read whole or not at all, BindsNET's equations, BindsNET's readout."""

from __future__ import annotations

import doctest
import gzip
import math
import struct
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for benchmarks; last, so that it hides nothing installed

from benchmarks.networks import diehl_cook, idx, images, readout
from benchmarks.networks.benchmark import OURS
from benchmarks.networks.diehl_cook import DiehlCook

# IDX files


def write_idx(path: Path, values: np.ndarray) -> None:
    content = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def folder(tmp_path):
    """A data set of 5 and 3 images, compressed in part."""
    values = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", values)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(5, dtype=np.uint8))
    write_idx(tmp_path / "t10k-images-idx3-ubyte", values[:3])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(3, dtype=np.uint8))
    return tmp_path


def test_a_data_set_is_read_compressed_or_not(folder):
    images = idx.load(folder)
    assert images.train_images.shape == (5, 12) and images.test_images.shape == (3, 12)
    assert torch.equal(images.test_images, images.train_images[:3])
    assert images.train_images[1, 0].item() == pytest.approx(12 / 255)
    assert images.train_labels.tolist() == [0, 1, 2, 3, 4]


def test_what_is_no_data_set_is_refused_by_name(folder):
    labels, images = folder / "train-labels-idx1-ubyte", folder / "t10k-images-idx3-ubyte"
    whole = {path: path.read_bytes() for path in (labels, images)}
    for path, content, why in (
        (images, whole[images][:-1], "holds 35 bytes, and states 36 in the shape (3, 4, 3)"),
        (images, b"\0\0\x0d" + whole[images][3:], "begins with 00000d03"),
        (images, whole[images][:9], "begins with 00000803"),
        (images, b"", "begins with nothing"),
        (labels, whole[images], "images (5, 4, 3) and labels (3, 4, 3)"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            idx.load(folder)
        assert why in str(error.value) and str(folder) in str(error.value)
        path.write_bytes(whole[path])
    compressed = folder / "t10k-labels-idx1-ubyte.gz"
    compressed.write_bytes(compressed.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte.gz: .*get the file anew"):
        idx.load(folder)
    images.unlink()
    with pytest.raises(ValueError, match="has no file t10k-images-idx3-ubyte or"):
        idx.load(folder)


# the network


class BindsNETEquations:
    """BindsNET's DiehlAndCook2015, restated: potentials in mV, the inhibitory neurons and all matrices in full."""

    def __init__(self, weights: Tensor) -> None:
        self.weights, (n_pixels, n) = weights, weights.shape
        self.norm, self.theta = 0.1 * n_pixels, torch.zeros(n)
        self.one_to_one, self.inhibition = 22.5 * torch.eye(n), -120.0 * (1 - torch.eye(n))

    def present(self, image_spikes: Tensor, learn: bool) -> Tensor:
        """The excitatory spikes, ``(steps, n)``."""
        n_pixels, n = self.weights.shape
        pixels, e, i = torch.zeros(n_pixels), torch.zeros(n), torch.zeros(n)
        v_e, v_i, rest_e, rest_i = torch.full((n,), -65.0), torch.full((n,), -60.0), torch.zeros(n), torch.zeros(n)
        x_pre, x_post, decay = torch.zeros(n_pixels), torch.zeros(n), math.exp(-1 / 20)
        sent = []
        for step in image_spikes:
            to_e, to_i = pixels @ self.weights + i @ self.inhibition, e @ self.one_to_one
            pixels = step.float()
            v_e = math.exp(-1 / 100) * (v_e + 65) - 65 + (rest_e <= 0) * to_e
            v_i = math.exp(-1 / 10) * (v_i + 60) - 60 + (rest_i <= 0) * to_i
            self.theta = self.theta * math.exp(-1 / 1e7) if learn else self.theta
            reached, i = v_e >= -52 + self.theta, (v_i >= -40).float()
            rest_e, rest_i = torch.where(reached, 5, rest_e - 1), torch.where(i > 0, 2, rest_i - 1)
            v_e, v_i = torch.where(reached, -60, v_e), torch.where(i > 0, -45, v_i)
            self.theta = self.theta + 0.05 * reached if learn else self.theta
            e = torch.zeros(n)
            if reached.any():
                e[torch.multinomial(reached.float(), 1)] = 1
            x_pre, x_post = torch.where(pixels > 0, 1, decay * x_pre), torch.where(e > 0, 1, decay * x_post)
            if learn:
                change = 1e-2 * torch.outer(x_pre, e) - 1e-4 * torch.outer(pixels, x_post)
                self.weights = (self.weights + change).clamp(0, 1)
            sent.append(e)
        if learn:
            self.weights = self.weights * self.norm / self.weights.sum(0)
        return torch.stack(sent)


def test_the_network_does_what_bindsnets_equations_say():
    generator = torch.Generator().manual_seed(1)
    weights = 1.1 * torch.rand(40, 12, generator=generator)
    network, restated = DiehlCook(weights.clone(), backend="reference"), BindsNETEquations(weights.clone())
    responses = []
    for image, learn in enumerate((True, True, True, False, True, False)):
        spikes = torch.rand(80, 40, generator=generator) < 0.3 * torch.rand(40, generator=generator)
        torch.manual_seed(image)
        responses.append(network.present(spikes, learn))
        torch.manual_seed(image)
        assert responses[-1].tolist() == restated.present(spikes, learn).sum(0).tolist()
        assert torch.allclose(network.weights, restated.weights, rtol=0, atol=1e-6)
        assert torch.allclose(network.excitatory.theta, restated.theta, rtol=0, atol=1e-5)
    # every image has had several winners, as inhibition and rising thresholds make it
    assert all((r > 0).sum() > 1 for r in responses)


# the readout


def by_loops(responses: Tensor, labels: Tensor, test_responses: Tensor) -> tuple[list[int], list[int]]:
    """BindsNET's assign_labels, all_activity and proportion_weighting, an image and a neuron at a time."""
    n = responses.shape[1]
    rates = [
        [responses[labels == c, j].mean().item() if (labels == c).any() else 0.0 for c in range(10)] for j in range(n)
    ]
    assigned = [max(range(10), key=rate.__getitem__) if sum(rate) else -1 for rate in rates]

    def named(weight: Any) -> list[int]:
        names = []
        for response in test_responses.tolist():
            votes = [0.0] * 10
            for j, c in enumerate(assigned):
                if c >= 0:
                    votes[c] += response[j] * weight(j, c) / assigned.count(c)
            names.append(max(range(10), key=votes.__getitem__) if sum(votes) else -1)
        return names

    return named(lambda j, c: 1.0), named(lambda j, c: rates[j][c] / sum(rates[j]))


def test_the_readouts_example_runs():
    assert doctest.testmod(readout) == (0, 1)


def test_images_are_named_as_by_bindsnets_two_schemes():
    generator = torch.Generator().manual_seed(2)
    responses = torch.randint(0, 5, (60, 25), generator=generator).double()
    labels = torch.randint(0, 9, (60,), generator=generator)
    test_responses = torch.randint(0, 4, (40, 25), generator=generator).double()
    responses[:, 3] = 0  # silent: it has no class
    test_responses[7] = test_responses[8] = 0
    test_responses[8, 3] = 5  # nothing that votes
    for names, scheme in zip(by_loops(responses, labels, test_responses), readout.Accuracy._fields, strict=True):
        expected = torch.tensor(names)
        assert expected[7] == expected[8] == -1
        found = readout.accuracy(responses, labels, test_responses, expected)
        assert getattr(found, scheme) == 1


# the comparison


def tiny_run(monkeypatch, reference: Any) -> list[images.Result]:
    """Six-pixel images, shown for 20 steps to five neurons, beside a reference that stands for BindsNET's."""
    monkeypatch.setitem(sys.modules, "benchmarks.networks.diehl_cook_bindsnet", ModuleType("stand-in"))
    sys.modules["benchmarks.networks.diehl_cook_bindsnet"].BindsNETDiehlCook = reference
    for module in (diehl_cook, images):
        monkeypatch.setattr(module, "STEPS", 20)
    monkeypatch.setattr(diehl_cook, "PEAK_RATE", 0.9)
    monkeypatch.setattr(diehl_cook, "FIRST_WEIGHTS", 2.0)
    monkeypatch.setattr(images, "DiehlCook", partial(DiehlCook, backend="reference"))
    monkeypatch.setattr(images, "TURN", 2)
    shown, labels = torch.rand(4, 6), torch.arange(4)
    return images.run(idx.Images(shown, labels, shown[:3], labels[:3]), 5)


def test_both_programs_see_every_image_and_every_figure_is_reported(monkeypatch):
    results = tiny_run(monkeypatch, partial(DiehlCook, backend="reference"))
    whats = ["learning 4 images"] * 2 + ["naming 3 images"] * 2
    assert [(r.what, r.who) for r in results] == list(zip(whats, ["BindsNET", OURS] * 2, strict=True))
    assert [r.steps for r in results] == [80, 80, 60, 60]
    learning, naming = results[1], results[3]
    assert learning.activity["spikes an image"] > 0 and 0 <= naming.activity["all_activity"] <= 1
    assert all(r.activity["responses as BindsNET's"] == 1 and sum(r.shares.values()) > 0.99 for r in (learning, naming))
    assert "traces and plasticity" in learning.shares and "traces and plasticity" not in naming.shares
    assert all(r.processor > 0 and r.activity["images/s"] > 0 for r in results)


def test_networks_that_differ_are_not_compared(monkeypatch):
    def other(weights: Tensor) -> DiehlCook:
        return DiehlCook(weights * 1.01, backend="reference")

    with pytest.raises(RuntimeError, match="h: the networks differ after one image"):
        tiny_run(monkeypatch, other)


def test_images_that_can_not_be_had_are_refused(folder, monkeypatch):
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    asked = Namespace(data=folder, neurons=400, train=5, test=3)
    for changed, why in (
        ({"data": None}, "h needs --data FOLDER"),
        ({"train": 6}, "--train is 6: .* has 5"),
        ({"test": 4}, "--test is 4: .* has 3"),
        ({}, "BindsNET, which is not installed: pip install"),
    ):
        with pytest.raises(ValueError, match=why):
            images.benchmark(Namespace(**vars(asked) | changed))
