"""The data half gives the same bytes on every CPU: run with the vector units off, and by value."""

import json
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

ENVIRONMENTS: dict[str, dict[str, str]] = {
    "as it is": {},
    "one thread": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"},
    "with AVX2": {
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
        "OPENCV_CPU_DISABLE": "AVX512-SKX",
        "OPENBLAS_CORETYPE": "Haswell",
        "ARROW_USER_SIMD_LEVEL": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL",
    },
    "without AVX": {
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
        "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FMA3,AVX,FP16,SSE4.2,SSE4.1,SSSE3",
        "OPENCV_IPP": "disabled",
        "OPENBLAS_CORETYPE": "Nehalem",
        "ARROW_USER_SIMD_LEVEL": "NONE",
        "JSIMD_FORCENONE": "1",  # libjpeg-turbo
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "ATEN_CPU_CAPABILITY": "default",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX,-FMA,-FMA4,-SSE4_2,-SSE4_1",
    },
}

# The embedded default's data half, with fewer pictures and every method of `blend`.
PARAMS: dict[str, Any] = {
    "runtime": {},
    "draw": {"count": 24, "side": 128, "seed": 1},
    "draw_shapes": {"shapes": {"count": 24, "side": 64, "seed": 1}},
    "datasets": {
        "portraits": {
            "ingest": {
                "source": "portraits",
                "root": "data/raw/portraits",
                "use": "train",
                "licence": "CC0-1.0",
                "consent": "not a person",
                "origin": "drawn by stages/draw.py",
                "split": {"val": 0.1, "test": 0.15},
            },
            "align": {"mode": "face", "side": 64, "detector": "annotations", "detector_model": "none"},
            "mask": {
                "seed": 7,
                "train_sample": 8,
                "kinds": {
                    "centre": {"fraction": 0.5},
                    "random_box": {"max_fraction": 0.5},
                    "half": {},
                    "lines": {},
                    "strokes": {},
                    "pixels": {"fraction": 0.8},
                    "eye_bar": {},
                },
            },
        }
    },
    "infer": {
        method: {"network": "classical", "method": method, "checkpoint": "none", "dataset": "portraits"}
        for method in ("telea", "navier_stokes", "mean", "nearest")
    },
    "blend": {
        "nearest": {"system": "nearest", "dataset": "portraits", "method": "exact"},
        "sobel": {"system": "nearest", "dataset": "portraits", "method": "sobel", "iterations": 60},
        "coupled": {"system": "nearest", "dataset": "portraits", "method": "coupled", "iterations": 60},
    },
    "evaluate": {"lpips": "none", "perceptual_weights": "none", "bootstrap": 200, "seed": 5},
}
NOTHING = "stages/models/no_checkpoint.txt"
COMMANDS = [
    "draw --portraits data/raw/portraits",
    "draw_shapes shapes --shapes data/raw/shapes",
    "ingest portraits --root data/raw/portraits --tombstones tombstones.txt --ingested data/ingested/portraits",
    f"align portraits --ingested data/ingested/portraits --detector-model {NOTHING} --aligned data/aligned/portraits",
    "mask portraits --aligned data/aligned/portraits --masks data/masks/portraits",
    *(
        f"infer {method} --checkpoint {NOTHING} --aligned data/aligned/portraits --masks data/masks/portraits"
        f" --inpainted data/inpainted/{method}"
        for method in PARAMS["infer"]
    ),
    *(
        f"blend {method} --aligned data/aligned/portraits --masks data/masks/portraits"
        f" --inpainted data/inpainted/nearest --blended data/blended/{method}"
        for method in PARAMS["blend"]
    ),
    "evaluate nearest --aligned data/aligned/portraits --masks data/masks/portraits"
    " --inpainted data/inpainted/nearest --blended data/blended/nearest --scores data/scores/nearest.json"
    " --means data/scores/nearest.means.parquet --table data/scores/nearest.parquet",
]
# What the commands end in, wherever they run, with the libraries of constraints.txt. Where a stage's output is
# meant to change, or a library is raised, take the new ones from this test's message.
DIGESTS = {
    "aligned/portraits": "c5a3372dc8dd11e76a8b852ef1967356.dir",
    "blended/coupled": "59dd16bd8f3f88d3411708efbedbe103.dir",
    "blended/nearest": "f0327acf73f7b7cfbc8e819552a39ed2.dir",
    "blended/sobel": "e6c9850c019cb8aae9b09030d0728486.dir",
    "ingested/portraits": "319c553718f13557d6ca91cdedcda6a0.dir",
    "inpainted/mean": "a2b350fc3aeb90b5d7599b579bab6691.dir",
    "inpainted/navier_stokes": "696412045d76cf32bd91d14fb07c14e0.dir",
    "inpainted/nearest": "43c94417a553455f9cdf54ac3cd10f24.dir",
    "inpainted/telea": "0bd7cadeed3416d7a092de297522a9f6.dir",
    "masks/portraits": "76a509384d63f48e697f7d5838a769b8.dir",
    "raw/portraits": "c57702484320867727bd16457945cc92.dir",
    "raw/shapes": "9b5895863ab6e69e8652a836c44ee454.dir",
    "scores/nearest.json": "c6df39b1c0431331161d212d5a920a8f",
    "scores/nearest.means.parquet": "38b0bcb6ead043c8d8dceb0060509a6f",
    "scores/nearest.parquet": "2dbc5e08da568883ddb43578133d9461",
}

# Real photos, where they are here: JPEG, detectors, centre crops at several sizes.
PHOTOS = {
    **{name: {"mode": "face", "side": 64, "detector": name, "detector_model": "none"} for name in ("haar", "yunet")},
    **{f"centre{size}": {"mode": "centre", "side": size, "detector": "annotations"} for size in (32, 128, 256)},
}

