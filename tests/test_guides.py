"""The guides' code, run as a reader would: Python blocks as one script, which prints their text blocks; then shell."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}

SHELL = f'set -e; python() {{ "{sys.executable}" "$@"; }}; tritonstdp() {{ python -m tritonstdp "$@"; }}\n'
IMPORT_CONEX = "import support; support.import_conex()\n"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_s_code_runs_and_prints_what_it_says(guide, tmp_path):
    text = GUIDES[guide]
    if "import conex" in text and importlib.util.find_spec("conex") is None:
        pytest.skip("CoNeX is not installed")
    # as in a plain process: no interpreter stands in for a GPU
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1", "TRITONSTDP_CACHE_DIR": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join((".", str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")))

    def run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    script = []
    for block in blocks(text, "python"):
        named = re.match(r"# (\w+\.py)\n", block)
        if named:  # a file of its own, which the others import
            (tmp_path / named[1]).write_text(block)
        else:
            script.append(block)
    (tmp_path / "guide.py").write_text(IMPORT_CONEX * ("import conex" in text) + "\n".join(script))
    assert run(sys.executable, "guide.py") == "".join(blocks(text, "text"))
    run("bash", "-c", SHELL + "".join(blocks(text, "sh")))
