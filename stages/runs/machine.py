"""What a stage runs on, as its record has it: processor, GPU, threads, variables, packages. No host, user or path."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

# What libraries read from the environment and may end in other bytes by: how many threads share a sum, and which of
# their kernels run.
DECIDING = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS", "MKL_NUM_THREADS", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES",
    "NVIDIA_TF32_OVERRIDE", "OMP_DYNAMIC", "OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OPENCV_CPU_DISABLE", "OPENCV_IPP",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)  # fmt: skip
# These change how long it takes, and no byte.
OF_SPEED = ("GOMP_SPINCOUNT", "KMP_AFFINITY", "KMP_BLOCKTIME", "OMP_PLACES", "OMP_PROC_BIND", "OMP_WAIT_POLICY")
LONGEST = 64  # letters of a variable's value: what is longer is none of theirs


def variables(names: Iterable[str]) -> dict[str, str]:
    """Those of the variables that are set."""
    return {name: os.environ[name][:LONGEST] for name in names if name in os.environ}


def processor() -> str:
    """The CPU's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    for line in lines:
        if line.startswith(("model name", "CPU part")):
            return line.partition(":")[2].strip()
    return platform.processor()


def accelerator() -> str | None:
    """The GPU's name, where this process has computed on one."""
    torch = _computed_on_gpu()
    return torch.cuda.get_device_name() if torch else None


def driver() -> dict[str, str] | None:
    """The versions of the GPU's driver and of CUDA and cuDNN, where this process has computed on one."""
    torch = _computed_on_gpu()
    if not torch:
        return None
    said = Path("/proc/driver/nvidia/version")
    found = re.search(r"\d+\.\d+(\.\d+)?", said.read_text()) if said.exists() else None
    versions = {"nvidia": found and found[0], "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {name: str(version) for name, version in versions.items() if version}


def _computed_on_gpu() -> Any:
    torch = sys.modules.get("torch")  # a stage without torch does not pay for its import
    return torch if torch and torch.cuda.is_initialized() else None


def threads() -> dict[str, int | None]:
    """How many threads libraries take, beside torch's own for one operation; None for one that was not imported."""
    torch, cv2 = sys.modules.get("torch"), sys.modules.get("cv2")
    return {
        "between_operations": torch.get_num_interop_threads() if torch else None,
        "opencv": cv2.getNumThreads() if cv2 else None,
    }


def packages() -> dict[str, Any]:
    """`imported`: version by name of the packages of which this process has imported a module; `installed`: sha256 of
    the list of all packages, a sorted line NAME-VERSION each, as their folders are called.

    Not by `importlib.metadata.packages_distributions`, which reads every file list and takes 0.2 s.
    """
    modules = {name.partition(".")[0] for name in list(sys.modules)}
    installed, imported = set(), {}
    for found in metadata.distributions():
        folder = Path(str(getattr(found, "_path", "")))  # `name` and `version` would read and parse a file of each
        name, _, version = folder.stem.partition("-")
        if folder.suffix != ".dist-info" or not version:
            continue
        installed.add(folder.stem)
        tops = (found.read_text("top_level.txt") or name.replace(".", "_")).split()
        if modules.intersection(tops) or name.lower() in modules:
            imported[name] = version
    lines = "".join(f"{line}\n" for line in sorted(installed))
    return {"imported": imported, "installed": hashlib.sha256(lines.encode()).hexdigest()}
