"""Ed25519 signatures over canonical JSON: what makes a node trust a bundle and a channel document.

The private key lives under ``settings.home/keys`` (or where ``settings.signing_key`` points), readable by its owner
alone, and never enters a bundle, the registry or a log. Nodes get the public key once, by another way than the channel.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from dwcp.settings import Settings
from dwcp.store import write_atomically

SIGNATURE_BYTES = 64
_PRIVATE_NAME = "signing.pem"
_PUBLIC_NAME = "signing.pub.pem"


class SigningError(RuntimeError):
    """A key is missing or unusable, or a signature does not fit. The message says which, where, and what to do."""


def canonical_json(value: object) -> bytes:
    """The one spelling of ``value``: sorted keys, no spaces, ASCII.

    Floats are refused (``SigningError``): languages disagree on how to print them, and a node in another language must
    find the same bytes.
    """
    _refuse_floats(value, "$")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _refuse_floats(value: object, where: str) -> None:
    if isinstance(value, float):
        raise SigningError(f"{where} is the float {value!r}: a signed document holds whole numbers and texts only")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_floats(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_floats(item, f"{where}[{index}]")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What a node needs to verify."""

    key: Ed25519PublicKey

    @property
    def key_id(self) -> str:
        """The first 16 hex digits of the SHA-256 of the raw key: says which key signed, proves nothing."""
        raw = self.key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return hashlib.sha256(raw).hexdigest()[:16]

    @property
    def pem(self) -> bytes:
        """The key as a PEM file."""
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def verify(self, data: bytes, signature: bytes, what: str) -> None:
        """Return if ``signature`` over ``data`` is this key's. Raises ``SigningError`` naming ``what`` was signed."""
        try:
            self.key.verify(signature, data)
        except InvalidSignature:
            raise SigningError(
                f"{what}: the signature is not that of key {self.key_id}: it was changed, or signed by another key"
            ) from None


@dataclass(frozen=True, slots=True)
class Signer:
    """The private half. Its ``repr`` shows no key."""

    key: Ed25519PrivateKey

    @property
    def public_key(self) -> PublicKey:
        """The half that verifies."""
        return PublicKey(self.key.public_key())

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of the signature; the same data give the same signature."""
        return self.key.sign(data)


@dataclass(frozen=True, slots=True)
class Signed:
    """A document and the signature over its canonical JSON."""

    document: dict[str, object]
    signature: bytes
    key_id: str

    def to_bytes(self) -> bytes:
        """``{"document":…,"key_id":…,"signature":…}`` in canonical JSON.

        A reader may verify the raw bytes of ``document`` as they stand in the file, without a JSON writer of its own.
        """
        body = {
            "document": self.document,
            "key_id": self.key_id,
            "signature": base64.b64encode(self.signature).decode(),
        }
        return canonical_json(body) + b"\n"


def sign_document(signer: Signer, document: dict[str, object]) -> bytes:
    """``document`` with its signature, as bytes to publish."""
    return Signed(document, signer.sign(canonical_json(document)), signer.public_key.key_id).to_bytes()


def verify_document(data: bytes, public_key: PublicKey, what: str) -> dict[str, object]:
    """The document inside ``data`` if its signature holds.

    Raises ``SigningError`` naming ``what``: no JSON, not in canonical spelling, another key, a wrong signature.
    """
    try:
        body = json.loads(data)
        document, key_id = body["document"], body["key_id"]
        signature = base64.b64decode(body["signature"], validate=True)
        spelling = Signed(document, signature, key_id).to_bytes()
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SigningError(f"{what} is no signed document: it was cut off or overwritten") from None
    if not isinstance(document, dict):
        raise SigningError(f"{what} is no signed document: its content is no JSON object")
    if spelling != data:
        # Two spellings of one content, such as a key written twice, could be read in two ways by two readers.
        raise SigningError(f"{what} is not in canonical JSON: it was edited after it was signed")
    if key_id != public_key.key_id:
        raise SigningError(f"{what} was signed by key {key_id}, not by {public_key.key_id}, which is trusted here")
    public_key.verify(canonical_json(document), signature, what)
    return document


def load_signer(settings: Settings) -> Signer:
    """The installation's signer; its key is made on first use (mode 0600), once even if two ask at the same time.

    Raises ``SigningError`` if a configured key is missing, the key is readable by others, is no Ed25519 key, or was
    lost while its public half is in use.
    """
    path = private_key_path(settings)
    if not path.exists():
        if settings.signing_key is not None:
            raise SigningError(f"there is no signing key at {path}: put it there, or unset DWCP_SIGNING_KEY")
        _generate(path)
    signer = Signer(_read_private(path))
    _export_public(signer, public_key_path(settings))
    return signer


def private_key_path(settings: Settings) -> Path:
    """Where the private key is, or will be made."""
    return settings.signing_key or settings.home / "keys" / _PRIVATE_NAME


def public_key_path(settings: Settings) -> Path:
    """Where the public key is exported for nodes."""
    return settings.home / "keys" / _PUBLIC_NAME


def load_public_key(path: Path) -> PublicKey:
    """The public key of a PEM file. Raises ``SigningError`` if it is missing or is no Ed25519 key."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except FileNotFoundError:
        raise SigningError(f"there is no public key at {path}: the first publish writes it") from None
    except ValueError:
        raise SigningError(f"{path} is no public key in PEM form") from None
    if not isinstance(key, Ed25519PublicKey):
        raise SigningError(f"{path} holds a {type(key).__name__}: an Ed25519 key is needed")
    return PublicKey(key)


def _generate(path: Path) -> None:
    public = path.with_name(_PUBLIC_NAME)
    if public.exists() and not path.exists():  # asked in this order: who makes a key writes the private half first
        raise SigningError(
            f"the signing key {path} is gone, but nodes may trust its public half {public}: restore it from your "
            f"backup; if it is lost for good, delete {public} (a new key is made) and give every node the new one"
        )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces: of two that make a key at once, the first one's stays.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _read_private(path: Path) -> Ed25519PrivateKey:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise SigningError(f"the signing key {path} is open to others (mode {mode:04o}): run chmod 600 {path}")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        raise SigningError(f"{path} is no unencrypted private key in PEM form: restore it from your backup") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningError(f"{path} holds a {type(key).__name__}: an Ed25519 key is needed")
    return key


def _export_public(signer: Signer, path: Path) -> None:
    pem = signer.public_key.pem
    if path.exists():
        if path.read_bytes() != pem:
            raise SigningError(
                f"{path} is not the public half of the signing key: nodes that trust it would refuse what is signed "
                "now; restore the right key, or delete the file and give every node the new one"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, pem)
