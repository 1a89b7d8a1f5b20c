"""Run kvd with a wall clock that is off by the seconds in the file that KVD_TEST_CLOCK names, read anew each time.

For tests of clock trouble: it shifts `time.time` and `time.time_ns` of this one process, before anything else
is imported.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_file = Path(os.environ["KVD_TEST_CLOCK"])
_time, _time_ns = time.time, time.time_ns
_seen = (0, 0.0)


def _shift() -> float:
    global _seen  # noqa: PLW0603 -- a cache of one number
    changed = _file.stat().st_mtime_ns
    if changed != _seen[0]:
        _seen = (changed, float(_file.read_text() or 0))
    return _seen[1]


time.time = lambda: _time() + _shift()
time.time_ns = lambda: _time_ns() + int(_shift() * 1_000_000_000)

from kvd.cli.main import main  # noqa: E402

main()
