"""A repository with the experiments of a study as `palimpsest study` leaves them, made without a run: at once."""

import json
import re
import subprocess
from collections.abc import Mapping
from hashlib import md5
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from ready_made import Repository

from flows.studies import study
from flows.studies.study import Run, Study
from stages import evaluate
from stages.draw_shapes import Params, scene
from stages.images.table import ALIGNED, COMPLETED, pack, writing_holes, writing_pictures
from stages.runs.params import Runtime

SIZE = 32
KINDS = ("centre", "lines")

STUDY = """
question: Does more width complete pictures better?
report: report 9, section 1
notes: Half of the pictures were tried.
scales:
  small: {base: params.yaml, seeds: 3}
  report: {base: params.yaml, seeds: 5}
seed: [train_dmfn.dmfn.seed]
system: dmfn
grid: {train_dmfn.dmfn.width: [8, 16]}
measures:
  psnr: {metric: psnr_hole, kind: centre}
  l1: {metric: l1_hole}
  lpips: {metric: lpips}
published:
  - {arm: width=8, measure: psnr, value: 19.5, source: "report 9, table 1", comparable: "no: 30 pictures_&_one seed"}
  - {arm: width=16, measure: psnr, value: 21.25, source: "report 9, table 1", comparable: "yes"}
findings:
  - {claim: More width is better, better: width=16, worse: width=8, measure: psnr}
  - {claim: Less width is better, better: width=8, worse: width=16, measure: l1}
  - {claim: It looks better, better: width=16, worse: width=8, measure: lpips}
"""


