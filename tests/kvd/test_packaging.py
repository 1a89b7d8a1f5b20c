"""The wheel: what is in it, and that it runs in an environment that has nothing else.

The environment gets its dependencies from `requirements.lock` with hashes, so the lock is tested as
well. That needs the package index (pip's cache makes it quick from the second time on).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.servers import ROOT, RunningServer, wait_until

PACKAGES = {"kvd", "protocol", "storage", "replication"}


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command without the variables that would let it see this environment."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy: setuptools would put what an earlier build left in the checkout into the wheel."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, source)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an empty environment; return the directory of its commands."""
    directory = tmp_path_factory.mktemp("empty") / "environment"
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--require-hashes", "-r", ROOT / "requirements.lock")
    run(*pip, "--no-deps", "--no-index", wheel)
    return python.parent


def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    info = f"kvd_server-{wheel.name.split('-')[1]}.dist-info"
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, info}
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert f"{info}/licenses/LICENSE" in names
    modules = {str(file.relative_to(ROOT)) for each in PACKAGES for file in (ROOT / each).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


@pytest.mark.timeout(300)
def test_the_installed_command_runs_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "kvd", "version", cwd=tmp_path).startswith("kvd ")
    settings = tomllib.loads(run(installed / "kvd", "check-config", "--port", "1", cwd=tmp_path))
    assert settings["server"]["port"] == 1


@pytest.mark.timeout(300)
def test_the_lock_satisfies_what_the_wheel_asks_for(installed: Path) -> None:
    assert run(installed / "python", "-m", "pip", "check") == "No broken requirements found.\n"


@pytest.mark.timeout(300)
def test_the_installed_daemon_answers(installed: Path, tmp_path: Path) -> None:
    log_file, ports_file = tmp_path / "kvd.log", tmp_path / "ports.json"
    ports = ("--port", "0", "--http-port", "0", "--ports-file", str(ports_file))
    command = [str(installed / "kvd"), "serve", *ports]
    with (
        log_file.open("wb") as log,
        subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log) as process,
    ):
        try:
            wait_until(lambda: ports_file.exists() or process.poll() is not None, "the daemon opens its port")
            assert process.poll() is None, log_file.read_text()
            port = json.loads(ports_file.read_text())["resp"]
            server = RunningServer("kvd", process, port, log_file)
            with server.client() as client:
                assert client.set("greeting", "hello")
                assert client.get("greeting") == b"hello"
            assert server.stop() == 0
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_names_versions_and_hashes_but_no_place(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "--index" not in text
    requirements = re.split(r"\n(?=\S)", text.strip())
    assert all(re.match(r"[a-z0-9-]+==\S+.*\\\n    --hash=sha256:", each) for each in requirements)


def test_the_locks_agree_with_each_other() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9-]+==\S+", (ROOT / name).read_text(), re.MULTILINE))

    assert pins("requirements.lock") < pins("requirements-dev.lock")


def test_what_make_builds_with_is_what_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["dependency-groups"]["build"] == project["build-system"]["requires"]
