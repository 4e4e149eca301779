"""A file of a user's own adds a rule and a bound to every command; where it fails, its line is said."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tritonstdp.modules import run_module
from tritonstdp.terminal import UserError

MINE = """
from tritonstdp import Rule, register_bound, register_rule

def on_pre(pre_spike, post_trace, pre_slow, *, a_minus):
    return pre_spike * post_trace * a_minus * pre_slow

def on_post(post_spike, pre_trace):
    return post_spike * pre_trace

def squared_bound(w, w_min, w_max, *, gain):
    return gain * (w_max - w) ** 2

register_rule(Rule("mine", on_pre, on_post))
register_bound("squared_bound", squared_bound)
"""
"""15 lines."""

COMMANDS = {
    "list": ["a_minus", "squared_bound"],
    "explain --rule mine --topology conv2d --bound squared_bound": ["mine on conv2d", "on cpu: cpu"],
    "bench --rule mine --bound squared_bound --shape 60x50 --rate 0.1 --seconds 0.05": ["mine squared_bound 60x50"],
    "inspect --rule mine --bound squared_bound --topology dense --target sm_90": ["mine"],
    "tune --rule mine --bound squared_bound --topology dense --shape 64x64 --offline --target sm_90": ["mine"],
    "verify --quick --topology one_to_one --report report.json": ["checks passed"],
}


def test_every_command_takes_a_rule_and_a_bound_from_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    script = """
        import sys
        from tritonstdp.cli import main
        for line in sys.argv[1:]:
            print("==", line, flush=True)
            print("status", main([*line.split(), "--module", "mine.py"]), flush=True)
    """
    # as a plain process would: no interpreter stands in for a GPU
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *COMMANDS],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    outputs = ran.stdout.split("== ")[1:]
    assert len(outputs) == len(COMMANDS)
    for output, (command, expected) in zip(outputs, COMMANDS.items(), strict=True):
        assert "status 0" in output, (output, ran.stderr)
        for text in expected:
            assert text in output, (command, output)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = 1 / 0\n", ", line 2: ZeroDivisionError: division by zero"),
        ("x = 1\ndef f(:\n", ", line 2: SyntaxError"),
        ("import tritonstdp as ts\n\nts.register_rule('stdp')\n", ", line 3: TypeError: 'stdp' is no Rule"),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(tmp_path, text, said):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        run_module(path)
    assert f"{path}{said}" in str(error.value)


def test_a_file_is_run_once(tmp_path):
    path = tmp_path / "counted_once.py"
    path.write_text("import builtins\nbuiltins.times = getattr(builtins, 'times', 0) + 1\n")
    import builtins

    run_module(path), run_module(path)
    assert builtins.__dict__.pop("times") == 1
