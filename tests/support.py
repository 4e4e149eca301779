"""What tests and benchmarks share to drive CoNeX and PymoNNtorch."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


def import_conex() -> Any:
    """Import CoNeX, which asks for torchvision without declaring it and uses it in one image transform only."""
    try:
        import conex
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("torchvision"):
            raise
        parent = None
        for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
            module = sys.modules[name] = ModuleType(name)
            if parent is not None:
                setattr(parent, name.rpartition(".")[2], module)
            parent = module
        import conex
    return conex
