"""``tritonstdp tune`` sweeps what fits its filters, shows what it found, and looks after the cache."""

from __future__ import annotations

import functools
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock

from tritonstdp import Dense, OneToOne, registry, storage
from tritonstdp.arguments import shape
from tritonstdp.autotune import busy, cache, plan
from tritonstdp.cli import main
from tritonstdp.commands import tune as command
from tritonstdp.registry import register_kernel, serving_entry
from tritonstdp.terminal import free_bytes
from tritonstdp.topology import TOPOLOGIES, Conv2d, Local2d, Sparse


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
    monkeypatch.setattr(busy, "cpu_share", lambda threads: 1.0)
    monkeypatch.setattr(storage, "_warned", set())
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
    assert tune(*bounds, "--shape", "64", "1000", "--rate", "0.02", "0.1", "--plot", str(picture)) == 0
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
    assert all(e.measured["rates"] == [0.02, 0.1] for e in kept)
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000


def test_what_is_kept_can_be_shown_exported_cleared_and_imported(capsys, tmp_path):
    tune("--bound", "soft_bound", "--shape", "64", "--rate", "0.05")
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


@pytest.mark.parametrize(
    ("topology", "size"),
    [
        ("dense", "64x48"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("sparse", "50x40x400"), ("conv2d", "1x8x8x4x3"), ("local2d", "1x8x8x4x3"))
        ),
    ],
)
def test_propagation_is_tuned_under_its_name_once_whatever_the_bound(topology, size, capsys):
    case = ("--rule", "propagation", "--topology", topology)
    bounds = ("--bound", "soft_bound", "no_bound")
    assert main(["tune", "--device", "cpu", *case, *bounds, "--shape", size, "--seconds", "0.1"]) == 0
    [entry] = cache.load_all()
    assert entry.key[:6] == ("propagation", topology, "cpu", "no_bound", "no_bound", False)
    capsys.readouterr()
    assert main(["tune", "--show", "--rule", "propagation"]) == 0
    assert "yes" in capsys.readouterr().out
    assert main(["tune", "--clear", "--rule", "propagation"]) == 0
    assert cache.load_all() == []


def test_a_setting_that_is_not_in_use_says_why(capsys):
    tune("--bound", "soft_bound", "--shape", "64", "--rate", "0.05")
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
    ("name", "text", "kind", "weights"),
    [
        ("dense", "8x6", Dense, (8, 6)),
        ("one_to_one", "9", OneToOne, (9,)),
        ("conv2d", "1x8x8x4x3", Conv2d, (4, 1, 3, 3)),
        ("local2d", "1x8x8x4x3", Local2d, (4, 36, 9)),
        ("sparse", "50x40x400", Sparse, (400,)),
    ],
)
def test_shapes_stand_for_topologies(name, text, kind, weights):
    topology = TOPOLOGIES[name].of_sizes(shape(text))
    assert isinstance(topology, kind)
    assert topology.weights_shape == weights
    assert TOPOLOGIES[name].needs(shape(text))[:2] == (
        math.prod(weights), topology.pre_shape[0] + topology.post_shape[0]
    )  # fmt: skip


def refused(arguments, capsys):
    """What a command that can't be carried out says, on one line and before any time is spent."""
    capsys.readouterr()
    try:
        status = main(["tune", *arguments])
    except SystemExit as left:  # argparse prints its usage before that line
        status = left.code
    printed = capsys.readouterr()
    assert status == 2 and printed.out == ""
    *usage, message = printed.err.strip().splitlines()
    assert "Traceback" not in printed.err and all(line.startswith(("usage:", "  ")) for line in usage)
    return message


@pytest.fixture
def no_time_is_spent(monkeypatch):
    for module, name in ((command, "tune"), (command, "tuning_case"), (plan, "tuning_case")):
        monkeypatch.setattr(module, name, lambda *arguments, **options: pytest.fail("time was spent"))


