"""Every example runs as its first line says, draws a picture, and shows what it is there to show."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = {path.stem: path for path in FOLDER.glob("*.py")}

RUN = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
RUN_CONEX = f"import support; support.import_conex(); {RUN}"


def shown_by(example, tmp_path, script=RUN, draws=True):
    """The numbers that an example prints, and all that it prints, once it has drawn its picture."""
    picture = tmp_path / "picture.png"
    # as a plain process would: no interpreter stands in for a GPU
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", script, str(EXAMPLES[example]), str(picture)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    if draws:
        assert len(Image.open(picture).convert("RGB").getcolors(maxcolors=10**6)) > 50
    return [float(number) for number in re.findall(r"[-+]?\b\d+(?:\.\d+)?", ran.stdout)], ran.stdout


def test_a_first_network_finds_the_inputs_that_fire_together(tmp_path):
    (in_volleys, at_random), _ = shown_by("first_network", tmp_path)
    assert in_volleys > at_random + 0.1


@pytest.mark.skipif(importlib.util.find_spec("conex") is None, reason="CoNeX is not installed")
def test_a_changed_import_gives_conex_s_weights(tmp_path):
    assert "the same weights, bit for bit: yes" in shown_by("conex_by_one_import", tmp_path, RUN_CONEX)[1]


def test_inputs_compete_in_a_bare_loop(tmp_path):
    (weak, _, strong, _), _ = shown_by("torch_loop", tmp_path)
    assert weak > 40 and strong > 10


def test_neurons_become_the_bars_that_a_batch_shows(tmp_path):
    (found, of_all), said = shown_by("batches", tmp_path)
    assert found > of_all * 0.8
    assert "PostPre, within rounding: True" in said


def test_triplets_alone_potentiate_fast_pairs_in_either_order(tmp_path):
    _, said = shown_by("own_rule", tmp_path)
    change = {
        words: float(value) for words, value in re.findall(r"(\w+ rule, post [+-]\d+ ms).*?([-+]\S+) at 50 Hz", said)
    }
    assert min(change["triplet rule, post +10 ms"], change["triplet rule, post -10 ms"]) > 0.5
    assert max(change["pair rule, post +10 ms"], change["pair rule, post -10 ms"]) < 0.1


def test_windows_are_drawn(tmp_path):
    assert "post 10 ms after pre: +0.005" in shown_by("stdp_window", tmp_path)[1]


def test_inhibition_brings_every_rate_near_the_target(tmp_path):
    (_, highest, lowest_at_last, highest_at_last, wanted), _ = shown_by("vogels_balance", tmp_path)
    assert highest > 50 and wanted * 0.7 < lowest_at_last <= highest_at_last < wanted * 1.5


def test_reward_teaches_a_convolution(tmp_path):
    (_, _, last, _), _ = shown_by("reward_convolution", tmp_path)
    assert last > 85  # chance is 50


def test_a_resumed_simulation_ends_as_one_that_never_stopped(tmp_path):
    assert "equal to the last bit: True" in shown_by("save_and_resume", tmp_path)[1]


def test_a_gate_passes_on_a_machine_of_one_s_own(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONSTDP_CACHE_DIR", str(tmp_path / "cache"))  # tuning here is of no use later
    # other tests may keep this one busy, and then it is not tuned, which draws nothing
    assert "ok\n" in shown_by("tune_and_gate", tmp_path, draws=False)[1]


def test_every_example_is_short_tested_and_listed():
    listed = set(re.findall(r"\((\w+)\.py\)", (FOLDER / "README.md").read_text()))
    tested = set(re.findall(r"shown_by\(\"(\w+)\"", Path(__file__).read_text()))
    assert listed == tested == set(EXAMPLES)
    for name, path in EXAMPLES.items():
        text = path.read_text()
        assert f"python {name}.py [PICTURE]" in text and len(text.splitlines()) < 60, name
