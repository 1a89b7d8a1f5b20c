"""What wrk measures, as figures."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import attrs

CONNECTIONS: Final = 32


@attrs.frozen
class Result:
    requests_a_second: float
    p50_ms: float
    p99_ms: float
    waited_share: float = 0.0  # of the time, in which the daemon had no processor although it could have run


def wrk(url: str, seconds: int, script: Path | None = None) -> Result:
    """Load `url` from 32 connections. Raise AssertionError if an answer was no success."""
    command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "--latency"]
    command += ["-s", str(script)] if script else []
    out = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in out, out
    assert "Socket errors" not in out, out
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    assert rate is not None, out
    return Result(float(rate[1]), _milliseconds(out, "50%"), _milliseconds(out, "99%"))


def _milliseconds(out: str, percent: str) -> float:
    match = re.search(rf"^\s+{percent}\s+([\d.]+)(us|ms|s)$", out, re.MULTILINE)
    assert match is not None, out
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[match[2]]
