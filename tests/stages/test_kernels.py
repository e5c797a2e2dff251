"""`runtime.kernels`: what a process lets torch use, and the same training bytes on every CPU with AVX2."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import forked
import pytest

from stages.runs import kernels, params, record
from stages.runs.errors import InputError
from stages.runs.params import Runtime

ROOT = Path(__file__).parents[2]
HELD = pytest.mark.skipif(not kernels.features() >= kernels.NEEDED, reason="this CPU has no AVX2 and FMA")

# Without what the test run itself may have been given.
CLEAN = {name: value for name, value in os.environ.items() if name not in kernels.PORTABLE}


def python(code: str, interpreter: str = sys.executable, **more: str) -> subprocess.CompletedProcess[str]:
    line = [interpreter, "-c", code]
    return subprocess.run(line, cwd=ROOT, env={**CLEAN, **more}, capture_output=True, text=True, check=False)


@HELD
def test_portable_holds_torch_and_the_processes_that_are_started() -> None:
    answer = python(
        "from stages.runs import kernels; kernels.choose('portable'); import torch, json, subprocess, sys\n"
        "below = subprocess.check_output([sys.executable, '-c',"
        " 'import torch; print(torch.backends.cpu.get_cpu_capability())'], text=True)\n"
        "print(json.dumps([kernels.in_use(), below.strip()]))"
    )
    used, below = json.loads(answer.stdout)
    assert used == {"torch": "AVX2", "onednn": "AVX2", "mkl": "COMPATIBLE", "threads": used["threads"]}
    assert below == "AVX2"


def test_native_holds_nothing() -> None:
    answer = python("from stages.runs import kernels; kernels.choose('native'); print(kernels.in_use())")
    assert answer.stdout.strip() == "{'torch': None, 'onednn': 'native', 'mkl': 'native', 'threads': None}"


@HELD
def test_portable_after_torch_was_imported_is_refused() -> None:
    answer = python(
        "import torch\nfrom stages.training.device import prepare\nfrom stages.runs.params import Runtime\n"
        "prepare(Runtime(kernels='portable'))",
        forked.python(),
    )
    assert answer.returncode == 1
    assert "InputError: runtime.kernels: portable must be set before torch is imported" in answer.stderr
    answer = python(
        "import torch\nfrom stages.training.device import prepare\nfrom stages.runs.params import Runtime\n"
        "print(prepare(Runtime(kernels='portable')))\n"
        "for _ in range(2): prepare(Runtime(kernels='portable', precision='bf16'))",
        forked.python(),
        **kernels.PORTABLE,
    )
    assert answer.stdout.strip() == "cpu", "unless the environment holds it already"
    assert answer.stderr.count("runtime.precision: bf16 is far slower than fp32 here") == 1, "it says so once"


def test_a_cpu_without_avx2_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for name in kernels.PORTABLE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(kernels, "features", lambda: frozenset({"sse4_2"}))
    kernels.choose("portable")
    assert not set(kernels.PORTABLE) & set(os.environ)
    assert "this CPU" in (said := capsys.readouterr().err)
    assert "is not known to have avx2 and fma" in said
    assert said.count("\n") == 1


def test_another_word_is_refused() -> None:
    with pytest.raises(InputError, match=r"runtime\.kernels: input should be 'native' or 'portable'"):
        params.build(Runtime, {"kernels": "fast"}, "runtime")


@pytest.mark.parametrize(
    ("features", "runtime", "gpu", "why"),
    [
        ({"avx512_bf16"}, {"precision": "bf16"}, True, None),
        ({"amx_bf16"}, {"precision": "bf16"}, True, None),
        ({"avx512f"}, {"precision": "bf16"}, True, "this CPU has no hardware for it"),
        (
            {"avx512_bf16", "avx2", "fma"},
            {"precision": "bf16", "kernels": "portable"},
            True,
            "kernels: portable leaves",
        ),
        ({"avx2"}, {"precision": "fp32"}, True, None),
        ({"avx2"}, {"precision": "bf16", "device": "cuda"}, True, None),
        ({"avx512_bf16"}, {"precision": "bf16", "device": "cuda"}, False, "cuda: no hardware for it"),
    ],
)
def test_a_precision_without_hardware_is_named(
    features: set[str], runtime: dict, gpu: bool, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(kernels, "features", lambda: frozenset(features))
    given = params.build(Runtime, runtime, "runtime")
    line = kernels.slow_precision(given.device, given.precision, given.kernels, gpu)
    if why is None:
        assert line is None
    else:
        assert line is not None
        assert why in line
        assert "set precision: fp32 in section `runtime` of params.yaml" in line


def test_a_rebuild_says_so_where_its_stages_say_it_to_their_logs(tmp_path: Path) -> None:
    from flows.cli import _slow_precision

    (tmp_path / "params.yaml").write_text("runtime: {precision: bf16, kernels: portable}\n")
    assert "set precision: fp32" in str(_slow_precision(tmp_path))
    (tmp_path / "params.yaml").write_text("other: project\n")
    assert _slow_precision(tmp_path) is None


def test_a_record_tells_what_is_comparable() -> None:
    held = {"torch": "AVX2", "onednn": "AVX2", "mkl": "COMPATIBLE", "threads": 2}
    free = {"torch": "AVX512", "onednn": "native", "mkl": "native", "threads": 2}
    here = {**record.environment(), "processor": "A", "features": "avx2 fma"}
    there = {**here, "processor": "B", "features": "avx2 avx512f fma"}
    assert record.incomparable({**here, "kernels": held}, {**there, "kernels": held}) == []
    assert record.incomparable({**here, "kernels": free}, {**there, "kernels": free}) == [
        "processor: A, B",
        "features: avx2 fma, avx2 avx512f fma",
    ]
    unused = {**free, "torch": None, "threads": None}  # a stage without torch: its bytes do not depend on the CPU
    assert record.incomparable({**here, "kernels": unused}, {**there, "kernels": unused}) == []
    assert record.incomparable({**here, "kernels": unused}, {**there, "kernels": {**held, "torch": None}}) == []
    wide = {**free, "onednn": "ALL", "mkl": "AUTO"}  # set by hand, and no limit
    assert len(record.incomparable({**here, "kernels": wide}, {**there, "kernels": wide})) == 2
    older = {key: value for key, value in here.items() if key not in ("kernels", "features", "libc")}
    assert "libc: " + here["libc"] + ", unknown" in record.incomparable({**here, "kernels": held}, older)
    assert record.incomparable({**here, "kernels": held}, {**here, "kernels": {**held, "threads": 1}}) == [
        "kernels: threads: 2, 1"
    ]
    other = {**there, "kernels": held, "libraries": {**here["libraries"], "torch": "1.0"}}
    (line,) = record.incomparable({**here, "kernels": held}, other)
    assert line.startswith("libraries: torch: ")


# Of 3 steps, by torch 2.15.0, two threads. docs/design.md, "What to rely on", says on which CPUs they were shown: on
# another this test may fail, and nothing is wrong with the installation. Add the CPU there, and what differed.
DIGESTS = {
    "dcgan": "c33b99c590e834b0",
    "dcgan, report 1": "313bb50210355eae",
    "dmfn": "5cabb57f244d2a63",
    "vae": "0eb594a79b52d4ad",
    "gan, alexnet": "b520eade4378bc5f",
    "gan, vgg": "fc294075707dabd8",
    "autoencoder": "11ff606d6de0640f",
    "partial_conv": "c34cc2d846cfa80a",
}


@HELD
def test_portable_trainings_end_in_the_same_bytes_on_every_cpu() -> None:
    if metadata.version("torch") != "2.15.0":
        pytest.skip("another version of torch has other kernels")
    line = [sys.executable, str(ROOT / "tests" / "portable.py"), "3"]
    answer = subprocess.run(line, cwd=ROOT, env={**CLEAN, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    found = dict(line.rsplit(maxsplit=2)[:2] for line in answer.stdout.splitlines())
    assert found == DIGESTS, answer.stderr[-2000:]
