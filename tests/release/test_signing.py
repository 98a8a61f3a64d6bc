import base64
import json
import multiprocessing
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from dwcp.release.signing import (
    Signer,
    SigningError,
    canonical_json,
    load_public_key,
    load_signer,
    private_key_path,
    public_key_path,
    sign_document,
    verify_document,
)
from dwcp.settings import Settings

DOCUMENT = {"kind": "test", "serial": 3, "names": ["a", "ü"], "none": None}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def signer(settings: Settings) -> Signer:
    return load_signer(settings)


def test_a_key_is_made_once_for_its_owner_alone(settings: Settings):
    first = load_signer(settings)
    path = private_key_path(settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_signer(settings).public_key.key_id == first.public_key.key_id
    assert load_public_key(public_key_path(settings)).key_id == first.public_key.key_id
    assert sorted(p.name for p in path.parent.iterdir()) == ["signing.pem", "signing.pub.pem"]


def key_id_of(home: Path, _: int) -> str:
    return load_signer(Settings(home=home)).public_key.key_id


def test_processes_that_start_together_make_one_key(tmp_path: Path):
    with multiprocessing.get_context("fork").Pool(8) as pool:
        found = pool.starmap(key_id_of, [(tmp_path, n) for n in range(32)], chunksize=1)
    assert len(set(found)) == 1


def test_what_is_signed_verifies_and_repeats(signer: Signer):
    data = sign_document(signer, DOCUMENT)
    assert verify_document(data, signer.public_key, "it") == DOCUMENT
    assert sign_document(signer, DOCUMENT) == data


def test_the_raw_bytes_of_the_document_carry_the_signature(signer: Signer):
    # What a node in another language relies on: no JSON writer of its own is needed.
    data = sign_document(signer, DOCUMENT)
    raw = data[len(b'{"document":') : data.index(b',"key_id"')]
    signer.public_key.verify(raw, base64.b64decode(json.loads(data)["signature"]), "raw")


@given(st.data())
def test_no_changed_byte_goes_unseen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    signer = shared_signer(tmp_path_factory)
    signed = bytearray(sign_document(signer, DOCUMENT))
    place = data.draw(st.integers(0, len(signed) - 1))
    signed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SigningError):
        verify_document(bytes(signed), signer.public_key, "it")


@given(st.integers(0, 200))
def test_no_cut_goes_unseen(tmp_path_factory: pytest.TempPathFactory, length: int):
    signer = shared_signer(tmp_path_factory)
    signed = sign_document(signer, DOCUMENT)
    with pytest.raises(SigningError, match="cut off"):
        verify_document(signed[: min(length, len(signed) - 2)], signer.public_key, "it")


_shared: list[Signer] = []


def shared_signer(factory: pytest.TempPathFactory) -> Signer:
    if not _shared:
        _shared.append(load_signer(Settings(home=factory.mktemp("signer"))))
    return _shared[0]


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"3", b"{}", b'{"document":1}', b"[" * 100_000, b"\xff\xfe"])
def test_no_document_is_an_error_and_no_crash(signer: Signer, data: bytes):
    with pytest.raises(SigningError, match="no signed document"):
        verify_document(data, signer.public_key, "it")


def test_a_second_spelling_of_the_same_content_is_refused(signer: Signer):
    data = sign_document(signer, DOCUMENT)
    with pytest.raises(SigningError, match="canonical"):
        verify_document(data.replace(b'"serial":3', b'"serial":9,"serial":3'), signer.public_key, "it")


def test_another_key_is_refused_by_name(signer: Signer, tmp_path: Path):
    other = load_signer(Settings(home=tmp_path / "other"))
    with pytest.raises(SigningError, match=f"the channel.*{signer.public_key.key_id}"):
        verify_document(sign_document(other, DOCUMENT), signer.public_key, "the channel")


def test_floats_are_refused_with_their_place():
    with pytest.raises(SigningError, match=r"\$\.regions\[1\]\.share is the float 0\.5"):
        canonical_json({"regions": [{}, {"share": 0.5}]})


def test_a_key_that_others_can_read_is_refused(settings: Settings, signer: Signer):
    private_key_path(settings).chmod(0o640)
    with pytest.raises(SigningError, match="chmod 600"):
        load_signer(settings)


def test_a_configured_key_is_never_made(tmp_path: Path):
    missing = tmp_path / "elsewhere.pem"
    with pytest.raises(SigningError, match=f"no signing key at {missing}"):
        load_signer(Settings(home=tmp_path, signing_key=missing))
    assert not missing.exists()


def test_a_lost_key_is_not_replaced_in_silence(settings: Settings, signer: Signer):
    private_key_path(settings).unlink()
    with pytest.raises(SigningError, match="restore it from your backup"):
        load_signer(settings)
    public_key_path(settings).unlink()
    assert load_signer(settings).public_key.key_id != signer.public_key.key_id


def test_a_key_that_nodes_do_not_know_is_refused(settings: Settings, signer: Signer, tmp_path: Path):
    other = Settings(home=tmp_path / "other")
    load_signer(other)
    private_key_path(settings).write_bytes(private_key_path(other).read_bytes())
    with pytest.raises(SigningError, match="not the public half"):
        load_signer(settings)


def test_garbage_and_other_kinds_of_key_are_refused(settings: Settings, signer: Signer):
    path = private_key_path(settings)
    path.write_text("garbage")
    with pytest.raises(SigningError, match="no unencrypted private key"):
        load_signer(settings)
    other = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(SigningError, match="an Ed25519 key is needed"):
        load_signer(settings)
    public_key_path(settings).write_text("garbage")
    with pytest.raises(SigningError, match="no public key"):
        load_public_key(public_key_path(settings))


def test_nothing_prints_the_key(settings: Settings, signer: Signer):
    body = private_key_path(settings).read_text().splitlines()[1]
    assert body not in repr(signer) + str(signer)