# Every command in one process, as `python -m stages.X` would run it; then the digests of what lies in data.
PROGRAM = """
import json, runpy, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
for command in json.loads(sys.argv[1]):
    stage, *arguments = command.split(" ")
    sys.argv = [stage, *arguments]
    runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
from numpy._core._multiarray_umath import __cpu_features__
from stages.images.opencv import cv2
from stages.runs import record
outputs = sorted([*Path("data").glob("raw/*"), *(p for p in Path("data").glob("*/*") if p.parent.name != "raw")])
print(json.dumps({
    "digests": {output.as_posix().removeprefix("data/"): record.digest(output) for output in outputs},
    "opencv": cv2.getCPUFeaturesLine().split(),  # a star: chosen at run time, a question mark: not here
    "ipp": ThreadPoolExecutor(1).submit(cv2.ipp.useIPP).result(),
    "features": sorted(name for name, there in __cpu_features__.items() if there),
}))
"""


def copied(folder: Path, params: dict[str, Any]) -> Path:
    """A project of its own: the code, and these parameters."""
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("*.pyc.*"))  # half written
    (folder / "tombstones.txt").touch()
    (folder / "params.yaml").write_text(json.dumps(params))
    return folder


def run(folder: Path, commands: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """`digests` of the outputs, what NumPy (`features`) and `opencv` used, whether OpenCV's threads used `ipp`."""
    own = {name: value for name, value in os.environ.items() if name not in ("PALIMPSEST_RECORDS", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        cwd=folder,
        env=own | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def differing(results: dict[str, dict[str, Any]], photos: bool) -> dict[str, list[str]]:
    """The outputs of each environment that are not those of the first: of photos, or of portraits."""
    first = results["as it is"]["digests"]
    different = {
        name: [output for output in first if of_photos(output) == photos and result["digests"][output] != first[output]]
        for name, result in results.items()
    }
    return {name: outputs for name, outputs in different.items() if outputs}


def photos(shared: Path, home: Path) -> tuple[dict[str, Any], list[str]]:
    """A few real photos, copied into `home`: their entries in `datasets`, and the commands that align them."""
    celeba = sorted((shared / "data/celeba/img_align_celeba").glob("*.jpg"))[:8]
    others = [
        *sorted((shared / "data/lfw").glob("*/*.jpg"))[:80:10],
        *sorted((shared / "data").glob("scenes/*/*1.jpg")),
    ]
    (home / "photos").mkdir()
    for number, photo in enumerate([*celeba, *others[:16]]):
        shutil.copy(photo, home / "photos" / f"{number}.jpg")
    ingest = {**PARAMS["datasets"]["portraits"]["ingest"], "source": "folder"}
    datasets = {
        name: {"ingest": ingest, "align": {"detector": "haar", "detector_model": "none", **align}, "mask": {}}
        for name, align in PHOTOS.items()
    }
    commands = [f"ingest haar --root {home}/photos --tombstones tombstones.txt --ingested data/ingested/photos"]
    for name in PHOTOS:
        model = shared / "weights/face_detection_yunet_2023mar.onnx" if name == "yunet" else NOTHING
        commands.append(
            f"align {name} --ingested data/ingested/photos --detector-model {model} --aligned data/aligned/{name}"
        )
    return datasets, commands


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `run` says in every one of ENVIRONMENTS, in one process each; of real photos too, where they are here."""
    home = tmp_path_factory.mktemp("everywhere")
    params, commands = PARAMS, COMMANDS
    if (shared := ROOT.parent / "shared" / "data").is_dir():
        datasets, more = photos(shared.parent, home)
        params, commands = {**PARAMS, "datasets": PARAMS["datasets"] | datasets}, [*COMMANDS, *more]
    folders = [copied(home / str(number), params) for number in range(len(ENVIRONMENTS))]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(run, folders, [commands] * len(folders), ENVIRONMENTS.values())
        return dict(zip(ENVIRONMENTS, found, strict=True))


def of_photos(output: str) -> bool:
    return output == "ingested/photos" or output.removeprefix("aligned/") in PHOTOS


def test_the_vector_units_are_off_where_they_should_be(results: dict[str, dict[str, Any]]) -> None:
    newer = {"X86_V4", "AVX512_ICL", "AVX512_SPR"}  # what NumPy has code of its own for
    assert not {"X86_V3", *newer} & set(results["without AVX"]["features"])
    assert not newer & set(results["with AVX2"]["features"])
    assert not {"*SSE4.1", "*SSE4.2", "*AVX", "*AVX2", "*AVX512-SKX"} & set(results["without AVX"]["opencv"])
    assert "*AVX512-SKX" not in results["with AVX2"]["opencv"]
    assert not any(result["ipp"] for result in results.values())


def test_the_data_half_is_the_same_bytes_without_vector_units(results: dict[str, dict[str, Any]]) -> None:
    made = [output for output in results["as it is"]["digests"] if not of_photos(output)]
    assert len(made) == len(COMMANDS) + 2  # `evaluate` writes three files
    assert not differing(results, photos=False)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="known for x86-64")
def test_the_data_half_is_the_same_bytes_on_every_machine(results: dict[str, dict[str, Any]]) -> None:
    made = {output: md5 for output, md5 in results["as it is"]["digests"].items() if not of_photos(output)}
    assert made == DIGESTS


@pytest.mark.usefixtures("shared")
def test_photos_are_aligned_to_the_same_bytes_without_vector_units(results: dict[str, dict[str, Any]]) -> None:
    assert len([*filter(of_photos, results["as it is"]["digests"])]) == len(PHOTOS) + 1
    assert not differing(results, photos=True)
