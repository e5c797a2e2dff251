"""A checkpoint's signature, which the tool `model_signing` of others checks, as people run it."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import forked
import numpy as np
import pytest
from dvc_project import ENV
from safetensors.numpy import save_file

from flows.audit import sign
from flows.lineage import keys, public_keys
from stages.runs.errors import InputError

MODEL = "net.safetensors"
# The tool takes a second to start: here are several of its command lines in one process, with their exit codes.
LINES = """
import json, sys
from model_signing._cli import main
codes = []
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as end:
        codes.append(end.code)
print(json.dumps(codes))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a checkpoint, in which Ada has a key; the other settings are not hers."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    home = tmp_path / "project"
    (home / ".dvc").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(home)], check=True)
    save_file({"w": np.zeros(3, np.float32)}, home / MODEL, {"palimpsest": json.dumps({"network": "net"})})
    monkeypatch.chdir(home)
    keys.new(home, "Ada", "")
    return home


def public(home: Path, name: str) -> Path:
    file = home / f"{name}.pem"
    file.write_text(public_keys.trusted(home)[name].key.keyval["public"])
    return file


@pytest.mark.skipif(find_spec("model_signing") is None, reason="needs model-signing: `pip install -e '.[dev]'`")
def test_model_signing_accepts_the_signature_and_that_one_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [forked.python(), "-m", "flows.cli", "audit", "sign", MODEL]
    (home / MODEL).rename(home / "object")
    (home / MODEL).symlink_to(home / "object")  # as DVC leaves it with `cache.type symlink`
    env = ENV | {keys.KEY: str(keys.place())}
    said = subprocess.run(words, cwd=home, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].startswith(f"{MODEL}.sig: your signature of {MODEL}")
    ada = public(home, "Ada")
    words = said[1].replace("KEY.pem", ada.name).split()  # the line that it prints is the one to run
    done = subprocess.run([forked.python(), "-m", *words], cwd=home, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr

    (home / "object").replace(home / MODEL)

    changed = home / "changed.safetensors"
    data = bytearray((home / MODEL).read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    monkeypatch.setenv(keys.KEY, str(home / "bob"))
    keys.new(home, "Bob", "")
    sign.sign(home, MODEL, home / "bob.sig")
    bundle = json.loads((home / f"{MODEL}.sig").read_text())
    bundle["verificationMaterial"] = json.loads((home / "bob.sig").read_text())["verificationMaterial"]
    (home / "liar.sig").write_text(json.dumps(bundle))  # Ada's signature, said to be Bob's
    bob = public(home, "Bob")
    cases = {
        "the bytes, by another name": (MODEL, f"{MODEL}.sig", ada, 0),
        "Bob's": (MODEL, "bob.sig", bob, 0),
        "one byte changed": (changed.name, f"{MODEL}.sig", ada, 1),
        "another's key": (MODEL, f"{MODEL}.sig", bob, 1),
        "another's signature": (MODEL, "bob.sig", ada, 1),
        "another's name over it": (MODEL, "liar.sig", bob, 1),
    }
    lines = [
        ["verify", "key", file, "--signature", sig, "--public_key", key.name] for file, sig, key, _ in cases.values()
    ]
    done = subprocess.run(
        [sys.executable, "-c", LINES, json.dumps(lines)], cwd=home, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [code for *_, code in cases.values()], done.stderr


def test_what_cannot_sign_is_refused_in_one_line_and_leaves_no_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = (home / MODEL).read_bytes()
    with pytest.raises(InputError, match=r"net\.safetensors: is the checkpoint itself"):
        sign.sign(home, MODEL, Path(MODEL))
    (home / "words.safetensors").write_text("words")
    with pytest.raises(InputError, match="not a checkpoint"):
        sign.sign(home, "words.safetensors")
    with pytest.raises(InputError, match="no file, and no data/models/other"):
        sign.sign(home, "other")
    (home / "file").touch()
    with pytest.raises(InputError, match="File exists; name another file with -o"):
        sign.sign(home, MODEL, Path("file/net.sig"))
    (home / "link").symlink_to(home / "nowhere")
    for name in ("signers.yaml", "file", "link"):
        before = (home / public_keys.SIGNERS).read_bytes()
        with pytest.raises(InputError, match=f"{name}: exists, and is no signature of a checkpoint; name another"):
            sign.sign(home, MODEL, Path(name))
        assert (home / public_keys.SIGNERS).read_bytes() == before
    monkeypatch.setenv(keys.KEY, str(home / "id_ed25519"))
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / "id_ed25519")], check=True)
    with pytest.raises(InputError, match="a key of the kind ed25519, and model_signing takes P-256 alone"):
        sign.sign(home, MODEL)
    monkeypatch.delenv(keys.KEY)
    public_keys.revoke(home, "Ada", [])
    with pytest.raises(InputError, match="the key of 'Ada', which is revoked"):
        sign.sign(home, MODEL)
    keys.place().unlink()
    with pytest.raises(InputError, match="you have no key yet"):
        sign.sign(home, MODEL)
    assert not list(home.rglob("*.sig*"))
    assert (home / MODEL).read_bytes() == kept


def test_an_ssh_key_that_is_p256_signs_into_the_folder_that_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(keys.KEY, str(home / "id_ecdsa"))
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "256", "-N", "", "-f", str(home / "id_ecdsa")], check=True)
    (home / "out").mkdir()
    assert sign.sign(home, MODEL, Path("out")) == (Path(MODEL), Path("out", f"{MODEL}.sig"))
    assert [file.name for file in (home / "out").iterdir()] == [f"{MODEL}.sig"]
    kept = (home / "out" / f"{MODEL}.sig").read_bytes()
    sign.sign(home, MODEL, Path("out"))  # a signature is replaced
    assert (home / "out" / f"{MODEL}.sig").read_bytes() != kept, "a signature is never the same twice"
