"""Files of a user's own that register rules and bounds."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path

from tritonstdp.terminal import UserError

__all__ = ["run_module"]


def run_module(path: Path) -> None:
    """Run a Python file once, so that the rules, bounds and kernels that it registers are there.

    Parameters
    ----------
    path : Path
        The file; it is known as a module by its name, less ``.py``.

    Raises
    ------
    UserError
        If it can't be run; the message says in which line, and why.
    """
    path = path.resolve()
    name = f"tritonstdp_module_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--module {path} is no Python: give a file that ends in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"--module {path}{_line_of(error, path)}: {said}") from error


def _line_of(error: BaseException, path: Path) -> str:
    """Where in a file an error came from."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}" if error.lineno else ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
