"""What a user gets wrong is said in one line, at once; what we got wrong shows its traceback."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tritonstdp import __version__, terminal
from tritonstdp.arguments import Parser
from tritonstdp.cli import COMMANDS, main
from tritonstdp.registry import forget_choices
from tritonstdp.terminal import Progress, UserError
from tritonstdp.topology import TOPOLOGIES

WITHOUT_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
NO_FOLDER = "there is no folder 'nowhere'"

REFUSED = [
    ("", "COMMAND"),
    ("fly", "invalid choice: 'fly'"),
    ("list --fast", "unrecognized arguments: --fast"),
    # what there is
    *((f"{command} --rule none", "invalid choice: 'none'") for command in ("bench", "explain", "inspect")),
    *(
        (f"{command} --topology none", "invalid choice: 'none'")
        for command in ("bench", "explain", "inspect", "verify")
    ),
    *((f"{command} --bound none", "invalid choice: 'none'") for command in ("bench", "explain", "inspect")),
    *((f"{command} --dtype int8", "invalid choice: 'int8'") for command in ("bench", "explain", "inspect")),
    ("explain --positive-bound none", "invalid choice: 'none'"),
    ("inspect --target sm_1", "invalid choice: 'sm_1'"),
    ("demo --backend abacus", "invalid choice: 'abacus'"),
    # where
    *((f"{command} --device banana", "'banana'") for command in ("bench", "demo", "explain", "verify")),
    *((f"{command} --device meta", "meta") for command in ("bench", "demo", "explain", "verify")),
    *(pytest.param(f"{c} --device cuda", "no c", marks=WITHOUT_CUDA) for c in ("bench", "demo")),
    pytest.param("verify --device cuda", "no CUDA device here: give --device cpu", marks=WITHOUT_CUDA),
    # how long and how much
    *((f"bench --seconds {text}", "seconds above 0") for text in ("nan", "-1", "inf", "0", "soon")),
    *((f"verify --timings {text}", "seconds above 0") for text in ("nan", "-1", "inf", "soon")),
    *((f"bench --rate {text}", "above 0 and up to 1") for text in ("2", "0", "-1", "nan", "2%")),
    ("inspect --traffic 2", "above 0 and up to 1"),
    *((f"bench --threads {text}", "whole number from 1 to") for text in ("0", "-1", "1.5", "999999")),
    *((f"demo --neurons {text}", "whole number from 1 to") for text in ("0", "-1", "many")),
    *((f"demo --samples {text}", "whole number from 50 to 1797") for text in ("0", "-1", "20", "1798")),
    *((f"demo --seed {text}", "whole number from 0 to") for text in ("-1", "x", "1" * 30)),
    # shapes
    *((f"bench --shape {text}", "as 4000x4000") for text in ("4x", "0x4", "4by4", "4.0x4")),
    ("bench --shape -4x4", "--shape: expected at least one argument"),
    ("bench --shape 30x20x10", "--shape has none for dense: give N_PRExN_POST"),
    ("bench --topology sparse --shape 30x20", "none for sparse: give N_PRExN_POSTxSYNAPSES"),
    ("bench --topology conv2d --shape 30x20", "none for conv2d: give C_INxHEIGHTxWIDTHxC_OUTxKERNEL"),
    ("bench --topology dense sparse --shape 30x20", "none for sparse"),
    ("bench --shape 30x20 7", "--shape 7 fits no topology that is timed: give N_PRExN_POST"),
    ("bench --topology sparse --shape 10x10x101", "100 pairs, too few for 101 synapses"),
    ("bench --topology local2d --shape 1x4x4x1x5", "a kernel of 5 does not fit into 4 x 4"),
    ("bench --shape 1000000000x1000000000", "GiB of memory, and cpu has"),
    ("bench --topology one_to_one --shape 1000000000000", "GiB of memory, and cpu has"),
    ("bench --topology sparse --shape 1000000000000x1000000000000x9", "GiB of memory, and cpu has"),
    ("bench --topology conv2d --shape 80x400000x400000x16x5", "GiB of memory, and cpu has"),
    ("bench --topology local2d --shape 8x400000x400000x1600x5", "GiB of memory, and cpu has"),
    ("bench --rule rstdp --shape 10x10 1000000000x1000000000", "GiB of memory, and cpu has"),
    ("demo --neurons 1000000000", "GiB of memory, and cpu has"),
    # files
    ("bench --compare nowhere.json", "there is no file 'nowhere.json'"),
    ("inspect --diff nowhere.json", "there is no file 'nowhere.json'"),
    ("bench --out nowhere/rows.json", NO_FOLDER),
    ("bench --out rows.txt", "must end in .json or .csv"),
    ("verify --report nowhere/report.json", NO_FOLDER),
    ("demo --out a_file", "--out a_file can't be a folder"),
    ("demo --out a_file/pictures", "--out a_file/pictures can't be a folder"),
    # what kernels are compiled with
    ("inspect --config blocks", "blocks= is no setting"),
    ("inspect --config blocks=-4", "blocks=-4 is no setting"),
    ("inspect --config colums=4", "has no colums"),
    ("inspect --topology dense --config full_from=nan", "full_from=nan is no setting: give a share"),
    ("inspect", "TRITON_INTERPRET=1 is set"),
    ("inspect --traffic --topology trace", "give another --topology than trace"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, but for a file that is none of ours."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("Hello")
    return tmp_path


def refused(arguments: list[str], capsys) -> str:
    """The one line that refuses some arguments at once."""
    began = time.perf_counter()
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    seconds = time.perf_counter() - began
    out, err = capsys.readouterr()
    assert status == 2, err
    assert out == "" and err.startswith("tritonstdp") and err.count("\n") == 1 and len(err) < 400, err
    assert seconds < 5
    return err


@pytest.mark.parametrize(("arguments", "words"), REFUSED)
def test_what_can_not_be_had_is_one_line_at_once(arguments, words, folder, capsys):
    assert words in refused(arguments.split(), capsys)
    assert [path.name for path in folder.iterdir()] == ["a_file"]


ROW = {name: "x" for name in ("workload", "rule", "topology", "bound", "shape", "dtype", "device", "provider")}
ROW |= {"rate": 0.1, "threads": 1, "version": "", "status": "ok"}


@pytest.mark.parametrize(
    "damaged",
    ["", "{", "7", "null", '"x"', "[7]", '[{"x": 1}]', "[" * 100_000, json.dumps([{**ROW, "median_us": "long"}]),
     json.dumps([{"key": "a", "registers": "many"}]), '[{"key": 7}]', "\udcff"],
)  # fmt: skip
@pytest.mark.parametrize("command", ["bench --shape 9x9 --compare", "inspect --diff"])
def test_a_damaged_report_is_refused_before_anything_is_done(command, damaged, folder, capsys):
    (folder / "old.json").write_text(damaged, errors="surrogateescape")
    assert "old.json holds " in refused([*command.split(), "old.json"], capsys)


def test_a_report_about_something_else_is_refused(folder, capsys):
    (folder / "old.json").write_text(json.dumps([{**ROW, "provider": "tritonstdp", "median_us": 1.0}]))
    assert "no time of any workload" in refused(["bench", "--compare", "old.json"], capsys)


def test_kernels_that_a_device_lacks_are_refused(monkeypatch, capsys):
    monkeypatch.delenv("TRITON_INTERPRET")
    forget_choices()  # another test's choice, made where the interpreter was on, would serve
    assert "Triton runs on cuda" in refused(["demo", "--backend", "triton"], capsys)


def test_a_triton_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    assert "pip install triton" in refused(["inspect"], capsys)


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"tune"}))
def test_help_says_what_each_option_is(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    options = Parser()
    importlib.import_module(f"tritonstdp.commands.{command}").add_arguments(options)
    assert stop.value.code == 0
    assert [action.dest for action in options._actions if not action.help] == []
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(), ("--shape", "30", "20x30", "20x30x50", "1x9x9x2x3")])
def test_bench_gives_each_shape_to_the_topologies_of_its_form(shape, monkeypatch, capsys):
    from tritonstdp.commands import bench

    timed = []
    monkeypatch.setattr(bench, "measure", lambda workload, *rest: timed.append(workload.shape_text) or [])
    monkeypatch.setattr(bench, "torch_providers", dict)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    every = ["one_to_one", "dense", "sparse", "conv2d", "local2d"]
    assert main(["bench", "--rate", "0.1", "--topology", *every, *shape]) == 0
    usual = [sizes for name in every for sizes in TOPOLOGIES[name].examples.timed[-2:]]
    wanted = [*shape[1:], shape[-1]] if shape else ["x".join(map(str, sizes)) for sizes in usual]
    assert timed == wanted


def test_explain_asks_about_devices_that_are_not_here_and_about_two_bounds(capsys):
    assert main(["explain", "--device", "cuda", "--positive-bound", "soft_bound"]) == 0
    assert "on cuda: triton" in capsys.readouterr().out


def test_list_fits_a_screen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    words = " ".join(lines)
    assert all(word in words for word in ("rstdp", "tau_c", "one_to_one", "soft_bound", "triton", "reference"))


# what is not an argument


def broken(monkeypatch, error: BaseException) -> None:
    def run(arguments):
        raise error

    monkeypatch.setattr("tritonstdp.commands.list.run", run)


def test_an_interrupt_is_one_line(monkeypatch, capsys):
    broken(monkeypatch, KeyboardInterrupt())
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "tritonstdp list: interrupted\n"


@pytest.mark.parametrize("fault", [RuntimeError("a fault"), ValueError("a fault"), OSError("a fault")])
def test_a_fault_of_ours_is_not_hidden(fault, monkeypatch):
    broken(monkeypatch, fault)
    with pytest.raises(type(fault), match="a fault"):
        main(["list"])


def test_what_is_asked_in_vain_is_one_line(monkeypatch, capsys):
    broken(monkeypatch, UserError("not today"))
    assert main(["list"]) == 2
    assert capsys.readouterr().err == "tritonstdp list: not today\n"


def process(*arguments: str, **options) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tritonstdp", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, **options)


def test_the_package_runs_as_a_module_and_says_its_version():
    out, err = process("--version").communicate()
    assert (out, err) == (f"tritonstdp {__version__}\n", "")


@pytest.mark.parametrize("arguments", [["list"], ["explain"]])
def test_a_reader_that_has_gone_ends_it_quietly(arguments):
    running = process(*arguments)
    running.stdout.close()
    assert running.wait() in (0, 141)
    assert running.stderr.read() == ""
    running.stderr.close()


# progress


def test_progress_is_lines_at_a_steady_rate_where_nobody_watches(monkeypatch, capsys):
    clock = iter(range(100))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    progress = Progress("checking", ["dense", "sparse"])
    for _ in progress:
        for k in range(8):
            progress.note(f"({k} checks)")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "checking 1 of 2: dense (3 checks) (5 s)"
    assert len(lines) == 3 and "2 of 2: sparse" in lines[-1]


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=100))
    for _ in Progress("checking", ["dense", "sparse"]):
        pass
    assert "checking" in screen.getvalue() and "1/2" in screen.getvalue()


# the benchmarks

CHECKOUT = Path(__file__).resolve().parents[1]

BENCHMARKS_REFUSED = [
    ("benchmarks", "fly", "unknown part 'fly': use some of steps"),
    ("benchmarks", "--suite none", "invalid choice: 'none'"),
    ("benchmarks", "--seconds nan", "seconds above 0"),
    ("benchmarks", "--largest nan", "'nan' must be a number of synapses"),
    ("benchmarks", "--results a_file", "File exists"),
    ("benchmarks.gate", "--fast", "unrecognized arguments"),
    ("benchmarks.steps", "--threads 0", "whole number from 1 to"),
    ("benchmarks.steps", "--providers nobody", "unknown provider 'nobody': use some of"),
    ("benchmarks.steps", "--out nowhere/rows.json", NO_FOLDER),
    ("benchmarks.growth", "--largest 10", "'10' must be a number of synapses, 10000 or more"),
    ("benchmarks.networks", "z", "unknown benchmark 'z': use some of f g"),
    ("benchmarks.networks", "--seconds 0", "seconds above 0"),
    ("benchmarks.simulations", "z", "unknown simulation 'z': use some of a b"),
    ("benchmarks.simulations", "--steps 0", "whole number from 1 to"),
    ("benchmarks.tuning", "", "required: table"),
    ("benchmarks.tuning", "nowhere/table.md", NO_FOLDER),
    ("benchmarks.tuning", "table.md --side 0", "whole number from 1 to"),
]
PACKAGES = ("benchmarks", "benchmarks.networks")


@pytest.mark.parametrize(("module", "arguments", "words"), BENCHMARKS_REFUSED)
def test_benchmarks_refuse_in_one_line_too(module, arguments, words, folder, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(CHECKOUT))
    benchmark = importlib.import_module(f"{module}.__main__" if module in PACKAGES else module)
    monkeypatch.setattr(sys, "argv", [module, *arguments.split()])
    monkeypatch.setattr(f"{benchmark.__name__}.restart_pinned", lambda *arguments, **named: None, raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1) and err.startswith(f"python -m {module}: ")
    assert words in err


@pytest.mark.parametrize("module", ["benchmarks", "benchmarks.gate"])
def test_benchmarks_start_in_a_checkout(module, tmp_path):
    """Beside whatever is installed: Python puts the folder where it starts first."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
