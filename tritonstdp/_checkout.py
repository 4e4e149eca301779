"""Lets a checkout import whichever way it was installed: its kernels lie beside this folder, a package's in it."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_package = Path(__file__).resolve().parent
_kernels = _package.parent / "kernels"
if not (_package / "kernels").is_dir() and (_kernels / "compose.py").is_file():
    _spec = spec_from_file_location("tritonstdp.kernels", _kernels / "__init__.py")
    assert _spec is not None and _spec.loader is not None
    _module = module_from_spec(_spec)
    vars(sys.modules["tritonstdp"])["kernels"] = sys.modules["tritonstdp.kernels"] = _module
    _spec.loader.exec_module(_module)
