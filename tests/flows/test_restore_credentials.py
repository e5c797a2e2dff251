"""Content Credentials in restored photos, read back by C2PA's own reader; with certificates made for the test."""

import io
import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from dvc_project import Project
from PIL import Image

from flows.restoration import credentials
from flows.restoration.encode import encode
from flows.restoration.marking import VALUE
from flows.restoration.photo import Photo, read_photo
from stages.runs.errors import InputError


def certificate(key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey, authority: bool) -> bytes:
    """As C2PA wants them: of an authority, or of somebody who signs."""
    name = lambda whose: x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, whose)])  # noqa: E731
    begin = datetime.now(UTC) - timedelta(days=1)
    usage = x509.KeyUsage(not authority, False, False, False, False, authority, authority, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("Authority" if authority else "Ada"))
        .issuer_name(name("Authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=30))
        .add_extension(x509.BasicConstraints(authority, None), True)
        .add_extension(usage, True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return builder.sign(issuer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem(key: ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A chain of certificates, and the key of the first."""
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(certificate(own, authority, False) + certificate(authority, authority, True))
    key.write_bytes(pem(own))
    return chain, key


def photo(kind: str) -> Photo:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(out, kind)
    return read_photo(out.getvalue(), f"photo.{kind.lower()}")


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_what_was_done_is_signed_and_pixels_and_mark_stay(files: tuple[Path, Path], kind: str) -> None:
    given = photo("JPEG")
    hole = np.zeros((40, 50), bool)
    hole[10:20, 10:20] = True
    plain = encode(given, np.zeros_like(given.view), hole, kind)
    signed = credentials.read(*files).sign(plain, kind, given, ["dmfn"])
    told = json.loads(c2pa.Reader(credentials.KINDS[kind], io.BytesIO(signed)).json())
    assert told["validation_state"] == "Valid"  # the certificate is nobody's whom readers trust
    manifest = told["manifests"][told["active_manifest"]]
    assert manifest["signature_info"]["issuer"] == "Ada"
    ((original,),) = (manifest["ingredients"],)
    assert (original["title"], original["relationship"]) == ("photo.jpeg", "parentOf")
    assert "thumbnail" not in original, "it would show what was completed"
    actions = {one["action"]: one for one in manifest["assertions"][0]["data"]["actions"]}
    assert actions["c2pa.edited"]["digitalSourceType"] == VALUE
    assert actions["c2pa.edited"]["description"] == "a part was completed by dmfn"
    with Image.open(io.BytesIO(plain)) as before, Image.open(io.BytesIO(signed)) as after:
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


def test_the_command_puts_them_into_the_pictures(project: Project, files: tuple[Path, Path]) -> None:
    (project.home / "photo.jpeg").write_bytes(photo("JPEG").data)
    words = ["restore", "photo.jpeg", "-o", "out", "--hole", "centre", "--model", "telea", "--c2pa", str(files[0])]
    assert project.run(*words, code=2)[-1].startswith("restore: --c2pa and --c2pa-key: give both")
    project.run(*words, "--c2pa-key", str(files[1]))
    with (project.home / "out" / "photo.png").open("rb") as signed:
        told = json.loads(c2pa.Reader("image/png", signed).json())
    assert told["validation_state"] == "Valid"
    record = json.loads((project.home / "out" / "photo.json").read_text())
    assert record["files"]["photo.png"] == sha256((project.home / "out" / "photo.png").read_bytes()).hexdigest()


def test_what_cannot_be_signed_is_one_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    chain, key = files
    given = photo("BMP")
    with pytest.raises(InputError, match="C2PA knows no BMP files"):
        credentials.read(chain, key).sign(given.data, "png", given, ["x"])
    other = tmp_path / "other.pem"
    other.write_bytes(pem(dsa.generate_private_key(1024)))
    for files_given, said in (
        ((tmp_path / "none", key), "none: No such file or directory"),
        ((key, key), "no certificate in PEM"),
        ((chain, chain), "no private key in PEM"),
        ((chain, other), "a kind of key that C2PA does not take"),
    ):
        with pytest.raises(InputError, match=said):
            credentials.read(*files_given)
    other.write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    plain = photo("PNG")
    with pytest.raises(InputError, match="--c2pa: not signed: "):
        credentials.read(chain, other).sign(plain.data, "png", plain, ["x"])
