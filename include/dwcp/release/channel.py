"""The channel: one small signed document that tells every node what serves its region.

Derived from Postgres and nothing else, so it can be written again at any time, byte for byte. A node polls it and
refuses a serial lower than the one it has seen: an old document replayed is never taken for a rollback, which comes as
a *higher* serial that names an older version.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from psycopg2.extensions import connection

from dwcp.contract import ROLLOUT_BUCKETS
from dwcp.release.registry import RegionState, connect, region_states
from dwcp.release.signing import PublicKey, SigningError, load_signer, sign_document, verify_document
from dwcp.settings import Settings
from dwcp.store import write_atomically

FORMAT = 1
KIND = "dwcp.channel"
MAX_DOCUMENT_BYTES = 2**20


class ChannelError(RuntimeError):
    """A channel document is missing, damaged, replayed or ahead of Postgres. The message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Channel:
    """What the document says. ``bundles`` maps each version named to the SHA-256 of its manifest.

    A region that is missing, or whose champion is None, follows the rules.
    """

    serial: int
    issued_at: datetime
    regions: Mapping[str, RegionState]
    bundles: Mapping[str, str]

    def to_document(self) -> dict[str, object]:
        """The JSON object that is signed."""
        return {
            "kind": KIND,
            "format": FORMAT,
            "serial": self.serial,
            "issued_at": self.issued_at.astimezone(UTC).isoformat(),
            "regions": {
                region: {
                    "champion": state.champion,
                    "challenger": state.challenger,
                    "share_buckets": state.share_buckets,
                }
                for region, state in self.regions.items()
            },
            "bundles": dict(self.bundles),
        }


def read_channel(path: Path, public_key: PublicKey, min_serial: int = 0) -> Channel:
    """The document at ``path``, as a node reads it.

    ``min_serial`` is the highest serial the reader has seen; equal is fine, lower is a replay. Raises ``ChannelError``
    if the document is missing, damaged, signed by another key, of another format, or goes back in serial.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
    except FileNotFoundError:
        raise ChannelError(f"there is no channel document at {path}: nothing was published yet") from None
    except OSError as error:
        raise ChannelError(f"the channel document {path} cannot be read ({error.strerror})") from None
    channel = parse_channel(data, public_key, str(path))
    if channel.serial < min_serial:
        raise ChannelError(
            f"{path} has serial {channel.serial}, but serial {min_serial} was seen before: "
            "an old document was replayed; what is loaded stays"
        )
    return channel


def parse_channel(data: bytes, public_key: PublicKey, what: str) -> Channel:
    """The document in ``data``, its signature checked; ``what`` names it in errors. Raises ``ChannelError``."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ChannelError(f"{what} is larger than {MAX_DOCUMENT_BYTES:,} bytes: it is no channel document")
    try:
        body = verify_document(data, public_key, what)
    except SigningError as error:
        raise ChannelError(str(error)) from error
    if (body.get("kind"), body.get("format")) != (KIND, FORMAT):
        raise ChannelError(
            f"{what} has kind {body.get('kind')!r} and format {body.get('format')!r}; this program reads "
            f"{KIND!r} {FORMAT}: update it"
        )
    try:
        channel = _from_document(body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChannelError(f"{what} lacks or garbles {error}") from None
    for region, state in channel.regions.items():
        named = {version for version in (state.champion, state.challenger) if version is not None}
        if not named <= channel.bundles.keys() or not 0 <= state.share_buckets <= ROLLOUT_BUCKETS:
            raise ChannelError(f"{what} contradicts itself about region {region!r}")
    return channel


def derive_channel(db: connection) -> Channel | None:
    """The document's content as Postgres has it now, in one snapshot; None before the first release."""
    with db.cursor() as cursor:
        cursor.execute("SELECT serial, released_at FROM releases ORDER BY serial DESC LIMIT 1")
        newest = cursor.fetchone()
        if newest is None:
            return None
        states = region_states(db)
        named = {version for state in states.values() for version in (state.champion, state.challenger) if version}
        cursor.execute(
            "SELECT version, bundle_digest FROM model_versions WHERE version = ANY(%s) ORDER BY version",
            (sorted(named),),
        )
        return Channel(newest[0], newest[1].astimezone(UTC), states, dict(cursor.fetchall()))


def sync_channel(settings: Settings) -> Channel | None:
    """Make the document say what Postgres says; return its content, or None before the first release.

    Idempotent, and the repair after a crash between commit and write. Writers wait for one another on a file lock and
    derive inside it, so a slow one never puts an older document over a newer one. A damaged document is replaced;
    raises ``ChannelError`` if a valid one is ahead of Postgres (the database was restored from a backup).
    """
    signer = load_signer(settings)
    path = settings.channel_path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_writer(path), connect(settings) as db:
            db.set_session(isolation_level="REPEATABLE READ", readonly=True)
            channel = derive_channel(db)
            _refuse_older(path, channel, signer.public_key)
            if channel is not None:
                _write_if_different(path, sign_document(signer, channel.to_document()))
    except OSError as error:
        raise ChannelError(
            f"cannot write {path} ({error.strerror or error}); what was released is recorded: "
            "make room and run the same command again"
        ) from error
    return channel


def published_channel(path: Path, public_key: PublicKey) -> Channel | None:
    """The document at ``path``, or None if there is none that a node would take."""
    try:
        return read_channel(path, public_key)
    except ChannelError:
        return None


def _refuse_older(path: Path, channel: Channel | None, public_key: PublicKey) -> None:
    seen, recorded = published_channel(path, public_key), channel.serial if channel else 0
    if seen is not None and seen.serial > recorded:
        raise ChannelError(
            f"{path} has serial {seen.serial}, Postgres only {recorded}: the database was restored from an older "
            "backup. Nodes keep what they have; a publish or rollback decides anew with a higher serial"
        )


def _write_if_different(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        write_atomically(path, data)


def _from_document(body: Mapping[str, object]) -> Channel:
    regions, bundles, serial = body["regions"], body["bundles"], body["serial"]
    if not isinstance(regions, dict) or not isinstance(bundles, dict) or not isinstance(serial, int) or serial < 1:
        raise ValueError("its regions, bundles or serial")
    return Channel(
        serial=serial,
        issued_at=datetime.fromisoformat(str(body["issued_at"])),
        regions={
            region: RegionState(state["champion"], state["challenger"], int(state["share_buckets"]))
            for region, state in regions.items()
        },
        bundles=dict(bundles),
    )


@contextmanager
def _one_writer(path: Path) -> Iterator[None]:
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
