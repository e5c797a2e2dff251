"""What stands behind a checkpoint in the formats of others, held against their own readers and validators."""

import base64
import dataclasses
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from hashlib import md5
from importlib.util import find_spec
from pathlib import Path

import mlcroissant
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from dvc_project import ENV
from exported import COMMIT, MODEL, PHOTOS, SCORES, SOFT, SOURCE, TABLE, Project, digest
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Signature
from test_bundle import LINES

from flows.checkout.git import Git
from flows.exports import attestations, croissant, materials, model_card, output, sbom
from flows.exports.datasets import Terms, judge
from flows.lineage import keys, owner, public_keys, signatures
from flows.lineage.bundle import BUNDLE
from stages.runs.errors import InputError


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Nobody alters it."""
    return Project(tmp_path_factory.mktemp("ü %20") / "project")


@pytest.fixture(scope="module")
def found(project: Project) -> materials.Materials:
    return materials.of(project.home, "net")


@pytest.fixture(scope="module")
def said(project: Project) -> owner.Owner:
    return owner.read(project.home)


def test_the_materials_are_the_files_and_what_is_recorded(project: Project, found: materials.Materials) -> None:
    assert (found.model.file.sha256, found.model.parameters) == (digest(project.home / MODEL), {"network": 12})
    assert found.model.file.md5 == md5((project.home / MODEL).read_bytes()).hexdigest()
    assert found.code == materials.Code(COMMIT, [], {"stage.py": SOURCE}, "0" * 64)
    assert found.weights == {"yunet.onnx": "1" * 64}
    assert [run.stage for run in found.runs] == ["train_net@net", "align@faces", "ingest@faces"]
    assert [run.stage for run in found.after] == ["evaluate@net"]
    (dataset,) = found.datasets or []
    parts = sorted((project.home / TABLE).iterdir())
    assert [(piece.path, piece.sha256) for piece in dataset.files or []] == [
        (f"{TABLE}/{part.name}", digest(part)) for part in parts
    ]
    kept = [row for row in project.rows if row["status"] == "kept"]
    assert {one.licence: one.pictures for one in dataset.terms} == Counter(row["licence"] for row in kept)
    assert (dataset.pictures, dataset.trained, dataset.splits) == (5, 4, {"train": 4, "test": 1})
    assert (dataset.identified, dataset.sensitivity) == (1, "personal data")
    (evaluation,) = found.evaluations
    assert {score.blending: score.mean for score in evaluation.scores or []} == SCORES
    assert evaluation.pictures == 1, "one test picture; scores of training pictures are no test"


def test_of_two_blends_of_a_system_the_raw_scores_are_told_once(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.blend_again()
    told = {
        one.system: {score.blending: score.mean for score in one.scores or []}
        for one in materials.of(project.home, "net").evaluations
    }
    assert told == {"net": SCORES, "a_soft": {"blended": SOFT["blended"]}}


def test_what_a_checkpoint_has_gone_on_from_is_among_its_materials_and_what_has_gone_on_from_it_is_not(
    project: Project, found: materials.Materials
) -> None:
    more = materials.of(project.home, "more")
    assert [one.file.sha256 for one in more.before] == [digest(project.home / MODEL)]
    assert more.runs[0].stage == "train_net@more"
    assert {run.stage for run in more.runs[1:]} == {"align@faces", "ingest@faces", "train_net@net"}
    assert len(more.runs) == 4
    assert [each.system for each in more.evaluations] == ["more"]
    assert [each.system for each in found.evaluations] == ["net"]
    assert found.before == []
    text = sbom.text(more, {})
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    (before,) = (one for one in json.loads(text)["components"] if one["name"] == "net")
    assert {one["content"] for one in before["hashes"]} >= {digest(project.home / MODEL)}
    assert digest(project.home / MODEL) in model_card.text(more, {})


def test_without_bytes_records_tell_and_without_records_nothing_is_invented(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    sha256 = digest(project.home / MODEL)
    for file in ("data/models", "data/ingested"):
        (project.home / file).rename(tmp_path / Path(file).name)
    found = materials.of(project.home, "net")
    assert (found.model.file.sha256, found.model.file.size, found.model.parameters) == (sha256, None, None)
    (dataset,) = found.datasets or []
    assert (dataset.files, dataset.pictures, dataset.trained) == (None, 5, None)
    assert dataset.terms == [Terms("CC0-1.0", "not a person", None)]
    assert (dataset.sensitivity, dataset.why) == (None, [])
    (project.home / ".palimpsest").rename(tmp_path / "gone")
    found = materials.of(project.home, "net")
    assert (found.model.file.sha256, found.code, found.packages, found.weights) == (None, None, None, None)
    assert {run.stage for run in found.runs} == {"train_net@net", "align@faces", "ingest@faces"}, "the lock says it"


def test_of_a_checkpoint_that_is_not_the_projects_nothing_is_said_but_what_it_is(
    tmp_path: Path, project: Project
) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "audit.yaml").write_text((project.home / "audit.yaml").read_text())
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    found = materials.of(tmp_path, str(project.home / MODEL))
    assert (found.model.file.sha256, found.model.network) == (digest(project.home / MODEL), "net")
    assert (found.runs, found.datasets, found.weights, found.code) == ([], None, None, None)
    said = found.said_by(owner.read(tmp_path))
    assert said == {}, "what the owner says is of the project's own checkpoints"
    text = sbom.text(found, said)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    card = model_card.text(found, said)
    assert ModelCard(card).data.get("license") is None
    assert "foreign weights: not recorded" in card
    assert str(project.home) not in card + text
    with pytest.raises(InputError, match="it is not recorded which datasets it comes from"):
        croissant.texts(found, owner.read(tmp_path))


NOBODY, SOMEBODY = Terms("CC0-1.0", "not a person", 5), Terms("CC0-1.0", "given", 5)


@pytest.mark.parametrize(
    ("source", "terms", "identified", "faces", "expected"),
    [
        ("portraits", [NOBODY], 0, 5, "no personal data"),
        ("folder", [NOBODY, SOMEBODY], 0, 0, None),
        ("folder", [SOMEBODY], 0, 5, "personal data"),
        ("folder", [NOBODY], 1, 5, "personal data"),
        ("lfw", [NOBODY], None, None, "personal data"),
        ("folder", [], None, None, None),
        ("folder", [Terms("CC0-1.0", "not a person", None)], None, None, None),
    ],
)
def test_whether_data_are_personal_is_said_by_what_is_recorded_alone(
    source: str, terms: list[Terms], identified: int | None, faces: int | None, expected: str | None
) -> None:
    sensitivity, why = judge(source, terms, identified, faces)
    assert sensitivity == expected
    assert bool(why) == bool(expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # theirs
def test_mlcroissant_reads_the_table_and_refuses_another_file(
    project: Project, found: materials.Materials, said: owner.Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.home)
    ((name, text),) = croissant.texts(found, said).items()
    assert name == "faces.croissant.json"
    written = project.home / name
    written.write_text(text)
    made = json.loads(text)
    assert made["conformsTo"][0] == "http://mlcommons.org/croissant/1.1"
    assert (made["url"], made["datePublished"]) == ("https://example.org/faces", "2026-11-27")
    assert made["license"] == [
        "https://spdx.org/licenses/CC0-1.0.html",
        "https://spdx.org/licenses/MIT.html",
        {"@type": "sc:CreativeWork", "name": "as Ada says"},
    ]
    assert made["description"].startswith("Five (said by the owner) 5 pictures")
    assert "personal data" in made["rai:personalSensitiveInformation"]
    assert made["prov:wasGeneratedBy"]["prov:label"] == "ingest@faces"
    assert "/home/ada" not in text
    assert not any(name in text for name in PHOTOS)
    dataset = mlcroissant.Dataset(written)
    assert dataset.metadata.ctx.conforms_to.value == made["conformsTo"][0]
    assert not dataset.metadata.ctx.issues.errors
    read = itertools.chain.from_iterable(dataset.records(one["@id"]) for one in made["recordSet"])
    for record, row in zip(read, project.rows, strict=True):
        plain = {key.partition("/")[2]: value for key, value in record.items()}
        texts = {key: value.decode() if isinstance(value, bytes) else value for key, value in plain.items()}
        picture = texts.pop("image")
        assert (picture is None) == (row["status"] == "rejected")
        assert picture is None or picture.size == (row["width"], row["height"])
        assert texts == {key: row[key] for key in texts}
        assert row.keys() - texts.keys() == {"image", "phash"}
    made["distribution"][1]["sha256"] = "0" * 64
    written.write_text(json.dumps(made))
    with pytest.raises(mlcroissant.GenerationError, match="Download"):
        list(mlcroissant.Dataset(written).records("pictures-00001"))
    written.unlink()


def test_each_version_of_a_dataset_has_a_file_whose_name_leads_nowhere_else(
    found: materials.Materials, said: owner.Owner
) -> None:
    (dataset,) = found.datasets or []
    other = dataclasses.replace(dataset, table=dataclasses.replace(dataset.table, md5="0" * 32 + ".dir"))
    both = croissant.texts(dataclasses.replace(found, datasets=[dataset, other]), said)
    assert [*both] == [f"faces.{dataset.table.md5[:10]}.croissant.json", "faces.0000000000.croissant.json"]
    strange = dataclasses.replace(found, datasets=[dataclasses.replace(dataset, name="../../x")])
    (name,) = croissant.texts(strange, owner.Owner(datasets={"../../x": said.datasets["faces"]}))
    assert "/" not in name


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("{}", "audit.yaml: datasets.faces: url, creator, published: Croissant requires it"),
        ('datasets: {faces: {url: "https://x", creator: y}}', "datasets.faces: published: Croissant requires it"),
        ("datasets: {faces: {url: x}}", "audit.yaml: datasets.faces.url: "),
        ("datasets: {faces: {published: soon}}", "audit.yaml: datasets.faces.published: "),
        ("datasets: {faces: {licence: MIT}}", "audit.yaml: unknown key 'datasets.faces.licence'; one of: .*creator"),
    ],
)
def test_what_no_record_can_know_is_asked_for_in_one_line(
    tmp_path: Path, found: materials.Materials, words: str, refusal: str
) -> None:
    (tmp_path / "audit.yaml").write_text(words)
    with pytest.raises(InputError, match=refusal) as error:
        croissant.texts(found, owner.read(tmp_path))
    assert "\n" not in str(error.value)


def test_hugging_face_reads_the_model_card(
    tmp_path: Path, project: Project, found: materials.Materials, said: owner.Owner
) -> None:
    file = tmp_path / "README.md"
    file.write_text(model_card.text(found, found.said_by(said)))
    card = ModelCard.load(file)
    assert card.data.license == "apache-2.0"
    assert {one.metric_config: one.metric_value for one in card.data.eval_results or []} == SCORES
    for one in card.data.eval_results or []:
        assert (one.dataset_type, one.metric_type, one.metric_args["completions"]) == ("faces", "psnr_hole", 3)
        assert one.dataset_args["scores_sha256"] == digest(project.home / "data/scores/net.parquet")
    assert digest(project.home / MODEL) in card.text
    assert r"Ada \| Lovelace" in card.text
    assert "<b>" not in re.sub(r"\\.", "", card.text)
    assert "Ada_Lovelace" not in card.text.replace("\\", ""), "names of pictures may be people's"
    assert str(project.home) not in card.text


@settings(max_examples=50)
@given(st.text())
@example("&lt;b&gt;")
def test_what_is_filled_into_the_card_stays_one_line_of_plain_text(text: str) -> None:
    line = model_card.line(text)
    assert len(line.splitlines()) <= 1
    assert re.sub(r"\\(.)", r"\1", line) == " ".join(text.split())
    assert not re.search(r"[`*_\[\]<>|&]", re.sub(r"\\.", "", line))


def test_the_bill_of_materials_is_valid_and_has_every_digest(
    project: Project, found: materials.Materials, said: owner.Owner
) -> None:
    text = sbom.text(found, found.said_by(said))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    made = json.loads(text)
    model = made["metadata"]["component"]
    parts = {one["bom-ref"]: one for one in made["components"]}
    (data,) = (one for one in made["components"] if one["type"] == "data")
    hashes = {
        one["content"] for part in (model, *data["components"]) for one in part["hashes"] if one["alg"] == "SHA-256"
    }
    assert hashes == {digest(file) for file in (project.home / MODEL, *(project.home / TABLE).iterdir())}
    assert data["data"][0]["classification"] == "personal data"
    licences = [one["license"] for one in data["licenses"]]
    assert sorted(one.get("id", one.get("name")) for one in licences) == ["CC0-1.0", "MIT", "as Ada says"]
    assert model["externalReferences"] == [{"type": "website", "url": "https://example.org/net"}]
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": data["bom-ref"]}]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {one["value"] for one in metrics} == {"20.5", "21.25"}
    assert parts["package:opencv_python"]["purl"] == "pkg:pypi/opencv-python@4.14.0.94"
    assert parts["weights:yunet.onnx"]["hashes"] == [{"alg": "SHA-256", "content": "1" * 64}]
    needs = {one["ref"]: one.get("dependsOn", []) for one in made["dependencies"]}
    assert set(needs["model"]) == parts.keys()
    assert not any(name in text for name in PHOTOS)


def test_signed_exports_are_accepted_by_model_signing_and_a_changed_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All as people run it, from the key on; then without a key."""
    project = Project(tmp_path / "project")
    monkeypatch.chdir(project.home)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(project.home / "own"))
    out = tmp_path / "out"
    out.mkdir()
    found = materials.of(project.home, "net")
    with pytest.raises(InputError, match="net: no attestation that counts is here of the runs behind it"):
        attestations.bundle(found, signatures.counting(Git(project.home)))
    keys.new(project.home, "Ada", "")
    project.git("add", "-A")
    project.git("commit", "-qm", "key")
    signatures.collect(project.home)
    env = ENV | {keys.KEY: str(keys.place())}
    words = [sys.executable, "-m", "flows.cli", "audit", "export", "attestations", "net", "-o", str(out)]
    done = subprocess.run(words, cwd=project.home, env=env, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    bundle = out / "net.intoto.jsonl"
    assert said[0] == f"{bundle}: 4 attestations"
    assert said[1].startswith(f"{bundle}.sig: your signature of {bundle}")
    _verified(bundle.read_bytes(), project)
    written = _all(project, found, out, signed=True)
    assert [one.file.name for one in written] == ["faces.croissant.json", "README.md", "net.cdx.json"]
    (out / "KEY.pem").write_text(public_keys.trusted(project.home)["Ada"].key.keyval["public"])
    changed = out / "changed.json"
    changed.write_bytes(written[-1].file.read_bytes().replace(b"20.5", b"29.5"))
    cases = [(bundle, bundle), *((one.file, one.file) for one in written), (changed, written[-1].file)]
    if find_spec("model_signing"):
        lines = [["verify", "key", str(file), "--signature", f"{of}.sig", "--public_key", str(out / "KEY.pem")]
                 for file, of in cases]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", LINES, json.dumps(lines)], capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout.splitlines()[-1]) == [0, 0, 0, 0, 1], done.stderr
    unsigned = _all(project, found, out, signed=False)
    assert [one.signature for one in unsigned] == [None] * 3
    assert not list(out.glob("[!n]*.sig")), "the signature of what was there before is gone"
    (record,) = (project.home / ".palimpsest/records/train_net@net").iterdir()
    record.write_text(record.read_text().replace('"seed":1', '"seed":3'))
    words[5:7] = ["sbom", "net"]
    done = subprocess.run(words, cwd=project.home, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1, "net: something is not as it is recorded; `palimpsest audit checkpoint net` says what\n",
    )  # fmt: skip


def _all(project: Project, found: materials.Materials, out: Path, signed: bool) -> list[output.Written]:
    said = owner.read(project.home)
    own = found.said_by(said)
    texts = [
        (croissant.KIND, croissant.texts(found, said)),
        (model_card.KIND, {model_card.NAME: model_card.text(found, own)}),
        (sbom.KIND, {"net.cdx.json": sbom.text(found, own)}),
    ]
    return [
        one
        for kind, files in texts
        for one in output.write(project.home, kind, {out / name: text for name, text in files.items()}, None, signed)
    ]


def _verified(lines: bytes, project: Project) -> None:
    """Hold each envelope against the key, by the library alone; and what it says against the runs."""
    key = public_keys.trusted(project.home)["Ada"].key
    stages = []
    for line in lines.splitlines():
        made = json.loads(line)
        signatures = [{"keyid": one["keyid"], "sig": base64.b64decode(one["sig"]).hex()} for one in made["signatures"]]
        payload = base64.b64decode(made["payload"])
        envelope = Envelope(
            payload, made["payloadType"], {one["keyid"]: Signature.from_dict(one) for one in signatures}
        )
        envelope.verify([key], 1)
        stages.append(json.loads(payload)["predicate"]["buildDefinition"]["externalParameters"]["stage"])
    assert stages == ["train_net@net", "align@faces", "ingest@faces", "evaluate@net"]


def test_no_file_of_others_is_replaced_and_nothing_is_half_written(
    tmp_path: Path, project: Project, found: materials.Materials
) -> None:
    kind = model_card.KIND
    own = {tmp_path / name: f"{model_card.MARK} {name}" for name in ("one.md", "two.md")}
    (tmp_path / "two.md").write_text("mine")
    with pytest.raises(InputError, match=r"two\.md: exists, and is no model card of this command; name another file"):
        output.write(project.home, kind, own, None, False)
    assert not (tmp_path / "one.md").exists()
    (tmp_path / "two.md").unlink()
    (tmp_path / "two.md.sig").write_text("mine")
    with pytest.raises(InputError, match=r"two\.md\.sig: exists, and is no signature"):
        output.write(project.home, kind, own, None, False)
    (tmp_path / "two.md.sig").unlink()
    output.write(project.home, kind, own, None, False)
    output.write(project.home, kind, {file: f"{text} again" for file, text in own.items()}, None, False)
    assert (tmp_path / "two.md").read_text().endswith("again")
    (tmp_path / "one.md.sig").write_text(json.dumps({"mediaType": BUNDLE}))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    longer = {tmp_path / "one.md": f"{model_card.MARK} new", tmp_path / ("n" * 300): "that the system takes no name of"}
    with pytest.raises(InputError, match="File name too long"):
        output.write(project.home, kind, longer, None, False)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before, "no file of several is exchanged"
    assert output.places(tmp_path, ["a", "b"]) == [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(InputError, match=r"both: no folder, and there are 2 files to write"):
        output.places(tmp_path / "both", ["a", "b"])
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        output.places(tmp_path / "nowhere" / "a", ["a"])
