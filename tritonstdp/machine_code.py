"""Reading what Triton compiled: registers, local memory, instructions, occupancy, and accesses to global memory."""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["TARGETS", "Target", "accesses", "address_bits", "bytes_in_flight", "occupancy", "usage"]


class Target(NamedTuple):
    """A GPU to compile for, and the limits of one of its multiprocessors that bound occupancy.

    The limits are those of NVIDIA's CUDA programming guide ("Technical specifications per compute capability") and of
    AMD's CDNA3 instruction set guide.

    Attributes
    ----------
    backend, arch, warp_size
        As for ``triton.backends.compiler.GPUTarget``.
    warps, programs : int
        The most warps and programs that are resident at once.
    registers : int
        Registers for one lane of all resident warps together.
    shared, reserved : int
        Bytes of shared memory, and how many of them each program takes beyond its own.
    """

    backend: str
    arch: int | str
    warp_size: int
    warps: int
    programs: int
    registers: int
    shared: int
    reserved: int


TARGETS: dict[str, Target] = {
    "sm_80": Target("cuda", 80, 32, 64, 32, 65536 // 32, 164 * 1024, 1024),
    "sm_90": Target("cuda", 90, 32, 64, 32, 65536 // 32, 228 * 1024, 1024),
    "sm_100": Target("cuda", 100, 32, 64, 32, 65536 // 32, 228 * 1024, 1024),
    "gfx942": Target("hip", "gfx942", 64, 32, 32, 4 * 512, 64 * 1024, 0),
}
"""What ``tritonstdp inspect`` compiles for, by name."""


def occupancy(target: Target, registers: int, shared: int, num_warps: int) -> float:
    """The share of a multiprocessor's warps that can be resident at once.

    Parameters
    ----------
    target : Target
        The GPU.
    registers : int
        Registers a thread; granted in eights.
    shared : int
        Bytes of shared memory a program.
    num_warps : int
        Warps a program.

    Returns
    -------
    float
        Between 0 and 1.

    Examples
    --------
    >>> occupancy(TARGETS["sm_90"], registers=32, shared=0, num_warps=4)
    1.0
    >>> occupancy(TARGETS["sm_90"], registers=64, shared=0, num_warps=4)
    0.5
    """
    granted = max(8, -(-registers // 8) * 8)
    # a multiprocessor has four schedulers, each with a quarter of the registers
    warps = min(target.warps, target.registers // 4 // granted * 4)
    programs = min(target.programs, warps // num_warps)
    if shared:
        programs = min(programs, target.shared // (shared + target.reserved))
    return programs * num_warps / target.warps


def usage(compiled: Any) -> dict[str, Any]:
    """Registers and local memory a thread, spills, instructions, and how much a thread waits for at once.

    Parameters
    ----------
    compiled : triton.compiler.CompiledKernel
        The compiled kernel.

    Returns
    -------
    dict of str to int or None
        ``registers``; ``local``: bytes of stack or scratch; ``spills``: instructions that reach local memory (on AMD:
        registers spilled); ``instructions``: machine instructions; ``in_flight``: see :func:`bytes_in_flight` (None on
        AMD).
    """
    return _nvidia_usage(compiled.asm["cubin"]) if "cubin" in compiled.asm else _amd_usage(compiled.asm["amdgcn"])


def _nvidia_usage(cubin: bytes) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        resources = _run_tool("cuobjdump", "-res-usage", str(path))
        code = _run_tool("nvdisasm", "-c", str(path))
    used = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", resources)}
    operations = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", code, re.MULTILINE)
    # behind the last exit, the code is padded
    padding = sum(1 for _ in itertools.takewhile(lambda operation: operation in ("NOP", "BRA"), reversed(operations)))
    return {
        "registers": used["REG"],
        "local": used["STACK"] + used["LOCAL"],
        "spills": sum(operation.startswith(("LDL", "STL")) for operation in operations),
        "instructions": len(operations) - padding,
        "in_flight": bytes_in_flight(code),
    }


_LOAD = re.compile(r"\bLDG\.E(?:\.(?P<width>[US]8|[US]16|64|128))?\S* R(?P<register>\d+),")
_LOADED_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, None: 4, "64": 8, "128": 16}


def bytes_in_flight(code: str) -> int:
    """The most bytes of global memory that a thread has asked for before it reads any of their registers.

    PTX does not tell: ``ptxas`` moves loads behind what does not need them, so that one waits for another.

    Parameters
    ----------
    code : str
        NVIDIA's machine code as ``nvdisasm`` writes it, which is taken in the order in which it stands.

    Returns
    -------
    int
        The bytes.

    Examples
    --------
    >>> bytes_in_flight("LDG.E.128 R4, desc[UR4][R2.64] ; LDG.E R8, desc[UR4][R2.64+0x10] ; FADD R9, R4, R8 ;")
    20
    >>> bytes_in_flight("LDG.E.128 R4, desc[UR4][R2.64] ; FADD R9, R4, R4 ; LDG.E R8, desc[UR4][R2.64+0x10] ;")
    16
    """
    waiting: dict[int, int] = {}
    most = 0
    for instruction in code.split(";"):
        named = {int(register) for register in re.findall(r"\bR(\d+)\b", instruction)}
        if not named.isdisjoint(waiting):
            waiting = {register: nbytes for register, nbytes in waiting.items() if register not in named}
        if load := _LOAD.search(instruction):
            first, nbytes = int(load["register"]), _LOADED_BYTES[load["width"]]
            waiting |= {first + k: min(nbytes, 4) for k in range(-(-nbytes // 4))}
            most = max(most, sum(waiting.values()))
    return most


def _run_tool(name: str, *arguments: str) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([str(tool), *arguments], capture_output=True, text=True, check=True).stdout


def _amd_usage(code: str) -> dict[str, Any]:
    named = {name: int(n) for name, n in re.findall(r"^\s*-?\s*\.(\w+):\s+(\d+)$", code, re.MULTILINE)}
    body = code.split(".Lfunc_end0")[0]
    return {
        "registers": named["vgpr_count"],
        "local": named["private_segment_fixed_size"],
        "spills": named["vgpr_spill_count"] + named["sgpr_spill_count"],
        "instructions": len(re.findall(r"^\t(?:s|v|ds|global|buffer|flat|scratch)_\w+", body, re.MULTILINE)),
        "in_flight": None,
    }


_BITS = {"half": 16, "bfloat": 16, "float": 32, "double": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64}
_ACCESS = re.compile(
    r"(?P<ptx>ld|st)\.global[\w:.]*?(?:\.v(?P<ptx_n>\d))?\.b(?P<ptx_type>\d+) "
    r"|raw\.ptr\.buffer\.(?P<buffer>load|store)\.(?:v(?P<buffer_n>\d+))?(?P<buffer_type>\w+)\("
    r"|(?P<plain>\bload|\bstore) (?:volatile )?(?:<(?P<plain_n>\d+) x )?(?P<plain_type>\w+)>?.*ptr addrspace\(1\)"
)
_ADDRESS = re.compile(r"ptr addrspace\([18]\) (%[-\w.]+)")
_REGISTER = re.compile(r"%[-\w.]+")

Widths = dict[str, dict[int, int]]


def accesses(compiled: Any) -> dict[str, Widths]:
    """Count a kernel's accesses to global memory by buffer and width, from its optimised LLVM code.

    An access belongs to the parameter that its address is computed from, not counting what was loaded on the way.

    Parameters
    ----------
    compiled : triton.compiler.CompiledKernel
        The compiled kernel.

    Returns
    -------
    dict
        ``loads`` and ``stores``: for each buffer, a parameter's name without ``_ptr`` (``pre[0]`` is the first of a
        tuple), how many instructions access it at each width in bits. The compiler may join what is narrow here, and
        never splits.
    """
    kernel = compiled.asm["llir"].split("\ndefine ", 1)[1]
    header, body = kernel.split("{\n", 1)
    buffer_of = dict(zip(re.findall(r"(%[\w.]+)[,)]", header), _pointers(compiled), strict=False))
    sources: dict[str, list[str]] = {}
    found: Counter[tuple[str, str, int]] = Counter()
    for line in body.splitlines():
        result, _, value = line.strip().rpartition(" = ")
        access = _ACCESS.search(value)
        address = _ADDRESS.search(value)
        if access is None or address is None:
            sources[result] = _REGISTER.findall(value)
            continue
        form = next(name for name in ("ptx", "buffer", "plain") if access[name])
        kind = "loads" if access[form] in ("ld", "load") else "stores"
        width = int(access[f"{form}_n"] or 1) * _bits(access[f"{form}_type"])
        buffers = {buffer_of.get(register) for register in _origins(address[1], sources)} - {None, ""}
        found.update((kind, str(buffer), width) for buffer in buffers or {"?"})
    figures: dict[str, Widths] = {"loads": {}, "stores": {}}
    for (kind, buffer, width), n in sorted(found.items()):
        figures[kind].setdefault(buffer, {})[width] = n
    return figures


def _pointers(compiled: Any) -> list[str]:
    """The names of the run-time parameters, in order; "" for those that do not point. Tuples are passed one by one."""
    signature = compiled.src.signature.items()
    flat = [part for name, kind in signature for part in _parts(name.removesuffix("_ptr"), kind)]
    return [name if str(kind).startswith("*") else "" for name, kind in flat if kind != "constexpr"]


def _parts(name: str, kind: Any) -> Iterator[tuple[str, Any]]:
    """What a parameter is passed as, each with a name: of a tuple, its entries, and theirs."""
    if not isinstance(kind, tuple):
        yield name, kind
        return
    for k, part in enumerate(kind):
        yield from _parts(f"{name}[{k}]", part)


def _bits(name: str) -> int:
    return _BITS[name] if name in _BITS else int(name.removeprefix("i"))


def _origins(register: str, sources: dict[str, list[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [register]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += sources.get(name, [])
    return seen


_OFFSET = re.compile(r"tt\.addptr .*, (?:tensor<[\dx]*)?i(\d+)>? loc")
_FROM_POINTER = re.compile(r"tt\.(?:addptr|splat|broadcast|expand_dims) (%[\w#]+)")


def address_bits(compiled: Any, buffers: tuple[str, ...]) -> int:
    """The width of the narrowest integer that is added to a pointer to any of some buffers; 0 where none is.

    Parameters
    ----------
    compiled : triton.compiler.CompiledKernel
        The compiled kernel.
    buffers : tuple of str
        Names of parameters, without ``_ptr``.

    Returns
    -------
    int
        Bits: 64 where every offset can pass 2**31 elements.
    """
    pointers = {f"%{name}_ptr" for name in buffers}
    bits = []
    for line in compiled.asm["ttir"].splitlines():
        result, _, operation = line.strip().partition(" = ")
        source = _FROM_POINTER.match(operation)
        if source is None or source[1] not in pointers:
            continue
        pointers.add(result)
        offset = _OFFSET.match(operation)
        if offset is not None:
            bits.append(int(offset[1]))
    return min(bits, default=0)
