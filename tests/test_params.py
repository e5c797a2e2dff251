"""params.yaml is read strictly: a user's mistake is one line that names the key."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.runs import params
from stages.runs.errors import InputError
from stages.runs.params import STRICT

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, config=STRICT)
class Example:
    size: Annotated[int, Field(ge=8)]
    rate: float = 0.1
    kinds: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.size % 8:
            raise ValueError("size must be a multiple of 8")


def read(text: str, tmp_path: Path, dotted: str = "blend.a") -> Example:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    return params.section(params.load(file), dotted, Example)


def test_a_good_section(tmp_path: Path) -> None:
    assert read("blend: {a: {size: 16, rate: 1e-4, kinds: [x, y]}}", tmp_path) == Example(16, 1e-4, ("x", "y"))
    assert read("blend: {a: {size: 16, rate: 1}}", tmp_path).rate == 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("blend: {a: {size: 16, sise: 3}}", "unknown key 'blend.a.sise'"),
        ("blend: {a: {rate: 0.5}}", "missing key 'blend.a.size'"),
        ("blend: {a: {size: large}}", "blend.a.size: input should be a valid integer (got 'large')"),
        ("blend: {a: {size: 16.5}}", "blend.a.size"),
        ("blend: {a: {size: true}}", "blend.a.size"),
        ("blend: {a: {size: 16, rate: '0.1'}}", "blend.a.rate"),
        ("blend: {a: {size: 12}}", "size must be a multiple of 8"),
        ("blend: {a: {size: 0}}", "blend.a.size: input should be greater than or equal to 8 (got 0)"),
        ("blend: {a: {size: 16, rate: 2020-01-01}}", "blend.a"),
        ("blend: {b: {size: 16}}", "no 'blend.a'; there is: b"),
        ("blend: 3", "no 'blend.a'"),
        ("blned: {a: {size: 16}}", "unknown section 'blned'"),
        ("datasets: {faces: {alain: {}}}", "unknown section of datasets.faces 'alain'; one of: ingest, align, mask"),
        ("blend: {a: {size: 16, rate: .inf}}", "blend.a.rate: input should be a finite number (got inf)"),
        ("blend: {a: {size: 16, rate: .nan}}", "blend.a.rate: input should be a finite number (got nan)"),
        ("- a\n- b", "must be a mapping"),
        ("blend: {a: {size: 16", "not valid YAML"),
        ("", "must be a mapping"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(text, tmp_path)
    assert said in str(caught.value)
    assert "params.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found"):
        params.load(tmp_path / "params.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        params.load(tmp_path)


@pytest.mark.parametrize(
    "file", [ROOT / "params.yaml", *sorted((ROOT / "profiles").glob("*.yaml"))], ids=lambda p: p.name
)
def test_every_system_is_completed_blended_and_on_one_dataset(file: Path) -> None:
    values = params.load(file)
    completed = {**values["search"], **values["infer"]}
    assert set(completed) == set(values["blend"]), "each result is blended and evaluated"
    for name, entry in completed.items():
        assert entry["dataset"] == values["blend"][name]["dataset"]
        assert entry["dataset"] in values["datasets"]
    assert {entry["model"] for entry in values["search"].values()} <= set(values["train_dcgan"])
    assert {entry["dataset"] for entry in values["train_dcgan"].values()} <= set(values["datasets"])
