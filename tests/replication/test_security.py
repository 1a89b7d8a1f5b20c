"""Secrets and certificates: what is read, what is refused with which words, and what changes while it runs."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from replication.certificates import (
    AUTHORITY_DAYS,
    Issuer,
    load_bundle,
    load_issuer,
    new_ephemeral,
    new_issuer,
    node_in,
)
from replication.errors import CredentialError
from replication.handshake import Role, Transcript
from replication.messages import Hello
from replication.proofs import (
    SECRET_BYTES,
    ClusterSecrets,
    load_secrets,
    new_secret_line,
    parse_secrets,
    secret_line,
    stretch,
    write_new,
)
from replication.security import BundleCredentials, SecretCredentials

CLUSTER: Final = b"c" * 16
OTHER_CLUSTER: Final = b"x" * 16
ONE: Final = b"1" * SECRET_BYTES
TWO: Final = b"2" * SECRET_BYTES
NOW: Final = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
NODE: Final = b"n" * 16
TRANSCRIPT: Final = Transcript(
    Hello(1, CLUSTER, b"d" * 16, b"D" * 16, b"m" * 32, 1, 2),
    Hello(1, CLUSTER, b"a" * 16, b"A" * 16, b"n" * 32, 1, 2),
    b"",
    b"f" * 32,
)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(CredentialError) as caught:
        call()
    return str(caught.value)


def today() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return new_issuer(CLUSTER, now=today())


# ---------------------------------------------------------------- secrets


def test_a_new_line_is_read_back() -> None:
    found = parse_secrets(new_secret_line(), source="it")
    assert len(found.cluster) == 16
    assert [len(secret) for secret in found.secrets] == [32]


def test_two_new_lines_differ_in_cluster_and_secret() -> None:
    one, other = (parse_secrets(new_secret_line(), source="it") for _ in range(2))
    assert one.cluster != other.cluster
    assert one.secrets != other.secrets


@given(
    st.binary(min_size=16, max_size=16), st.lists(st.binary(min_size=32, max_size=64), min_size=1, max_size=5)
)
def test_every_secret_survives_the_file(cluster: bytes, secrets: list[bytes]) -> None:
    text = "\n".join(secret_line(cluster, secret) for secret in secrets)
    assert parse_secrets(text, source="it") == ClusterSecrets(cluster, tuple(secrets))


def test_comments_and_empty_lines_are_passed_over() -> None:
    text = f"# ours\n\n  {secret_line(CLUSTER, ONE)}  \r\n   # old:\n{secret_line(CLUSTER, TWO)}\n"
    assert parse_secrets(text, source="it").secrets == (ONE, TWO)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "kvd cluster init"),
        ("# nothing\n", "kvd cluster init"),
        ("password", "line 1"),
        (secret_line(CLUSTER, ONE) + "\nkvd-cluster-1 abc", "line 2"),
        (f"kvd-cluster-2 {CLUSTER.hex()} {'a' * 43}", "not of the form"),
        (f"kvd-cluster-1 {'zz' * 16} {'a' * 43}", "damaged"),
        (f"kvd-cluster-1 {CLUSTER.hex()} {'!' * 43}", "damaged"),
        (f"kvd-cluster-1 {CLUSTER.hex()} {'a' * 41}", "damaged"),
        (f"kvd-cluster-1 {CLUSTER.hex()[:-2]} {'a' * 43}", "cut off"),
        (f"kvd-cluster-1 {CLUSTER.hex()} {'a' * 40}", "cut off"),
        (secret_line(CLUSTER, ONE) + "\n" + secret_line(OTHER_CLUSTER, ONE), "different clusters"),
        ("\n".join([secret_line(CLUSTER, ONE)] * 17), "more than 16"),
    ],
)
def test_a_wrong_file_is_refused_in_clear_words(text: str, words: str) -> None:
    assert words in refused(lambda: parse_secrets(text, source="/etc/kvd/secret"))


def test_an_error_names_the_place_and_not_the_secret() -> None:
    text = f"kvd-cluster-1 {CLUSTER.hex()} hunter2"
    message = refused(lambda: parse_secrets(text, source="/etc/kvd/secret"))
    assert "/etc/kvd/secret, line 1" in message
    assert "hunter2" not in message
    assert ONE.decode() not in repr(ClusterSecrets(CLUSTER, (ONE,)))


def test_a_missing_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    message = refused(lambda: load_secrets(tmp_path / "secret"))
    assert str(tmp_path / "secret") in message
    assert "kvd cluster init" in message


@pytest.mark.parametrize("content", [b"\xff\xfe", "ä".encode(), bytes(300_000)])
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    refused(lambda: load_secrets(tmp_path / "secret"))
    refused(lambda: load_bundle(tmp_path / "secret"))


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "directory" in refused(lambda: load_secrets(tmp_path))


def test_stretching_is_hkdf() -> None:
    expected = HKDF(algorithm=hashes.SHA256(), length=32, salt=CLUSTER, info=b"label").derive(ONE)
    assert stretch(ONE, CLUSTER, b"label") == expected


def test_the_same_secret_makes_other_keys_in_another_cluster() -> None:
    one, other = (ClusterSecrets(cluster, (ONE,)).authenticator() for cluster in (CLUSTER, OTHER_CLUSTER))
    assert one.prove(Role.DIALER, TRANSCRIPT) != other.prove(Role.DIALER, TRANSCRIPT)


def test_written_files_are_their_owners_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    write_new(path, b"content")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "not overwritten" in refused(lambda: write_new(path, b"other"))
    assert path.read_bytes() == b"content"


# ---------------------------------------------------------------- secrets while it runs


def touch(path: Path, content: str) -> None:
    """Write a file so that its change shows, however coarse the clock of the file system is."""
    before = path.stat().st_mtime_ns
    path.write_text(content)
    os.utime(path, ns=(before + 10_000_000, before + 10_000_000))


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    write_new(path, (secret_line(CLUSTER, ONE) + "\n").encode())
    return path


def knows(credentials: SecretCredentials, secret: bytes) -> bool:
    proof = ClusterSecrets(CLUSTER, (secret,)).authenticator().prove(Role.DIALER, TRANSCRIPT)
    return credentials.authenticator.verify(Role.DIALER, TRANSCRIPT, proof)


def test_a_changed_file_counts_from_the_next_proof_on(secret_file: Path) -> None:
    credentials = SecretCredentials(secret_file)
    assert (knows(credentials, ONE), knows(credentials, TWO)) == (True, False)
    touch(secret_file, secret_line(CLUSTER, ONE) + "\n" + secret_line(CLUSTER, TWO))
    assert (knows(credentials, ONE), knows(credentials, TWO)) == (True, True)
    touch(secret_file, secret_line(CLUSTER, TWO))
    assert (knows(credentials, ONE), knows(credentials, TWO)) == (False, True)


def test_the_first_secret_is_the_one_that_is_used(secret_file: Path) -> None:
    credentials = SecretCredentials(secret_file)
    touch(secret_file, secret_line(CLUSTER, TWO) + "\n" + secret_line(CLUSTER, ONE))
    expected = ClusterSecrets(CLUSTER, (TWO,)).authenticator()
    assert credentials.prove(Role.ACCEPTOR, TRANSCRIPT) == expected.prove(Role.ACCEPTOR, TRANSCRIPT)


@pytest.mark.parametrize("content", ["", "rubbish", secret_line(OTHER_CLUSTER, TWO)])
def test_a_file_that_turns_wrong_leaves_the_old_secrets_in_force(secret_file: Path, content: str) -> None:
    credentials = SecretCredentials(secret_file)
    touch(secret_file, content)
    with capture_logs() as logs:
        assert knows(credentials, ONE)
        assert knows(credentials, ONE)
    assert [entry["log_level"] for entry in logs] == ["error"]  # said once, not for each connection


def test_a_file_that_goes_leaves_the_old_secrets_in_force(secret_file: Path) -> None:
    credentials = SecretCredentials(secret_file)
    secret_file.unlink()
    assert knows(credentials, ONE)


def test_a_file_that_everybody_can_read_is_reported(secret_file: Path) -> None:
    with capture_logs() as logs:
        SecretCredentials(secret_file)
    assert logs == []
    secret_file.chmod(0o644)
    with capture_logs() as logs:
        SecretCredentials(secret_file)
    assert "every user" in logs[0]["event"]


def test_two_starts_show_different_certificates(secret_file: Path) -> None:
    one, other = SecretCredentials(secret_file), SecretCredentials(secret_file)
    assert one.accepting().fingerprint != other.accepting().fingerprint
    assert len(one.accepting().fingerprint) == 32
    assert one.dialing().fingerprint == b""
    assert one.expires_at() is None
    assert one.cluster == CLUSTER


def test_tls_is_at_least_1_3(secret_file: Path) -> None:
    credentials = SecretCredentials(secret_file)
    for end in (credentials.accepting(), credentials.dialing()):
        assert end.context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_the_ephemeral_certificate_is_valid_whatever_the_clock_says() -> None:
    certificate = new_ephemeral().certificate
    assert certificate.not_valid_before_utc == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert certificate.not_valid_after_utc.year == 9999


# ---------------------------------------------------------------- certificates


def test_a_bundle_survives_its_file(tmp_path: Path, issuer: Issuer) -> None:
    bundle = issuer.issue("node-1", now=today(), node=NODE)
    write_new(tmp_path / "b", bundle.to_pem())
    found = load_bundle(tmp_path / "b")
    assert found.to_pem() == bundle.to_pem()
    assert (found.name, found.node, found.cluster) == ("node-1", NODE, CLUSTER)


def test_an_authority_survives_its_files(tmp_path: Path, issuer: Issuer) -> None:
    write_new(tmp_path / "key", issuer.own.key_pem)
    write_new(tmp_path / "certificate", issuer.own.certificate_pem)
    found = load_issuer(tmp_path / "key", tmp_path / "certificate")
    assert found.cluster == CLUSTER
    assert found.own.certificate == issuer.own.certificate


def test_a_certificate_passes_the_strictest_judgement(issuer: Issuer) -> None:
    bundle = issuer.issue("node-1", now=today())
    verifier = PolicyBuilder().store(Store([issuer.own.certificate])).build_client_verifier()
    assert verifier.verify(bundle.own.certificate, []).chain[0] == bundle.own.certificate


def test_a_certificate_without_a_node_id_is_good_for_any(issuer: Issuer) -> None:
    assert issuer.issue("node-1", now=today()).node is None
    assert node_in(issuer.issue("node-1", now=today()).own.certificate_der) is None
    assert node_in(issuer.issue("node-1", now=today(), node=NODE).own.certificate_der) == NODE


def test_validity_is_as_asked_and_within_the_authoritys() -> None:
    issuer = new_issuer(CLUSTER, now=NOW)
    bundle = issuer.issue("node-1", now=NOW, days=30)
    assert bundle.expires_at == (NOW + dt.timedelta(days=30)).timestamp()
    assert bundle.own.certificate.not_valid_before_utc < NOW  # for clocks that are behind
    late = issuer.issue("node-1", now=NOW, days=10 * AUTHORITY_DAYS)
    assert late.own.certificate.not_valid_after_utc == issuer.own.certificate.not_valid_after_utc


@pytest.mark.parametrize("name", ["", "-a", "a/b", "../a", "a b", "a" * 64, "ä", "a\n", ".", "a."])
def test_a_name_that_cannot_be_one_is_refused(issuer: Issuer, name: str) -> None:
    assert "name" in refused(lambda: issuer.issue(name, now=today()))


def test_a_bundle_that_lacks_a_part_is_refused(tmp_path: Path, issuer: Issuer) -> None:
    bundle = issuer.issue("node-1", now=today())
    other = issuer.issue("node-2", now=today())
    parts = {
        "private key": bundle.own.certificate_pem + bundle.authorities_pem,
        "private key ": b"rubbish",
        "certificate of its key": bundle.own.key_pem + other.own.certificate_pem + bundle.authorities_pem,
        "certificate of an authority": bundle.own.key_pem + bundle.own.certificate_pem,
        "private key without": bundle.own.to_encrypted_pem(b"password") + bundle.authorities_pem,
    }
    for number, (words, content) in enumerate(parts.items()):
        path = tmp_path / str(number)
        path.write_bytes(content)
        message = refused(lambda path=path: load_bundle(path))  # type: ignore[misc]
        assert words.strip() in message
        assert str(path) in message


def test_a_bundle_of_another_make_is_refused(tmp_path: Path, issuer: Issuer) -> None:
    pair = new_ephemeral()
    path = tmp_path / "b"
    path.write_bytes(pair.key_pem + pair.certificate_pem + issuer.own.certificate_pem)
    assert "names no cluster" in refused(lambda: load_bundle(path))
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(pem + issuer.own.certificate_pem)
    assert "elliptic curve" in refused(lambda: load_bundle(path))


def test_a_key_and_an_authority_that_do_not_belong_together_are_refused(
    tmp_path: Path, issuer: Issuer
) -> None:
    other = new_issuer(CLUSTER, now=today())
    bundle = issuer.issue("node-1", now=today())
    cases = (
        (other.own.key_pem, issuer.own.certificate_pem),
        (bundle.own.key_pem, bundle.own.certificate_pem),
    )
    for number, (key, certificate) in enumerate(cases):
        key_path, certificate_path = tmp_path / f"{number}.key", tmp_path / f"{number}.pem"
        key_path.write_bytes(key)
        certificate_path.write_bytes(certificate)
        message = refused(
            lambda paths=(key_path, certificate_path): load_issuer(*paths)  # type: ignore[misc]
        )
        assert "is not the authority" in message


def test_damage_anywhere_in_a_bundle_raises_nothing_else(tmp_path: Path, issuer: Issuer) -> None:
    content = issuer.issue("node-1", now=today()).to_pem()
    path = tmp_path / "b"
    for place in range(0, len(content), 61):
        path.write_bytes(content[:place] + b"?" + content[place + 1 :])
        with contextlib.suppress(CredentialError):
            BundleCredentials(path)


def test_key_and_authorities_may_be_in_files_of_their_own(tmp_path: Path, issuer: Issuer) -> None:
    bundle = issuer.issue("node-1", now=today())
    files = {
        "certificate": bundle.own.certificate_pem.rstrip(),
        "key": bundle.own.key_pem,
        "ca": bundle.authorities_pem,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in files]
    (tmp_path / "key").chmod(0o600)
    assert load_bundle(*paths).to_pem() == bundle.to_pem()
    with capture_logs() as logs:
        credentials = BundleCredentials(*paths)
    assert logs == []  # what everybody may read here is no secret
    before = credentials.accepting()
    successor = new_issuer(CLUSTER, now=today())
    touch(tmp_path / "ca", (bundle.authorities_pem + successor.own.certificate_pem).decode())
    assert credentials.accepting() is not before


# ---------------------------------------------------------------- bundles while it runs


def test_a_renewed_bundle_counts_from_the_next_connection_on(tmp_path: Path, issuer: Issuer) -> None:
    path = tmp_path / "b"
    write_new(path, issuer.issue("node-1", now=today(), days=1).to_pem())
    credentials = BundleCredentials(path)
    before = credentials.accepting()
    assert credentials.accepting() is before
    renewed = issuer.issue("node-1", now=today(), days=100)
    touch(path, renewed.to_pem().decode())
    assert credentials.accepting().fingerprint != before.fingerprint
    assert credentials.dialing().fingerprint == credentials.accepting().fingerprint
    assert credentials.expires_at() == renewed.expires_at


def test_a_bundle_that_turns_wrong_leaves_the_old_one_in_force(tmp_path: Path, issuer: Issuer) -> None:
    path = tmp_path / "b"
    write_new(path, issuer.issue("node-1", now=today()).to_pem())
    credentials = BundleCredentials(path)
    before = credentials.accepting()
    stranger = new_issuer(OTHER_CLUSTER, now=today()).issue("node-1", now=today())
    for content in (stranger.to_pem().decode(), "rubbish"):
        touch(path, content)
        with capture_logs() as logs:
            assert credentials.accepting() is before
            assert credentials.dialing() is not None
        assert [entry["log_level"] for entry in logs] == ["error"]
    assert credentials.cluster == CLUSTER


def test_two_authorities_are_accepted_while_one_replaces_the_other(tmp_path: Path, issuer: Issuer) -> None:
    successor = new_issuer(CLUSTER, now=today())
    bundle = issuer.issue("node-1", now=today())
    path = tmp_path / "b"
    path.write_bytes(bundle.to_pem() + successor.own.certificate_pem)
    assert [found.serial_number for found in load_bundle(path).authorities] == [
        issuer.own.certificate.serial_number,
        successor.own.certificate.serial_number,
    ]
    BundleCredentials(path)


def test_the_bundles_proof_confirms_cluster_and_connection(tmp_path: Path, issuer: Issuer) -> None:
    path = tmp_path / "b"
    write_new(path, issuer.issue("node-1", now=today(), node=NODE).to_pem())
    credentials = BundleCredentials(path)
    proof = credentials.authenticator.prove(Role.DIALER, TRANSCRIPT)
    assert credentials.authenticator.verify(Role.DIALER, TRANSCRIPT, proof)
    assert not credentials.authenticator.verify(Role.ACCEPTOR, TRANSCRIPT, proof)
    assert (credentials.name, credentials.node) == ("node-1", NODE)
