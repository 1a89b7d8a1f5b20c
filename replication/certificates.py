"""The certificates of a cluster in mode mtls, and the one that a node makes for itself in mode secret.

An *issuer* is the cluster's authority: whoever holds its key can make members. A *bundle* is what one node
holds, in one PEM file: its private key, its certificate, and the certificates of the authorities that it
accepts (several while an authority is being replaced). Certificates carry what kvd needs to know as
URIs, ``urn:kvd:cluster:<hex>`` and perhaps ``urn:kvd:node:<hex>``; names and addresses mean nothing.

Keys are on the curve P-256. Everything that cannot be used raises `CredentialError`, which says what
mends it.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from replication.errors import CredentialError
from replication.proofs import read_text

AUTHORITY_DAYS: Final = 20 * 365
NODE_DAYS: Final = 2 * 365

_CLUSTER_URI: Final = "urn:kvd:cluster:"
_NODE_URI: Final = "urn:kvd:node:"
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_MAKE_BUNDLE: Final = "make it with `kvd cluster token --ca DIR --node NAME`"
# A node whose clock is a little behind must not find its certificate from the future.
_BACKDATED: Final = dt.timedelta(days=1)
_BEGINNING: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_END: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


@attrs.frozen
class KeyPair:
    """A private key and the certificate of its public half."""

    key: ec.EllipticCurvePrivateKey = attrs.field(repr=False)
    certificate: x509.Certificate

    @property
    def certificate_der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def certificate_pem(self) -> bytes:
        return _pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        return _key_pem(self.key, serialization.NoEncryption())

    def to_encrypted_pem(self, password: bytes) -> bytes:
        """Return key and certificate, the key readable with `password` only."""
        return _key_pem(self.key, serialization.BestAvailableEncryption(password)) + _pem(self.certificate)


@attrs.frozen
class Bundle:
    """What one node of a cluster in mode mtls holds."""

    own: KeyPair
    authorities: tuple[x509.Certificate, ...]
    cluster: bytes

    @property
    def name(self) -> str:
        names = self.own.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[0].value) if names else ""

    @property
    def node(self) -> bytes | None:
        """Return the node id that the certificate is good for; None: for any."""
        return _id_in(self.own.certificate, _NODE_URI)

    @property
    def expires_at(self) -> float:
        """Return when the certificate expires, in seconds since the epoch."""
        return self.own.certificate.not_valid_after_utc.timestamp()

    @property
    def authorities_pem(self) -> bytes:
        return b"".join(map(_pem, self.authorities))

    def to_pem(self) -> bytes:
        return self.own.key_pem + self.own.certificate_pem + self.authorities_pem


@attrs.frozen
class Issuer:
    """The cluster's authority."""

    own: KeyPair
    cluster: bytes

    def issue(
        self, name: str, *, now: dt.datetime, node: bytes | None = None, days: int = NODE_DAYS
    ) -> Bundle:
        """Return a new key and certificate for the node `name`, good for the node id `node` alone if given.

        It does not outlive the authority. Raise `CredentialError` if the name cannot be one.
        """
        check_name(name)
        key = ec.generate_private_key(ec.SECP256R1())
        authority = self.own.certificate
        uris = [f"{_CLUSTER_URI}{self.cluster.hex()}"]
        if node is not None:
            uris.append(f"{_NODE_URI}{node.hex()}")
        end = min(now + dt.timedelta(days=days), authority.not_valid_after_utc)
        builder = (
            _builder(name, authority.subject, key, uris, (now - _BACKDATED, end))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.own.key.public_key()), critical=False
            )
        )
        return Bundle(KeyPair(key, builder.sign(self.own.key, hashes.SHA256())), (authority,), self.cluster)