class Lab(Repository):
    """A repository whose `experiment`s are real files: pictures, holes, completions and their scores."""

    def __init__(self, home: Path, text: str = STUDY) -> None:
        super().__init__(home)
        (home / "params.yaml").write_text("{}\n")
        self.git("add", "params.yaml")
        self.git("commit", "-qm", "begin")
        (home / "study.yaml").write_text(text)
        self.study: Study = study.read(home / "study.yaml")

    def experiment(
        self,
        arm: str,
        seed: int,
        noise: float,
        *,
        params: Mapping[str, object] = {},
        pictures: range = range(8),
        holes: int = 0,
        kinds: tuple[str, ...] = KINDS,
        blended: float | None = None,
        train: tuple[str, ...] = (),
    ) -> Run:
        """A run whose completions differ from the truth by `noise` (and after blending by `blended`), as levels.

        `holes` moves them, so that another number is other holes. Pictures of these paths count as `train` pictures.
        """
        self.outs.clear()
        scratch = self.home / ".scratch" / f"{arm} {seed}"
        rng = np.random.default_rng([seed, int(noise * 1000)])
        for room in ("aligned", "masks", "inpainted", "blended", "scores"):
            (scratch / room).mkdir(parents=True, exist_ok=True)
        ids = {number: (md5(str(number).encode()).hexdigest(), f"{number:03}.png") for number in pictures}
        truth = {number: scene(Params(1, SIZE, 1), number) for number in pictures}
        with writing_pictures(scratch / "aligned/test.arrow", (SIZE, SIZE), ALIGNED) as table:
            for number, key in ids.items():
                table.append(truth[number], *key, [1, 0, 0, 0, 1, 0], None)
        with writing_pictures(scratch / "aligned/train.arrow", (SIZE, SIZE), ALIGNED):
            pass  # none that would tell what is natural
        masks = {kind: np.zeros((SIZE, SIZE), bool) for kind in kinds}
        masks["centre"][8 + holes : 24 + holes, 8:24] = True
        if "lines" in masks:
            masks["lines"][4::9] = True
        with writing_holes(scratch / "masks/test.arrow", (SIZE, SIZE)) as table:
            for key in ids.values():
                for kind, hole in masks.items():
                    table.append(pack(hole), *key, kind, float(hole.mean()))
        for room, name, scatter in (
            ("inpainted", "completed", noise),
            ("inpainted", "guide", noise),
            ("blended", "blended", noise if blended is None else blended),
        ):
            with writing_pictures(scratch / room / f"{name}.arrow", (SIZE, SIZE), COMPLETED) as table:
                rng = np.random.default_rng([seed, int(scatter * 1000)])
                worse = 1 + 0.1 * rng.random()  # each seed is a little worse or better than another
                for number, key in ids.items():
                    for kind, hole in masks.items():
                        off = rng.normal(0, scatter * worse, (SIZE, SIZE, 3)) * hole[..., None]
                        picture = np.clip(truth[number] + off, 0, 255).astype(np.uint8)
                        table.append(picture, *key, kind, "test")
        scores = [scratch / "scores" / name for name in ("s.json", "s.parquet", "s.means.parquet")]
        rooms = [scratch / room for room in ("aligned", "masks", "inpainted", "blended")]
        evaluate.evaluate(*rooms, *scores, evaluate.Params("none", "none", 10, 1), Runtime(), "dmfn")
        with (
            writing_pictures(scratch / "aligned/train.arrow", (SIZE, SIZE), ALIGNED) as learned,
            writing_holes(scratch / "masks/train.arrow", (SIZE, SIZE)) as holed,
        ):
            for number, key in ids.items():
                if key[1] in train:
                    learned.append(truth[number], *key, [1, 0, 0, 0, 1, 0], None)
                    for kind, hole in masks.items():
                        holed.append(pack(hole), *key, kind, float(hole.mean()))
        for room, path in zip(rooms, ("aligned/x", "masks/x", "inpainted/dmfn", "blended/dmfn"), strict=True):
            self.folder(f"data/{path}", room)
        if train:
            table = pq.read_table(scores[1])
            splits = ["train" if path in train else "test" for path in table["path"].to_pylist()]
            table = table.drop_columns("split") if "split" in table.column_names else table
            pq.write_table(table.append_column("split", [splits]), scores[1])
        self.keep("data/scores/dmfn.parquet", scores[1].read_bytes())
        self.keep("data/models/dmfn.safetensors", f"{arm} {seed}".encode())
        losses = "".join(f"{step},{noise / step},{seed}\n" for step in (10, 20, 30))
        self.keep("data/histories/dmfn.csv", f"step,l1,d_real\n{losses}".encode())
        name = f"study-{re.sub('[^A-Za-z0-9]+', '', arm)}-s{seed}"
        return Run(arm, seed, name, self._committed(name, arm, seed, params), None)

    def _committed(self, name: str, arm: str, seed: int, params: Mapping[str, object]) -> str:
        """An experiment's commit, as DVC refers to it; the branch, the index and the working copy stay as they are."""
        section = {"width": int(arm.partition("=")[2] or 0), "seed": seed, **params}
        stages = {
            "mask@x": ([], ["data/masks/x"], {}),
            "train_dmfn@dmfn": (
                ["data/aligned/x"],
                ["data/models/dmfn.safetensors", "data/histories/dmfn.csv"],
                {"train_dmfn.dmfn": section},
            ),
            "infer@dmfn": (
                ["data/models/dmfn.safetensors", "data/aligned/x", "data/masks/x"],
                ["data/inpainted/dmfn"],
                {"infer.dmfn": {"count": 8}},
            ),
            "blend@dmfn": (["data/inpainted/dmfn"], ["data/blended/dmfn"], {}),
            "evaluate@dmfn": (
                [f"data/{room}" for room in ("aligned/x", "masks/x", "inpainted/dmfn", "blended/dmfn")],
                ["data/scores/dmfn.parquet"],
                {},
            ),
        }
        text = "schema: '2.0'\nstages:\n"
        for stage, (deps, outs, read) in stages.items():
            text += f"  {stage}:\n    cmd: run\n"
            text += f"    deps:\n{''.join(map(self._file, deps))}" if deps else ""
            text += f"    params:\n      params.yaml: {json.dumps(read)}\n" if read else ""
            text += f"    outs:\n{''.join(map(self._file, outs))}"
        blob = self._git("hash-object", "-w", "--stdin", given=text)
        tree = self._git("mktree", given=f"{self._git('ls-tree', 'HEAD')}\n100644 blob {blob}\tdvc.lock\n")
        commit = self._git("commit-tree", tree, "-p", "HEAD", "-m", name)
        head = self._git("rev-parse", "HEAD")
        self.git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", commit)
        return commit

    def _file(self, path: str) -> str:
        return f"    - path: {path}\n      hash: md5\n      md5: {self.outs[path]}\n      size: 1\n"

    def _git(self, *words: str, given: str | None = None) -> str:
        command = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *words]
        done = subprocess.run(command, cwd=self.home, input=given, check=True, capture_output=True, text=True)
        return done.stdout.strip()
