"""Who belongs to the cluster: shared secrets, certificates, and the TLS between nodes.

Two modes, TLS 1.3 in both:

*secret*  Whoever holds the cluster's secret is a member. The dialer shows no certificate, the acceptor a
          self-signed one that lives as long as its process. TLS alone proves nothing then; the proofs of
          `handshake` do, because they cover the acceptor's certificate: in between somebody would have to
          show a certificate of his own, and the two ends would prove different things. (The dialer's
          certificate would add nothing to that, and Python's ssl cannot ask for one without judging it.
          The binding is "tls-server-end-point" of RFC 5929 and 9266.)
*mtls*    Whoever holds a certificate of the cluster's authority is a member; both ends show one. It may name
          the one node id that it is good for. The proofs then only confirm that both ends see the same
          connection and the same cluster: their key is no secret.

The files are read again when they have changed, and the old contents stay in force while the new ones are
wrong. A link that is up stays up when a certificate expires or a secret goes; `Credentials.expires_at` is
there to be watched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import ssl
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, Protocol

import attrs
import structlog

from replication.certificates import Bundle, KeyPair, load_bundle, new_ephemeral
from replication.errors import CredentialError
from replication.handshake import Authenticator, Role, Transcript
from replication.proofs import (
    ClusterSecrets,
    KeyedAuthenticator,
    is_open_to_all,
    load_secrets,
    stretch,
)

log = structlog.get_logger()

ALPN: Final = "kvd-peer/1"

_OPEN_KEY_LABEL: Final = b"kvd peer key 1, certificates vouch"

# ---------------------------------------------------------------- credentials


@attrs.frozen
class TlsEnd:
    """How one end of a TLS connection is made."""

    context: ssl.SSLContext
    fingerprint: bytes  # of the certificate that it shows; b"": it shows none


class Credentials(Protocol):
    """What a node shows to others, and what it asks of them."""

    @property
    def cluster(self) -> bytes: ...

    @property
    def authenticator(self) -> Authenticator: ...

    def accepting(self) -> TlsEnd: ...

    def dialing(self) -> TlsEnd: ...

    def expires_at(self) -> float | None:
        """Return when the certificate expires, in seconds since the epoch; None if it never does."""
        ...


class _Watch:
    """Tells when files may have changed."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen: list[tuple[int, ...]] = []

    def has_changed(self) -> bool:
        """Tell whether any of the files is another one than at the last call; at the first it is."""
        before, self._seen = self._seen, [_state_of(path) for path in self._paths]
        return self._seen != before


