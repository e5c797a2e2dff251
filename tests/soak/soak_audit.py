"""The audit's fourteen questions, asked of a repository of CelebA photos: `python tests/soak/soak_audit.py`.

Seven trainings of the real stages, small: photos added, one withdrawn, one parameter changed, one stage from the
run-cache, one uncommitted edit, one experiment, two retrainings of which the second is promoted and rolled back. What
each training really read is noted when it ran. Prints the answers, each with `true` or `FALSE` behind it; exits 1 where
one is false. Needs ../shared.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # before tests/, which has folders of the same names

import cv2
from test_pipeline import checkout, small_params, write_params

from stages.images.table import Table
from stages.runs import record

ROOT = Path(__file__).parents[2]
CELEBA = ROOT.parent / "shared" / "data" / "celeba" / "img_align_celeba"
ENV = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PALIMPSEST_PASSPHRASE": "",
    "DO_NOT_TRACK": "1",
}
MODEL = Path("data/models/dcgan.safetensors")
false = 0


def run(home: Path, *words: str, code: int | None = 0) -> str:
    done = subprocess.run(words, cwd=home, env=ENV, capture_output=True, text=True, check=False)
    assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def ask(home: Path, *words: str, code: int | None = 0, shown: int = 12) -> dict:
    """The answer as JSON; printed as people see it."""
    begun = time.monotonic()
    text = run(home, "palimpsest", "audit", *words, code=code)
    took = time.monotonic() - begun
    print(f"\n$ palimpsest audit {' '.join(words)}    # {took:.1f} s")
    print("\n".join(line[:170] for line in text.splitlines()[:shown]))
    if words[0] == "rebuild":  # once is enough
        return {"why": text.splitlines()[0]}
    return json.loads(run(home, "palimpsest", "audit", *words, "--json", code=code))


def check(number: int, what: str, holds: bool) -> None:
    global false
    false += not holds
    print(f"  question {number}: {what}: {'true' if holds else 'FALSE'}", flush=True)


class Lab:
    """The repository, and what really happened."""

    def __init__(self, folder: Path) -> None:
        self.photos, self.home = folder / "photos", folder / "repository"
        self.files = sorted(CELEBA.iterdir())[:50]
        self.photos.mkdir()
        self.home.mkdir()
        self.params = small_params(Path("../photos"))
        faces = self.params["datasets"].pop("own")
        faces["ingest"] |= {"use": "train", "licence": "CelebA: research only", "consent": "not asked"}
        self.params["datasets"] = {"faces": faces}
        self.params["train_dcgan"]["dcgan"]["dataset"] = "faces"
        self.params["search"]["dcgan"]["dataset"] = "faces"
        self.params["infer"] = {}
        self.params["blend"] = {"dcgan": {"system": "dcgan", "dataset": "faces", "method": "exact"}}
        self.params["retrain"] = {
            "system": "dcgan", "metric": "psnr_hole", "margin": -50.0, "minimum": 2, "confidence": 0.9, "warm": False,
        }  # fmt: skip
        self.read: dict[str, set[str]] = {}  # name of a training -> image_ids
        self.bare: dict[str, Path] = {}  # its checkpoint, without a name
        self.folder = folder

    def add(self, first: int, last: int) -> None:
        for file in self.files[first:last]:
            shutil.copy(file, self.photos)

    def note(self, name: str, home: Path | None = None) -> None:
        home = home or self.home
        keys = Table(home / "data/aligned/faces/train.arrow").keys()
        self.read[name] = {key[0] for key in keys}
        self.bare[name] = Path(shutil.copy(home / MODEL, self.folder / f"bare-{name}.bin"))

    def make(self, name: str, commit: bool = True, **changed: object) -> None:
        self.params["train_dcgan"]["dcgan"] |= changed
        write_params(self.home, self.params)
        run(self.home, "dvc", "repro")
        self.note(name)
        if commit:
            self.commit(name)

    def commit(self, message: str) -> None:
        run(self.home, "git", "add", "-A")
        run(self.home, "git", "commit", "-qm", message)

    def build(self) -> None:
        self.add(0, 30)
        checkout(self.home, self.params)
        for key, value in {"user.name": "Ada", "user.email": "ada@example.org"}.items():
            run(self.home, "git", "config", key, value)
        run(self.home, "palimpsest", "audit", "key", "new", "Ada")
        # At once: `dvc push --all-commits` leaves out the data of commits that name no remote.
        run(self.home, "dvc", "remote", "add", "-q", "-d", "store", str(self.folder / "store"))
        self.make("one")
        self.add(30, 40)
        self.make("added")
        self.withdrawn = sorted(self.read["one"])[0]
        (self.home / "tombstones.txt").write_text(f"{self.withdrawn}\n")
        self.make("withdrawn")
        self.make("parameter", steps=7)
        self.make("again", steps=6)  # from the run-cache
        run(self.home, "dvc", "exp", "run", "-q", "-S", "train_dcgan.dcgan.steps=9", "train_dcgan@dcgan")
        self.note("experiment")
        run(self.home, "git", "checkout", "-q", ".")
        run(self.home, "dvc", "checkout", "-q", "-f")
        run(self.home, "palimpsest", "retrain")
        self.add(40, 50)
        run(self.home, "palimpsest", "retrain")
        self.note("retrained", self.home.with_name("repository-retrain"))
        run(self.home, "palimpsest", "retrain", "--rollback")
        code = self.home / "stages" / "train_dcgan.py"
        self.edited = code.read_text() + "\n# an edit that nobody commits\n"
        code.write_text(self.edited)
        self.make("uncommitted", commit=False, steps=8)
        run(self.home, "palimpsest", "audit", "collect")


def questions(lab: Lab) -> None:
    home = lab.home
    md5 = {name: record.digest(file) for name, file in lab.bare.items()}
    print(f"trainings: { {name: (digest[:10], len(lab.read[name])) for name, digest in md5.items()} }")
    assert md5["again"] == md5["withdrawn"]

    for name, file in lab.bare.items():
        found = ask(home, "checkpoint", str(file), shown=30 if name == "uncommitted" else 4)
        ids = {row["image_id"] for row in found["trainings"][0]["pictures"]}
        check(1, f"the pictures of '{name}'", ids == lab.read[name])
        check(7, f"a file without a name is '{name}'", found["md5"] == md5[name])

    everyone = set().union(*lab.read.values())
    wrong = 0
    for file in lab.photos.iterdir():
        image_id = hashlib.sha256(file.read_bytes()).hexdigest()
        copy = lab.folder / "copy.jpg"
        cv2.imwrite(str(copy), cv2.resize(cv2.imread(str(file)), None, fx=0.7, fy=0.7), [cv2.IMWRITE_JPEG_QUALITY, 70])
        code = 1 if image_id in everyone else 0
        for asked in (file, copy):
            found = json.loads(run(home, "palimpsest", "audit", "image", str(asked), "--json", code=None))
            uses = {use["md5"] for use in found["pictures"][0]["uses"]}
            truth = {md5[name] for name, ids in lab.read.items() if image_id in ids}
            if uses != truth:
                wrong += 1
                print(f"  {asked.name} ({code}): {sorted(u[:6] for u in uses)}, truth {sorted(t[:6] for t in truth)}")
    ask(home, "image", str(copy), code=None)
    check(2, "of each photo, and of a smaller copy saved anew, exactly the checkpoints that saw it", not wrong)

    ask(home, "rebuild", str(lab.bare["retrained"]))
    check(3, "made again bit for bit", True)
    said = ask(home, "rebuild", "dcgan@HEAD", code=1)["why"]
    check(3, "with more photos than there were, it is not comparable", "../photos" in said)

    found = ask(home, "diff", str(lab.bare["one"]), str(lab.bare["added"]), code=1)
    added = {row["image_id"] for row in found["added"]}
    check(4, "pictures that were added", added == lab.read["added"] - lab.read["one"])
    found = ask(home, "diff", str(lab.bare["withdrawn"]), str(lab.bare["parameter"]), code=1)
    steps = [(row["key"], row["old"], row["new"]) for row in found["params"]]
    check(4, "the parameter that was changed, and nothing else", steps == [("steps", 6, 7)] and not found["data"])

    ask(home, "verify")
    model = home / MODEL
    whole, mode = model.read_bytes(), model.stat().st_mode
    model.chmod(0o644)
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    found = ask(home, "verify", code=1)
    check(5, "the altered file is named", [fault["file"] for fault in found["faults"]] == [str(MODEL)])
    model.write_bytes(whole)
    model.chmod(mode)

    forged = sorted((home / record.home() / "train_dcgan@dcgan").glob("*.json"))[0]
    text = forged.read_text()
    body = record.read(forged)
    facts = record.facts_of(body)
    facts["inputs"] = dict.fromkeys(facts["inputs"], "0" * 32)
    forged.unlink()
    other = record.write(home / record.home(), body["stage"], facts, {"ended": body["ended"]})
    found = ask(home, "verify", code=None)
    named = [fault["file"] for fault in found["faults"]] + found["unsigned"]
    check(6, "a record forged with a right name is named", any(other.stem in what for what in named))
    other.unlink()
    forged.write_text(text)

    found = ask(home, "checkpoint", str(lab.bare["uncommitted"]))
    ran = found["trainings"][0]["run"]
    check(8, "the edit that nobody committed", "an edit that nobody commits" in (ran["uncommitted"] or ""))
    sha256 = hashlib.sha256(lab.edited.encode()).hexdigest()
    check(8, "the sha256 of the code that ran", sha256 in json.dumps(ran["record"]["sources"]))
    environment = ran["record"]["environment"]
    check(9, "threads and processor", environment["kernels"]["threads"] == 1 and bool(environment["processor"]))
    said = {fact["about"]: fact["said"] for fact in found["facts"]}
    check(10, "licence and consent", "research only" in said["terms"] and "not asked" in said["terms"])
    check(11, "one was withdrawn", "1 rejected" in said["rejected"] or "withdrawn" in said["rejected"])

    found = ask(home, "splits", code=None)
    shared = found["datasets"][0]["shared"]
    check(12, "no picture in two splits", not (shared["bytes"] or shared["pixels"]))

    found = ask(home, "checkpoint", "dcgan@v2.0.0", shown=25)
    outcomes = [decision["outcome"] for decision in found["decisions"]]
    check(13, "promoted, and what over", outcomes == ["promoted"] and bool(found["decisions"][0]["against"]))
    check(13, "its pictures", {row["image_id"] for row in found["trainings"][0]["pictures"]} == lab.read["retrained"])
    found = ask(home, "checkpoint", "dcgan@v1.0.0", shown=3)
    outcomes = [decision["outcome"] for decision in found["decisions"]]
    check(13, "rolled back to", outcomes == ["promoted", "rolled back"])

    run(home, "dvc", "push", "-q", "--all-commits")
    run(home, "dvc", "push", "-q")
    clone = lab.folder / "clone"
    run(lab.folder, "git", "clone", "-q", str(home), str(clone))
    run(clone, "dvc", "fetch", "-q", "--all-commits")
    (clone / "signers.yaml").write_text((home / "signers.yaml").read_text())
    for name in ("one", "added", "withdrawn", "parameter", "retrained"):
        there, here = (
            json.loads(run(place, "palimpsest", "audit", "checkpoint", str(lab.bare[name]), "--json", code=None))
            for place in (clone, home)
        )
        ids = {row["image_id"] for row in there["trainings"][0]["pictures"] or []}
        same = ids == lab.read[name] and there["trainings"][0]["run"]["record"] == here["trainings"][0]["run"]["record"]
        check(14, f"a clone with the remote alone says the same of '{name}'", same)
    run(home, "palimpsest", "audit", "log", "-n", "12")
    print(run(home, "palimpsest", "audit", "log", "-n", "12"))


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="audit-") as name:
        folder = Path(name).resolve()
        ENV["PALIMPSEST_KEY"] = str(folder / "key.pem")
        lab = Lab(folder)
        begun = time.monotonic()
        lab.build()
        print(f"built in {time.monotonic() - begun:.0f} s")
        questions(lab)
    print(f"{false} answers are false")
    return int(bool(false))


if __name__ == "__main__":
    sys.exit(main())
