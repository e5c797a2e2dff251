"""Which vector units torch's libraries may use: `runtime.kernels`, a parameter, since it changes a training's bytes.

By itself torch takes what the CPU has: oneDNN's convolutions depend on the instruction set, MKL's matrix products on
the CPU's model, a few of torch's own kernels (ATen) on the instruction set. `portable` holds all three to what every
x86-64 CPU with AVX2 and FMA has, so that such CPUs end in the same bytes; with AVX-512 a step then takes longer.
The libraries read their settings once, at the latest at their first use.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from stages.runs.errors import InputError

# MKL's "compatible" branch is the one that it has for every CPU.
PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
NEEDED = {"avx2", "fma"}  # by `portable`

# Of a CPU's features (as /proc/cpuinfo names them) those that the libraries choose their code by.
FEATURES = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl",
            "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
            "asimd", "bf16", "i8mm", "sve", "sve2")  # fmt: skip
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # hardware for bfloat16


def choose(kernels: str) -> None:
    """Hold torch's libraries to `kernels` (`portable` or `native`), in this process and in those that it starts.

    To be called before torch is imported. On a CPU that lacks what `portable` needs nothing is held, and one line on
    standard error says that the bytes are this CPU's own. `native` leaves the three variables as they are: set by hand
    they stand for another CPU, and the record names them. Raises InputError where torch was imported without them.
    """
    if kernels == "native" or all(os.environ.get(name) == value for name, value in PORTABLE.items()):
        return
    if lacking := NEEDED - features():
        print(
            f"runtime.kernels: portable: this CPU ({platform.machine()}) is not known to have "
            f"{' and '.join(sorted(lacking))}: it computes in its own way, and trainings end in bytes of their own",
            file=sys.stderr,
        )
        return
    if "torch" in sys.modules:
        raise InputError(
            "runtime.kernels: portable must be set before torch is imported: run the stage by its command, or set "
            + " ".join(f"{name}={value}" for name, value in PORTABLE.items())
        )
    os.environ.update(PORTABLE)


@cache
def features() -> frozenset[str]:
    """Those of `FEATURES` that this machine's CPU has; none where the system does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith(("flags", "Features")):
            return frozenset(FEATURES).intersection(line.split())
    return frozenset()


def slow_precision(device: str, precision: str, kernels: str, gpu_has_it: bool = True) -> str | None:
    """One line about a precision that the machine has no hardware for, or does not use it; None where all is well.

    `gpu_has_it` tells whether the GPU, where `device` is one, computes in bfloat16.
    """
    if precision != "bf16" or (gpu_has_it and device != "cpu"):
        return None
    limited = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX", "AVX2")
    if device != "cpu":
        why = f"{device}: no hardware for it"
    elif not features() & BF16:
        why = "this CPU has no hardware for it"
    elif kernels == "portable" and features() >= NEEDED:
        why = "kernels: portable leaves this CPU's hardware for it unused"
    elif limited:
        why = "ONEDNN_MAX_CPU_ISA leaves this CPU's hardware for it unused"
    else:
        return None
    return (
        f"runtime.precision: bf16 is far slower than fp32 here, on CPUs over ten times ({why}); "
        "set precision: fp32 in section `runtime` of params.yaml"
    )


def held(used: Mapping[str, Any]) -> bool:
    """Whether what `in_use` says was portable kernels."""
    return (used.get("torch"), used.get("onednn"), used.get("mkl")) == ("AVX2", "AVX2", "COMPATIBLE")


def in_use() -> dict[str, Any]:
    """What this process lets torch's libraries use: of what its arithmetic depends on, beside the CPU itself.

    `torch` (ATen's instruction set) and `threads` are None where torch was not imported; `onednn` and `mkl` are the
    limits they were given, `native` for none.
    """
    torch = sys.modules.get("torch")  # a stage without torch does not pay for its import
    return {
        "torch": torch.backends.cpu.get_cpu_capability() if torch else None,
        "onednn": os.environ.get("ONEDNN_MAX_CPU_ISA", "native"),
        "mkl": os.environ.get("MKL_CBWR", "native"),
        "threads": torch.get_num_threads() if torch else None,
    }
