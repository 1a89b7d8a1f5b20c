"""`kvd cluster init` and `kvd cluster token`: what they make, and what they say when they cannot."""

from __future__ import annotations

import datetime as dt
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kvd.cli.main import main
from replication.certificates import load_bundle, load_issuer
from replication.proofs import load_secrets, parse_secrets, secret_line, write_new
from replication.security import BundleCredentials, SecretCredentials
from storage.store import Store, StoreOptions


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["cluster", *map(str, arguments)])


def done(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def failed(*arguments: str | Path, code: int = 1) -> str:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("verb", ["init", "token"])
def test_the_verbs_explain_themselves(verb: str) -> None:
    assert "kvd cluster token --ca ./authority --node node-2" in done(verb, "--help")


# ---------------------------------------------------------------- a shared secret


def test_init_makes_a_secret_that_a_node_accepts(tmp_path: Path) -> None:
    file = tmp_path / "etc" / "cluster.secret"
    output = done("init", file)
    assert mode_of(file) == 0o600
    assert SecretCredentials(file).cluster == load_secrets(file).cluster
    assert f"--cluster-secret-file {file}" in output
    assert file.read_text().split()[2] not in output


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    file = tmp_path / "cluster.secret"
    done("init", file)
    before = file.read_text()
    assert "not overwritten" in failed("init", file)
    assert file.read_text() == before


def test_each_cluster_is_a_new_one(tmp_path: Path) -> None:
    done("init", tmp_path / "one")
    done("init", tmp_path / "other")
    assert load_secrets(tmp_path / "one").cluster != load_secrets(tmp_path / "other").cluster


def test_token_prints_the_line_in_use_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "cluster.secret"
    lines = [secret_line(b"c" * 16, bytes((number,)) * 32) for number in (1, 2)]
    write_new(file, ("# ours\n" + "\n".join(lines) + "\n").encode())
    output = done("token", "--secret-file", file)
    assert output == lines[0] + "\n"
    assert parse_secrets(output, source="it").cluster == b"c" * 16


def test_a_token_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "kvd cluster init" in failed("token", "--secret-file", tmp_path / "nothing")


def test_a_token_of_a_file_that_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    output = failed("token", "--secret-file", tmp_path / "secret")
    assert "line 1" in output
    assert "hunter2" not in output


# ---------------------------------------------------------------- certificates


def test_init_makes_an_authority_and_a_first_node(tmp_path: Path) -> None:
    directory = tmp_path / "authority"
    output = done("init", "--mtls", directory, "--node", "node-1")
    assert sorted(path.name for path in directory.iterdir()) == ["ca.key", "ca.pem", "node-1.pem"]
    assert mode_of(directory) == 0o700
    assert {mode_of(path) for path in directory.iterdir()} == {0o600}
    credentials = BundleCredentials(directory / "node-1.pem")
    assert credentials.cluster == load_issuer(directory / "ca.key", directory / "ca.pem").cluster
    assert (credentials.name, credentials.node) == ("node-1", None)
    assert f"--peer-cert {directory / 'node-1.pem'}" in output


def test_the_first_node_is_called_like_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "alpha.example.org")
    done("init", "--mtls", tmp_path / "authority")
    assert load_bundle(tmp_path / "authority" / "alpha.pem").name == "alpha"


def test_token_makes_a_certificate_for_one_more_node(tmp_path: Path) -> None:
    directory = tmp_path / "authority"
    done("init", "--mtls", directory, "--node", "node-1")
    done("token", "--ca", directory, "--node", "node-2", "--days", "30")
    first, second = (load_bundle(directory / f"node-{number}.pem") for number in (1, 2))
    assert first.cluster == second.cluster
    assert second.name == "node-2"
    assert first.own.key_pem != second.own.key_pem
    assert second.expires_at < first.expires_at


def test_a_certificate_may_be_for_one_node_id_and_elsewhere(tmp_path: Path) -> None:
    directory, file = tmp_path / "authority", tmp_path / "new.pem"
    done("init", "--mtls", directory, "--node", "node-1")
    done("token", "--ca", directory, "--node", "node-1", "--node-id", "ab" * 16, "--output", file)
    assert load_bundle(file).node == b"\xab" * 16
    assert mode_of(file) == 0o600


