"""The pages for people: what is to be pasted works, parameters fit, links lead somewhere, generated pages are new."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import forked
import pytest
import typer
from dvc.cli import parse_args
from dvc_project import ENV, PATIENCE
from pydantic import Field
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML

from flows.cli import app
from stages.runs import params
from stages.runs.params import STRICT

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data" / "README.md")
}
PARAMETERS = runpy.run_path(str(ROOT / "docs" / "parameters.py"))

# How a block begins that no test can run, which says to a reader why not to paste it lightly.
BEWARE = re.compile(r"# (takes|needs|runs until) ")


def blocks(page: str, *languages: str) -> list[str]:
    """The page's fenced blocks in these languages."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", PAGES[page], re.M | re.S)
    return [textwrap.dedent(text) for _, language, text in found if not languages or language in languages]


def runnable(page: str) -> list[str]:
    """The blocks that are to be pasted as they stand; .ci/run runs README's."""
    return [text for text in blocks(page, "sh") if page != "README.md" and not BEWARE.match(text)]


def commands() -> Iterator[tuple[str, list[str]]]:
    """The words of every command line in a block: pasted, or shown behind `$` with what it prints."""
    for page in PAGES:
        for text in (*blocks(page, "sh"), *blocks(page, "console")):
            shown = re.sub(r"<<'(\w+)'\n.*?^\1$", "", text, flags=re.M | re.S)  # not what a program is fed
            for line in shown.splitlines():
                if text in blocks(page, "console") and not line.startswith("$ "):
                    continue
                for part in re.split(r"&&|\|", line.removeprefix("$ ")):
                    words = shlex.split(part, comments=True)
                    while words and re.match(r"[A-Z_]+=", words[0]):
                        del words[0]
                    if words:
                        yield page, words


@pytest.fixture
def lab(tmp_path: Path, prefect_database: Path) -> Path:
    """A repository with the files that lie here, committed or not, whose `draw` makes twelve pictures."""
    home = tmp_path / "lab"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if (ROOT / name).is_file():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, home / name)
    values = params.load(home / "params.yaml")
    values["draw"]["count"] = 12
    write(home, values)
    subprocess.run(["git", "init", "-q"], cwd=home, check=True)
    shutil.copytree(prefect_database.parent, home / ".palimpsest" / "prefect")
    return home


def write(home: Path, values: dict) -> None:
    YAML(typ="safe").dump(values, home / "params.yaml")


def merged(page: str, values: dict) -> dict:
    """The parameters with what the page's blocks add to them."""
    for text in blocks(page, "yaml"):
        for section, entries in YAML(typ="safe", pure=True).load(text).items():
            values[section] = {**values[section], **entries}
    return values


