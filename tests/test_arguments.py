"""What is given on the command line is understood, or refused in one line that says what to give."""

from __future__ import annotations

import argparse
import os

import pytest
import torch

from tritonstdp import arguments


def refused(parse, text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        parse(text)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_what_is_meant_is_understood(tmp_path):
    assert arguments.rate("0.02") == 0.02 and arguments.rate("1") == 1
    assert arguments.seconds("0.5") == 0.5
    assert arguments.shape("7") == (7,) and arguments.shape("1x28x28x16x5") == (1, 28, 28, 16, 5)
    assert arguments.device("cpu") == "cpu" and arguments.device("cpu:0") == "cpu"
    path = tmp_path / "x.json"
    assert arguments.output_file(str(path)) == path
    assert not path.exists(), "the check has written"
    path.write_text("{}")
    assert arguments.existing_file(str(path)) == arguments.output_file(str(path)) == path


@pytest.mark.parametrize("text", ["0", "-0.1", "1.01", "2", "10%", "nan", "inf", "", "often", "0.1,0.2"])
def test_a_rate_is_a_fraction(text):
    assert "above 0 and up to 1 (2 % is 0.02)" in refused(arguments.rate, text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e999", "", "soon"])
def test_seconds_are_positive_and_finite(text):
    assert "seconds above 0" in refused(arguments.seconds, text)


@pytest.mark.parametrize("text", ["", "x", "4x", "0", "4x0", "-4", "4by4", "4.0", "²", "4 x 4", "9" * 5000, "4\n"])
def test_a_shape_says_its_form(text):
    assert "as 4000x4000" in refused(arguments.shape, text)


@pytest.mark.parametrize("text", ["", "gpu", "cpu:-1", "cpu:1", "cuda:x", "meta", "vulkan", "cpu\n"])
def test_a_device_that_is_not_there_is_refused(text):
    assert "device" in refused(arguments.device, text)


@pytest.mark.parametrize("found", [0, 2])
def test_devices_are_counted(monkeypatch, found):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    assert "no" in refused(arguments.device, "cuda:2")
    if found:
        assert arguments.device("cuda") == "cuda" and arguments.device("cuda:1") == "cuda:1"
    else:
        assert "no cuda device here" in refused(arguments.device, "cuda")


def test_a_file_to_read_must_be_a_readable_file(tmp_path, monkeypatch):
    assert "there is no file" in refused(arguments.existing_file, str(tmp_path / "nowhere"))
    assert "no regular file" in refused(arguments.existing_file, str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    assert "no regular file" in refused(arguments.existing_file, str(tmp_path / "fifo"))
    refused(arguments.existing_file, "n" * 5000)
    refused(arguments.existing_file, "\0")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "may not be read" in refused(arguments.existing_file, __file__)


def test_a_file_to_write_must_be_writable(tmp_path, monkeypatch):
    assert "there is no folder" in refused(arguments.output_file, str(tmp_path / "nowhere" / "x.png"))
    (tmp_path / "file").write_text("")
    assert "there is no folder" in refused(arguments.output_file, str(tmp_path / "file" / "x.png"))
    assert "no regular file" in refused(arguments.output_file, str(tmp_path))
    refused(arguments.output_file, str(tmp_path / ("n" * 5000)))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "may not be written" in refused(arguments.output_file, str(tmp_path / "x.png"))
