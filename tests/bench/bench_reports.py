"""Each report's profile through `dvc repro` on real photos, every training for 20 steps: it runs, no more is shown.

    python tests/bench/bench_reports.py [report1 ...] [--shared ../shared] [--steps 20] [--keep FOLDER]

What a profile says stays, but for the device, the number of steps, pictures and iterations, the batch, DMFN's size and
ImageNet's weights, which are drawn at random. LFW's photos stand for CelebA-HQ's, and SUN's scenes for Places.
Prints the seconds of each stage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from stages.runs import params

ROOT = Path(__file__).parents[2]
DVC = str(Path(sys.executable).with_name("dvc"))
PICTURES = 400  # of a source, about
BATCH = {"train_dmfn": 2, "train_context_encoder": 4}
COUNT = 4  # pictures completed


def photos(shared: Path, home: Path) -> dict[str, Path]:
    """Some photos of each source, laid out as it wants them: its name -> its folder."""
    data, homes = shared / "data", {name: home / name for name in ("celeba", "celeba_hq", "lfw", "cifar10", "places")}
    homes |= {"folder": data / "dogs", "cifar10": data / "cifar10"}
    (homes["celeba"] / "img_align_celeba").mkdir(parents=True)
    for file in data.glob("celeba/*.txt"):
        shutil.copy(file, homes["celeba"])
    faces = sorted(data.glob("celeba/img_align_celeba/*.jpg"))
    for file in faces[:: len(faces) // PICTURES]:
        shutil.copy(file, homes["celeba"] / "img_align_celeba")
    people = sorted(data.glob("lfw/*/*.jpg"))
    homes["celeba_hq"].mkdir()
    for number, file in enumerate(people[::2][:PICTURES]):
        (homes["lfw"] / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, homes["lfw"] / file.parent.name)
        shutil.copy(people[2 * number + 1], homes["celeba_hq"] / f"{number}.jpg")
    scenes = sorted(data.glob("scenes/*/*.jpg"))
    for file in scenes[:: len(scenes) // PICTURES]:
        (homes["places"] / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, homes["places"] / file.parent.name)
    return homes


def shortened(values: dict[str, Any], homes: dict[str, Path], shared: Path, steps: int) -> dict[str, Any]:
    """The profile's parameters, cut down to minutes on a CPU."""
    values["runtime"] = {"device": "cpu", "threads": 2, "precision": "fp32", "kernels": "native"}
    values["evaluate"] |= {"lpips": "none", "perceptual_weights": "none", "bootstrap": 100}
    for entry in values["datasets"].values():
        entry["ingest"]["root"] = str(homes[entry["ingest"]["source"]])
        if entry["align"]["detector"] == "yunet":
            entry["align"]["detector_model"] = str(shared / "weights" / "face_detection_yunet_2023mar.onnx")
        entry["mask"]["train_sample"] = min(entry["mask"]["train_sample"], COUNT)
        if values["train_dmfn"]:
            entry["align"]["side"] = 128
    for section in params.TRAININGS:
        for entry in values[section].values():
            entry |= {"steps": steps, "batch": BATCH.get(section, 16), "log_every": 5, "sample_every": steps}
            entry |= {"pictures": 100} if entry.get("pictures") else {}
            entry |= {"perceptual_weights": "random"} if entry.get("perceptual_weights") == "imagenet" else {}
    for entry in (*values["search"].values(), *values["infer"].values()):
        entry |= {"count": COUNT} | ({"train_count": COUNT} if entry.get("train_count") else {})
        entry |= {"iterations": 20} if "iterations" in entry else {}
    for entry in values["blend"].values():
        entry |= {"iterations": 20} if "iterations" in entry else {}
    return values


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "reports", nargs="*", default=[path.stem for path in sorted(ROOT.glob("profiles/report*.yaml"))]
    )
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="leave the projects here")
    asked = parser.parse_args()
    home = Path(tempfile.mkdtemp()) if asked.keep is None else asked.keep
    homes = photos(asked.shared.resolve(), home / "photos")
    for report in asked.reports:
        project = home / report
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for file in filter(None, files.split("\0")):
            if file.split("/")[0] in ("stages", "dvc.yaml", "tombstones.txt"):
                (project / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, project / file)
        values = shortened(
            params.load(ROOT / "profiles" / f"{report}.yaml"), homes, asked.shared.resolve(), asked.steps
        )
        (project / "params.yaml").write_text(json.dumps(values))
        subprocess.run([DVC, "init", "--no-scm", "-q"], cwd=project, check=True)
        wanted = [f"{stage}@{name}" for stage in ("blend", "evaluate") for name in values["blend"]]
        with (project / "log.txt").open("wb") as log:
            done = subprocess.run(
                [DVC, "repro", *wanted, "report"], cwd=project, stdout=log, stderr=log, env=os.environ
            )
        print(f"{report}: {'done' if done.returncode == 0 else f'failed, see {project}/log.txt'}", flush=True)
        for record in sorted(project.glob(".palimpsest/records/**/*.json")):
            told = json.loads(record.read_text())
            print(f"  {told['stage']:40} {told['seconds']:8.1f} s  {told['peak_memory_mib']:6} MiB", flush=True)
    if asked.keep is None:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
