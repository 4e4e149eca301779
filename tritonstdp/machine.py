"""What figures and tuned settings depend on besides the code: processor, devices, systems and versions."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["affinity", "device_name", "driver", "machine", "processor", "version_of"]


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code: processor, cores, systems and versions.

    Examples
    --------
    >>> sorted(machine())[:3]
    ['affinity', 'cores', 'cpu']
    """
    facts = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "affinity": affinity(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    for package in ("tritonstdp", "torch", "triton", "numba", "numpy"):
        facts[package] = version_of(package)
    return facts


def affinity() -> int | None:
    """How many cores this process may run on, where the system says.

    Examples
    --------
    >>> affinity() != 0
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


@cache
def version_of(package: str) -> str:
    """The installed version of a package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def device_name(kind: str) -> str:
    """The device as its maker calls it; a CPU with the number of threads that torch uses.

    Examples
    --------
    >>> device_name("cpu").endswith((" thread", " threads"))
    True
    """
    if kind != "cpu":
        backend = getattr(torch, kind)
        return backend.get_device_name() if backend.is_available() else f"no {kind} device"
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"


@cache
def processor() -> str:
    """The processor as its maker calls it."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return models[0] if models else platform.processor() or platform.machine()


@cache
def driver(kind: str) -> str:
    """What compiles for a device, or drives it, with its version."""
    if kind == "cpu":
        return f"llvmlite {version_of('llvmlite')}"
    if kind == "xpu":
        return torch.xpu.get_device_properties().driver_version
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    loaded = Path("/proc/driver/nvidia/version")
    found = re.search(r"\d+\.\d+(\.\d+)?", loaded.read_text()) if loaded.exists() else None
    return f"NVIDIA {found.group()}" if found else f"CUDA {torch.version.cuda}"