def paste(home: Path, script: str) -> str:
    """What bash prints that is given the script line by line, as a terminal is; it must not fail anywhere."""
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail"],
        input=script,
        cwd=home,
        env=forked.environment({**ENV, "PYTHONPATH": str(home)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_own_pictures(lab: Path) -> None:
    """The page from its first line to its last: photos, their entries in params.yaml, and its commands."""
    photos = lab.parent / "my-photos"
    paste(lab, "python -m stages.draw --portraits ../my-photos")
    (photos / "landmarks.csv").unlink()  # photos have none
    (photos / "0000.png").write_bytes((photos / "0001.png").read_bytes()[:3000])
    page = "docs/own-pictures.md"
    write(lab, merged(page, params.load(lab / "params.yaml")))
    said = paste(lab, "\n".join(runnable(page)))
    assert "ingest@mine: would run\n" in said
    assert "train_partial_conv@mine_lines: may run, after align@mine\n" in said
    assert "12 in, 11 kept, 1 rejected" in said
    assert "0000.png: truncated\n" in said
    assert re.fullmatch("[0-9a-f]{64}", (lab / "tombstones.txt").read_text().splitlines()[-1])


def test_the_tour(lab: Path) -> None:
    """All of the page but what runs for minutes, with one network that is trained in an instant."""
    page = "docs/tour.md"
    (lab / "dvc.lock").unlink()  # of more models
    values = params.load(lab / "params.yaml")
    for section in ("train_dcgan", "train_context_encoder", "train_autoencoder", "train_partial_conv", "search"):
        values[section] = {}
    values["draw"]["count"] = 30  # some are for tests
    values["runtime"]["kernels"] = "native"  # `portable` is for a process that has not imported torch yet
    values["train_dmfn"]["dmfn"] |= {"steps": 2, "batch": 2, "width": 4, "blocks": 1, "d_width": 4}
    for section in ("infer", "blend"):
        values[section] = {name: values[section][name] for name in ("dmfn", "telea")}
    write(lab, values)
    first, *rest = [text for text in blocks(page, "sh") if text in runnable(page) or "dvc repro" in text]
    paste(lab, first)
    paste(lab, "git add -A && git -c user.name=Ada -c user.email=a@example.org commit -qm first")
    said = paste(lab, "\n".join(rest))
    assert "evaluate@telea: would run\n" in said
    assert "restored/0005: 1 face, " in said
    assert "restored/0005.png: a photo that `palimpsest restore` has completed\n" in said
    assert (lab / "dvc.lock").read_text() == paste(lab, "git show HEAD:dvc.lock")


ALONE = ("docs/own-pictures.md", "docs/tour.md")  # pages with tests of their own


@pytest.mark.parametrize("page", sorted(page for page in PAGES if runnable(page) and page not in ALONE))
def test_what_is_to_be_pasted_works(page: str, lab: Path) -> None:
    paste(lab, "\n".join(runnable(page)))


@pytest.mark.parametrize("page", sorted(page for page in PAGES if blocks(page, "yaml")))
def test_parameters_fit_their_sections(page: str) -> None:
    before = params.load(ROOT / "params.yaml")
    values = merged(page, params.load(ROOT / "params.yaml"))
    assert values.keys() == before.keys()
    for dotted, _, kind in PARAMETERS["sections"]():
        for name in values[dotted.split(".")[0]] if "NAME" in dotted else [""]:
            params.section(values, dotted.replace("NAME", name), kind)


def test_every_command_line_is_one_that_its_program_takes() -> None:
    groups = typer.main.get_command(app)
    seen = set()
    for page, (program, *words) in commands():
        seen.add(program)
        if program == "palimpsest":
            groups.commands[words[0]].make_context(words[0], words[1:])
        elif program == "dvc":
            parse_args(words)
        elif program == "python" and words[0] != "-":
            file = f"{words[1].replace('.', '/')}.py" if words[0] == "-m" else words[0]
            assert (ROOT / file).is_file(), f"{page}: {file}"
    assert seen >= {"palimpsest", "dvc", "python"}


def test_every_command_has_an_example_in_the_readme() -> None:
    shown = {tuple(words[:2]) for page, words in commands() if page == "README.md"}
    names = typer.main.get_command(app).commands
    assert {("palimpsest", name) for name in names} | {("dvc", "repro")} <= shown


def test_the_readme_begins_with_what_ci_runs() -> None:
    main_job, tests = (text for text in blocks("README.md")[:2])
    assert main_job.count("\n") == tests.count("\n") == 1
    assert main_job.endswith("dvc repro\n")
    assert "pytest" in tests


@pytest.mark.parametrize("page", sorted(PAGES))
def test_blocks_say_what_they_are(page: str) -> None:
    assert blocks(page) == blocks(page, "sh", "console", "yaml", "text")
    assert len(re.findall(r"^ *```", PAGES[page], re.M)) == 2 * len(blocks(page)), "a block is not closed"


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> Iterator[tuple[Path, str]]:
    """Where the page's links within the project lead: file and anchor."""
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield ((ROOT / page).parent / path).resolve() if path else ROOT / page, anchor


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_lead_somewhere(page: str) -> None:
    for path, anchor in links(page):
        assert path.exists(), path
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{path.name}#{anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), {"README.md"}
    while todo:
        page = todo.pop()
        reached.add(page)
        found = {path.relative_to(ROOT).as_posix() for path, _ in links(page) if path.is_relative_to(ROOT)}
        todo |= found & PAGES.keys() - reached
    assert reached == PAGES.keys()


@dataclass(frozen=True, config=STRICT)
class Base:
    size: Annotated[int, Field(ge=8, multiple_of=8)]  # pixels
    rate: float | None = 2e-4  # of the base


@dataclass(frozen=True, config=STRICT)
class Params(Base):
    # Two lines above,
    # and a bar: a|b.
    mode: Literal["raw", "blended"] | None = None
    rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3  # its own
    kinds: dict[str, float] = field(default_factory=lambda: {"lines": 1.0})
    many: tuple[str, ...] = ("a", "b")  # of <name>


def test_a_table_says_what_the_fields_say() -> None:
    assert PARAMETERS["table"](PARAMETERS["rows"](Params)).splitlines()[2:] == [
        "| `size` | integer ≥ 8, a multiple of 8 | required | pixels |",
        "| `rate` | number > 0 and < 1 | `0.001` | its own |",
        "| `mode` | `raw`, `blended` or `null` | `null` | Two lines above, and a bar: a\\|b. |",
        "| `kinds` | mapping to number | `{lines: 1.0}` |  |",
        "| `many` | list of text | `[a, b]` | of \\<name> |",
    ]


def test_the_page_of_parameters_is_what_the_code_says() -> None:
    assert PARAMETERS["page"]() == PAGES["docs/parameters.md"], "`python -m docs.parameters` writes it"


def test_the_schema_of_the_audits_answers_is_what_the_code_says_and_the_page_names_every_key() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "audit_schema.py"))["schema"]()
    written = json.loads((ROOT / "docs" / "audit.schema.json").read_text())
    assert made == written, "`python -m docs.audit_schema` writes it"
    keys = {key for each in written["$defs"].values() for key in each.get("properties", {})}
    assert len(keys) > 50
    page = PAGES["docs/audit.md"].partition("## For machines")[2]
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_every_parameter_says_what_it_means() -> None:
    assert not re.findall(r"^.*\|  \|$", PAGES["docs/parameters.md"], re.M)


def test_the_citation_is_complete_and_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert all(each.keys() >= {"type", "title", "authors"} for each in citation["references"])
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert f"## [{project['version']}]" in PAGES["CHANGELOG.md"]
