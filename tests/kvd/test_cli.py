"""The command line: help, exit codes, and errors that say what to do."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner, Result

import kvd
from kvd.cli.errors import describe, fail
from kvd.cli.main import main
from kvd.settings import SETTINGS
from storage.errors import StorageError
from tests.servers import kvd_server, launch_kvd


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, arguments)


# ---------------------------------------------------------------- version, help


def test_version_names_kvd_first() -> None:
    result = run("version")
    assert result.exit_code == 0
    assert result.output.splitlines()[0] == f"kvd {kvd.__version__}"
    assert run("--version").output == f"kvd {kvd.__version__}\n"


@pytest.mark.parametrize("verb", sorted(main.commands))
def test_every_verb_explains_itself(verb: str) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: kvd {verb}") or result.output.startswith(f"Usage: main {verb}")


@pytest.mark.parametrize("group", ["", "bulk", "cluster", "encryption-key", "key", "namespace", "token"])
def test_a_group_tells_of_its_verbs_in_whole_sentences(group: str) -> None:
    listed = run(*group.split(), "--help").output.partition("Commands:")[2].partition("Examples:")[0]
    assert "..." not in listed
    assert len(listed.splitlines()) > 3


@pytest.mark.parametrize("verb", ["serve", "check-config", "verify"])
def test_verbs_with_flags_show_examples(verb: str) -> None:
    assert "Examples:\n  " in run(verb, "--help").output


def test_python_dash_m_is_the_same_command() -> None:
    command = [sys.executable, "-m", "kvd", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout == run("--version").output
    )


def test_an_interrupt_while_modules_are_imported_ends_the_command_without_a_traceback() -> None:
    """The one that is imported first stands in for all of them: it interrupts its own process."""
    program = """
        import signal, sys
        from importlib.abc import MetaPathFinder

        class Interrupting(MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name == "kvd.cli.main":
                    signal.raise_signal(signal.SIGINT)

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
        sys.meta_path.insert(0, Interrupting())
        from kvd.__main__ import main
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


# ---------------------------------------------------------------- check-config


def test_check_config_prints_the_settings_in_force_as_toml(tmp_path: Path) -> None:
    file = tmp_path / "kvd.toml"
    file.write_text("[server]\nport = 1\nmaxclients = 5\n")
    arguments = ("--config", str(file), "--port", "3", "--set", "security.requirepass=hunter2")
    result = run("check-config", *arguments, KVD_SERVER__PORT="2", KVD_STORAGE__DURABILITY="no")
    assert result.exit_code == 0
    document = tomllib.loads(result.stdout)
    assert document["server"]["port"] == 3
    assert document["server"]["maxclients"] == 5
    assert document["storage"]["durability"] == "no"
    assert document["security"]["requirepass"] == "<secret>"
    assert sum(len(fields) for fields in document.values()) == len(SETTINGS)


def test_check_config_reports_every_problem_and_exits_with_2(tmp_path: Path) -> None:
    file = tmp_path / "kvd.toml"
    file.write_text("[server]\nprot = 1\n")
    result = run("check-config", "--config", str(file), "--bind", "here", "--durability", "maybe")
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0] == "kvd: 3 problems in the configuration:"
    assert [line.split(": ")[0].strip() for line in lines[1:]] == [str(file), "--bind", "--durability"]


def test_the_configuration_file_can_come_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "kvd.toml"
    file.write_text("[server]\nport = 1234\n")
    assert "port = 1234" in run("check-config", KVD_CONFIG=str(file)).stdout


@pytest.mark.parametrize(
    ("flag", "name"), [("--cluster-secret-file", "secret_file"), ("--peer-cert", "cert_file")]
)
def test_the_credential_for_peers_is_checked_if_there_are_to_be_any(
    tmp_path: Path, flag: str, name: str
) -> None:
    file = tmp_path / "credential"
    result = run("check-config", "--peer-port", "7379", flag, str(file))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[1].startswith(f"  peers.{name}: {file} does not exist; make it with ")
    assert run("check-config", flag, str(file)).exit_code == 0, "a node without its peers for once"


def test_what_is_wrong_with_several_files_comes_at_once(tmp_path: Path) -> None:
    names = ("security.acl_file", "storage.encryption_key_file", "server.tls_cert_file", "peers.secret_file")
    files = [f"--set={name}={tmp_path / name}" for name in (*names, "server.tls_key_file")]
    result = run("check-config", *files, "--peer-port", "7379", "--set", "server.tls_port=0")
    assert [line.split(": ")[0].strip() for line in result.stderr.splitlines()] == [
        "kvd",
        "security.acl_file",
        "storage.encryption_key_file",
        "TLS",
        "peers.secret_file",
    ]


