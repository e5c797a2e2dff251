"""A study file: what it means, and what is refused by name."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from flows.studies import study
from stages.runs.errors import InputError

ROOT = Path(__file__).parents[2]
FILE: dict[str, Any] = {
    "question": "Does more\nhelp?",
    "scales": {"small": {"base": "params.yaml", "seeds": 3}},
    "seed": ["train_dmfn.dmfn.seed"],
    "grid": {"train_dmfn.dmfn.steps": [10, 20], "train_dmfn.dmfn.hflip": [True, False]},
    "arms": {"plain": {"system": "telea", "blending": "raw"}},
    "system": "dmfn",
    "measures": {"psnr": {"metric": "psnr_hole", "kind": "eye_bar"}},
    "published": [{"arm": "plain", "measure": "psnr", "value": 20, "source": "table 1", "comparable": "no: one seed"}],
    "findings": [{"claim": "It does", "better": "steps=20, hflip=true", "worse": "plain", "measure": "psnr"}],
}  # fmt: skip


def written(home: Path, changes: dict[str, Any], name: str = "mine") -> Path:
    """A study file that is FILE but for some values, by the ways to them; None leaves a key out."""
    values = copy.deepcopy(FILE)
    for way, value in changes.items():
        *above, last = way.split("/")
        node: Any = values
        for key in above:
            node = node[int(key)] if isinstance(node, list) else node[key]
        if value is None:
            del node[last]
        else:
            node[last] = value
    path = home / f"{name}.yaml"
    path.write_text(json.dumps(values))
    return path


def test_a_file_says_what_is_compared(tmp_path: Path) -> None:
    found = study.read(written(tmp_path, {}))
    assert found.name == "mine"
    assert found.question == "Does more help?"
    assert [*found.arms] == [
        "steps=10, hflip=true", "steps=10, hflip=false", "steps=20, hflip=true", "steps=20, hflip=false", "plain",
    ]  # fmt: skip
    arm = found.arms["steps=20, hflip=false"]
    assert arm.set == {"train_dmfn.dmfn.steps": 20, "train_dmfn.dmfn.hflip": False}
    assert (arm.system, arm.blending) == ("dmfn", None)
    assert found.arms["plain"] == study.Arm("plain", {}, "telea", None, None, "raw")
    assert found.measures["psnr"] == study.Measure("psnr_hole", "eye_bar", "test", "raw")
    assert study.scale(found, "small").seeds == 3
    assert study.scale(found, "small", 7).seeds == 7


def test_keys_that_end_alike_are_told_apart(tmp_path: Path) -> None:
    grid = {"train_context_encoder.vae.lr": [1], "train_context_encoder.gan.lr": [2]}
    changes = {"grid": grid, "findings/0/better": "vae.lr=1, gan.lr=2"}
    assert [*study.read(written(tmp_path, changes)).arms] == ["vae.lr=1, gan.lr=2", "plain"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"question": None}, "mine.yaml: missing key 'question'"),
        ({"colour": "red"}, "mine.yaml: unknown key 'colour'"),
        ({"scales/small/steps": 3}, "mine.yaml: unknown key 'scales.small.steps'"),
        ({"scales/small/seeds": 0}, r"scales.small.seeds: .*greater than or equal to 1 \(got 0\)"),
        ({"scales/small/base": "../params.yaml"}, "scales.small.base: must be a file below the project's root"),
        ({"scales/small/base": "/params.yaml"}, "scales.small.base: must be a file below the project's root"),
        ({"scales": {}}, "scales: name one at least"),
        ({"measures": {}}, "measures: name one at least"),
        ({"findings": None}, "mine.yaml: missing key 'findings'"),
        ({"findings": []}, r"mine.yaml: findings: .*at least 1"),
        ({"findings/0/better": "steps=30"}, "findings.0.better: there is no 'steps=30'; one of: steps=10, hflip=true"),
        ({"findings/0/measure": "lpips"}, "findings.0.measure: there is no 'lpips'; one of: psnr"),
        ({"findings/0/better": "plain"}, "findings.0: compares 'plain' with itself"),
        ({"published/0/arm": "fancy"}, "published.0.arm: there is no 'fancy'"),
        ({"published/0/comparable": "no"}, "published.0.comparable: "),
        ({"measures/psnr/metric": "beauty"}, "measures.psnr: metric: there is no 'beauty'; one of: psnr_hole, "),
        ({"measures/psnr/split": "val"}, "measures.psnr.split: "),
        ({"grid": None, "arms": None}, "a study compares two arms at least"),
        ({"grid": {"train_dmfn.dmfn.steps": [[1]]}}, "grid.train_dmfn.dmfn.steps.0"),
        ({"grid": {"train_dmfn.dmfn.x": ["a\nb", 1]}}, r"grid.train_dmfn.dmfn.x: 'a\\nb' is no part of an arm's name"),
        ({"grid": {"train_dmfn.dmfn.steps": []}}, r"grid.train_dmfn.dmfn.steps: .*at least 1"),
        ({"grid": {"a.b": [*range(30)], "a.c": [*range(30)]}}, "901 arms; 500 at the most"),
        ({"arms/steps=10, hflip=true": {}}, "two arms are named 'steps=10, hflip=true'"),
        ({"system": None}, "arms.steps=10, hflip=true: no system"),
        ({"arms/plain/set": {"train_dmfn.dmfn.seed": 4}}, "arm 'plain': train_dmfn.dmfn.seed is a seed"),
        ({"seed": ["seed"]}, "seed.0: string should match"),
        ({"scales": {"small": {"base": "params.yaml", "seeds": 1, "set": {"steps": 3}}}}, "scales.small.set.steps"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as refused:
        study.read(written(tmp_path, changes))
    assert "\n" not in str(refused.value)


def test_a_file_that_lies_in_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "circle.yaml"
    path.write_text("arms: &all\n  again: *all\n")
    with pytest.raises(InputError, match=r"circle.yaml: line \d: an alias \(\*\) lies in what it stands for"):
        study.read(path)
    path.write_text("- a list\n")
    with pytest.raises(InputError, match=r"circle.yaml: must be a mapping"):
        study.read(path)
    with pytest.raises(InputError, match=r"my study.yaml: 'my study' is no name"):
        study.read(tmp_path / "my study.yaml")


def test_a_study_is_found_by_its_name_or_its_path(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    path = written(tmp_path / "studies", {})
    assert study.names(tmp_path) == ["mine"]
    assert study.load(tmp_path, "mine").path == path
    assert study.load(tmp_path / "elsewhere", str(path)).name == "mine"
    with pytest.raises(InputError, match=r"no study 'yours'; there is: mine; or name a file, as ./mine.yaml"):
        study.load(tmp_path, "yours")
    with pytest.raises(InputError, match=r"no.yaml: not found; mend the path"):
        study.load(tmp_path, str(tmp_path / "no.yaml"))
    found = study.load(tmp_path, "mine")
    with pytest.raises(InputError, match=r"mine.yaml: no scale 'report'; there is: small"):
        study.scale(found, "report")
    for seeds in (0, 1001):
        with pytest.raises(InputError, match=f"--seeds {seeds}: "):
            study.scale(found, "small", seeds)


@pytest.mark.parametrize("name", study.names(ROOT))
def test_the_projects_studies_can_be_read(name: str) -> None:
    found = study.load(ROOT, name)
    assert {"small", "report"} <= found.scales.keys()
    assert found.report


def test_the_pages_example_is_a_study(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```text\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "mine.yaml").write_text(example)
    assert [*study.read(tmp_path / "mine.yaml").arms] == [
        "d_matching=0",
        "d_matching=5",
        "no adversary",
        "telea",
        "seen",
    ]