def test_authorities_and_certificates_are_not_overwritten(tmp_path: Path) -> None:
    directory = tmp_path / "authority"
    done("init", "--mtls", directory, "--node", "node-1")
    before = {path: path.read_bytes() for path in directory.iterdir()}
    assert "not overwritten" in failed("init", "--mtls", directory, "--node", "node-2")
    assert "not overwritten" in failed("token", "--ca", directory, "--node", "node-1")
    assert "not overwritten" in failed("token", "--ca", directory, "--node", "ca")
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


def test_a_directory_without_an_authority(tmp_path: Path) -> None:
    assert "kvd cluster init --mtls DIR" in failed("token", "--ca", tmp_path, "--node", "node-2")


@pytest.mark.parametrize("name", ["../node", "a/b", "", "a b"])
def test_a_name_that_cannot_be_one_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "authority"
    done("init", "--mtls", directory, "--node", "node-1")
    assert "name" in failed("token", "--ca", directory, "--node", name)
    if name:
        assert "name" in failed("init", "--mtls", tmp_path / "other", "--node", name)
        assert not (tmp_path / "other").exists()


# ---------------------------------------------------------------- for programs


def answer(*arguments: str | Path) -> Any:
    return json.loads(done(*arguments, "--json"))


def test_a_new_secret_is_told_of_as_json_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "cluster.secret"
    cluster = answer("init", file)["cluster"]
    assert bytes.fromhex(cluster) == load_secrets(file).cluster
    line = file.read_text().strip()
    assert answer("token", "--secret-file", file) == {"mode": "secret", "cluster": cluster, "line": line}


def test_certificates_are_told_of_as_json(tmp_path: Path) -> None:
    directory, new = tmp_path / "authority", tmp_path / "new.pem"
    first = answer("init", "--mtls", directory, "--node", "node-1")
    bundle = load_bundle(directory / "node-1.pem")
    until = dt.datetime.fromtimestamp(bundle.expires_at, dt.UTC).date().isoformat()
    assert first == {
        "mode": "mtls",
        "cluster": bundle.cluster.hex(),
        "node": "node-1",
        "node_id": None,
        "file": str(directory / "node-1.pem"),
        "valid_until": until,
        "authority_key": str(directory / "ca.key"),
    }
    node_id = "ab" * 16
    second = answer("token", "--ca", directory, "--node", "node-2", "--node-id", node_id, "--output", new)
    del first["authority_key"]
    assert second == {**first, "node": "node-2", "node_id": node_id, "file": str(new)}


def test_a_data_directory_made_a_new_cluster_is_told_of_as_json(tmp_path: Path) -> None:
    Store.open(tmp_path, StoreOptions()).close()
    told = answer("reseed", "--data-dir", tmp_path)
    assert told == {"reseeded": str(tmp_path), "records_deleted": 0}


def test_what_fails_prints_no_json(tmp_path: Path) -> None:
    result = run("token", "--secret-file", tmp_path / "nothing", "--json")
    assert result.exit_code == 1
    assert result.stdout == ""


# ---------------------------------------------------------------- wrong calls


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["init"], "either"),
        (["init", "file", "--mtls", "dir"], "either"),
        (["init", "file", "--node", "node-1"], "--node"),
        (["init", "--mtls", "dir", "--days", "0"], "--days"),
        (["token"], "either"),
        (["token", "--secret-file", "file", "--ca", "dir"], "either"),
        (["token", "--secret-file", "file", "--node", "node-1"], "--ca"),
        (["token", "--ca", "dir"], "--node"),
        (["token", "--ca", "dir", "--node", "a", "--node-id", "xyz"], "32 hexadecimal digits"),
    ],
)
def test_a_wrong_call_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in failed(*arguments, code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "kvd: " in failed("init", tmp_path / "file" / "secret")
    assert "kvd: " in failed("init", "--mtls", tmp_path / "file" / "authority", "--node", "node-1")