def test_a_warning_does_not_stand_among_the_settings(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    assert run("cluster", "init", str(secret)).exit_code == 0
    secret.chmod(0o644)
    result = run("check-config", "--peer-port", "7379", "--cluster-secret-file", str(secret))
    assert "every user of this machine can read the cluster's secret" in result.stderr
    assert tomllib.loads(result.stdout)["peers"]["port"] == 7379


def test_what_is_printed_does_not_make_a_password_of_what_it_hides(tmp_path: Path) -> None:
    file = tmp_path / "kvd.toml"
    file.write_text(run("check-config", "--set", "security.requirepass=hunter2").stdout)
    result = run("check-config", "--config", str(file))
    assert result.exit_code == 2
    assert (
        "security.requirepass: stands for a secret that is not shown; write the secret itself"
        in result.stderr
    )


def test_tls_files_are_checked_if_they_are_in_use(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.pem" for name in ("cert", "key", "other")}
    issued, other = (trustme.CA().issue_cert("localhost") for _ in range(2))
    issued.cert_chain_pems[0].write_to_path(files["cert"])
    issued.private_key_pem.write_to_path(files["key"])
    other.private_key_pem.write_to_path(files["other"])

    def said(cert: Path, key: Path, port: str = "0") -> str:
        given = {"tls_port": port, "tls_cert_file": cert, "tls_key_file": key}
        return run("check-config", *(f"--set=server.{name}={value}" for name, value in given.items())).stderr

    assert said(files["cert"], files["key"]) == ""
    assert "the key is that of another certificate" in said(files["cert"], files["other"])
    assert "they have to be PEM" in said(files["key"], files["cert"])
    missing = tmp_path / "missing.pem"
    assert f"cannot read the TLS file {missing}: No such file or directory; " in said(files["cert"], missing)
    assert said(missing, missing, port="-1") == "", "nobody reads them"


def test_a_set_without_a_value_is_a_usage_error() -> None:
    result = run("check-config", "--set", "server.port")
    assert result.exit_code == 2
    assert "write section.key=value" in result.stderr


# ---------------------------------------------------------------- failures


def test_serve_refuses_a_wrong_configuration_before_it_touches_anything(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    result = run("serve", "--data-dir", str(data_dir), "--port", "70000")
    assert result.exit_code == 2
    assert "--port: 70000 is out of range" in result.stderr
    assert not data_dir.exists()


def test_a_taken_port_is_one_line_with_the_mend(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with launch_kvd(tmp_path, "--port", port) as process:
            assert process.wait(60) == 1
    (line,) = (tmp_path / "kvd.log").read_text().splitlines()
    assert line == (
        f"kvd: cannot listen on 127.0.0.1 port {port} (server.port): Address already in use; "
        "stop the server that listens there, or give this one another place"
    )


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--http-port", "cannot listen on 127.0.0.1 port {port} (http.port)"),
        ("--peer-port", "cannot listen for peers at 127.0.0.1:{port} (peers.port)"),
    ],
)
def test_each_port_that_is_taken_goes_by_its_name(tmp_path: Path, flag: str, said: str) -> None:
    secret = tmp_path / "secret"
    assert run("cluster", "init", str(secret)).exit_code == 0
    options = ("--set", "peers.bind=127.0.0.1", "--cluster-secret-file", str(secret), "--peer-port", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with launch_kvd(tmp_path, *options, flag, port) as process:
            assert process.wait(60) == 1
    last = (tmp_path / "kvd.log").read_text().splitlines()[-1]
    assert last.startswith(f"kvd: {said.format(port=port)}: Address already in use; "), last


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with launch_kvd(tmp_path, "--data-dir", str(tmp_path / "file" / "data")) as process:
        assert process.wait(60) == 1
    (line,) = (tmp_path / "kvd.log").read_text().splitlines()
    assert line.startswith("kvd: ")
    assert str(tmp_path / "file") in line


@pytest.mark.parametrize("verb", ["serve", "verify"])
def test_a_data_directory_that_the_user_may_not_use_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)  # root may do anything
    result = run(verb, "--data-dir", str(tmp_path), *(() if verb == "verify" else ("--port", "0")))
    assert result.stderr == (
        f"kvd: {tmp_path}: Permission denied; give the daemon's user the right to it, or choose another place\n"
    )


def test_a_data_directory_that_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with launch_kvd(tmp_path) as process:
        assert process.wait(60) == 1
    assert (tmp_path / "kvd.log").read_text() == (
        f"kvd: {tmp_path / 'data'}: Not a directory; name a directory\n"
    )


def test_a_log_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "kvd.log"
    with launch_kvd(tmp_path, "--set", f"log.file={file}", "--set", "log.level=debug") as process:
        assert process.wait(60) == 1
    assert (tmp_path / "kvd.log").read_text() == (
        f"kvd: cannot open the log file {file}: No such file or directory; "
        "check the path, and that its directory is there\n"
    )


def test_an_acl_file_that_is_missing_goes_by_its_setting(tmp_path: Path) -> None:
    result = run("check-config", "--set", f"security.acl_file={tmp_path / 'users.acl'}")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[1].startswith("  security.acl_file: ")


def test_a_daemon_that_starts_is_not_ended_by_a_hangup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has just changed a certificate or rotated the log sends one, whether or not the daemon is up yet."""
    found = []
    monkeypatch.setattr("kvd.cli.serve._run", lambda *_: found.append(signal.getsignal(signal.SIGHUP)))
    before = signal.getsignal(signal.SIGHUP)
    try:
        assert run("serve").exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert found == [signal.SIG_IGN]


def test_a_ports_file_that_cannot_be_written_is_one_line_that_says_so(tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "ports.json"
    with launch_kvd(tmp_path, "--ports-file", str(file)) as process:
        assert process.wait(60) == 1
    assert (tmp_path / "kvd.log").read_text().splitlines()[-1] == (
        f"kvd: cannot write the ports file {file}: No such file or directory; "
        "check the path, and that its directory is there"
    )


def test_a_data_directory_in_use_is_one_line(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with kvd_server(first), launch_kvd(second, "--data-dir", str(first / "data")) as process:
        assert process.wait(60) == 1
    (line,) = (second / "kvd.log").read_text().splitlines()
    assert line.startswith(f"kvd: the data directory {first / 'data'} is in use by another process; ")


def test_an_expected_error_in_groups_is_told_leaf_by_leaf(capsys: pytest.CaptureFixture[str]) -> None:
    group = ExceptionGroup("", [ExceptionGroup("", [StorageError("the disk is full")]), OSError("odd")])
    with pytest.raises(SystemExit) as caught:
        fail(group)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "kvd: the disk is full\nkvd: odd\n"


def test_a_bug_keeps_its_traceback() -> None:
    group = ExceptionGroup("", [StorageError("the disk is full"), KeyError("x")])
    with pytest.raises(ExceptionGroup) as caught:
        fail(group)
    assert caught.value is group


def test_an_error_of_the_system_names_the_file_and_the_mend() -> None:
    assert describe(OSError(errno.EACCES, "Permission denied", "/x")) == (
        "/x: Permission denied; give the daemon's user the right to it, or choose another place"
    )
    assert describe(OSError(errno.EISDIR, "Is a directory")) == "Is a directory"


# ---------------------------------------------------------------- verify


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A data directory that a daemon has written and left."""
    with kvd_server(tmp_path) as server:
        with server.client() as client:
            client.mset({f"key:{number}": "x" * 100 for number in range(50)})
            client.expire("key:1", 1000)
            client.delete("key:2")
        assert server.stop() == 0
    return tmp_path / "data"


def test_verify_calls_a_sound_database_sound(sound: Path) -> None:
    result = run("verify", "--data-dir", str(sound))
    assert result.exit_code == 0, result.output
    (line,) = result.output.splitlines()
    assert line.startswith(
        "49 keys, 1 marks of what was deleted or has expired, 0 past versions, 0 named namespaces, "
    )
    assert line.endswith(": sound")


def test_verify_finds_a_damaged_file_and_exits_with_1(sound: Path) -> None:
    with kvd_server(sound.parent) as server:  # a second start moves the log of the first into a table
        assert server.stop() == 0
    tables = sorted(sound.rglob("*.sst"))
    assert tables
    for table in tables:
        content = bytearray(table.read_bytes())
        content[: len(content) // 2] = bytes(len(content) // 2)
        table.write_bytes(content)
    result = run("verify", "--data-dir", str(sound))
    assert result.exit_code == 1, result.output
    assert str(sound) in result.stdout
    assert "checksum" in result.stdout


def test_verify_refuses_what_is_not_there(tmp_path: Path) -> None:
    result = run("verify", "--data-dir", str(tmp_path / "none"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("kvd: there is no kvd data in ")
    assert not (tmp_path / "none").exists()


def test_verify_refuses_a_database_in_use(tmp_path: Path) -> None:
    with kvd_server(tmp_path):
        result = run("verify", "--data-dir", str(tmp_path / "data"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is in use by another process" in result.stderr
