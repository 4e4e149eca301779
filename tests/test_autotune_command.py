"""``tritonstdp tune`` sweeps what fits its filters, shows what it found, and looks after the cache."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tritonstdp import Dense, OneToOne, registry
from tritonstdp.autotune import cache, command
from tritonstdp.cli import main
from tritonstdp.registry import register_kernel, serving_entry
from tritonstdp.topology import Conv2d, Local2d, Sparse


class Config(NamedTuple):
    """A planted kernel: the reference, done several times over on copies, and wrong if told so."""

    repeats: int = 4
    wrong: bool = False


def planted(case, config):
    reference = serving_entry(case, "reference").build(case)

    def step(topology, weights, *rest):
        for _ in range(config.repeats - 1):
            reference(topology, weights.clone(), *rest)
        reference(topology, weights, *rest)
        if config.wrong:
            weights += 1

    return step


@pytest.fixture(autouse=True)
def _own_cache_and_registry(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONSTDP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(registry, "_ENTRIES", list(registry._ENTRIES))
    register_kernel(
        planted, topology="one_to_one", backend="cpu", rule="stdp",
        default=Config(), space={"repeats": (1, 4), "wrong": (False, True)},
    )  # fmt: skip
    yield
    registry.forget_choices()


def tune(*arguments):
    return main(
        ["tune", "--device", "cpu", "--topology", "one_to_one", "--rule", "stdp", "--seconds", "0.1", *arguments]
    )


def test_a_sweep_prints_what_it_found_and_keeps_it(capsys, tmp_path):
    picture = tmp_path / "landscape.png"
    bounds = ("--bound", "soft_bound", "no_bound")
    assert tune(*bounds, "--shape", "64", "1000", "--rate", "2", "10%", "--plot", str(picture)) == 0
    printed = capsys.readouterr().out
    assert "configs/s" in printed
    for expected in ("stdp one_to_one soft_bound float32 64", "no_bound", "repeats=1", "speed-up", "spread"):
        assert expected in printed
    assert re.search(r"rejected: stdp on one_to_one, Config\(repeats=1, wrong=True\): weights off by 1", printed)
    speedups = [float(x) for x in re.findall(r"x(\d+\.\d+)  ", printed)]
    assert len(speedups) >= 8 and all(speedup > 1.3 for speedup in speedups[-8:])
    kept = cache.load_all()
    assert {(e.key.positive_bound, e.key.synapses) for e in kept} == {
        (bound, size) for bound in ("soft_bound", "no_bound") for size in (64, 1024)
    }
    assert all(e.config == {"repeats": 1, "wrong": False} for e in kept)
    assert all(e.measured["rates_percent"] == [2, 10] for e in kept)
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000


def test_what_is_kept_can_be_shown_exported_cleared_and_imported(capsys, tmp_path):
    tune("--bound", "soft_bound", "--shape", "64", "--rate", "5")
    capsys.readouterr()
    assert main(["tune", "--show"]) == 0
    shown = capsys.readouterr().out
    assert "repeats=1" in shown and "yes" in shown

    exported = tmp_path / "settings.json"
    assert main(["tune", "--export", str(exported)]) == 0
    assert main(["tune", "--clear", "--rule", "istdp"]) == 0
    assert len(cache.load_all()) == 1, "the filter was not heeded"
    assert main(["tune", "--clear"]) == 0
    assert cache.load_all() == []
    assert main(["tune", "--import", str(exported)]) == 0
    assert len(cache.load_all()) == 1


def test_a_setting_that_is_not_in_use_says_why(capsys):
    tune("--bound", "soft_bound", "--shape", "64", "--rate", "5")
    [entry] = cache.load_all()
    cache.clear()
    cache.save([entry._replace(key=entry.key._replace(torch="1.0", source="older"))])
    capsys.readouterr()
    main(["tune", "--show"])
    assert "no: another torch, source" in " ".join(capsys.readouterr().out.split())


def test_what_cannot_be_tuned_is_skipped_and_says_why(capsys):
    assert main(["tune", "--device", "cpu", "--topology", "one_to_one", "--rule", "istdp", "--shape", "64"]) == 1
    assert "skipped: istdp on one_to_one: the cpu kernel has nothing to tune" in capsys.readouterr().out
    assert tune("--dtype", "float16", "--shape", "64") == 1
    assert "float32 and float64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "shape", "kind", "weights"),
    [
        ("dense", "8", Dense, (8, 8)),
        ("dense", "8x6", Dense, (8, 6)),
        ("one_to_one", "9", OneToOne, (9,)),
        ("conv2d", "1x8x8x4x3", Conv2d, (4, 1, 3, 3)),
        ("local2d", "1x8x8x4x3", Local2d, (4, 36, 9)),
        ("sparse", "50x40x400", Sparse, None),
    ],
)
def test_shapes_stand_for_topologies(name, shape, kind, weights):
    topology = command.make_topology(name, shape)
    assert isinstance(topology, kind)
    if weights:
        assert topology.weights_shape == weights
    else:
        assert topology.weights_shape[0] == pytest.approx(400, rel=0.2)
    assert command.make_topology("one_to_one", "3x4") is None


@pytest.mark.parametrize("arguments", [["--shape", "4by4"], ["--rate", "0"], ["--rate", "often"], ["--rule", "hebb"]])
def test_what_is_not_understood_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        tune(*arguments)
    assert "error" in capsys.readouterr().err


def test_shapes_that_fit_nothing_and_half_of_an_offline_request_are_refused(capsys):
    assert tune("--shape", "3x4x5") == 2
    assert "no shape fits" in capsys.readouterr().err
    assert tune("--offline", "--shape", "64") == 2
    assert "go together" in capsys.readouterr().err


def test_a_broken_import_is_refused(tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text("[]")
    assert main(["tune", "--import", str(path)]) == 1
    assert "holds no exported settings" in capsys.readouterr().err
    assert main(["tune", "--import", str(tmp_path / "nowhere.json")]) == 1


def test_an_interrupted_sweep_keeps_what_is_done(monkeypatch, capsys):
    real, calls = command.tune, []

    def interrupted(*arguments, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(real(*arguments, **options))
        return calls[0]

    monkeypatch.setattr(command, "tune", interrupted)
    tune("--bound", "soft_bound", "--shape", "64", "1000", "--rate", "5")
    assert "interrupted: 1 of 2 cases are tuned and kept" in capsys.readouterr().out
    assert len(cache.load_all()) == 1


def test_without_a_gpu_triton_configurations_are_ranked_and_marked_as_an_estimate(tmp_path):
    picture = tmp_path / "estimate.png"
    program = "import sys; from tritonstdp.cli import main; sys.exit(main())"
    run = subprocess.run(  # a process of its own: Triton's interpreter can't be turned off in this one
        [
            sys.executable, "-c", program, "tune", "--rule", "stdp", "--topology", "one_to_one",
            "--bound", "soft_bound", "--shape", "65536", "--rate", "2", "10",
            "--offline", "--target", "sm_90", "--plot", str(picture),
        ],
        capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "ESTIMATE for H100 SXM (sm_90), not measured" in run.stdout
    assert "block=512 num_warps=4 (the default)" in run.stdout
    assert "registers" in run.stdout and "occupancy" in run.stdout
    assert Path(picture).exists()
    assert cache.load_all() == [], "an estimate was kept as if it had been measured"


def test_the_interpreter_cannot_rank(capsys):
    assert tune("--offline", "--target", "sm_90", "--shape", "64", "--bound", "no_bound") == 1
    assert "TRITON_INTERPRET=1 is set" in capsys.readouterr().out