def new_issuer(cluster: bytes, *, now: dt.datetime) -> Issuer:
    """Return a new authority for a cluster."""
    key = ec.generate_private_key(ec.SECP256R1())
    validity = (now - _BACKDATED, now + dt.timedelta(days=AUTHORITY_DAYS))
    builder = (
        _builder(f"kvd cluster {cluster.hex()[:8]}", None, key, [f"{_CLUSTER_URI}{cluster.hex()}"], validity)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    return Issuer(KeyPair(key, builder.sign(key, hashes.SHA256())), cluster)


def new_ephemeral() -> KeyPair:
    """Return a certificate for the life of this process; valid for ever, since no clock need be right."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("kvd", None, key, ["urn:kvd:ephemeral"], (_BEGINNING, _END))
    return KeyPair(key, builder.sign(key, hashes.SHA256()))


def _builder(
    name: str,
    issuer: x509.Name | None,
    key: ec.EllipticCurvePrivateKey,
    uris: Sequence[str],
    validity: tuple[dt.datetime, dt.datetime],
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def check_name(name: str) -> None:
    """Raise `CredentialError` unless `name` may be a node's, and a file's."""
    if not _NAME.fullmatch(name):
        raise CredentialError(
            f"{name!r} cannot be a node's name; use up to 63 letters, digits, dots, dashes and underscores, "
            "with a letter or a digit at both ends"
        )


def load_bundle(path: Path, *further: Path) -> Bundle:
    """Return the bundle in a file, or in several if key and authorities are apart. Raise `CredentialError`."""
    mend = f"{_MAKE_BUNDLE}, or copy it to this machine"
    text = "\n".join(read_text(file, mend) for file in (path, *further))
    key, certificates = _parse_pem(text, path)
    own = next((found for found in certificates if found.public_key() == key.public_key()), None)
    authorities = tuple(found for found in certificates if _is_authority(found))
    if own is None or not authorities:
        missing = "certificate of its key" if own is None else "certificate of an authority"
        raise CredentialError(f"{path} lacks the {missing}; {_MAKE_BUNDLE}")
    cluster = _id_in(own, _CLUSTER_URI)
    if cluster is None:
        raise CredentialError(f"the certificate in {path} names no cluster; {_MAKE_BUNDLE}")
    return Bundle(KeyPair(key, own), authorities, cluster)


def load_issuer(key_path: Path, certificate_path: Path) -> Issuer:
    """Return the authority in two files. Raise `CredentialError`."""
    mend = "make it with `kvd cluster init --mtls DIR`, or copy it from where that was done"
    text = read_text(key_path, mend) + read_text(certificate_path, mend)
    key, certificates = _parse_pem(text, key_path)
    own = next((found for found in certificates if found.public_key() == key.public_key()), None)
    cluster = None if own is None else _id_in(own, _CLUSTER_URI)
    if own is None or cluster is None or not _is_authority(own):
        raise CredentialError(
            f"{certificate_path} is not the authority whose key is in {key_path}; restore the two files"
        )
    return Issuer(KeyPair(key, own), cluster)


def _parse_pem(text: str, path: Path) -> tuple[ec.EllipticCurvePrivateKey, list[x509.Certificate]]:
    try:
        key = serialization.load_pem_private_key(text.encode("ascii"), password=None)
        certificates = x509.load_pem_x509_certificates(text.encode("ascii"))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CredentialError(
            f"{path} does not hold a private key without a password and certificates, in PEM; "
            "copy it again from where it was made"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CredentialError(f"{path} holds a key that is not of an elliptic curve; {_MAKE_BUNDLE}")
    return key, certificates


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def node_in(certificate: bytes) -> bytes | None:
    """Return the node id that a certificate in DER is good for; None: for any."""
    return _id_in(x509.load_der_x509_certificate(certificate), _NODE_URI)


def _id_in(certificate: x509.Certificate, prefix: str) -> bytes | None:
    """Return the 16 bytes behind `prefix` in one of the certificate's URIs."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        if uri.startswith(prefix) and re.fullmatch(r"[0-9a-f]{32}", uri[len(prefix) :]):
            return bytes.fromhex(uri[len(prefix) :])
    return None


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