@pytest.mark.usefixtures("no_time_is_spent")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "4by4"], "as 4000x4000"),
        (["--shape", "0"], "as 4000x4000"),
        (["--rate", "0"], "the fraction of neurons"),
        (["--rate", "2"], "2 % is 0.02"),
        (["--rate", "10%"], "the fraction of neurons"),
        (["--rate", "often"], "the fraction of neurons"),
        (["--seconds", "nan"], "seconds above 0"),
        (["--seconds", "-1"], "seconds above 0"),
        (["--device", "abacus"], "abacus"),
        (["--device", "cpu:7"], "cpu:7"),
        (["--rule", "hebb"], "hebb"),
        (["--bound", "rubber"], "rubber"),
        (["--topology", "torus"], "torus"),
        (["--dtype", "int8"], "int8"),
        (["--import", "nowhere.json"], "there is no file"),
        (["--import", "."], "no regular file"),
        (["--export", "nowhere/settings.json"], "there is no folder"),
        (["--plot", "nowhere/landscape.png"], "there is no folder"),
        (["--offline"], "go together"),
        (["--target", "sm_90"], "go together"),
        (["--topology", "dense", "--shape", "1000000x1000000"], "GiB of memory"),
        (["--topology", "sparse", "--shape", "1000000x1000000x1000000000000"], "GiB of memory"),
        (["--topology", "one_to_one", "--shape", "1000000000000"], "GiB of memory"),
        (["--topology", "conv2d", "--shape", "1000x100000x100000x1000x5"], "GiB of memory"),
        (["--topology", "local2d", "--shape", "64x1000x1000x64x5"], "GiB of memory"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_before_any_time_is_spent(arguments, message, capsys):
    assert message in refused(["--device", "cpu", *arguments], capsys)


@pytest.mark.parametrize(
    ("topology", "shape"), [("one_to_one", "3x4x5"), ("dense", "3x4x5"), ("conv2d", "1x8x8x4x9"), ("local2d", "1x8"),
                            ("sparse", "3")],
)  # fmt: skip
def test_a_shape_that_fits_nothing_is_refused(topology, shape, capsys):
    assert "no shape fits" in refused(["--device", "cpu", "--topology", topology, "--shape", shape], capsys)


def test_a_plot_without_matplotlib_is_refused(monkeypatch, capsys, tmp_path, no_time_is_spent):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'tritonstdp[plot]'" in refused(["--plot", str(tmp_path / "x.png")], capsys)


def test_a_broken_import_is_refused(tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text("[]")
    assert "holds no exported settings" in refused(["--import", str(path)], capsys)


def test_own_shapes_that_memory_has_no_room_for_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(plan, "free_bytes", lambda device: 2**20)
    tune("--bound", "no_bound")
    assert {entry.key.synapses for entry in cache.load_all()} == {4**6}


def test_free_memory_is_known():
    assert 2**20 < free_bytes("cpu") < 2**60


def test_settings_of_every_dtype_and_bound_are_looked_after(capsys):
    tune("--bound", "soft_bound", "--shape", "64", "--rate", "0.05")
    [entry] = cache.load_all()
    cache.save([entry._replace(key=entry.key._replace(dtype="float64", positive_bound="[/]", topology="torus"))])
    capsys.readouterr()
    assert main(["tune", "--show"]) == 0
    assert "[/]" in capsys.readouterr().out
    assert main(["tune", "--clear"]) == 0
    assert cache.load_all() == []


def test_a_busy_machine_ends_a_sweep_with_what_was_kept_before(monkeypatch, capsys):
    shares = [0.5, *[1.0] * 3]
    monkeypatch.setattr(busy, "cpu_share", lambda threads: shares.pop())
    monkeypatch.setattr(command, "tune", functools.partial(command.tune, patience=0.0))
    assert tune("--bound", "soft_bound", "--shape", "64", "1000", "--rate", "0.05") == 1
    printed = capsys.readouterr()
    [line] = [line for line in printed.err.splitlines() if line.startswith("tritonstdp tune:")]
    assert "the machine is busy" in line and "tune again" in line
    assert "kept in" in printed.out
    assert {entry.key.synapses for entry in cache.load_all()} == {64}


def test_a_case_that_fails_is_said_and_the_others_go_on(monkeypatch, capsys):
    real = command.tune

    def failing(formula, topology, **options):
        if topology.n == 64:
            raise RuntimeError("out of memory")
        return real(formula, topology, **options)

    monkeypatch.setattr(command, "tune", failing)
    assert tune("--bound", "soft_bound", "--shape", "64", "1000", "--rate", "0.05") == 1
    assert "tritonstdp tune: failed: stdp one_to_one 64 soft_bound: out of memory" in capsys.readouterr().err
    assert {entry.key.synapses for entry in cache.load_all()} == {1024}


def test_a_cache_that_cannot_be_written_is_said_before_any_time_is_spent(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRITONSTDP_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(command, "tune", lambda *arguments, **options: pytest.fail("time was spent"))
    assert tune("--bound", "soft_bound", "--shape", "64") == 1
    assert capsys.readouterr().err.startswith("tritonstdp tune: [Errno")


def test_a_lock_that_another_process_holds_ends_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.1)
    tune("--bound", "soft_bound", "--shape", "64", "--rate", "0.05")
    [entry] = cache.load_all()
    path = cache.path_of(entry.key.device)
    capsys.readouterr()
    with FileLock(path.with_suffix(".lock")):
        assert main(["tune", "--show"]) == 0
        assert main(["tune", "--clear"]) == 1
        assert "is held by another process" in capsys.readouterr().err
        assert tune("--bound", "soft_bound", "--shape", "1000", "--rate", "0.05") == 1, "nothing was kept"
    assert len(cache.load_all()) == 1


def test_an_interrupted_sweep_keeps_what_is_done(monkeypatch, capsys):
    real, calls = command.tune, []

    def interrupted(*arguments, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(real(*arguments, **options))
        return calls[0]

    monkeypatch.setattr(command, "tune", interrupted)
    tune("--bound", "soft_bound", "--shape", "64", "1000", "--rate", "0.05")
    assert "interrupted: 1 of 2 cases are tuned and kept" in capsys.readouterr().out
    assert len(cache.load_all()) == 1


def test_without_a_gpu_triton_configurations_are_ranked_and_marked_as_an_estimate(tmp_path):
    picture = tmp_path / "estimate.png"
    program = "import sys; from tritonstdp.cli import main; sys.exit(main())"
    run = subprocess.run(  # a process of its own: Triton's interpreter can't be turned off in this one
        [
            sys.executable, "-c", program, "tune", "--rule", "stdp", "--topology", "one_to_one",
            "--bound", "soft_bound", "--shape", "65536", "--rate", "0.02", "0.1",
            "--offline", "--target", "sm_90", "--plot", str(picture),
        ],
        capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "ESTIMATE for H100 SXM (sm_90), not measured" in run.stdout
    assert "block=256 num_warps=4 (the default)" in run.stdout
    assert "registers" in run.stdout and "occupancy" in run.stdout
    assert Path(picture).exists()
    assert cache.load_all() == [], "an estimate was kept as if it had been measured"


def test_the_interpreter_cannot_rank(capsys):
    assert tune("--offline", "--target", "sm_90", "--shape", "64", "--bound", "no_bound") == 1
    assert "TRITON_INTERPRET=1 is set" in capsys.readouterr().out
