"""Lets a checkout import whichever way it was installed: its kernels lie beside this folder, a package's in it."""

from __future__ import annotations

from pathlib import Path

import tritonstdp

_package = Path(__file__).resolve().parent
if not (_package / "kernels").is_dir() and (_package.parent / "kernels" / "compose.py").is_file():
    tritonstdp.__path__.append(str(_package.parent))
