"""params.yaml is read strictly: a user's mistake is one line that names the key."""

import contextlib
import io
import json
import time
import warnings
from importlib import import_module
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML

from stages.pages.results import refuse_unjoined
from stages.runs import params
from stages.runs.errors import InputError
from stages.runs.params import STRICT
from stages.training.params import Training

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, config=STRICT)
class Example:
    size: Annotated[int, Field(ge=8)]
    rate: float = 0.1
    kinds: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.size % 8:
            raise ValueError("size must be a multiple of 8")


def dumped(value: object) -> bytes:
    stream = io.BytesIO()
    YAML(typ="safe").dump(value, stream)
    return stream.getvalue()


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


BOMB = "blend: {a: &a [x, x, x, x, x, x, x, x, x]}\n"
BOMB += "\n".join(f"s{n}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]" for n in range(20))
MERGES = "a: &a {x: 1}\n" + "\n".join(
    f"s{n}: &{chr(98 + n)} {{<<: [{', '.join(['*' + chr(97 + n)] * 9)}]}}" for n in range(20)
)
MALFORMED: dict[str, tuple[str | bytes, str]] = {
    "a cycle": ("blend: &a [*a]", "line 1: an alias (*) lies in what it stands for; write it out"),
    "a cycle of two": ("blend: &a {b: [{c: *a}]}", "an alias (*) lies in what it stands for"),
    "a cycle by a merge": ("blend:\n  &a {<<: *a}", "line 2: an alias (*) lies in what it stands for"),
    "a bomb of aliases": (BOMB, "more than 20000 values, with its aliases (*) written out; write fewer"),
    "a bomb of merges": (MERGES, "more than 20000 values, with its aliases (*) written out; write fewer"),
    "nested lists": ("blend: " + "[\n" * 30_000, "nested more than 32 levels deep; write it flatter"),
    "nested items": ("- " * 5_000, "nested more than 32 levels deep"),
    "nested keys": ("\n".join(" " * n + "a:" for n in range(40)), "nested more than 32 levels deep"),
    "long": ("#" * 300_000, "larger than 256 KiB; is it the right file?"),
    "a key twice": ("blend: {}\nblend: {}", 'line 2: found duplicate key "blend"'),
    "a merge twice": ("draw: &a {b: 1}\nblend: {<<: *a, <<: *a}", "line 2: found duplicate merge key"),
    "a number as key": ("blend: {1: x}", "blend: the key 1 is no text; write it in quotes"),
    "nothing as key": ("blend: {a: {? : x}}", "blend.a: the key None is no text; write it in quotes"),
    "a truth as key": ("true: x", "the key True is no text"),
    "a list as key": ("blend: {? [a] : x}", "is no text; write it in quotes"),
    "a mapping as key": ("? {a: b}\n: x", "line 1: found unhashable key"),
    "a tab": ("blend:\n\ta: 1", "line 2: found character"),
    "a date": ("blend: {a: 2020-09-09}", "blend.a: read as a date; write it in quotes"),
    "no date": ("blend: {a: 2020-99-99}", "month must be in 1..12"),
    "bytes": ("blend: {a: !!binary aaaa}", "blend.a: read as a bytes; write it in quotes"),
    "a set": ("blend: !!set {a}", "blend: read as a set"),
    "an object": ("blend: !!python/object:os.system x", "line 1: could not determine a constructor for the tag"),
    "no integer": ("blend: {a: !!int x}", "invalid literal for int()"),
    "no truth": ("blend: {a: !!bool x}", "not valid YAML"),
    "a huge integer": (f"blend: {{a: {'9' * 5000}}}", "not valid YAML: Exceeds the limit"),
    "a large integer": (f"blend: {{a: {'9' * 50}}}", "blend.a: too large a number"),
    "a large float": ("blend: {a: 1e999}", "blend.a: input should be a finite number (got inf)"),
    "a NUL byte": ("blend: {a: \0}", "not valid YAML: unacceptable character #x0000"),
    "a NUL in quotes": ('blend: {a: "\\0"}', "blend.a: holds a letter that no text can have"),
    "half a letter": ('blend: {a: ["\\ud800"]}', "blend.a.0: holds a letter that no text can have"),
    "no letter": ('blend: {a: "\\UFFFFFFFF"}', "not valid YAML"),
    "Latin-1": ("blend: {a: é}".encode("latin-1"), "not UTF-8 at byte 11; save it as UTF-8"),
    "UTF-16": ("blend: {}".encode("utf-16"), "not UTF-8 at byte 0; save it as UTF-8"),
    "two documents": ("blend: {}\n---\nblend: {}", "line 2: but found another document"),
    "an alias of nothing": ("blend: *a", "line 1: found undefined alias 'a'"),
    "a comment": ("# nothing else", "must be a mapping of sections"),
}