def _state_of(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()  # reading it tells why
    return (status.st_mtime_ns, status.st_size, status.st_ino)


class SecretCredentials:
    """Mode *secret*, with the secrets in a file. It is the authenticator as well: it sees what has changed."""

    def __init__(self, path: Path) -> None:
        """Raise `CredentialError` if the file cannot be used."""
        self._path = path
        self._watch = _Watch(path)
        self._watch.has_changed()
        self._secrets = load_secrets(path)
        self._keys = self._secrets.authenticator()
        if is_open_to_all(path):
            log.warning("every user of this machine can read the cluster's secret", path=str(path))
        own = new_ephemeral()
        context = _context(ssl.PROTOCOL_TLS_SERVER)
        _load(context, own)
        self._accepting = TlsEnd(context, fingerprint_of(own.certificate_der))
        self._dialing = TlsEnd(_context(ssl.PROTOCOL_TLS_CLIENT), b"")

    @property
    def cluster(self) -> bytes:
        return self._secrets.cluster

    @property
    def authenticator(self) -> Authenticator:
        return self

    def accepting(self) -> TlsEnd:
        return self._accepting

    def dialing(self) -> TlsEnd:
        return self._dialing

    def expires_at(self) -> float | None:
        return None

    def prove(self, role: Role, transcript: Transcript) -> bytes:
        return self._current().prove(role, transcript)

    def verify(self, role: Role, transcript: Transcript, proof: bytes) -> bool:
        return self._current().verify(role, transcript, proof)

    def _current(self) -> KeyedAuthenticator:
        """Return what the file says now; what it said before if it is just being written, or wrong."""
        if self._watch.has_changed():
            try:
                self._take(load_secrets(self._path))
            except CredentialError as error:
                log.error("the cluster's secrets are not read again", error=str(error))
        return self._keys

    def _take(self, found: ClusterSecrets) -> None:
        if found.cluster != self.cluster:
            raise CredentialError(f"{self._path} is now of another cluster; restore it, or restart this node")
        if found != self._secrets:
            self._secrets = found
            self._keys = found.authenticator()
            log.info("the cluster's secrets have changed", path=str(self._path), count=len(found.secrets))


class BundleCredentials:
    """Mode *mtls*, with key and certificates in one file, or in several."""

    def __init__(self, path: Path, *further: Path) -> None:
        """Raise `CredentialError` if the bundle cannot be used. `further`: files of the key and the authorities."""
        self._path = path
        self._further = further
        self._watch = _Watch(path, *further)
        self._watch.has_changed()
        self._take(load_bundle(path, *further))
        key_path = further[0] if further else path
        if is_open_to_all(key_path):
            log.warning("every user of this machine can read the node's private key", path=str(key_path))

    @property
    def cluster(self) -> bytes:
        return self._bundle.cluster

    @property
    def name(self) -> str:
        return self._bundle.name

    @property
    def node(self) -> bytes | None:
        """Return the node id that the certificate is good for; None: for any."""
        return self._bundle.node

    def expires_at(self) -> float | None:
        return self._bundle.expires_at

    @property
    def authenticator(self) -> Authenticator:
        return KeyedAuthenticator([stretch(b"", self.cluster, _OPEN_KEY_LABEL)])

    def accepting(self) -> TlsEnd:
        self._refresh()
        return self._accepting

    def dialing(self) -> TlsEnd:
        self._refresh()
        return self._dialing

    def _refresh(self) -> None:
        """Take a changed file; go on with the old one if it is just being written, or wrong."""
        if not self._watch.has_changed():
            return
        try:
            bundle = load_bundle(self._path, *self._further)
            if bundle.cluster != self.cluster:
                raise CredentialError(
                    f"{self._path} is now of another cluster; restore it, or restart this node"
                )
            self._take(bundle)
        except CredentialError as error:
            log.error("the node's certificate is not renewed", error=str(error))
        else:
            log.info("the node's certificate is renewed", path=str(self._path))

    def _take(self, bundle: Bundle) -> None:
        fingerprint = fingerprint_of(bundle.own.certificate_der)
        try:
            accepting = TlsEnd(_mutual_context(ssl.PROTOCOL_TLS_SERVER, bundle), fingerprint)
            dialing = TlsEnd(_mutual_context(ssl.PROTOCOL_TLS_CLIENT, bundle), fingerprint)
        except ssl.SSLError as error:
            raise CredentialError(f"{self._path} cannot be used for TLS: {error.reason}") from error
        self._bundle, self._accepting, self._dialing = bundle, accepting, dialing


def _mutual_context(protocol: int, bundle: Bundle) -> ssl.SSLContext:
    """Return a context that shows the bundle's certificate and takes those of its authorities."""
    context = _context(protocol)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=bundle.authorities_pem.decode("ascii"))
    _load(context, bundle.own)
    return context


def _context(protocol: int) -> ssl.SSLContext:
    """Return a context for TLS 1.3 between nodes that asks for no certificate yet."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if protocol == ssl.PROTOCOL_TLS_CLIENT:
        context.check_hostname = False  # a node is known by its id, wherever it is
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # links live long: nothing is ever resumed
    return context


def _load(context: ssl.SSLContext, own: KeyPair) -> None:
    """Give a key and its certificate to `context`, which only reads files: a short-lived, encrypted one."""
    password = secrets.token_hex(24).encode()
    with _private_file() as (file, path):
        file.write(own.to_encrypted_pem(password))
        file.flush()
        context.load_cert_chain(path, password=password)


@contextlib.contextmanager
def _private_file() -> Iterator[tuple[IO[bytes], str]]:
    """Open a new file that nobody else can read, with a path to it; on Linux it never sees a disk."""
    if sys.platform == "linux":
        with os.fdopen(os.memfd_create("kvd-peer"), "wb") as memory:
            yield memory, f"/proc/self/fd/{memory.fileno()}"
    else:
        with tempfile.NamedTemporaryFile(prefix="kvd-", suffix=".pem") as file:
            yield file, file.name


def fingerprint_of(certificate: bytes | None) -> bytes:
    """Return the SHA-256 of a certificate in DER; b"" of none."""
    return hashlib.sha256(certificate).digest() if certificate else b""
