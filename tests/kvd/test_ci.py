"""What CI leans on: the report check, and a Makefile that tells what it can."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT

MARKED = (
    '<testcase name="t{}"><properties><property name="needs_redis" value="yes"/></properties>{}</testcase>'
)
PLAIN = '<testcase name="plain"><skipped/></testcase>'


def check(directory: Path, *cases: str) -> subprocess.CompletedProcess[str]:
    report = directory / "junit.xml"
    report.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    command = [sys.executable, str(ROOT / ".ci" / "check_report.py"), str(report)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_ci_passes_when_the_tests_with_redis_ran(tmp_path: Path) -> None:
    done = check(tmp_path, PLAIN, *(MARKED.format(n, "") for n in range(30)))
    assert (done.returncode, done.stdout) == (0, "30 tests compared with redis-server, 0 were skipped\n")


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ([MARKED.format(n, "") for n in range(30)] + [MARKED.format(99, "<skipped/>")], "skipped: t99"),
        ([PLAIN], "0 tests compared"),
    ],
)
def test_ci_fails_when_they_did_not(tmp_path: Path, cases: list[str], said: str) -> None:
    done = check(tmp_path, *cases)
    assert done.returncode == 1
    assert said in done.stdout


def test_make_help_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(phony.split()) - {"help"} == set(re.findall(r'@echo "make (\S+)', makefile))