@pytest.mark.parametrize(("text", "said"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_and_hostile_yaml_is_one_line_in_little_time(text: str | bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.process_time()
    with pytest.raises(InputError) as caught:
        params.load(file)
    assert time.process_time() - start < 5
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_merely_odd_is_read(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("\ufeffblend: {a: &a {size: 16}, b: {<<: *a, rate: 0.5}, c: *a}")  # a BOM, a merge, an alias
    assert params.load(file)["blend"] == {"a": {"size": 16}, "b": {"size": 16, "rate": 0.5}, "c": {"size": 16}}


HOSTILE = [
    "a b",
    "a.b",
    "a/b",
    "../a",
    "",
    "-a",
    "a'b",
    'a"b',
    "$(touch x)",
    "`x`",
    "a;b",
    "a@b",
    "a\nb",
    "ä",
    "a" * 65,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_a_path_dvc_or_a_shell_would_read_otherwise(name: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    for section in params.NAMED:
        file.write_text(json.dumps({section: {"good-Name_1": {}, name: {}}}))
        with pytest.raises(InputError) as caught:
            params.load(file)
        said = f"{file}: {section}: '{name}' is no name: take letters (a to z), digits, _ and -, 64 at the most"
        assert str(caught.value) == said
    with pytest.raises(InputError, match=r"a\.dataset: string should match pattern"):
        params.build(Training, {"dataset": name}, "a")


YAMLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=6) | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=10,
)
LETTERS = st.text("ab1: -[]{}&*!|>'\"#%@,?\n\t\\<.~\0\ufeff\x85é", max_size=40)


@given(
    st.one_of(
        LETTERS.map(str.encode),
        LETTERS.map(lambda text: f"blend: {{a: {text}}}".encode()),
        st.binary(max_size=40),
        YAMLS.map(lambda value: dumped({"blend": {"a": value}})),
        YAMLS.map(dumped),
    )
)
def test_whatever_the_file_holds_it_is_read_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    file.write_bytes(content)
    with contextlib.suppress(InputError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ruamel.yaml's, of an anchor given twice
        values = params.load(file)
        assert json.loads(json.dumps(values, allow_nan=False)) == values
        params.section(values, "blend.a", Example)


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
    refuse_unjoined(completed, values["blend"])  # as the report does
    assert {entry["dataset"] for entry in completed.values()} <= set(values["datasets"])
    assert {entry["model"] for entry in values["search"].values()} <= set(values["train_dcgan"])
    assert {entry["dataset"] for entry in values["train_dcgan"].values()} <= set(values["datasets"])


OLD_KEYS = [
    *(("train_" + stage, key) for stage in ("dcgan", "dmfn", "autoencoder") for key in ("rate", "mirror")),
    *(("train_dcgan", key) for key in ("d_rate", "flip", "smoothing")),
    *(("train_dmfn", "d_rate"), ("train_partial_conv", "finetune_rate"), ("train_context_encoder", "rate_ratio")),
    *(("search", "rate"), ("search", "schedule"), ("blend", "rate"), ("infer", "sample"), ("align", "score")),
]


@pytest.mark.parametrize(("stage", "key"), OLD_KEYS)
def test_a_key_of_an_older_version_is_unknown(stage: str, key: str) -> None:
    """It would pass for a setting otherwise, and the default would count."""
    with pytest.raises(InputError, match=f"^params.yaml: .*unknown key '{stage}.a.{key}'[^\n]*$"):
        params.build(import_module(f"stages.{stage}").Params, {key: 0.1}, f"{stage}.a")
