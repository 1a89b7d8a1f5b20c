"""The cluster's shared secrets: the file they are in, and the proofs that are made of them.

A secret file is text. Each line is ``kvd-cluster-1 <cluster id, hex> <secret, base64url>``; empty lines and
those that begin with # are passed over. The first secret is used for proofs, all are accepted. To rotate
without downtime: append the new secret on every node, then move it to the front, then remove the old one.
Secrets are stretched by HKDF-SHA-256 with the cluster id.

A proof is HMAC-SHA-256 over everything that the two ends of a connection must see alike (`handshake`
says why). It is made of 32 random bytes: a secret that somebody thought up could be guessed offline by
whoever is dialled, so shorter ones are refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from replication.errors import CredentialError
from replication.handshake import Role, Transcript
from replication.messages import Hello

SECRET_BYTES: Final = 32
CLUSTER_ID_BYTES: Final = 16
SECRETS_MAX: Final = 16

_LINE_TAG: Final = "kvd-cluster-1"
_FILE_BYTES_MAX: Final = 256 * 1024
_PROOF_LABEL: Final = b"kvd peer proof 1"
_KEY_LABEL: Final = b"kvd peer key 1"

# ---------------------------------------------------------------- proofs


class KeyedAuthenticator:
    """Proves with the first of several keys and accepts all of them."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        assert keys
        self._keys = tuple(keys)

    def prove(self, role: Role, transcript: Transcript) -> bytes:
        return _proof(self._keys[0], role, transcript)

    def verify(self, role: Role, transcript: Transcript, proof: bytes) -> bool:
        # Every key is tried, so that the time does not tell which one it was.
        found = [hmac.compare_digest(_proof(key, role, transcript), proof) for key in self._keys]
        return any(found)


def _proof(key: bytes, role: Role, transcript: Transcript) -> bytes:
    """Return the MAC over everything that both ends must see alike, each part behind its length."""
    dialer, acceptor = transcript.dialer, transcript.acceptor
    parts = (
        _PROOF_LABEL,
        role.value,
        dialer.cluster,
        acceptor.cluster,
        *_identity(dialer, transcript.dialer_fingerprint),
        *_identity(acceptor, transcript.acceptor_fingerprint),
    )
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        mac.update(len(part).to_bytes(4, "big") + part)
    return mac.digest()


def _identity(hello: Hello, fingerprint: bytes) -> tuple[bytes, ...]:
    return (hello.version.to_bytes(2, "big"), hello.nonce, fingerprint, hello.node, hello.boot)


def stretch(secret: bytes, cluster: bytes, label: bytes) -> bytes:
    """Return HKDF-SHA-256 of `secret`, 32 bytes. Source: RFC 5869, with the cluster id as the salt."""
    extracted = hmac.digest(cluster, secret, "sha256")
    return hmac.digest(extracted, label + b"\x01", "sha256")


# ---------------------------------------------------------------- secrets


@attrs.frozen
class ClusterSecrets:
    """The accepted secrets of one cluster, the one to use first."""

    cluster: bytes
    secrets: tuple[bytes, ...] = attrs.field(repr=False)

    def authenticator(self) -> KeyedAuthenticator:
        return KeyedAuthenticator([stretch(secret, self.cluster, _KEY_LABEL) for secret in self.secrets])


def new_secret_line() -> str:
    """Return the line of a new cluster with a new secret."""
    return secret_line(secrets.token_bytes(CLUSTER_ID_BYTES), secrets.token_bytes(SECRET_BYTES))


def secret_line(cluster: bytes, secret: bytes) -> str:
    return f"{_LINE_TAG} {cluster.hex()} {base64.urlsafe_b64encode(secret).decode().rstrip('=')}"


def parse_secrets(text: str, *, source: str) -> ClusterSecrets:
    """Return the secrets in `text`. Raise `CredentialError` naming `source` and the line, never the secret."""
    found: list[tuple[bytes, bytes]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            found.append(_parse_line(line, f"{source}, line {number}"))
    if not found:
        raise CredentialError(f"{source} holds no secret; make one with `kvd cluster init`")
    if len(found) > SECRETS_MAX:
        raise CredentialError(f"{source} holds more than {SECRETS_MAX} secrets; remove the oldest")
    clusters = {cluster for cluster, _ in found}
    if len(clusters) > 1:
        raise CredentialError(
            f"{source} holds secrets of different clusters; a node belongs to one, remove the others"
        )
    return ClusterSecrets(found[0][0], tuple(secret for _, secret in found))


def _parse_line(line: str, place: str) -> tuple[bytes, bytes]:
    form = f"{_LINE_TAG} <cluster id> <secret>"
    words = line.split()
    if len(words) != 3 or words[0] != _LINE_TAG:
        raise CredentialError(f"{place}: not of the form `{form}`; copy the line of another member")
    try:
        cluster = bytes.fromhex(words[1])
        secret = base64.b64decode(words[2] + "=" * (-len(words[2]) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise CredentialError(f"{place}: damaged; copy the line of another member") from None
    if len(cluster) != CLUSTER_ID_BYTES or len(secret) < SECRET_BYTES:
        raise CredentialError(f"{place}: cut off; copy the whole line of another member")
    return cluster, secret


def load_secrets(path: Path) -> ClusterSecrets:
    """Return the secrets in a file. Raise `CredentialError`."""
    return parse_secrets(read_text(path, "make it with `kvd cluster init`"), source=str(path))


# ---------------------------------------------------------------- files


def read_text(path: Path, mend: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
        if len(content) > _FILE_BYTES_MAX:
            raise CredentialError(
                f"{path} is larger than {_FILE_BYTES_MAX} bytes; it is not what it should be"
            )
        return content.decode("ascii")
    except FileNotFoundError:
        raise CredentialError(f"{path} does not exist; {mend}, or copy that of another member") from None
    except UnicodeDecodeError:
        raise CredentialError(f"{path} is not a text in ASCII; it is not what it should be") from None
    except OSError as error:
        raise CredentialError(f"{path} cannot be read: {error.strerror}; see its permissions") from None


def is_open_to_all(path: Path) -> bool:
    """Tell whether every user of this machine may read the file."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def write_new(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read. Raise `CredentialError` if there is one already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CredentialError(f"{path} exists already and is not overwritten; choose another name") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
